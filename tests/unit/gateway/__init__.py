"""Tests of socket acceleration that need no root."""
