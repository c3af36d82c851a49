"""Tests of the parts of the HTTP parser."""
