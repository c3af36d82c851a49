"""Ports of loopback for servers under test."""

from __future__ import annotations

import random
import socket
import time

__all__ = ["LOOPBACK", "free_port", "refuse", "wait_listening"]

LOOPBACK = "127.0.0.1"
_BELOW_EPHEMERAL = range(20000, 32768)
_TRIES = 100
_PATIENCE_S = 30


def free_port() -> int:
    """Return a port that nothing has bound, from below the range that clients are given theirs from."""
    for _ in range(_TRIES):
        port = random.choice(_BELOW_EPHEMERAL)  # noqa: S311  # not for secrets
        if all(_is_free(family, port) for family in (socket.AF_INET, socket.AF_INET6)):
            return port
    raise AssertionError("no free port found")


def _is_free(family: socket.AddressFamily, port: int) -> bool:
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind(("::1" if family == socket.AF_INET6 else LOOPBACK, port))
        except OSError:
            return False
    return True


def refuse(port: int) -> int:
    """Make a connection to a port where nothing listens; return its own port."""
    with socket.socket() as client:
        client.bind((LOOPBACK, 0))
        own: int = client.getsockname()[1]
        assert client.connect_ex((LOOPBACK, port)), f"something listens on {port}"
    return own


def wait_listening(port: int, host: str = LOOPBACK) -> None:
    """Wait until a server accepts connections on a port."""
    end = time.monotonic() + _PATIENCE_S
    while True:
        try:
            socket.create_connection((host, port), 1).close()
        except OSError:
            if time.monotonic() > end:
                raise
            time.sleep(0.02)
        else:
            return
