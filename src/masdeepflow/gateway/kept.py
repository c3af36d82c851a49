"""Gateways of this host as their pins show them: one that runs, or one whose process was killed."""

from __future__ import annotations

import contextlib
import mmap
import os
import time
from typing import TYPE_CHECKING, Self

import numpy as np

from masdeepflow.gateway import pins
from masdeepflow.gateway.pairs import Pairs, awake_of
from masdeepflow.kernel import libbpf

if TYPE_CHECKING:
    from pathlib import Path
    from types import TracebackType

    from masdeepflow.gateway.pairs import Totals
    from masdeepflow.kernel.layout import Layout

__all__ = ["Kept", "all_kept", "clear"]

_MAPS = ("pairs", "counters", "bss")
_FRESH_NS = 3 * 10**9
_BEAT_S = 1.5
_POLL_S = 0.002


class Kept:
    """The pinned kernel side of a gateway; close it. Raises libbpf.BpfError if it is not all there."""

    def __init__(self, directory: Path, layout: Layout) -> None:
        self.directory = directory
        self._descriptors: dict[str, int] = {}
        try:
            for name in _MAPS:
                self._descriptors[name] = libbpf.open_pinned(directory / name)
            self.pairs = Pairs(self._descriptors["pairs"], self._descriptors["counters"], layout)
            self._map = mmap.mmap(self._descriptors["bss"], mmap.PAGESIZE)
            self._shared = np.frombuffer(self._map, layout.dtype("gateway_shared"), 1)
        except BaseException:
            self._close_descriptors()
            raise

    @property
    def alive(self) -> bool:
        """Whether its process has shown itself within the last seconds."""
        return bool(time.monotonic_ns() - int(self._shared[0]["heartbeat_ns"]) < _FRESH_NS)

    def beats(self) -> bool:
        """Watch for a sign of life, longer than a process that runs needs; return whether there was one."""
        end, before = time.monotonic() + _BEAT_S, int(self._shared[0]["heartbeat_ns"])
        while self.alive and time.monotonic() < end:
            if int(self._shared[0]["heartbeat_ns"]) != before:
                return True
            time.sleep(_POLL_S)
        return False

    @property
    def accepting(self) -> bool:
        """Whether it makes new pairs."""
        return self.alive and bool(self._shared[0]["accepting"])

    def totals(self) -> Totals:
        """Return the sums since it started."""
        awake = awake_of(self._shared[0])
        if awake is not None and not self.alive:
            awake = awake._replace(cpus=0)
        return self.pairs.totals()._replace(awake=awake)

    def drain(self, patience_s: float) -> int:
        """Bring its pairs back to TCP; return how many sockets could not leave in time."""
        self._shared[0]["stopping"] = 1
        end = time.monotonic() + patience_s
        while True:
            members = self.evict()
            if not members or time.monotonic() > end:
                return members
            time.sleep(_POLL_S)

    def evict(self) -> int:
        """Make one pass over its hash; return how many sockets are in it."""
        self._shared[0]["members"] = 0
        for name in ("evict", "kick"):
            descriptor = libbpf.open_pinned(self.directory / name)
            try:
                libbpf.run_iterator(descriptor)
            finally:
                os.close(descriptor)
        return int(self._shared[0]["members"])

    def close(self) -> None:
        """Free this process's side."""
        self.pairs.close()
        del self._shared
        self._map.close()
        self._close_descriptors()

    def _close_descriptors(self) -> None:
        for descriptor in self._descriptors.values():
            os.close(descriptor)
        self._descriptors.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def all_kept(layout: Layout) -> list[Kept]:
    """Return all gateways that there are traces of, those of other versions left out."""
    found = []
    for directory in pins.directories():
        with contextlib.suppress(OSError, ValueError):
            found.append(Kept(directory, layout))
    return found


def clear(layout: Layout, patience_s: float = 1.0) -> tuple[bool, int]:
    """Bring back to TCP what gateways left behind that were killed, and remove what they pinned.

    Returns whether another gateway is alive, and how many sockets are still members of a dead one: their
    applications have not read all that was redirected to them. They keep working; the next start tries again.
    """
    alive, remaining = False, 0
    for kept in all_kept(layout):
        with kept:
            if kept.beats():
                alive = True
            elif members := kept.drain(patience_s):
                remaining += members
            else:
                pins.remove(kept.directory)
    return alive, remaining
