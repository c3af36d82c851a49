"""`full_speed`: databases under their load tools, with the agent against without; and what the ring lost.

Runs come in pairs, as in `kept`: one with and one without the agent, in alternating order, and the figure is
the median of the pairs' ratios of requests a second. The agent's log is off in these. What is lost is counted
with its default options, too, under which every line of the text log is rendered.
"""

from __future__ import annotations

import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench.agent import agent
from bench.report import Goal, Outcome, Row, row_of
from bench.tools import fill, pgbench, redis_benchmark
from tests.support import servers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.plan import Plan
    from bench.tools import Told

__all__ = ["measure"]

_DRAIN_S = 0.3
_KEPT, _NONE = Goal(0.85, least=True), Goal(0)
_OFF = ("--log", "off")
_CONNECTIONS, _CLIENTS = 50, 8
_REQUESTS = {1: 80_000, 16: 400_000}  # of redis-benchmark a second, by pipeline: about half of what it makes


class _Sample(NamedTuple):
    """rate: requests a second. seen: records. lost: others, by the ring. agent_us: its CPU time for each."""

    rate: float
    seen: int = 0
    lost: int = 0
    agent_us: float = 0


def measure(plan: Plan) -> Outcome:
    """Measure Redis with and without pipelines, and PostgreSQL in pgbench's modes."""
    outcome = Outcome()
    with tempfile.TemporaryDirectory(prefix="masdeepflow-bench-") as name, ExitStack() as stack:
        for workload, run in _workloads(Path(name), stack, plan.seconds):
            outcome.rows.extend(_rows(workload, run, plan.pairs))
    return outcome


def _workloads(directory: Path, stack: ExitStack, seconds: int) -> Iterator[tuple[str, Callable[[], Told]]]:
    port = stack.enter_context(servers.redis(directory))
    for pipelined, rate in _REQUESTS.items():
        run = partial(redis_benchmark, port, "set", rate * seconds, _CONNECTIONS, pipelined)
        yield f"redis-benchmark -P {pipelined}", run
    server = stack.enter_context(servers.postgresql())
    fill(server)
    for mode in "simple", "prepared":
        options = ("--select-only", f"--protocol={mode}", f"--time={seconds}")
        yield f"pgbench -S, {mode}", partial(pgbench, server, directory, _CLIENTS, options)


def _rows(workload: str, run: Callable[[], Told], pairs: int) -> Iterator[Row]:
    ratios, samples = [], []
    for number in range(pairs):
        without = run().rate if number % 2 else 0.0
        samples.append(_with(run, _OFF))
        ratios.append(samples[-1].rate / (without or run().rate))
    rates = f"{min(sample.rate for sample in samples):,.0f} requests/s or more"
    yield row_of("full_speed", f"{workload}: kept", ratios, goal=_KEPT).with_remark(rates)
    costs = [sample.agent_us for sample in samples]
    yield row_of("full_speed", f"{workload}: agent", costs, "µs/record", Goal(2))
    yield _lost(f"{workload}: records lost", samples)
    yield _lost(f"{workload}: records lost, default options", [_with(run, ()) for _ in range(2)])


def _with(run: Callable[[], Told], options: tuple[str, ...]) -> _Sample:
    with agent(*options) as running:
        before = running.cpu_ns()
        rate = run().rate
        time.sleep(_DRAIN_S)
        spent = running.cpu_ns() - before
        summary = running.stop()
    return _Sample(rate, summary.seen, summary.lost.get("ring_full", 0), spent / summary.seen / 1e3)


def _lost(name: str, samples: list[_Sample]) -> Row:
    total = sum(sample.seen + sample.lost for sample in samples)
    remark = f"of {total:,}, in {len(samples)} runs"
    return Row("full_speed", name, sum(sample.lost for sample in samples), goal=_NONE, remark=remark)
