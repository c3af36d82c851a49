"""Socket acceleration: bytes between two sockets of one host go from one to the other, past TCP."""
