"""Network namespaces by their inode, and calls made in them: `iter/tcp` shows those of its caller's only."""

from __future__ import annotations

import contextlib
import ctypes
import os
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["call_in", "find", "own"]

_CLONE_NEWNET = 0x40000000
_PROC = Path("/proc")
_NAMED = Path("/run/netns")


def own() -> int:
    """Return the inode of this process's network namespace."""
    return (_PROC / "self/ns/net").stat().st_ino


def _candidates() -> Iterator[Path]:
    yield from (entry / "ns/net" for entry in _PROC.iterdir() if entry.name.isdigit())
    with contextlib.suppress(OSError):
        yield from _NAMED.iterdir()


def find(inode: int) -> Path | None:
    """Return a file that stands for the namespace, of a process or of `ip netns`; None if there is none."""
    for path in _candidates():
        with contextlib.suppress(OSError):
            if path.stat().st_ino == inode:
                return path
    return None


def call_in(path: Path, call: Callable[[], object]) -> bool:
    """Make a call in that namespace, in a thread of its own; return whether it came to that."""
    done: list[object] = []

    def run() -> None:
        with contextlib.suppress(OSError), path.open("rb") as namespace:
            # Source: setns(2); Python has it from 3.12 on. It takes CAP_SYS_ADMIN.
            if ctypes.CDLL(None).setns(namespace.fileno(), _CLONE_NEWNET) == 0:
                done.append(call())

    thread = threading.Thread(target=run, name=f"netns-{os.fspath(path)}")
    thread.start()
    thread.join()
    return bool(done)
