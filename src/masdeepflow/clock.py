"""From the kernel's monotonic stamps to wall-clock time."""

from __future__ import annotations

import time

__all__ = ["WallClock", "wall_offset_ns"]

_REFRESH_NS = 1_000_000_000


def wall_offset_ns() -> int:
    """Return Unix time minus CLOCK_MONOTONIC in ns: the reading that was disturbed least of five."""
    best_width, best = None, 0
    for _ in range(5):
        before = time.monotonic_ns()
        wall = time.time_ns()
        after = time.monotonic_ns()
        if best_width is None or after - before < best_width:
            best_width, best = after - before, wall - (before + after) // 2
    return best


class WallClock:
    """The offset, read anew every second: stamps follow the wall clock over days of slewing and steps."""

    def __init__(self) -> None:
        self._offset_ns = wall_offset_ns()
        self._read_ns = time.monotonic_ns()

    def offset_ns(self) -> int:
        """Return what to add to a monotonic stamp to get Unix time, ns."""
        now = time.monotonic_ns()
        if now - self._read_ns > _REFRESH_NS:
            self._offset_ns, self._read_ns = wall_offset_ns(), now
        return self._offset_ns
