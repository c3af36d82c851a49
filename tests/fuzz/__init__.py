"""Atheris harnesses, one a protocol."""
