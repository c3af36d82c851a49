"""When the ring is read next: as seldom as the sinks allow since a batch costs, and before it is full."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Filling", "Pace"]

_LOOK_S = 0.015  # between two looks at how full the ring is: as fast as Redis fills it, two thirds of it
_LEAST_S = 0.001  # when it fills faster than it is read
_BUSY_RATE = 12_800.0  # slots a second
_BEGINS, _BEGIN_S = 4, 0.005  # times as fast as before, and when to look again then


class Filling(Protocol):
    """What is looked at of a ring."""

    capacity: int

    def pending(self) -> int:
        """Return how many slots wait."""

    def written(self) -> int:
        """Return how many slots were ever written."""


class Pace:
    """Waits between two polls: `patience_s`, but not until a third of the ring is full.

    A look costs some microseconds, a poll of few records a millisecond.
    """

    def __init__(self, ring: Filling, patience_s: float) -> None:
        self._ring = ring
        self._patience_s = patience_s
        self._looked_s, self._written = time.monotonic(), ring.written()
        self._rate = ring.capacity / 3 / _BEGIN_S  # not known yet

    def wait(self, stopped: Callable[[], bool]) -> None:
        """Return when it is time for the next poll, or soon after `stopped` says so."""
        end_s = time.monotonic() + self._patience_s
        before = self._rate
        begins = self._look()
        # During the poll the ring may have been full: then nothing was written, however much came.
        self._rate = max(self._rate, before)
        nap_s = max(_LEAST_S, self._nap_s(end_s, begins=begins))
        while nap_s > 0 and not stopped():
            time.sleep(nap_s)
            nap_s = self._nap_s(end_s, begins=self._look())

    def _look(self) -> bool:
        """Measure how fast the ring fills; return whether that is much faster than before."""
        now_s, before = time.monotonic(), self._rate
        if now_s - self._looked_s < _LEAST_S:  # in so short a time it is not known
            return False
        written = self._ring.written()
        self._rate = (written - self._written) / (now_s - self._looked_s)
        self._looked_s, self._written = now_s, written
        return self._rate > _BEGINS * before

    def _nap_s(self, end_s: float, *, begins: bool) -> float:
        """Return for how many seconds nothing needs to be looked at; 0 or less when it is time for a poll.

        end_s: when the patience ends, by the monotonic clock.
        """
        left_s = end_s - time.monotonic()
        if self._rate < _BUSY_RATE:
            return min(left_s, _LOOK_S)
        # How fast it fills is not known yet when a load begins: that may have been just now.
        most_s = _BEGIN_S if begins else _LOOK_S
        return min(left_s, most_s, (self._ring.capacity / 3 - self._ring.pending()) / self._rate)
