"""Sinks against real pipes, files and HTTP clients."""
