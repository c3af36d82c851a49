"""`agreement`: what the agent says of a load tool's run against what the tool itself says.

Counts must be equal. Latencies are compared as the client saw them: the tool's clock against the durations of
the agent's JSON log, first byte sent to last byte received. Loads are short, so that every line is written.

The agent's clock runs from when the bytes left to when they were read; a datagram left when the peer's socket
had it. The tools' start before the call that sends and stop behind the other. That is 1 to 3 us, so what
takes less than some tens of them has no goal; nor has what a tool does besides, told in remarks.
"""

from __future__ import annotations

import json
import random
import tempfile
import time
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bench.agent import agent
from bench.pymemcache_load import Load, fill_cache, pymemcache_loop, pymemcache_processes
from bench.report import Goal, Outcome, Row
from bench.tools import (
    dig,
    figures,
    fill,
    mariadb_slap,
    pgbench,
    pymongo_loop,
    redis_benchmark,
)
from tests.support import servers
from tests.support.json_log import nanoseconds

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.plan import Plan
    from bench.tools import Told

    Transaction = dict[str, Any]

__all__ = ["measure"]

_DRAIN_S = 0.3
_LEAST_US = 30.0
_CLOCKS = {
    "calls": ("its calls", "its own Python is in them"),
    "socket": ("its calls of the socket", ""),
}
_GETS, _SETS = ("get",), ("set",)
_MIXED = (*_GETS * 8, "get_many", *_SETS)
_LARGE = 100_000
_LOADS = {
    "a process, gets of 100 KB": Load(1, _LARGE, _LARGE, _GETS),
    "8 processes, gets of 100 KB": Load(8, _LARGE, _LARGE, _GETS),
    "8 processes, gets, sets and get_many of 1 to 800 KB": Load(8, 1000, 800_000, _MIXED),
    "8 processes, sets of 100 KB": Load(8, _LARGE, _LARGE, _SETS),
}
_NEAR = Goal(0.1)
_CLIENTS = 4
_MODES = ("simple", "extended", "prepared")
_TPC_B = 7  # statements of a transaction
_OPERATIONS = {"BEGIN", "UPDATE", "SELECT", "INSERT", "END"}  # of both scripts
_PIPELINED = {1: 10_000, 16: 4000}
"""Commands a second of load: a burst's lines of both ends fit into the log's queue."""
_DNS_HOST, _RESOLVER, _DISTANT = "127.0.53.58", "127.0.53.59", ("127.0.53.60", 5300)
_NAMES = 1000
_DELAYS_MS = (1, 30)
_QUERY = "SELECT name FROM shop.item WHERE id = 7"


class _Case(NamedTuple):
    """run: the tool, against a server on `port`. mine: which transactions are the tool's requests.

    each: transactions that make one request of the tool. clients: how many send at a time. besides: what the
    tool's latencies are of, besides its calls of the socket: they have no goal then.
    """

    name: str
    port: int
    run: Callable[[], Told]
    mine: Callable[[Transaction], bool]
    each: int = 1
    clients: int = _CLIENTS
    besides: str = ""


def measure(plan: Plan) -> Outcome:
    """Run all tools."""
    outcome = Outcome()
    with tempfile.TemporaryDirectory(prefix="masdeepflow-bench-") as name:
        for cases in (
            _postgresql,
            _redis,
            _mariadb,
            _dns,
            _distant_dns,
            _memcached,
            _memcached_objects,
            _mongodb,
        ):
            with ExitStack() as stack:
                for case in cases(Path(name), stack, plan.seconds):
                    outcome.rows.extend(_rows(case, *_compared(case, Path(name))))
    return outcome


def _operation(*names: str) -> Callable[[Transaction], bool]:
    return lambda found: found.get("db.operation.name") in names


def _postgresql(directory: Path, stack: ExitStack, seconds: int) -> Iterator[_Case]:
    server = stack.enter_context(servers.postgresql())
    fill(server)
    for mode in _MODES:
        whole = (f"--protocol={mode}", f"--transactions={300 * seconds}")
        selects = (f"--protocol={mode}", f"--transactions={2000 * seconds}", "--select-only")
        for name, statements, options in (("pgbench", _TPC_B, whole), ("pgbench -S", 1, selects)):
            yield _Case(
                f"{name}, {mode}",
                server.port,
                partial(pgbench, server, directory, _CLIENTS, options),
                _is_pgbenchs,
                statements,
            )


def _is_pgbenchs(found: Transaction) -> bool:
    """Whether it is of the script: pgbench also logs in, prepares, and asks for its tables before."""
    text = found.get("db.query.text", "").lower()
    return found.get("db.operation.name") in _OPERATIONS and not ("pg_catalog" in text or "count(*)" in text)


def _redis(directory: Path, stack: ExitStack, seconds: int) -> Iterator[_Case]:
    port = stack.enter_context(servers.redis(directory))
    for pipelined, each in _PIPELINED.items():
        for test in "set", "get":
            yield _Case(
                f"redis-benchmark -P {pipelined}, {test.upper()}",
                port,
                partial(redis_benchmark, port, test, each * seconds, 50, pipelined),
                _operation(test.upper()),
            )


def _mariadb(directory: Path, stack: ExitStack, seconds: int) -> Iterator[_Case]:
    server = stack.enter_context(servers.mariadb(directory))
    for clients in (1, _CLIENTS):
        yield _Case(
            f"mariadb-slap, {clients} client{'s'[: clients - 1]}",
            server.port,
            partial(mariadb_slap, server, _QUERY, 2000 * seconds, clients),
            lambda found: found.get("db.query.text") == _QUERY,
            clients=clients,
        )


def _dns(directory: Path, stack: ExitStack, seconds: int) -> Iterator[_Case]:
    port = 53
    stack.enter_context(servers.dnsmasq(directory, (_DNS_HOST, port)))
    names = [f"n{number % _NAMES}.golden.test" for number in range(500 * seconds)]
    yield _Case("dig", port, partial(dig, _DNS_HOST, port, names), _is_digs)
    later = partial(dig, _DNS_HOST, port, names, first=False)
    yield _Case("dig, but for the first query of a run", port, later, _later_queries())


def _distant_dns(directory: Path, stack: ExitStack, seconds: int) -> Iterator[_Case]:
    """Ask a resolver that has to ask somebody else, unless it has cached the answer."""
    stack.enter_context(servers.distant_dns(directory, _DISTANT, _DELAYS_MS))
    stack.enter_context(servers.unbound(directory, (_RESOLVER, 53), _DISTANT))
    away = "{} to {} ms away".format(*_DELAYS_MS)
    names = [f"n{number}.new.example.org" for number in range(150 * seconds)]
    yield _Case(f"dig, names known {away}", 53, partial(dig, _RESOLVER, 53, names), _is_digs)
    names = _repeated(500 * seconds)
    yield _Case(f"dig, one name in five known {away}", 53, partial(dig, _RESOLVER, 53, names), _is_digs)


def _repeated(queries: int) -> list[str]:
    """Return names of which each fifth is new, and the others were there before."""
    chosen = random.Random(queries)  # noqa: S311  # not for secrets
    places = (divmod(number, 5) for number in range(queries))
    return [
        f"n{chosen.randint(0, newest) if again else newest}.known.example.org" for newest, again in places
    ]


def _memcached(directory: Path, stack: ExitStack, seconds: int) -> Iterator[_Case]:
    port = stack.enter_context(servers.memcached(directory))
    for clock, (name, besides) in _CLOCKS.items():
        yield _Case(
            f"pymemcache, {name}",
            port,
            partial(pymemcache_loop, port, 4000 * seconds, clock),
            _operation("get"),
            besides=besides,
        )


def _memcached_objects(directory: Path, stack: ExitStack, seconds: int) -> Iterator[_Case]:
    """Get and set what takes some time, with more of an application's workers than there are cores."""
    port = stack.enter_context(servers.memcached(directory, None, "-m", "256"))
    for load_name, load in _LOADS.items():
        fill_cache(port, load)
        for clock, (name, besides) in _CLOCKS.items():
            yield _Case(
                f"pymemcache, {load_name}, {name}",
                port,
                partial(pymemcache_processes, port, 1000 * seconds, clock, load),
                _operation("get", "set"),
                clients=load.processes,
                besides=besides if load.processes == 1 else "",
            )


def _mongodb(directory: Path, stack: ExitStack, seconds: int) -> Iterator[_Case]:
    port = stack.enter_context(servers.mongodb(directory))
    yield _Case("pymongo", port, partial(pymongo_loop, port, 1000 * seconds), _operation("find"), clients=1)


def _is_digs(found: Transaction) -> bool:
    """Whether dig asked: resolvers ask, too."""
    return (found["protocol"], found["process.executable.name"]) == ("dns", "dig")


def _later_queries() -> Callable[[Transaction], bool]:
    """Return whether it is a query that is not its process's first, asked of all in order."""
    processes: set[int] = set()

    def is_later(found: Transaction) -> bool:
        later = _is_digs(found) and found["process.pid"] in processes
        processes.add(found["process.pid"])
        return later

    return is_later


def _compared(case: _Case, directory: Path) -> tuple[Told, list[Transaction], dict[str, int]]:
    """Return what the tool says, the transactions of its requests by the agent, and what the agent lost."""
    path = directory / "log.json"
    options = ("--log", "json", "--ring-mib", "64", "--include", f"port={case.port}")
    with path.open("wb") as log, agent(*options, log=log) as running:
        told = case.run()
        time.sleep(_DRAIN_S)
        lost = running.stop().lost
    with path.open() as lines:
        found = [one for one in map(json.loads, lines) if "event" not in one and one["role"] == "client"]
    return told, [one for one in found if case.mine(one)], lost


def _spans(found: list[Transaction], each: int) -> list[tuple[int, int]]:
    """Return when each request began and ended, in ns: with its first transaction, and with its last."""
    by_port: dict[int, list[tuple[int, int]]] = {}
    for one in sorted(found, key=nanoseconds):
        start = nanoseconds(one)
        by_port.setdefault(one["client.port"], []).append((start, start + one["duration_ns"]))
    whole = [own[at : at + each] for own in by_port.values() for at in range(0, len(own) - each + 1, each)]
    return [(spans[0][0], spans[-1][1]) for spans in whole]


def _rows(case: _Case, told: Told, found: list[Transaction], lost: dict[str, int]) -> Iterator[Row]:
    spans = _spans(found, case.each)
    counts = f"{len(spans):,} against {told.requests:,}" + (f"; lost {lost}" if lost else "")
    name, difference = f"{case.name}: agent's count less the tool's", len(spans) - told.requests
    yield Row("agreement", name, difference, goal=Goal(0, least=difference < 0), remark=counts)
    if not spans:
        return
    elapsed_us = (max(end for _, end in spans) - min(start for start, _ in spans)) / 1e3
    mine = figures([(end - start) / 1e3 for start, end in spans])
    mine["elapsed"] = elapsed_us * case.clients / len(spans)
    for name, tools in told.latency_us.items():
        remark = f"{mine[name]:.1f} against {tools:.1f} µs" + (f"; {case.besides}" if case.besides else "")
        goal = _NEAR if tools > _LEAST_US and not case.besides else None
        yield Row("agreement", f"{case.name}: {name}", abs(mine[name] / tools - 1), goal=goal, remark=remark)
