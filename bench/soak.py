"""`soak`: a million random messages over 200 accelerated connections, and servers under load for a minute.

Messages are of 1 byte to 1 MiB, both ways, with half-closes and resets at the end. Each side's digest has to
be that of the plain run. The servers' own tools look for errors, and for requests that took long.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench.acceleration import maria, postgres, web
from bench.report import Goal, Outcome, Row
from masdeepflow.gateway import pins
from masdeepflow.gateway.selftest import Track
from masdeepflow.gateway.service import Service
from tests.support.exchange import exchange
from tests.support.ports import LOOPBACK
from tests.support.servers import redis

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.plan import Plan

__all__ = ["measure"]

_CONNECTIONS = 200
_NONE = Goal(0)
_ERROR = re.compile(r"Socket errors|Non-2xx|failed transactions: [1-9]|^Error|ERROR", re.MULTILINE)


class _Load(NamedTuple):
    """command: port and seconds -> the tool's. slowest: pattern of what it tells of slow requests, `told`."""

    name: str
    start: Callable[[Path], object]
    command: Callable[[int, int], list[object]]
    slowest: str
    told: str


_LOADS = (
    _Load(
        "nginx + wrk",
        web,
        lambda port, s: ["wrk", "-t1", "-c16", f"-d{s}s", f"http://{LOOPBACK}:{port}/"],
        r"Latency +\S+ +\S+ +(\S+)",
        "slowest request",
    ),
    _Load(
        "Redis + redis-benchmark",
        redis,
        lambda port, s: ["redis-benchmark", "-p", port, "-n", 40_000 * s, "-t", "set,get", "-d", 500],
        r"max\s*\n\s*(?:[\d.]+\s+){5}([\d.]+)",
        "slowest request, ms",
    ),
    _Load(
        "PostgreSQL + pgbench",
        postgres,
        lambda port, s: [
            "pgbench",
            "--no-vacuum",
            "--latency-limit=200",
            "-c4",
            "-T",
            s,
            f"postgresql://postgres@{LOOPBACK}:{port}/shop?sslmode=disable",
        ],
        r"latency limit: (\d+)/",
        "transactions over 200 ms",
    ),
    _Load(
        "MariaDB + mariadb-slap",
        maria,
        lambda port, s: [
            "mariadb-slap",
            "--no-defaults",
            "--protocol=tcp",
            "--skip-ssl",
            "--user=root",
            f"--host={LOOPBACK}",
            f"--port={port}",
            "--auto-generate-sql",
            "--concurrency=4",
            f"--number-of-queries={200 * s}",
        ],
        r"Maximum number of seconds to run all queries: ([\d.]+)",
        "seconds for all queries",
    ),
)


def measure(plan: Plan) -> Outcome:
    """Exchange the messages, then load the servers."""
    outcome = Outcome()
    for row in _rows(plan):
        print(f"  {row.name}: {row.value}; {row.remark}", file=sys.stderr, flush=True)
        outcome.rows.append(row)
    return outcome


def _rows(plan: Plan) -> Iterator[Row]:
    yield from _exchange(625 * plan.seconds)
    for load in _LOADS:
        yield _serve(load, 15 * plan.seconds)


def _exchange(messages: int) -> Iterator[Row]:
    cgroup = pins.cgroup_root()
    assert cgroup is not None
    with Track(cgroup) as track:
        seen = {way: _received(track, messages, accelerated=way) for way in (False, True)}
        totals = track.gateway.pairs.totals()
    (plain, plain_s), (accelerated, accelerated_s) = seen[False], seen[True]
    differing = sum(a != b or a is None for a, b in zip(plain, accelerated, strict=True))
    total = 2 * messages * _CONNECTIONS
    remark = (
        f"{total:,} messages, {totals.redirected_bytes / 1e9:.1f} GB redirected; left to TCP: {totals.left}"
    )
    yield Row("soak", "streams whose digest differs", differing, goal=_NONE, remark=remark)
    yield Row("soak", "seconds, accelerated against plain", accelerated_s / plain_s)


def _received(track: Track, messages: int, *, accelerated: bool) -> tuple[list[object], float]:
    pairs = [track.connect(accelerated=accelerated) for _ in range(_CONNECTIONS)]
    results: list[object] = [None] * (2 * _CONNECTIONS)

    def one(seed: int) -> None:
        results[2 * seed : 2 * seed + 2] = exchange(*pairs[seed], seed, messages)

    threads = [threading.Thread(target=one, args=(seed,)) for seed in range(_CONNECTIONS)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results, time.monotonic() - start


def _serve(load: _Load, seconds: int) -> Row:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="masdeepflow-soak-")))
        port: int = stack.enter_context(load.start(directory))  # type: ignore[arg-type]  # a context manager
        plain, accelerated = (_run(load, port, seconds, accelerated=way) for way in (False, True))
    remark = f"{load.told}: accelerated {accelerated[1]}, plain {plain[1]}"
    return Row("soak", f"{load.name}, {seconds} s: errors", accelerated[0], goal=_NONE, remark=remark)


def _run(load: _Load, port: int, seconds: int, *, accelerated: bool) -> tuple[int, str]:
    """Return how many errors the tool told of, and its figure of slow requests."""
    command = [str(word) for word in load.command(port, seconds)]
    with ExitStack() as stack:
        if accelerated:
            stack.enter_context(Service([port], lambda _text: None, prove=False))
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds * 20)
    text = done.stdout + done.stderr
    found = re.findall(load.slowest, text)
    return len(_ERROR.findall(text)), found[-1] if found else "not told"
