"""`full_speed`: databases under their load tools, with the agent against without; and what the ring lost.

Runs come in pairs, as in `kept`: one with and one without the agent, in alternating order, and the figure is
the median of the pairs' ratios of requests a second. The agent's log is off in these. What is lost is counted
with its default options, too, under which every line of the text log goes to a pipe that is read. One
load of Redis keeps a pace: there `kept` is of that pace.

pgbench's rate differs by a third with where the scheduler puts its processes, and whatever else runs moves
them. So it is measured with each job and its backends bound to a CPU, too: there the difference is the agent.
"""

from __future__ import annotations

import os
import subprocess
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from statistics import mean
from typing import TYPE_CHECKING, NamedTuple

from bench.agent import agent
from bench.report import Goal, Outcome, Row, row_of
from bench.tools import Told, fill, pgbench, redis_benchmark, redis_paced
from tests.support import servers

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from typing import IO

    from bench.plan import Plan
    from tests.support.servers import PostgreSql

__all__ = ["measure"]

_DRAIN_S = 0.3
_KEPT, _NONE = Goal(0.85, least=True), Goal(0)
_OFF = ("--log", "off")
_CONNECTIONS = 50
_CLIENTS, _JOBS = 8, 2  # where pgbench makes most on two cores; with one job an eighth of them idles
_MODES = ("simple", "prepared")
_PACE = 150_000  # pipelined commands a second
_REQUESTS = {1: 80_000, 16: 400_000}  # of redis-benchmark a second, by pipeline: about half of what it makes


class _Sample(NamedTuple):
    """rate: requests a second. seen: records. lost: others, by the ring. lines: left out of the log.

    agent_us: the agent's CPU time for each transaction that it saw, at both ends.
    """

    rate: float
    seen: int = 0
    lost: int = 0
    lines: int = 0
    agent_us: float = 0


class _Workload(NamedTuple):
    """run: the load tool. many: how many times as many pairs it takes for a median that holds."""

    name: str
    run: Callable[[], Told]
    many: int = 1


def measure(plan: Plan) -> Outcome:
    """Measure Redis with and without pipelines, and PostgreSQL in pgbench's modes."""
    outcome = Outcome()
    with tempfile.TemporaryDirectory(prefix="masdeepflow-bench-") as name, ExitStack() as stack:
        for workload in _workloads(Path(name), stack, plan.seconds):
            if plan.wants(workload.name):
                outcome.rows.extend(_rows(workload, workload.many * plan.pairs))
    return outcome


def _workloads(directory: Path, stack: ExitStack, seconds: int) -> Iterator[_Workload]:
    port = stack.enter_context(servers.redis(directory))
    for pipelined, rate in _REQUESTS.items():
        run = partial(redis_benchmark, port, "set", rate * seconds, _CONNECTIONS, pipelined)
        yield _Workload(f"redis-benchmark -P {pipelined}", run)
    yield _Workload(f"Redis, {_PACE:,} commands/s by 16", partial(redis_paced, port, _PACE, seconds))
    together = {mode: ("--select-only", f"--protocol={mode}", f"--time={seconds}") for mode in _MODES}
    with servers.postgresql() as server:
        fill(server)
        for mode, options in together.items():
            run = partial(pgbench, server, None, _CLIENTS, (*options, f"--jobs={_JOBS}"))
            # Its rate differs by a tenth from run to run, with the agent and without.
            yield _Workload(f"pgbench -S, {mode}", run, many=2)
    bound = [(cpu, stack.enter_context(_bound_to(cpu))) for cpu in sorted(os.sched_getaffinity(0))[:_JOBS]]
    for mode, options in together.items():
        yield _Workload(f"pgbench -S, {mode}, a CPU for each job", partial(_on_each, bound, options))


@contextmanager
def _bound_to(cpu: int) -> Iterator[PostgreSql]:
    """Run a server on one CPU."""
    with servers.postgresql() as server:
        fill(server)
        postmaster = int((server.directory / "data" / "postmaster.pid").read_text().split()[0])
        children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
        for pid in (postmaster, *map(int, children)):
            os.sched_setaffinity(pid, {cpu})
        yield server


def _on_each(bound: Sequence[tuple[int, PostgreSql]], options: Sequence[object]) -> Told:
    """Run pgbench on each of some CPUs, against the server there."""
    with ThreadPoolExecutor() as pool:
        runs = [pool.submit(pgbench, server, None, _CLIENTS // _JOBS, options, cpu) for cpu, server in bound]
        told = [run.result() for run in runs]
    return Told(sum(one.requests for one in told), sum(one.rate for one in told), {})


def _rows(load: _Workload, pairs: int) -> Iterator[Row]:
    workload, run, _ = load
    alone, samples = [], []
    for number in range(pairs):
        without = run().rate if number % 2 else 0.0
        samples.append(_with(run, _OFF))
        alone.append(without or run().rate)
    rates = [sample.rate for sample in samples]
    ratios = [rate / without for rate, without in zip(rates, alone, strict=True)]
    # Where the rate has two levels, which half of the runs were at which decides a median, not what is kept.
    remark = f"ratio of the means {mean(rates) / mean(alone):.2f}; {min(rates):,.0f} requests/s or more"
    yield row_of("full_speed", f"{workload}: kept", ratios, goal=_KEPT).with_remark(remark)
    costs = [sample.agent_us for sample in samples]
    yield row_of("full_speed", f"{workload}: agent", costs, "µs/transaction", Goal(2))
    yield _lost(f"{workload}: records lost", samples)
    logged = [_with(run, ()) for _ in range(2)]
    yield _lost(f"{workload}: records lost, default options", logged)
    lines = sum(sample.lines for sample in logged)
    yield Row("full_speed", f"{workload}: log lines left out, default options", lines)


def _with(run: Callable[[], Told], options: tuple[str, ...]) -> _Sample:
    with _reader() as log, agent(*options, log=log) as running:
        before = running.cpu_ns()
        told = run()
        time.sleep(_DRAIN_S)
        spent = running.cpu_ns() - before
        summary = running.stop()
    ring, *logs = (summary.lost.get(reason, 0) for reason in ("ring_full", "log", "log_behind"))
    transactions = sum(summary.requests.values())
    return _Sample(told.rate, summary.seen, ring, sum(logs), spent / transactions / 1e3)


@contextmanager
def _reader() -> Iterator[IO[bytes]]:
    """Give a pipe that is read as fast as it goes."""
    with subprocess.Popen(["cat"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL) as reader:
        assert reader.stdin is not None
        yield reader.stdin


def _lost(name: str, samples: list[_Sample]) -> Row:
    total = sum(sample.seen + sample.lost for sample in samples)
    remark = f"of {total:,}, in {len(samples)} runs"
    return Row("full_speed", name, sum(sample.lost for sample in samples), goal=_NONE, remark=remark)
