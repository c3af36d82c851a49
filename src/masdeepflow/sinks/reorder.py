"""Rows put in order of time: held until nothing older can come, then given out sorted, to be rendered."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

    Render = Callable[[NDArray[np.intp]], list[str]]

__all__ = ["Due", "Reorder"]

_LIMIT = 65536
_SLICE = (
    2048  # enough to make whole-array work pay, and little enough to be written while the next is rendered
)


@dataclass(frozen=True, slots=True)
class _Part:
    """times: int64 (n,), ascending. rows: intp (n,), what `render` gets to make n lines of."""

    times: NDArray[np.int64]
    rows: NDArray[np.intp]
    render: Render

    def split(self, time_ns: int) -> tuple[_Part, _Part]:
        """Return what is due at `time_ns`, and the rest."""
        cut = int(np.searchsorted(self.times, time_ns, side="right"))
        return (
            _Part(self.times[:cut], self.rows[:cut], self.render),
            _Part(self.times[cut:], self.rows[cut:], self.render),
        )


class Due:
    """Some lines, not rendered yet, all of them older than those that are given out later."""

    def __init__(self, parts: list[_Part]) -> None:
        self._parts = parts

    def __len__(self) -> int:
        return sum(len(part.rows) for part in self._parts)

    def render(self) -> list[str]:
        """Return the lines sorted by time; equal times keep the order of arrival."""
        lines = [line for part in self._parts for line in part.render(part.rows)]
        if len(self._parts) == 1:
            return lines
        order = np.argsort(np.concatenate([part.times for part in self._parts]), kind="stable")
        return [lines[row] for row in order.tolist()]


class Reorder:
    """Holds rows, not lines: a row takes a fraction of the memory, and may never be rendered at all.

    limit: rows held at most; beyond, the older half is given out early: order gives way before memory does.
    """

    def __init__(self, limit: int = _LIMIT) -> None:
        self._limit = limit
        self._held: list[_Part] = []

    def add(self, times: NDArray[np.int64], rows: NDArray[np.intp], render: Render) -> None:
        """Hold rows (n,) whose lines belong to Unix times (n,), in any order.

        render: makes one line of each of the rows it is given, of these or of a part of them.
        """
        if len(rows):
            order = np.argsort(times, kind="stable")
            self._held.append(_Part(times[order], rows[order], render))

    def due(self, watermark_ns: int) -> Iterator[Due]:
        """Give out, slice by slice, what is not later than the watermark; late rows too, at once."""
        yield from self._take(watermark_ns)
        if sum(len(part.rows) for part in self._held) > self._limit:
            times = np.concatenate([part.times for part in self._held])
            yield from self._take(int(np.partition(times, len(times) // 2)[len(times) // 2]))

    def rest(self) -> Iterator[Due]:
        """Give out all that is held."""
        return self._take(np.iinfo(np.int64).max)

    def _take(self, watermark_ns: int) -> Iterator[Due]:
        taken, self._held = _split(self._held, watermark_ns)
        while taken:
            now, taken = _split(taken, _slice_end(taken))
            yield Due(now)


def _split(parts: list[_Part], time_ns: int) -> tuple[list[_Part], list[_Part]]:
    pairs = [part.split(time_ns) for part in parts]
    return [first for first, _ in pairs if len(first.rows)], [rest for _, rest in pairs if len(rest.rows)]


def _slice_end(parts: list[_Part]) -> int:
    """Return the time up to which the parts have about `_SLICE` rows."""
    times = parts[0].times if len(parts) == 1 else np.concatenate([part.times for part in parts])
    place = min(_SLICE, len(times)) - 1
    return int(np.partition(times, place)[place])
