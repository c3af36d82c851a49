"""What the line logs share: lines in order of time to a writer, none formatted while the writer is full."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from masdeepflow.sinks.reorder import Reorder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from masdeepflow.sinks.line_writer import LineWriter
    from masdeepflow.sinks.reorder import Due
    from masdeepflow.summary import Summary
    from masdeepflow.table import Output

__all__ = ["LineLog"]


class LineLog(ABC):
    """A sink of lines. writer: closed with the log; its `lost` counts the lines that did not come out."""

    def __init__(self, writer: LineWriter) -> None:
        self._writer = writer
        self._held = Reorder()

    def write(self, output: Output) -> None:
        """Hold the batch; write what is due, or only count it while the writer is full."""
        self._hold(output)
        self._emit(self._held.due(output.watermark_ns))

    def close(self, summary: Summary) -> None:
        """Write what is held and whatever ends the log."""
        self._emit(self._held.rest())
        self._finish(summary)

    def _emit(self, slices: Iterator[Due]) -> None:
        for due in slices:
            if self._writer.full():
                self._writer.skip(len(due))
            else:
                self._writer.offer(due.render())

    @abstractmethod
    def _hold(self, output: Output) -> None:
        """Add the rows that give lines, those that come first at equal times before the others."""

    @abstractmethod
    def _finish(self, summary: Summary) -> None:
        """Close the writer."""
