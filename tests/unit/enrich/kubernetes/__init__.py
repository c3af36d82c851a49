"""Kubernetes: what is pure by hand-made objects, what talks to a server over real sockets."""
