"""Rules of putting rows in order of time."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from masdeepflow.sinks.reorder import Reorder

TIMES = st.lists(st.integers(0, 50), max_size=20)


class _Held:
    """A Reorder whose lines are `TIME:NUMBER`, the number being that of the row's arrival."""

    def __init__(self, limit: int = 1000) -> None:
        self.reorder = Reorder(limit)
        self._times: list[int] = []

    def add(self, times: list[int]) -> None:
        first = len(self._times)
        self._times += times
        rows = np.arange(first, len(self._times))
        self.reorder.add(
            np.array(times, np.int64), rows, lambda chosen: [self._line(row) for row in chosen.tolist()]
        )

    def due(self, watermark: int) -> list[str]:
        return [line for due in self.reorder.due(watermark) for line in due.render()]

    def rest(self) -> list[str]:
        return [line for due in self.reorder.rest() for line in due.render()]

    def _line(self, row: int) -> str:
        return f"{self._times[row]}:{row}"


def _key(line: str) -> tuple[int, int]:
    time, _, row = line.partition(":")
    return int(time), int(row)


def test_rows_wait_for_the_watermark() -> None:
    """A row comes out when the watermark has reached its time, not before."""
    held = _Held()
    held.add([30, 10, 20])
    assert held.due(9) == []
    assert held.due(20) == ["10:1", "20:2"]
    assert held.due(20) == []
    assert held.rest() == ["30:0"]


def test_equal_times_keep_the_order_of_arrival() -> None:
    """Order is by time, then by arrival, over any number of additions."""
    held = _Held()
    held.add([5, 5])
    held.add([5, 4])
    assert held.due(5) == ["4:3", "5:0", "5:1", "5:2"]


def test_late_rows_come_at_once() -> None:
    """What is older than lines already out is not held back, nor lost."""
    held = _Held()
    held.add([10])
    assert held.due(10) == ["10:0"]
    held.add([3, 12])
    assert held.due(10) == ["3:1"]


def test_beyond_the_limit_the_older_half_comes_early() -> None:
    """Memory stays bounded under a watermark that stands still."""
    held = _Held(limit=4)
    held.add([4, 3, 2, 1])
    assert held.due(0) == []
    held.add([5])
    assert held.due(0) == ["1:3", "2:2", "3:1"]
    assert held.rest() == ["4:0", "5:4"]


def test_much_at_once_comes_in_slices() -> None:
    """Slices are each of bounded size, and their lines are in order over all of them."""
    held = _Held(limit=10**6)
    times = np.random.default_rng(1).permutation(10_000).tolist()
    held.add(times[:6000])
    held.add(times[6000:])
    slices = [due.render() for due in held.reorder.rest()]
    assert [len(lines) for lines in slices] == [2048] * 4 + [10_000 - 4 * 2048]
    assert [_key(line)[0] for lines in slices for line in lines] == list(range(10_000))


def test_length_is_known_without_rendering() -> None:
    """Whoever wants to count lines only does not have to make them."""
    held = Reorder()
    held.add(np.array([1, 2]), np.arange(2), lambda _: 1 // 0)  # type: ignore[arg-type, return-value]
    assert [len(due) for due in held.rest()] == [2]


@settings(deadline=None)
@given(st.lists(st.tuples(TIMES, st.integers(0, 60))))
def test_every_row_comes_out_once_and_sorted_while_the_watermark_holds(
    batches: list[tuple[list[int], int]],
) -> None:
    """If nothing comes late, the whole output is sorted by time and arrival; in any case nothing is lost."""
    held, lines, late, watermark = _Held(), list[str](), False, -1
    for times, next_watermark in batches:
        late |= any(time < watermark for time in times)
        held.add(times)
        watermark = max(watermark, next_watermark)
        lines += held.due(watermark)
    lines += held.rest()
    assert len(set(lines)) == len(lines) == sum(len(times) for times, _ in batches)
    assert late or all(_key(a)[0] <= _key(b)[0] for a, b in pairwise(lines))
