"""Tests of the self-test tool, over real sockets on loopback."""
