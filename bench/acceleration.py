"""`acceleration`: what socket acceleration gains, and what it costs where it gains nothing.

Each server is loaded by its own benchmark tool, in pairs of runs: one under `masdeepflow accelerate`, and
one without any of its programs attached. The runs of a pair are next to each other in time, every other pair
in the other order; the figure is the median of the pairs' ratios. `awake` has four runs next to each other:
plain and accelerated, each with and without CPUs kept awake, so that it shows what comes from which.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench.report import Detail, Goal, Outcome, row_of
from masdeepflow.gateway import awake, selftest
from masdeepflow.gateway.service import Service
from tests.support.ports import LOOPBACK, free_port, wait_listening
from tests.support.programs import TRAFFIC_GEN, Program
from tests.support.servers import mariadb, nginx, postgresql, redis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from contextlib import AbstractContextManager

    from bench.plan import Plan

__all__ = ["maria", "measure", "measure_awake", "postgres", "web"]

_GRACE_S = 120
_MIB = 1 << 20
_SPEED, _ROUND_TRIP, _TAIL = Goal(1.5, least=True), Goal(0.6), Goal(1.0)


class _Figure(NamedTuple):
    """Of a workload's answer. pattern: of the number in what its tool prints."""

    name: str
    unit: str
    pattern: str
    goal: Goal | None = None


class _Workload(NamedTuple):
    """command: port and seconds -> the command line of the tool. awake: whether waking CPUs counts in it."""

    figures: tuple[_Figure, ...]
    command: Callable[[int, int], list[object]]
    awake: bool = False


class _Server(NamedTuple):
    """start: gives the port, in a directory of its own."""

    start: Callable[[Path], object]
    workloads: tuple[_Workload, ...]


def _tool(*more: object) -> Callable[[int, int], list[object]]:
    return lambda port, seconds: [
        TRAFFIC_GEN,
        "benchmark-client",
        "--port",
        port,
        "--duration",
        seconds,
        *more,
    ]


def _wrk(path: str, *more: object) -> Callable[[int, int], list[object]]:
    return lambda port, s: ["wrk", "-t1", "-c16", f"-d{s}s", *more, f"http://{LOOPBACK}:{port}{path}"]


def _redis(name: str, requests: int, *more: object) -> Callable[[int, int], list[object]]:
    return lambda port, s: ["redis-benchmark", "-p", port, "-q", "-n", requests * s, "-t", name, *more]


def _pgbench(*more: object) -> Callable[[int, int], list[object]]:
    where = "postgresql://postgres@127.0.0.1:{}/shop?sslmode=disable"
    return lambda port, s: ["pgbench", "--no-vacuum", "-T", s, *more, where.format(port)]


# mariadb-slap looks once a second whether its clients are done, so its time is no figure.
_SELECTS = """
TIMEFORMAT="took %3R"
time {
    for client in $(seq "$1"); do
        yes "SELECT 1;" | head -n "$2" | mariadb "${@:3}" >/dev/null &
    done
    wait
}
"""


def _mariadb(clients: int, queries: int) -> Callable[[int, int], list[object]]:
    where = ("--no-defaults", "--protocol=tcp", "--skip-ssl", "--user=root", f"--host={LOOPBACK}")
    return lambda port, s: ["bash", "-c", _SELECTS, "bash", clients, queries * s, *where, f"--port={port}"]


def _rate(name: str, pattern: str) -> tuple[_Figure, ...]:
    return (_Figure(name, "/s", pattern),)


_WRK, _REDIS = r"Requests/sec: +([\d.]+)", r"([\d.]+) requests per second"
_PGBENCH, _TOOK = r"tps = ([\d.]+)", r"took ([\d.]+)"


@contextmanager
def _sink(directory: Path) -> Iterator[int]:
    port = free_port()
    with Program(directory, TRAFFIC_GEN, "benchmark-server", "--port", port):
        wait_listening(port)
        yield port


@contextmanager
def web(directory: Path) -> Iterator[int]:
    """Run nginx with a large file; give its port."""
    with nginx(directory) as server:
        (server.files / "large.bin").write_bytes(bytes(_MIB))
        yield server.port


@contextmanager
def maria(directory: Path) -> Iterator[int]:
    """Run MariaDB; give its port."""
    with mariadb(directory) as server:
        yield server.port


@contextmanager
def postgres(_directory: Path) -> Iterator[int]:
    """Run PostgreSQL with the tables of pgbench; give its port."""
    with postgresql() as server:
        subprocess.run(
            list(map(str, server.pgbench("--initialize", "--quiet"))), check=True, capture_output=True
        )
        yield server.port


_SERVERS = (
    _Server(
        _sink,
        (
            _Workload(
                (_Figure("writes of 1 MiB, MB/s", "MB/s", r"Speed: ([\d.]+)", _SPEED),),
                _tool("--size", _MIB),
                awake=True,
            ),
            _Workload(
                (_Figure("writes of 4 KiB, MB/s", "MB/s", r"Speed: ([\d.]+)"),),
                _tool("--size", 4096),
                awake=True,
            ),
            _Workload(
                (
                    _Figure("round trip of 64 B, p50", "µs", r"p50 ([\d.]+)", _ROUND_TRIP),
                    _Figure("round trip of 64 B, p99", "µs", r"p99 ([\d.]+)", _TAIL),
                ),
                _tool("--rtt", "--size", 64),
                awake=True,
            ),
        ),
    ),
    _Server(
        web,
        (
            _Workload(_rate("nginx, 6 B, wrk -c16, requests/s", _WRK), _wrk("/"), awake=True),
            _Workload(
                _rate("nginx, 1 MiB by sendfile, wrk -c16, requests/s", _WRK), _wrk("/files/large.bin")
            ),
            _Workload(
                _rate("nginx, a connection for each request, requests/s", _WRK),
                _wrk("/", "-H", "Connection: close"),
            ),
        ),
    ),
    _Server(
        redis,
        (
            _Workload(_rate("Redis GET, 50 clients, requests/s", _REDIS), _redis("get", 80_000)),
            _Workload(
                _rate("Redis GET, 1 client, requests/s", _REDIS), _redis("get", 40_000, "-c", 1), awake=True
            ),
            _Workload(
                _rate("Redis GET, 50 clients, pipelines of 16, requests/s", _REDIS),
                _redis("get", 600_000, "-P", 16),
            ),
        ),
    ),
    _Server(
        postgres,
        (
            _Workload(_rate("PostgreSQL, pgbench -S -c4, transactions/s", _PGBENCH), _pgbench("-S", "-c4")),
            _Workload(
                _rate("PostgreSQL, pgbench -S -c1, transactions/s", _PGBENCH),
                _pgbench("-S", "-c1"),
                awake=True,
            ),
        ),
    ),
    _Server(
        maria,
        (
            _Workload(
                (_Figure("MariaDB, SELECT 1, 4 clients, seconds for the same queries", "s", _TOOK),),
                _mariadb(4, 40_000),
            ),
        ),
    ),
)


def measure(plan: Plan) -> Outcome:
    """Measure all workloads, accelerated and plain."""
    return _over(_SERVERS, plan, _measure)


def measure_awake(plan: Plan) -> Outcome:
    """Measure those in which CPUs wait for each other, with CPUs kept awake and without."""
    servers = [
        server._replace(workloads=tuple(each for each in server.workloads if each.awake))
        for server in _SERVERS
    ]
    return _over(servers, plan, _measure_awake)


def _over(
    servers: Iterable[_Server], plan: Plan, one: Callable[[_Workload, int, int, int, Outcome], None]
) -> Outcome:
    if why_not := selftest.refusal(selftest.run()):
        raise SystemExit(why_not)
    outcome = Outcome()
    seconds = max(plan.seconds // 2, 1)
    for server in servers:
        wanted = [each for each in server.workloads if plan.wants(*(figure.name for figure in each.figures))]
        with ExitStack() as stack:
            if not wanted:
                continue
            directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="masdeepflow-bench-")))
            port: int = stack.enter_context(server.start(directory))  # type: ignore[arg-type]  # a context manager
            for workload in wanted:
                one(workload, port, plan.pairs, seconds, outcome)
    return outcome


@contextmanager
def _kept_awake() -> Iterator[None]:
    keeper = awake.find()
    keeper.hold()
    try:
        yield
    finally:
        keeper.let_go()
        keeper.close()


def _ways(port: int) -> dict[str, Callable[[], AbstractContextManager[object]]]:
    return {
        "plain": nullcontext,
        "accelerated": lambda: Service([port], _note, prove=False),
        "plain, kept awake": _kept_awake,
        "accelerated, --keep-awake": lambda: Service([port], _note, prove=False, keep_awake=True),
    }


def _measure_awake(workload: _Workload, port: int, pairs: int, seconds: int, outcome: Outcome) -> None:
    command = [str(word) for word in workload.command(port, seconds)]
    _values(workload, command)  # warms up
    samples: dict[str, list[list[float]]] = {}
    for number in range(pairs):
        ways = list(_ways(port).items())
        for way, running in ways if number % 2 else reversed(ways):
            with running():
                samples.setdefault(way, []).append(_values(workload, command))
    for index, figure in enumerate(workload.figures):
        columns = {way: [values[index] for values in seen] for way, seen in samples.items()}
        for way in list(_ways(port))[1:]:
            ratios = [a / b for a, b in zip(columns[way], columns["plain"], strict=True)]
            goal = figure.goal if way.endswith("--keep-awake") else None
            outcome.rows.append(row_of("awake", f"{figure.name}: {way}", ratios, "", goal))
        rows = [(f"round {n}", [columns[way][n - 1] for way in _ways(port)]) for n in range(1, pairs + 1)]
        units = [f"{way} {figure.unit}" for way in _ways(port)]
        outcome.details.append(Detail(f"awake, {figure.name}", units, rows))


def _measure(workload: _Workload, port: int, pairs: int, seconds: int, outcome: Outcome) -> None:
    samples: list[tuple[list[float], list[float]]] = []
    command = [str(word) for word in workload.command(port, seconds)]
    _values(workload, command)  # warms up
    redirected = 0
    for number in range(pairs):
        found: dict[bool, list[float]] = {}
        for accelerated in (number % 2 == 0, number % 2 != 0):
            with ExitStack() as stack:
                if accelerated:
                    service = stack.enter_context(Service([port], _note, prove=False))
                found[accelerated] = _values(workload, command)
                if accelerated:
                    redirected += service.totals().redirected_bytes
        samples.append((found[True], found[False]))
    assert redirected, f"nothing was redirected: {workload.figures[0].name}"
    for index, figure in enumerate(workload.figures):
        ratios = [with_[index] / without[index] for with_, without in samples]
        outcome.rows.append(row_of("acceleration", figure.name, ratios, "", figure.goal))
        outcome.details.append(_detail(figure, index, samples))


def _detail(figure: _Figure, index: int, samples: list[tuple[list[float], list[float]]]) -> Detail:
    rows = [
        (f"pair {number}", [with_[index], without[index]])
        for number, (with_, without) in enumerate(samples, 1)
    ]
    columns = [f"accelerated {figure.unit}", f"plain {figure.unit}"]
    return Detail(f"acceleration, {figure.name}", columns, rows)


def _values(workload: _Workload, command: list[str]) -> list[float]:
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=_GRACE_S)
    text = done.stdout.replace("\r", "\n") + done.stderr
    assert "Socket errors" not in text, text
    return [_last(figure, text) for figure in workload.figures]


def _last(figure: _Figure, text: str) -> float:
    found = re.findall(figure.pattern, text)
    if not found:
        raise SystemExit(f"the answer is not understood: {figure.name}:\n{text}")
    return float(found[-1])


def _note(text: str) -> None:
    print(f"  {text}", file=sys.stderr)
