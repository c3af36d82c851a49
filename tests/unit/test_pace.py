"""Polls are seldom, and never so seldom that the ring could fill."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from masdeepflow import pace
from masdeepflow.pace import Pace

if TYPE_CHECKING:
    from collections.abc import Callable

CAPACITY = 16_384
PATIENCE_S = 0.1


class Simulated:
    """A clock that only waiting moves, and a ring that a load fills meanwhile; what finds it full is lost."""

    def __init__(self, filled: Callable[[float], float]) -> None:
        self.capacity = CAPACITY
        self.now_s = 1000.0
        self.naps: list[float] = []
        self.lost = 0
        self._taken = self._arrived = 0
        self._filled = filled

    def monotonic(self) -> float:
        """Return the time."""
        return self.now_s

    def sleep(self, seconds: float) -> None:
        """Let time pass."""
        self.naps.append(seconds)
        self.work(seconds)

    def work(self, seconds: float) -> None:
        """Let time pass with no nap."""
        self.now_s += seconds
        self._arrived = int(self._filled(self.now_s - 1000.0))
        self.lost += max(0, self.pending() - self.capacity)

    def written(self) -> int:
        """Return how many slots were written."""
        return self._arrived - self.lost

    def pending(self) -> int:
        """Return how many of them were not taken."""
        return self.written() - self._taken

    def take(self, seconds: float = 0) -> int:
        """Read the ring for so long, and give back what was in it at first; return how many that was."""
        taken = self.pending()
        self.work(seconds)
        self._taken += taken
        return taken


@pytest.fixture
def simulate(monkeypatch: pytest.MonkeyPatch) -> Callable[[Callable[[float], float]], Simulated]:
    """Return a maker of rings that are filled by a function of the time, in the place of the real clock."""

    def make(filled: Callable[[float], float]) -> Simulated:
        ring = Simulated(filled)
        monkeypatch.setattr(pace, "time", ring)
        return ring

    return make


def going() -> bool:
    """Nobody stops."""
    return False


def test_a_quiet_ring_is_polled_when_the_patience_ends(
    simulate: Callable[[Callable[[float], float]], Simulated],
) -> None:
    """Some hundred requests a second are no reason to poll earlier; it is looked at in between."""
    ring = simulate(lambda at: 1000 * at)
    Pace(ring, PATIENCE_S).wait(going)
    assert ring.now_s == pytest.approx(1000.0 + PATIENCE_S)
    assert max(ring.naps) <= pace._LOOK_S


@pytest.mark.parametrize("rate", [20_000, 104_000, 400_000, 1_000_000])
def test_a_load_is_polled_before_half_of_the_ring_is_full(
    simulate: Callable[[Callable[[float], float]], Simulated], rate: int
) -> None:
    """However fast it is, once it goes on; and not much more often than it has to be."""
    ring = simulate(lambda at: rate * at)
    paced = Pace(ring, PATIENCE_S)
    found = []
    for _ in range(20):
        paced.wait(going)
        found.append(ring.take())
    assert max(found) < CAPACITY / 2
    assert min(found[1:]) > min(rate * PATIENCE_S, CAPACITY / 3) / 2


@pytest.mark.parametrize("rate", [50_000, 300_000, 700_000])
def test_a_load_that_begins_at_any_time_does_not_fill_the_ring(
    simulate: Callable[[Callable[[float], float]], Simulated], rate: int
) -> None:
    """It may begin just behind a look, on a quiet host or beside another load."""
    for begin_ms in range(200):
        for before in (0, 500, 20_000):
            ring = simulate(
                lambda at, b=begin_ms / 1000, slow=before: slow * at + rate * max(0.0, at - b)  # type: ignore[misc]
            )
            paced = Pace(ring, PATIENCE_S)
            found = []
            while ring.now_s < 1000.4:
                paced.wait(going)
                found.append(ring.take())
            assert max(found) < CAPACITY, (begin_ms, before)


def test_a_ring_that_fills_faster_than_it_is_read_is_read_at_once(
    simulate: Callable[[Callable[[float], float]], Simulated],
) -> None:
    """Whoever was at work for long finds more than a third of it full: a usual pause would lose turns."""
    ring = simulate(lambda at: 100_000 * at)
    paced = Pace(ring, PATIENCE_S)
    ring.work(CAPACITY / 2 / 100_000)
    paced.wait(going)
    assert ring.naps == [pace._LEAST_S]


def test_a_ring_that_was_full_is_read_in_time_again(
    simulate: Callable[[Callable[[float], float]], Simulated],
) -> None:
    """While it is full nothing is written to it, which does not mean that nothing comes."""
    ring = simulate(lambda at: 300_000 * at)
    ring.capacity = 2048
    paced = Pace(ring, PATIENCE_S)
    ring.work(0.1)
    found = []
    for _ in range(50):
        found.append(ring.take(0.0013))
        paced.wait(going)
    assert max(found) == ring.capacity
    assert max(found[10:]) < ring.capacity


def test_who_is_told_to_stop_does_not_wait_for_long(
    simulate: Callable[[Callable[[float], float]], Simulated],
) -> None:
    """A signal is seen at the next look, however patient the sinks are."""
    ring = simulate(lambda at: 0 * at)
    Pace(ring, 60.0).wait(lambda: bool(ring.naps))
    assert len(ring.naps) == 1
    assert ring.now_s <= 1000.0 + pace._LOOK_S
