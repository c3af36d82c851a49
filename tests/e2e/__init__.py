"""The commands as users run them, against real servers and clients."""
