"""`soak`: a million random messages over 200 accelerated connections, and servers under load for a minute.

Messages are of 1 byte to 1 MiB, log-uniform (76 kB on average), both ways, with half-closes and resets at the
end; a quarter of them at a time, so that each part (`--workload "messages 1/4"`) takes a few minutes. Each
side's digest has to be that of the plain run. The servers' own tools look for errors, and for requests that
took long; beside them payloads are exchanged and compared.
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

from bench import payloads
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
    from masdeepflow.gateway.pairs import Totals

__all__ = ["measure"]

_CONNECTIONS = 200
_NONE = Goal(0)
_ERROR = re.compile(r"Socket errors|Non-2xx|failed transactions: [1-9]|^Error|ERROR", re.MULTILINE)


class _Load(NamedTuple):
    """command: port and seconds -> the tool's. slowest: pattern of what it tells of slow requests, `told`.

    conversation: of payloads beside it.
    """

    name: str
    start: Callable[[Path], object]
    conversation: payloads.Conversation
    command: Callable[[int, int], list[object]]
    slowest: str
    told: str


_LOADS = (
    _Load(
        "nginx + wrk",
        web,
        payloads.web_put_get,
        lambda port, s: ["wrk", "-t1", "-c16", f"-d{s}s", f"http://{LOOPBACK}:{port}/"],
        r"Latency +\S+ +\S+ +(\S+)",
        "slowest request",
    ),
    _Load(
        "Redis + redis-benchmark",
        redis,
        payloads.redis_set_get,
        lambda port, s: ["redis-benchmark", "-p", port, "-n", 75_000 * s, "-t", "set,get", "-d", 500],
        r"max\s*\n\s*(?:[\d.]+\s+){5}([\d.]+)",
        "slowest request, ms",
    ),
    _Load(
        "PostgreSQL + pgbench",
        postgres,
        payloads.postgres_echo,
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
        payloads.maria_echo,
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
            # Each iteration fills a table of its own: with its size the time of a query grows.
            "--number-of-queries=6000",
            f"--iterations={s * 9 // 20}",
        ],
        r"Maximum number of seconds to run all queries: ([\d.]+)",
        "longest iteration, s",
    ),
)


_PARTS = 4


def measure(plan: Plan) -> Outcome:
    """Exchange the messages, then load the servers."""
    outcome = Outcome()
    for row in _rows(plan):
        print(f"  {row.name}: {row.value}; {row.remark}", file=sys.stderr, flush=True)
        outcome.rows.append(row)
    return outcome


def _rows(plan: Plan) -> Iterator[Row]:
    for part in range(_PARTS):
        name = f"random messages {part + 1}/{_PARTS}"
        if plan.wants(name):
            yield from _exchange(name, part * _CONNECTIONS, 625 * plan.seconds // _PARTS)
    for load in _LOADS:
        if plan.wants(load.name):
            yield from _serve(load, 15 * plan.seconds)


def _exchange(name: str, seed: int, messages: int) -> Iterator[Row]:
    cgroup = pins.cgroup_root()
    assert cgroup is not None
    with Track(cgroup) as track:
        seen = {way: _received(track, seed, messages, accelerated=way) for way in (False, True)}
        totals = track.gateway.pairs.totals()
    (plain, plain_s), (accelerated, accelerated_s) = seen[False], seen[True]
    differing = sum(a != b or a is None for a, b in zip(plain, accelerated, strict=True))
    total = 2 * messages * _CONNECTIONS
    remark = (
        f"{total:,} messages, {totals.redirected_bytes / 1e9:.1f} GB redirected; left to TCP: {totals.left}"
    )
    yield Row("soak", f"{name}: streams whose digest differs", differing, goal=_NONE, remark=remark)
    yield Row("soak", f"{name}: seconds, accelerated against plain", accelerated_s / plain_s)


def _received(track: Track, first: int, messages: int, *, accelerated: bool) -> tuple[list[object], float]:
    pairs = [track.connect(accelerated=accelerated) for _ in range(_CONNECTIONS)]
    results: list[object] = [None] * (2 * _CONNECTIONS)

    def one(index: int) -> None:
        results[2 * index : 2 * index + 2] = exchange(*pairs[index], first + index, messages)

    threads = [threading.Thread(target=one, args=(index,)) for index in range(_CONNECTIONS)]
    start = time.monotonic()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results, time.monotonic() - start


class _Ran(NamedTuple):
    """errors: that the tool told of. slow: its figure of slow requests. seen: of the payloads beside it."""

    errors: int
    slow: str
    seen: payloads.Seen
    totals: Totals | None


def _serve(load: _Load, seconds: int) -> Iterator[Row]:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="masdeepflow-soak-")))
        port: int = stack.enter_context(load.start(directory))  # type: ignore[arg-type]  # a context manager
        plain, accelerated = (_run(load, port, seconds, accelerated=way) for way in (False, True))
    totals = accelerated.totals
    assert totals is not None
    assert totals.redirected_bytes, f"nothing was redirected: {load.name}"
    named = f"{load.name}, {seconds} s"
    moved = f"{totals.redirected_bytes / 1e9:.1f} GB redirected; left to TCP: {totals.left}"
    told = f"{load.told}: accelerated {accelerated.slow}, plain {plain.slow}; {moved}"
    yield Row("soak", f"{named}: errors", accelerated.errors, goal=_NONE, remark=told)
    exchanged = f"of {accelerated.seen.payloads:,}; plain {plain.seen.wrong} of {plain.seen.payloads:,}"
    yield Row(
        "soak",
        f"{named}: payloads that came back changed",
        accelerated.seen.wrong,
        goal=_NONE,
        remark=exchanged,
    )
    slowest = f"slowest {accelerated.seen.slowest_s * 1e3:.0f} ms; plain {plain.seen.slowest_s * 1e3:.0f} ms"
    stalls = Goal(plain.seen.stalls)
    yield Row("soak", f"{named}: payloads above 200 ms", accelerated.seen.stalls, goal=stalls, remark=slowest)


def _run(load: _Load, port: int, seconds: int, *, accelerated: bool) -> _Ran:
    command = [str(word) for word in load.command(port, seconds)]
    with ExitStack() as stack:
        service = stack.enter_context(Service([port], _note, prove=False)) if accelerated else None
        checker = payloads.Checker(load.conversation, port)
        done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds * 20)
        seen = checker.seen()
        totals = service.totals() if service else None
    text = done.stdout + done.stderr
    found = re.findall(load.slowest, text)
    return _Ran(len(_ERROR.findall(text)), found[-1] if found else "not told", seen, totals)


def _note(text: str) -> None:
    print(f"  {text}", file=sys.stderr)
