"""Wall-clock time from monotonic stamps, under a clock that the test turns by hand."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest

from masdeepflow import clock

SECOND = 1_000_000_000


@dataclass
class Hands:
    """A monotonic and a wall clock. delays: ns that pass at each of the next readings of the wall clock."""

    monotonic: int = 50 * SECOND
    offset: int = 1_767_000_000 * SECOND
    delays: list[int] | None = None

    def read_monotonic(self) -> int:
        """Stand in for time.monotonic_ns."""
        return self.monotonic

    def read_wall(self) -> int:
        """Stand in for time.time_ns."""
        before, after = (self.delays.pop(0), self.delays.pop(0)) if self.delays else (0, 0)
        self.monotonic += before
        wall = self.monotonic + self.offset
        self.monotonic += after
        return wall


@pytest.fixture
def hands(monkeypatch: pytest.MonkeyPatch) -> Hands:
    """Replace both clocks."""
    hands = Hands()
    monkeypatch.setattr(time, "monotonic_ns", hands.read_monotonic)
    monkeypatch.setattr(time, "time_ns", hands.read_wall)
    return hands


def test_offset_is_wall_minus_monotonic(hands: Hands) -> None:
    """Added to a monotonic stamp the offset gives Unix time."""
    assert clock.wall_offset_ns() == hands.offset


def test_offset_is_the_reading_disturbed_least(hands: Hands) -> None:
    """A pause between two readings of the clocks does not move the offset: the tightest of five counts."""
    hands.delays = [900, 0, 0, 700, 10, 10, 500, 500, 0, 300]
    assert clock.wall_offset_ns() == hands.offset


def test_offset_is_in_the_middle_of_a_disturbed_reading(hands: Hands) -> None:
    """With every reading disturbed alike the wall clock is taken to be read halfway."""
    hands.delays = [100, 300] * 5
    assert clock.wall_offset_ns() == hands.offset - 100


def test_wall_clock_follows_a_step(hands: Hands) -> None:
    """A change of the wall clock shows in the offset, at the latest a second later."""
    wall = clock.WallClock()
    hands.offset += 3600 * SECOND
    hands.monotonic += SECOND + 1
    assert wall.offset_ns() == hands.offset


def test_wall_clock_is_not_read_for_every_batch(hands: Hands) -> None:
    """Within a second the offset stays, so that stamps of neighbouring batches do not jitter."""
    wall = clock.WallClock()
    before = hands.offset
    hands.offset += 5
    hands.monotonic += SECOND // 2
    assert wall.offset_ns() == before


def test_real_clocks_agree() -> None:
    """On this host's own clocks the offset turns monotonic time into Unix time, within 100 ms."""
    assert abs(time.monotonic_ns() + clock.WallClock().offset_ns() - time.time_ns()) < SECOND // 10
