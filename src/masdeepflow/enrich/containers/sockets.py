"""Where runtimes listen."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

__all__ = ["Kind", "Socket", "default_sockets", "parse_socket"]

Kind = Literal["docker", "cri"]
"""What is spoken there: the Docker API, which Podman has too, or gRPC, as containerd and CRI-O do."""

_DOCKER: Kind = "docker"
_CRI: Kind = "cri"
_DEFAULTS = (
    (_DOCKER, "docker", "run/docker.sock"),
    (_DOCKER, "podman", "run/podman/podman.sock"),
    (_CRI, "containerd", "run/containerd/containerd.sock"),
    (_CRI, "containerd", "run/k3s/containerd/containerd.sock"),
    (_CRI, "containerd", "run/k0s/containerd.sock"),
    (_CRI, "containerd", "var/snap/microk8s/common/run/containerd.sock"),
    (_CRI, "cri-o", "run/crio/crio.sock"),
)


@dataclass(frozen=True, slots=True)
class Socket:
    """A runtime's socket. runtime: whose it is supposed to be. expected: whether it is amiss if not there."""

    kind: Kind
    runtime: str
    path: Path
    expected: bool = False

    def is_there(self) -> bool:
        """Return whether something is at the path."""
        try:
            return self.path.exists()
        except OSError:  # a directory that may not be searched
            return False


def default_sockets(root: Path) -> list[Socket]:
    """Return the sockets of a host's runtimes, with the host's root directory at `root`."""
    return [Socket(kind, runtime, root / path) for kind, runtime, path in _DEFAULTS]


def parse_socket(text: str) -> Socket:
    """Return the socket that a user names: `docker=PATH`, `podman=PATH`, `containerd=PATH` or `cri-o=PATH`.

    A bare path, or one behind `unix://`, is taken for the runtime that it names, else for Docker's.

    Raises:
        ValueError: it is neither, or the path is not absolute.

    """
    runtime, equals, path = text.partition("=")
    if not equals or "/" in runtime:
        runtime, path = _runtime_of(text), text
    path = path.removeprefix("unix://")
    if runtime not in _KINDS or not path.startswith("/"):
        raise ValueError(
            f"{text!r} is no runtime's socket: give RUNTIME=/PATH, with one of {', '.join(_KINDS)}"
        )
    return Socket(_KINDS[runtime], runtime, Path(path), expected=True)


_KINDS: dict[str, Kind] = {runtime: kind for kind, runtime, _ in _DEFAULTS}


def _runtime_of(path: str) -> str:
    for runtime, mark in (("containerd", "containerd"), ("cri-o", "crio"), ("podman", "podman")):
        if mark in path:
            return runtime
    return "docker"
