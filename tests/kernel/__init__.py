"""The kernel side in the kernel: real probes, real sockets, and the slots that come of them."""
