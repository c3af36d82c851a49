"""Containers as their runtimes describe them: Docker, Podman, containerd, CRI-O, over their Unix sockets."""
