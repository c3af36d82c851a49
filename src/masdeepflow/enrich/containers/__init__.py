"""Containers as their runtimes describe them: Docker, Podman, containerd, CRI-O, over their Unix sockets.

`Runtimes` is all that others use. Each socket has a `Worker` with a thread of its own, which talks through a
client: `docker` for the API that Docker and Podman share, `cri` for containerd and CRI-O.
"""

from masdeepflow.enrich.containers.runtimes import Runtimes
from masdeepflow.enrich.containers.sockets import Socket, parse_socket

__all__ = ["Runtimes", "Socket", "parse_socket"]
