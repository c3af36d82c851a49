"""What the line logs share: lines in order of time to a writer, none formatted that would cost records."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from masdeepflow.sinks.reorder import Reorder
from masdeepflow.table import never_behind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from masdeepflow.sinks.line_writer import LineWriter
    from masdeepflow.sinks.reorder import Due, Render
    from masdeepflow.summary import Summary
    from masdeepflow.table import Output

__all__ = ["LineLog"]

_STEP_NS = 100_000_000  # slewing changes less between two looks at the clock, adjtimex(2)
_FIRST, _LAST = -(1 << 63), (1 << 63) - 1


class LineLog(ABC):
    """A sink of lines. writer: closed with the log; its `lost` counts the lines that did not come out."""

    patience_s = 0.04  # with the 35 ms until a turn counts as ended, a line is there 100 ms after its event

    def __init__(self, writer: LineWriter) -> None:
        self._writer = writer
        self._held = Reorder()
        self.left_out = 0
        self._offset_ns = self._steps_ns = 0

    def write(self, output: Output) -> None:
        """Hold the batch; write what is due, or only count it: the writer is full, or the agent behind."""
        self._follow_clock(output.offset_ns)
        self._hold(output)
        watermark = output.watermark_ns - self._steps_ns
        # Recordings may hold anything.
        self._emit(self._held.due(max(_FIRST, min(watermark, _LAST))), output.behind)

    def close(self, summary: Summary) -> None:
        """Write what is held and whatever ends the log."""
        self._emit(self._held.rest(), never_behind)
        self._finish(summary)

    def _add(self, times: NDArray[np.int64], rows: NDArray[np.intp], render: Render) -> None:
        """Hold rows (n,) whose lines belong to Unix times (n,) of the batch at hand: as `Reorder.add`."""
        self._held.add(times - self._steps_ns, rows, render)

    def _follow_clock(self, offset_ns: int) -> None:
        """Sum up what the wall clock was set by: hours skipped or repeated must not hold lines, or mix them.

        While it only runs a little fast or slow, lines are in order of the time that they show.
        """
        if abs(offset_ns - self._offset_ns) > _STEP_NS:
            self._steps_ns += offset_ns - self._offset_ns
        self._offset_ns = offset_ns

    def _emit(self, slices: Iterator[Due], behind: Callable[[], bool]) -> None:
        for due in slices:
            if self._writer.full():
                self._writer.skip(len(due))
            elif behind():
                # A line is what can be done without: a lost record is missing everywhere.
                self.left_out += len(due)
            else:
                self._writer.offer(due.render())

    @abstractmethod
    def _hold(self, output: Output) -> None:
        """Add the rows that give lines (`_add`), those that come first at equal times before the others."""

    @abstractmethod
    def _finish(self, summary: Summary) -> None:
        """Close the writer."""
