"""Rules that all line logs keep."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from masdeepflow.sinks.line_log import LineLog
from masdeepflow.sinks.line_writer import LineWriter
from masdeepflow.summary import Summary
from tests.support.tables import START, make_output, make_table

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from masdeepflow.table import Output, Table
    from tests.unit.sinks.conftest import Pipe


class _Starts(LineLog):
    """Shows when each row started, and counts what it has rendered."""

    rendered = 0

    def _hold(self, output: Output) -> None:
        for table in output.tables:
            self._add(table.start_ns, np.arange(len(table)), partial(self._lines, table))

    def _lines(self, table: Table, rows: NDArray[np.intp]) -> list[str]:
        self.rendered += len(rows)
        return [str(time - START) for time in table.start_ns[rows].tolist()]

    def _finish(self, summary: Summary) -> None:
        self._writer.close(lambda lost: f"{summary.records} {lost}")


def test_held_rows_come_out_at_the_end(pipe: Pipe) -> None:
    """What the watermark has not reached is written when the log is closed, before whatever ends it."""
    pipe.reader.start()
    log = _Starts(LineWriter(pipe.into))
    log.write(
        make_output(make_table({"start_ns": START + 2}, {"start_ns": START + 1}), watermark_ns=START + 1)
    )
    log.close(Summary(7))
    assert pipe.lines() == ["1", "2", "7 0"]


def test_nothing_is_rendered_for_a_writer_that_is_full(pipe: Pipe) -> None:
    """Rows that nobody would read cost no formatting, and are counted."""
    pipe.reader.start()
    writer = LineWriter(pipe.into)
    log = _Starts(writer)
    writer._clogged, writer._queued = True, writer._limit
    log.write(make_output(make_table({}, {}, {})))
    assert (log.rendered, writer.lost) == (0, 3)
    writer._queued = 0
    log.write(make_output(make_table({})))
    assert (log.rendered, writer.lost) == (1, 3)
    log.close(Summary(0))
    assert pipe.lines() == ["0", "0 3"]
