"""Endpoints and processes, found for slots built by hand."""
