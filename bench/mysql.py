"""`mysql`: CPU time of the pipeline for each record of traffic such as sysbench's and mariadb-slap's.

Ids and strings are random, so hardly a record is like another. For the rest see `stages`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bench.key_value import measure_exchanges
from tests.fuzz.fuzz_mysql import COUNT, DEFINITION, OK, packet

if TYPE_CHECKING:
    import random

    from bench.key_value import Workload
    from bench.plan import Plan
    from bench.report import Outcome

__all__ = ["measure"]

_ROWS = 1_000_000
_QUERY, _EXECUTE = b"\3", b"\x17"


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


_WORKLOADS: dict[str, Workload] = {
    "point selects": ("mysql", 3306, 1, _point_select),
    "writes": ("mysql", 3306, 1, _write),
    "selects by name": ("mysql", 3306, 1, _by_name),
    "prepared point selects": ("mysql", 3306, 1, _prepared),
}


def measure(plan: Plan) -> Outcome:
    """Measure all workloads."""
    return measure_exchanges("mysql", _WORKLOADS, plan)
