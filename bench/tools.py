"""The load tools of databases, caches and resolvers, and what each says of its own run against a server."""

from __future__ import annotations

import csv
import re
import shutil
import socket
import subprocess
import time
from itertools import islice
from statistics import fmean, quantiles
from typing import TYPE_CHECKING, Any, NamedTuple

from pymongo import MongoClient, monitoring

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path

    from tests.support.servers import MariaDb, PostgreSql

__all__ = [
    "LOOPBACK",
    "Told",
    "dig",
    "figures",
    "fill",
    "mariadb_slap",
    "pgbench",
    "pymongo_loop",
    "redis_benchmark",
    "redis_paced",
]

LOOPBACK = "127.0.0.1"
_PATIENCE_S = 120
_PERCENTILES = {"p50": 50, "p95": 95, "p99": 99}
_NAMES = 50  # a run of dig
_KEYS = 1000
_PIPELINED, _PACED_CONNECTIONS, _PACED_PIPELINES = 16, 8, 4096
_OK = b"+OK\r\n"


class Told(NamedTuple):
    """What a tool says: requests it made, how many a second, and its latencies in us: `p50`, `mean`, ..."""

    requests: int
    rate: float
    latency_us: dict[str, float]


def figures(
    latencies_us: Sequence[float], names: Sequence[str] = ("p50", "p95", "p99", "mean")
) -> dict[str, float]:
    """Return the figures of those names over latencies."""
    if not latencies_us:
        raise SystemExit("nothing was measured")
    cuts = (
        quantiles(latencies_us, n=100, method="inclusive") if len(latencies_us) > 1 else [*latencies_us] * 99
    )
    return {name: fmean(latencies_us) if name == "mean" else cuts[_PERCENTILES[name] - 1] for name in names}


def pgbench(
    server: PostgreSql,
    directory: Path | None,
    clients: int,
    options: Sequence[object],
    cpu: int | None = None,
) -> Told:
    """Run pgbench, by default its TPC-B; a request is a transaction.

    directory: where it logs each; latencies are those of the log, and without one there are none.
    cpu: it runs there only.
    """
    log = directory / f"pgbench-{time.monotonic_ns()}" if directory else None
    logging = ("--log", f"--log-prefix={log}") if log else ()
    there = () if cpu is None else ("taskset", "--cpu-list", cpu)
    done = _run(*there, *server.pgbench(f"--client={clients}", *logging, *options))
    count = _number(r"transactions actually processed: (\d+)", done)
    rate = _number(r"tps = ([\d.]+) \(without", done)
    if directory is None or log is None:
        return Told(int(count), rate, {})
    lines = [
        line.split() for path in directory.glob(f"{log.name}.*") for line in path.read_text().splitlines()
    ]
    return Told(int(count), rate, figures([float(cells[2]) for cells in lines]))


def fill(server: PostgreSql) -> None:
    """Make pgbench's tables."""
    _run(*server.pgbench("--initialize", "--quiet", "--init-steps=dtgp"))


def redis_benchmark(port: int, test: str, requests: int, clients: int, pipelined: int) -> Told:
    """Run one test of redis-benchmark with random keys. Of a pipeline each command has its latency."""
    keys = ("-r", 1_000_000, "--precision", 3, "--csv")
    load = ("-n", requests, "-c", clients, "-P", pipelined)
    done = _run("redis-benchmark", "-h", LOOPBACK, "-p", port, "-t", test, *load, *keys)
    lines = [line for line in done.splitlines() if line.startswith('"')]
    (row,) = csv.DictReader(lines)
    latencies = {name: float(row[f"{name}_latency_ms"]) * 1e3 for name in _PERCENTILES}
    return Told(requests, float(row["rps"]), {**latencies, "mean": float(row["avg_latency_ms"]) * 1e3})


def redis_paced(port: int, rate: int, seconds: int) -> Told:
    """Send pipelines of 16 SETs over 8 connections in turn, so many commands a second, for as long.

    Each connection has one pipeline on its way. A load that falls behind its pace sends as fast as it can,
    so that `rate` says whether it was kept. Latencies are of pipelines, from when they were sent.
    """
    connections = [socket.create_connection((LOOPBACK, port)) for _ in range(_PACED_CONNECTIONS)]
    pipelines = [_pipeline(number) for number in range(_PACED_PIPELINES)]
    many, sent = rate * seconds // _PIPELINED, [0] * _PACED_CONNECTIONS
    latencies: list[float] = []
    start = time.perf_counter_ns()
    for number in range(many + _PACED_CONNECTIONS):
        place = number % _PACED_CONNECTIONS
        if sent[place]:
            _take(connections[place], len(_OK) * _PIPELINED)
            latencies.append((time.perf_counter_ns() - sent[place]) / 1e3)
        if number < many:
            due = start + number * _PIPELINED * 1_000_000_000 // rate
            time.sleep(max(due - time.perf_counter_ns(), 0) / 1e9)
            sent[place] = time.perf_counter_ns()
            connections[place].sendall(pipelines[number % _PACED_PIPELINES])
    elapsed = (time.perf_counter_ns() - start) / 1e9
    for connection in connections:
        connection.close()
    return Told(many * _PIPELINED, many * _PIPELINED / elapsed, figures(latencies))


def _pipeline(number: int) -> bytes:
    """Return SETs of keys that are each their own."""
    keys = range(number * _PIPELINED, (number + 1) * _PIPELINED)
    return b"".join(b"*3\r\n$3\r\nSET\r\n$16\r\nkey:%012d\r\n$3\r\nVXK\r\n" % key for key in keys)


def _take(connection: socket.socket, size: int) -> None:
    """Read so many bytes."""
    while size:
        data = connection.recv(size)
        if not data:
            raise SystemExit("the server closed the connection")
        size -= len(data)


def mariadb_slap(server: MariaDb, query: str, queries: int, clients: int) -> Told:
    """Run mariadb-slap. It tells how long all took, to the millisecond, so that is all that there is.

    `elapsed` is that for a query of a client, what the client itself does between two of them included.
    """
    where = (*server.client[1:-1], "--create-schema=shop", "--no-drop")
    load = (f"--query={query}", f"--number-of-queries={queries}", f"--concurrency={clients}")
    done = _run("mariadb-slap", *where, *load)
    seconds = _number(r"Average number of seconds to run all queries: ([\d.]+)", done)
    return Told(queries, queries / seconds, {"elapsed": seconds * 1e6 * clients / queries})


def dig(host: str, port: int, names: Iterable[str], *, first: bool = True) -> Told:
    """Ask for names in a loop, many a run. The times are those that dig prints with `-u`, in us.

    first: whether the first query of each run counts.
    """
    rest = iter(names)
    latencies: list[float] = []
    while some := list(islice(rest, _NAMES)):
        done = _run("dig", "-u", f"@{host}", "-p", port, "+noall", "+stats", *some)
        latencies += map(float, re.findall(r"Query time: (\d+) usec", done)[0 if first else 1 :])
    return Told(len(latencies), 1e6 / fmean(latencies), figures(latencies))


class _Durations(monitoring.CommandListener):
    """What the driver says that its commands took, by their names."""

    def __init__(self) -> None:
        self.latencies_us: dict[str, list[float]] = {}

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """Nothing to do."""

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Note a command."""
        self.latencies_us.setdefault(event.command_name, []).append(event.duration_micros)

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Nothing to do."""


def pymongo_loop(port: int, requests: int) -> Told:
    """Find documents one after the other; latencies are those of the driver's own monitoring."""
    durations = _Durations()
    client: MongoClient[dict[str, Any]] = MongoClient(LOOPBACK, port, event_listeners=[durations])
    client.app.users.insert_many([{"_id": number, "name": "a name"} for number in range(_KEYS)])
    for number in range(requests):
        client.app.users.find_one({"_id": number % _KEYS})
    client.close()
    told = durations.latencies_us["find"]
    return Told(len(told), 1e6 / fmean(told), figures(told))


def _run(*command: object) -> str:
    """Return what a tool prints on stdout. Raises SystemExit if it is not there or fails."""
    words = [str(word) for word in command]
    if shutil.which(words[0]) is None:
        raise SystemExit(f"{words[0]} is not there: ./test.sh installs it")
    done = subprocess.run(words, check=False, capture_output=True, text=True, timeout=_PATIENCE_S)
    if done.returncode:
        raise SystemExit(f"{words[0]} failed: {done.stderr}")
    return done.stdout


def _number(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    if found is None:
        raise SystemExit(f"this answer of a tool is not understood:\n{text}")
    return float(found[1])
