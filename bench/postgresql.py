"""`postgresql`: CPU time of the pipeline for each record, of pgbench in its three modes, of JDBC and PDO.

Statements and answers differ as pgbench's do: accounts are random, and their balances too. A transaction of
JDBC begins in the same turn as its first statement; PDO prepares each query. For the rest see `stages`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from bench.report import Detail, Goal, Outcome, Row
from bench.stages import protocol_costs
from masdeepflow.schema import Role
from tests.fuzz.fuzz_postgresql import (
    BOUND,
    DESCRIBE,
    PARSED,
    SYNC,
    bind,
    described,
    execute,
    message,
    parse,
    query,
    row,
    tag,
)
from tests.support.slots import make_slots, turn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.plan import Plan

__all__ = ["measure"]

_RECORDS = 32768
_CONNECTIONS = 16
_ACCOUNTS = 100_000
_BATCH = 8000
_HASHES = 1 << 64
_READY = message(b"Z", b"T")
_STATEMENTS = {
    "SELECT": b"SELECT abalance FROM pgbench_accounts WHERE aid = %s;",
    "UPDATE": b"UPDATE pgbench_accounts SET abalance = abalance + %s WHERE aid = %s;",
    "INSERT": b"INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (7, 1, %s, %s, now());",
}
_STAGES = ("recognise (new connections)", "parse", "pipeline", "metrics")


def _answer(operation: str, balance: bytes) -> bytes:
    if operation != "SELECT":
        return tag(b"INSERT 0 1" if operation == "INSERT" else b"UPDATE 1")
    return row(balance) + tag(b"SELECT 1")


def _simple(operation: str, values: tuple[bytes, ...], balance: bytes) -> tuple[bytes, bytes]:
    description = described(b"abalance") if operation == "SELECT" else b""
    statement = _STATEMENTS[operation]
    return query(statement % values[: statement.count(b"%s")]), description + _answer(
        operation, balance
    ) + _READY


def _extended(operation: str, values: tuple[bytes, ...], balance: bytes) -> tuple[bytes, bytes]:
    statement = _STATEMENTS[operation].replace(b"%s", b"$1")
    request, response = _prepared(operation, values, balance, name=b"")
    return parse(statement) + request, PARSED + response


def _prepared(
    operation: str, values: tuple[bytes, ...], balance: bytes, name: bytes | None = None
) -> tuple[bytes, bytes]:
    description = described(b"abalance") if operation == "SELECT" else message(b"n")
    name = b"P_" + operation.encode() if name is None else name
    request = bind(name, value=values[0]) + DESCRIBE + execute() + SYNC
    return request, BOUND + description + _answer(operation, balance) + _READY


def _of_transaction(operation: str, values: tuple[bytes, ...], balance: bytes) -> tuple[bytes, bytes]:
    """Return a turn of a transaction of JDBC's, whose statements have all been prepared."""
    if operation == "COMMIT":
        return bind(b"S_2") + execute() + SYNC, BOUND + tag(b"COMMIT") + _READY
    request, response = _prepared(operation.removeprefix("BEGIN, "), values, balance)
    if operation.startswith("BEGIN"):
        request, response = bind(b"S_1") + execute() + request, BOUND + tag(b"BEGIN") + response
    return request, response


def _one_for_each(operation: str, values: tuple[bytes, ...], balance: bytes) -> tuple[bytes, bytes]:
    """Return a turn of PDO, which prepares a statement for each query, and drops it again."""
    name = values[2]
    if operation == "PREPARE":
        statement = _STATEMENTS["SELECT"].replace(b"%s", b"$1")
        return parse(statement, name) + SYNC, PARSED + _READY
    if operation == "DEALLOCATE":
        return query(b"DEALLOCATE " + name), tag(b"DEALLOCATE") + _READY
    return _prepared("SELECT", values, balance, name)


_MODES: dict[str, Callable[[str, tuple[bytes, ...], bytes], tuple[bytes, bytes]]] = {
    "simple": _simple,
    "extended": _extended,
    "prepared": _prepared,
    "JDBC": _of_transaction,
    "PDO": _one_for_each,
}
_SCRIPTS = {"select only": ["SELECT"], "updates": ["UPDATE", "SELECT", "UPDATE", "INSERT"]}
_OF_DRIVERS = {
    "JDBC": {
        "one statement a transaction": ["BEGIN, SELECT", "COMMIT"],
        "transactions": ["BEGIN, UPDATE", "SELECT", "UPDATE", "INSERT", "COMMIT"],
    },
    "PDO": {"a statement for each query": ["PREPARE", "SELECT", "DEALLOCATE"]},
}


def _turns(mode: str, script: list[str]) -> Iterator[dict[str, object]]:
    """Yield both ends of each statement, on a client's and a server's connection."""
    random = np.random.default_rng(1)
    accounts = random.integers(1, _ACCOUNTS, _RECORDS).tolist()
    balances = random.integers(-5000, 5000, _RECORDS).tolist()
    for pair in range(_RECORDS // 2):
        connection = pair % _CONNECTIONS
        operation = script[pair // _CONNECTIONS % len(script)]
        name = b"pdo_stmt_%08x" % (pair // (_CONNECTIONS * len(script)))
        values = (b"%d" % accounts[pair], b"%d" % balances[pair], name)
        request, response = _MODES[mode](operation, values, values[1])
        for server in range(2):
            ports = (5432, 40000 + connection) if server else (40000 + connection, 5432)
            yield turn(
                request,
                response,
                request_hash=hash(request) % _HASHES | 1,
                response_hash=hash(response) % _HASHES | 1,
                cookie=1 + 2 * connection + server,
                pid=200 + connection if server else 100,
                comm=b"postgres" if server else b"pgbench",
                role=Role.SERVER if server else Role.CLIENT,
                local_port=ports[0],
                remote_port=ports[1],
                service=1 + server,
                turn=1 + pair // _CONNECTIONS,
            )


def _costs(mode: str, script: list[str], rounds: int) -> list[float]:
    """Return the cost of each of `_STAGES`."""
    return protocol_costs("postgresql", make_slots(*_turns(mode, script)), _BATCH, rounds)


def measure(plan: Plan) -> Outcome:
    """Measure all modes."""
    cases = [
        (f"{mode}, {name}", mode, script)
        for mode in _MODES
        for name, script in _OF_DRIVERS.get(mode, _SCRIPTS).items()
    ]
    costs = {name: _costs(mode, script, plan.rounds) for name, mode, script in cases}
    detail = Detail(
        "postgresql: CPU time in ns a record",
        list(costs),
        [(stage, [costs[name][place] for name in costs]) for place, stage in enumerate(_STAGES)],
    )
    rows = [
        Row("postgresql", f"pipeline and metrics: {name}", sum(found[2:]) / 1e3, "µs/record", Goal(2))
        for name, found in costs.items()
    ]
    return Outcome(rows, [detail])
