"""Rules that all line logs keep."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from masdeepflow.sinks.line_log import LineLog
from masdeepflow.sinks.line_writer import LineWriter
from masdeepflow.sinks.reorder import _SLICE
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


def test_lines_are_left_out_while_the_ring_fills_up(pipe: Pipe) -> None:
    """They are counted, slice by slice: as soon as there is room again, lines are made again."""
    pipe.reader.start()
    writer = LineWriter(pipe.into)
    log = _Starts(writer)
    answers = iter((False, True, False))
    rows = [{"start_ns": START + place} for place in range(3 * _SLICE)]
    log.write(replace(make_output(make_table(*rows)), behind=lambda: next(answers)))
    assert (log.rendered, log.left_out, writer.lost) == (2 * _SLICE, _SLICE, 0)
    log.close(Summary(0))
    shown = [*range(_SLICE), *range(2 * _SLICE, 3 * _SLICE)]
    assert pipe.lines()[:-1] == [str(place) for place in shown]


def test_the_end_of_a_log_is_whole(pipe: Pipe) -> None:
    """When the ring is not read any more, no line costs a record."""
    pipe.reader.start()
    log = _Starts(LineWriter(pipe.into))
    held = make_output(make_table({"start_ns": START + 1}), watermark_ns=START)
    log.write(replace(held, behind=lambda: True))
    log.close(Summary(0))
    assert log.left_out == 0
    assert pipe.lines()[:-1] == ["1"]
