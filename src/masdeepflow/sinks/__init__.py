"""Where tables go: one sink, one file, and what sinks share."""
