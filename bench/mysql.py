"""`mysql`: CPU time of the pipeline for each record of traffic such as sysbench's and mariadb-slap's.

Ids and strings are random, so hardly a record is like another. For the rest see `stages`.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from bench.report import Detail, Goal, Outcome, Row
from bench.stages import protocol_costs
from masdeepflow.schema import Role
from tests.fuzz.fuzz_mysql import COUNT, DEFINITION, OK, packet
from tests.support.slots import make_slots, turn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.plan import Plan

    Exchange = Callable[[random.Random], tuple[bytes, bytes]]

__all__ = ["measure"]

_RECORDS = 16384
_CONNECTIONS = 16
_ROWS = 1_000_000
_BATCH = 8000
_HASHES = 1 << 64
_QUERY, _EXECUTE = b"\3", b"\x17"
_STAGES = ("recognise (new connections)", "parse", "pipeline", "metrics")


def _digits(source: random.Random) -> bytes:
    """Return a string as sysbench fills its columns with."""
    return b"-".join(b"%011d" % source.randrange(10**11) for _ in range(10))


def _result(*rows: bytes) -> bytes:
    """Return a result of one column: definition, an EOF, rows, an EOF."""
    packets = [packet(row, 4 + number) for number, row in enumerate(rows)]
    return (
        COUNT
        + DEFINITION
        + packet(b"\xfe\0\0\2\0", 3)
        + b"".join(packets)
        + packet(b"\xfe\0\0\2\0", 4 + len(rows))
    )


def _point_select(source: random.Random) -> tuple[bytes, bytes]:
    row = _digits(source)
    statement = b"SELECT c FROM sbtest%d WHERE id=%d" % (source.randint(1, 4), source.randrange(_ROWS))
    return packet(_QUERY + statement), _result(bytes([len(row)]) + row)


def _write(source: random.Random) -> tuple[bytes, bytes]:
    key, other = source.randrange(_ROWS), source.randrange(_ROWS)
    statements = (
        b"UPDATE sbtest1 SET k=k+1 WHERE id=%d" % key,
        b"UPDATE sbtest1 SET c='%s' WHERE id=%d" % (_digits(source), key),
        b"DELETE FROM sbtest1 WHERE id=%d" % key,
        b"INSERT INTO sbtest1 (id, k, c, pad) VALUES (%d, %d, '%s', '%s')"
        % (key, other, _digits(source), b"x" * 59),
    )
    return packet(_QUERY + source.choice(statements)), OK


def _by_name(source: random.Random) -> tuple[bytes, bytes]:
    name = bytes(source.choices(b"abcdefghij", k=source.randint(3, 20)))
    statement = b"SELECT `id`, `name` FROM `users` WHERE `name` = '%s' LIMIT 1" % name
    return packet(_QUERY + statement), _result(bytes([len(name)]) + name)


def _prepared(source: random.Random) -> tuple[bytes, bytes]:
    row = _digits(source)
    values = b"\0\1\3\0" + source.randrange(_ROWS).to_bytes(4, "little")
    return packet(_EXECUTE + b"\1\0\0\0\0\1\0\0\0" + values), _result(b"\0\0" + bytes([len(row)]) + row)


_WORKLOADS: dict[str, Exchange] = {
    "point selects": _point_select,
    "writes": _write,
    "selects by name": _by_name,
    "prepared point selects": _prepared,
}


def _turns(exchange: Exchange) -> Iterator[dict[str, object]]:
    """Yield both ends of each command, on a client's and a server's connection."""
    source = random.Random(1)  # noqa: S311  # for data
    for pair in range(_RECORDS // 2):
        connection = pair % _CONNECTIONS
        request, response = exchange(source)
        for server in range(2):
            ports = (3306, 40000 + connection) if server else (40000 + connection, 3306)
            yield turn(
                request,
                response,
                request_hash=hash(request) % _HASHES | 1,
                response_hash=hash(response) % _HASHES | 1,
                cookie=1 + 2 * connection + server,
                pid=200 if server else 100,
                comm=b"mariadbd" if server else b"sysbench",
                role=Role.SERVER if server else Role.CLIENT,
                local_port=ports[0],
                remote_port=ports[1],
                service=1 + server,
                turn=1 + pair // _CONNECTIONS,
            )


def measure(plan: Plan) -> Outcome:
    """Measure all workloads."""
    costs = {
        name: protocol_costs("mysql", make_slots(*_turns(exchange)), _BATCH, plan.rounds)
        for name, exchange in _WORKLOADS.items()
    }
    detail = Detail(
        "mysql: CPU time in ns a record",
        list(costs),
        [(stage, [costs[name][place] for name in costs]) for place, stage in enumerate(_STAGES)],
    )
    rows = [
        Row("mysql", f"pipeline and metrics: {name}", sum(found[2:]) / 1e3, "µs/record", Goal(2))
        for name, found in costs.items()
    ]
    return Outcome(rows, [detail])
