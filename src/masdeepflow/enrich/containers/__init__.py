"""Containers as their runtimes describe them: Docker, Podman, containerd, CRI-O, over their Unix sockets.

`runtimes.Runtimes` is all that others use. Each socket (`sockets`) has a `worker` with a thread of its own,
which talks through a `client`: `docker` for the API that Podman has too, `cri` for containerd and CRI-O.
"""
