"""`kept`: requests a second of nginx under wrk, with the agent running against without.

Runs come in pairs, one with and one without, next to each other in time and in alternating order, so that
what else the machine does hits both; the figure is the median of the pairs' ratios.

"By CPU time" is the same ratio in CPU time for each request, of nginx, wrk and the agent together. With two
cores full of nothing else the two agree; on a machine where others work too, it is the steadier one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from bench.agent import agent
from bench.load import wrk
from bench.report import Detail, Goal, Outcome, row_of
from bench.servers import nginx

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bench.plan import Plan
    from bench.servers import Nginx

__all__ = ["measure", "measure_queue_time"]

_GOAL = Goal(0.85, 0.92, least=True)
_COLUMNS = ("requests/s", "nginx µs", "wrk µs", "agent µs")
_OFF = ("--log", "off")


class _Case(NamedTuple):
    """options: of the agent; against: of the agent in the other run of each pair, None for no agent."""

    name: str
    options: tuple[str, ...]
    path: str = "/"
    against: tuple[str, ...] | None = None
    goal: Goal | None = None


class _Sample(NamedTuple):
    """Of one run: requests a second; and the CPU time in us of each process for a request."""

    rate: float
    nginx_us: float
    wrk_us: float
    agent_us: float

    @property
    def cpu_us(self) -> float:
        """CPU time of all three."""
        return self.nginx_us + self.wrk_us + self.agent_us


class _Pair(NamedTuple):
    with_: _Sample
    without: _Sample


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
            rates = [pair.with_.rate / pair.without.rate for pair in pairs]
            times = [pair.without.cpu_us / pair.with_.cpu_us for pair in pairs]
            outcome.rows.append(row_of(benchmark, case.name, rates, goal=case.goal))
            outcome.rows.append(row_of(benchmark, f"{case.name}: by CPU time", times))
            outcome.details.append(_detail(benchmark, case, pairs))
    return outcome


def _pair(case: _Case, server: Nginx, directory: Path, seconds: int, number: int) -> _Pair:
    """Measure with and without; every other pair runs without first."""

    def run(options: tuple[str, ...] | None) -> _Sample:
        if options is None:
            return _sample(server, directory, seconds, case.path, lambda: 0)
        with agent(*options) as running:
            return _sample(server, directory, seconds, case.path, running.cpu_ns)

    if number % 2:
        without = run(case.against)
        return _Pair(run(case.options), without)
    with_ = run(case.options)
    return _Pair(with_, run(case.against))


def _sample(server: Nginx, directory: Path, seconds: int, path: str, agent_ns: Callable[[], int]) -> _Sample:
    server_start, agent_start = server.cpu_ns(), agent_ns()
    load = wrk(server, directory, seconds, path)
    spent = (server.cpu_ns() - server_start, load.cpu_ns, agent_ns() - agent_start)
    return _Sample(load.rate, *(ns / load.requests / 1e3 for ns in spent))


def _detail(benchmark: str, case: _Case, pairs: list[_Pair]) -> Detail:
    columns = [f"pair {number}" for number in range(1, len(pairs) + 1)]
    samples = {"with": [pair.with_ for pair in pairs], "without": [pair.without for pair in pairs]}
    rows = [
        (f"{name}, {what}", [sample[place] for sample in taken])
        for name, taken in samples.items()
        for place, what in enumerate(_COLUMNS)
    ]
    return Detail(f"{benchmark}: {case.name}; CPU time is for a request", columns, rows)
