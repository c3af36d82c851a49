"""Protocols over turns built by hand, and against plain references."""
