"""The kernel side without a kernel: layouts, the ring and what the host offers."""
