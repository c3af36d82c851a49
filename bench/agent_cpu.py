"""`agent_cpu`: CPU time of the whole agent for each record, from ring to metrics and log, under wrk.

It is the process's by its CPU clock, so in nanoseconds and with all threads; sweeps and polls are in it.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

from bench.agent import agent
from bench.load import wrk
from bench.report import Goal, Outcome, row_of
from bench.servers import nginx

if TYPE_CHECKING:
    from pathlib import Path

    from bench.plan import Plan
    from bench.servers import Nginx

__all__ = ["measure"]

_GOALS = {"off": Goal(2, 0.8), "json": Goal(6), "text": None}
_RUNS = 3
_DRAIN_S = 0.3


def measure(plan: Plan) -> Outcome:
    """Measure with each kind of log; lines go to /dev/null."""
    outcome = Outcome()
    with nginx() as (server, directory):
        for log, goal in _GOALS.items():
            runs = [_run(server, directory, plan.seconds, log) for _ in range(_RUNS)]
            costs, lines = zip(*runs, strict=True)
            row = row_of("agent_cpu", f"`--log {log}`", costs, "µs/record", goal)
            outcome.rows.append(row.with_remark("" if log == "off" else _lines_lost(lines)))
    return outcome


def _run(server: Nginx, directory: Path, seconds: int, log: str) -> tuple[float, tuple[int, int]]:
    """Return us of CPU for each record seen; and lines lost, of how many."""
    with agent("--log", log) as running:
        before = running.cpu_ns()
        wrk(server, directory, seconds)
        time.sleep(_DRAIN_S)
        spent = running.cpu_ns() - before
        summary = running.stop()
    lines = 2 * summary.seen if log == "text" else summary.seen
    return spent / summary.seen / 1e3, (summary.lost.get("log", 0), lines)


def _lines_lost(runs: tuple[tuple[int, int], ...]) -> str:
    lost, lines = map(sum, zip(*runs, strict=True))
    return f"{lost / lines:.1%} of the lines were given up" if lost else "every line was written"
