"""`kept`: requests a second of nginx under wrk, with the agent running against without.

Runs come in pairs, one with and one without, next to each other in time and in alternating order, so that
what else the machine does hits both; the figure is the median of the pairs' ratios.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, NamedTuple

from bench.agent import Agent, agent
from bench.load import wrk
from bench.report import Detail, Goal, Outcome, row_of
from bench.servers import nginx

if TYPE_CHECKING:
    from pathlib import Path

    from bench.plan import Plan
    from bench.servers import Nginx

__all__ = ["measure", "measure_queue_time"]

_GOAL = Goal(0.85, 0.92, least=True)
_OFF = ("--log", "off")


class _Case(NamedTuple):
    """options: of the agent; against: of the agent in the other run of each pair, None for no agent."""

    name: str
    options: tuple[str, ...]
    path: str = "/"
    against: tuple[str, ...] | None = None
    goal: Goal | None = None


_CASES = (
    _Case("`return 200`", _OFF, goal=_GOAL),
    _Case("a file of 3 bytes", _OFF, "/file.txt", goal=_GOAL),
    _Case("`return 200`, `--no-queue-time`", (*_OFF, "--no-queue-time")),
    _Case("`return 200`, `--log json` to /dev/null", ("--log", "json")),
)
_QUEUE_TIME = _Case("requests/s with it against `--no-queue-time`", _OFF, against=(*_OFF, "--no-queue-time"))


def measure(plan: Plan) -> Outcome:
    """Measure all variants."""
    return _measure("kept", _CASES, plan)


def measure_queue_time(plan: Plan) -> Outcome:
    """Measure what the queue-time hook alone costs, in pairs of its own."""
    return _measure("queue_time", (_QUEUE_TIME,), plan)


def _measure(benchmark: str, cases: tuple[_Case, ...], plan: Plan) -> Outcome:
    outcome = Outcome()
    with nginx() as (server, directory):
        wrk(server, directory, 1)  # warm
        for case in cases:
            pairs = [_pair(case, server, directory, plan.seconds, number) for number in range(plan.pairs)]
            ratios = [with_ / without for with_, without in pairs]
            outcome.rows.append(row_of(benchmark, case.name, ratios, goal=case.goal))
            outcome.details.append(_detail(benchmark, case, pairs, ratios))
    return outcome


def _pair(case: _Case, server: Nginx, directory: Path, seconds: int, number: int) -> tuple[float, float]:
    """Return requests a second with and without; every other pair runs without first."""

    def rate(options: tuple[str, ...] | None) -> float:
        watched: AbstractContextManager[Agent | None] = nullcontext() if options is None else agent(*options)
        with watched:
            return wrk(server, directory, seconds, case.path).rate

    if number % 2:
        without = rate(case.against)
        return rate(case.options), without
    with_ = rate(case.options)
    return with_, rate(case.against)


def _detail(benchmark: str, case: _Case, pairs: list[tuple[float, float]], ratios: list[float]) -> Detail:
    columns = [f"pair {number}" for number in range(1, len(pairs) + 1)]
    rows = [
        ("with, requests/s", [with_ for with_, _ in pairs]),
        ("without, requests/s", [without for _, without in pairs]),
        ("ratio", ratios),
    ]
    return Detail(f"{benchmark}: {case.name}", columns, rows)
