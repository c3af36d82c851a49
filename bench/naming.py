"""`naming`: CPU time of finding who is at both ends of each record, over records made here.

A node with 1,000 processes in 200 containers, each with connections to others of them; caches are cold before
each batch, as in `stages`.
"""

from __future__ import annotations

import time
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bench.report import Goal, Outcome, Row
from masdeepflow.enrich.directory import Directory
from masdeepflow.enrich.endpoints import Endpoints
from masdeepflow.enrich.facts import ContainerFact
from masdeepflow.schema import Role
from tests.support.slots import cgroup, execute, make_slots, turn

if TYPE_CHECKING:
    from bench.plan import Plan

__all__ = ["measure"]

_PROCESSES, _CONTAINERS = 1000, 200
_CONNECTIONS = 4000
_RECORDS = 8000
_ELSE = np.zeros(64 << 20, np.uint8)
_CACHE_LINE = 64


class _Costs(NamedTuple):
    """ns a record of known connections, and ns an end of a new one."""

    known: float
    fresh: float


def _container(number: int) -> str:
    return f"{number % _CONTAINERS:064x}"


def _directory() -> Directory:
    """Return a directory that knows all processes and containers."""
    directory = Directory()
    records = [
        record
        for pid in range(1, 1 + _PROCESSES)
        for record in (
            cgroup(pid, f"docker/{_container(pid)}"),
            execute(pid, b"service-%d" % (pid % 50), b"-v"),
        )
    ]
    directory.processes.follow(make_slots(*records), np.zeros(len(records), np.intp))
    directory.processes.end_batch()
    names = [ContainerFact(_container(n), f"web-{n}", "docker", "shop:1") for n in range(_CONTAINERS)]
    directory.learn(names)
    return directory


def _end(number: int) -> dict[str, object]:
    """Return a turn of one end of a connection; both ends follow each other."""
    connection, server = divmod(number, 2)
    ends = [10, 0, *divmod(connection % _PROCESSES, 250)], [10, 1, *divmod(7 * connection % _PROCESSES, 250)]
    ports = (8080, 30000 + connection) if server else (30000 + connection, 8080)
    local, remote = reversed(ends) if server else ends
    return turn(
        b"x",
        b"y",
        cookie=1 + number,
        pid=1 + (7 * connection if server else connection) % _PROCESSES,
        comm=b"service",
        role=Role.SERVER if server else Role.CLIENT,
        local_address=[*local, *bytes(12)],
        remote_address=[*remote, *bytes(12)],
        local_port=ports[0],
        remote_port=ports[1],
    )


def _cost(endpoints: Endpoints, slots: np.ndarray) -> float:
    """Return CPU time in ns to find the endpoints of all records, with nothing of them in the caches."""
    _ELSE[::_CACHE_LINE] += 1
    start = time.process_time_ns()
    endpoints.compact(endpoints.codes(slots))
    return time.process_time_ns() - start


def _round(ends: np.ndarray, slots: np.ndarray) -> _Costs:
    endpoints = Endpoints(_directory())
    fresh = _cost(endpoints, ends) / len(ends)
    known = median(_cost(endpoints, slots) for _ in range(5)) / len(slots)
    assert len(endpoints) == len(ends)
    return _Costs(known, fresh)


def measure(plan: Plan) -> Outcome:
    """Measure both, over `plan.rounds`."""
    ends = make_slots(*map(_end, range(2 * _CONNECTIONS)))
    order = np.random.default_rng(1).permutation(np.resize(np.arange(len(ends)), _RECORDS))
    costs = [_round(ends, ends[order]) for _ in range(plan.rounds)]
    known, fresh = (median(getattr(cost, name) for cost in costs) / 1e3 for name in _Costs._fields)
    return Outcome(
        [
            Row("naming", "records of known connections", known, "µs/record", Goal(0.3)),
            Row("naming", "an end of a new connection", fresh, "µs/end"),
        ]
    )
