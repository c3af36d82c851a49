"""Two network namespaces with a cable between them, and sockets in them for this process to use."""

from __future__ import annotations

import contextlib
import ctypes
import os
import socket
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["Cable"]

_ADDRESSES = ("10.73.0.1", "10.73.0.2")
_CLONE_NEWNET = 0x40000000
_libc = ctypes.CDLL(None, use_errno=True)


def _enter(namespace: int) -> None:
    """Move this thread there. Source: setns(2); Python has it from 3.12 on."""
    if _libc.setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True)


class Cable:
    """Namespaces 0 and 1 with the addresses in `addresses`, as two containers on a host have them."""

    addresses = _ADDRESSES

    def __init__(self) -> None:
        self._names = [f"mdf-{os.getpid()}-{number}" for number in range(2)]
        ends = [f"mdf{os.getpid()}{number}"[-15:] for number in range(2)]
        self._undo = contextlib.ExitStack()
        try:
            for name in self._names:
                _ip("netns", "add", name)
                self._undo.callback(_ip, "netns", "del", name)
            _ip("link", "add", ends[0], "type", "veth", "peer", "name", ends[1])
            for name, end, address in zip(self._names, ends, _ADDRESSES, strict=True):
                _ip("link", "set", end, "netns", name)
                _ip("-n", name, "addr", "add", f"{address}/24", "dev", end)
                _ip("-n", name, "link", "set", end, "up")
                _ip("-n", name, "link", "set", "lo", "up")
        except BaseException:
            self._undo.close()
            raise

    def socket(self, number: int) -> socket.socket:
        """Return a TCP socket of that namespace."""
        with Path("/proc/thread-self/ns/net").open("rb") as own:
            with Path("/run/netns", self._names[number]).open("rb") as other:
                _enter(other.fileno())
            try:
                return socket.socket()
            finally:
                _enter(own.fileno())

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._undo.close()
