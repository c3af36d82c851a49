"""Latency percentiles and the once-a-second progress of long runs."""

from __future__ import annotations

import contextlib
import time
from collections import Counter
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["EverySecond", "Latencies", "repeat_for"]

_RESOLUTION_NS = 100


class Latencies:
    """Latencies counted in steps of 0.1 us, so that memory follows their spread and not their number."""

    def __init__(self) -> None:
        """Start empty."""
        self._counts: Counter[int] = Counter()

    def __len__(self) -> int:
        """Count the latencies added."""
        return self._counts.total()

    def add(self, nanoseconds: int) -> None:
        """Count one latency."""
        self._counts[nanoseconds // _RESOLUTION_NS] += 1

    def add_all(self, nanoseconds: Iterable[int]) -> None:
        """Count many."""
        self._counts.update(each // _RESOLUTION_NS for each in nanoseconds)

    def percentile_us(self, percent: float) -> float:
        """Return the smallest latency, in us, that ``percent`` of all are not above; 0.0 when empty."""
        wanted = len(self) * percent / 100
        seen = 0
        step = 0
        for step in sorted(self._counts):
            seen += self._counts[step]
            if seen >= wanted:
                break
        return step * _RESOLUTION_NS / 1000

    def max_us(self) -> float:
        """Return the largest latency in us; 0.0 when empty."""
        return max(self._counts, default=0) * _RESOLUTION_NS / 1000


class EverySecond:
    """Tells when a whole second has passed since the last time it did."""

    def __init__(self, now: float) -> None:
        """Start at ``now``, in seconds of ``time.monotonic``."""
        self._start = now
        self._next = now + 1

    def due(self, now: float) -> int:
        """Return the whole seconds since the start when a new one is complete, else 0."""
        if now < self._next:
            return 0
        second = int(now - self._start)
        self._next = self._start + second + 1
        return second


def repeat_for(duration_s: float, step: Callable[[], None], progress: Callable[[int], None]) -> float:
    """Call ``step`` again and again for ``duration_s``; SIGINT ends it early.

    ``progress`` gets the number of whole seconds each time one is over. Returns the seconds it took.
    """
    start = time.monotonic()
    clock = EverySecond(start)
    with contextlib.suppress(KeyboardInterrupt):
        while (now := time.monotonic()) < start + duration_s:
            step()
            if second := clock.due(now):
                progress(second)
    return time.monotonic() - start
