"""MySQL against MariaDB: every statement of every client is there, once per side."""

from __future__ import annotations

import contextlib
from collections import Counter
from typing import TYPE_CHECKING, Any

import MySQLdb
import pymysql
import pytest

from masdeepflow.traffic_gen.mysql_wire import Command
from tests.support import json_log, servers
from tests.support.mysql_session import MySqlSession
from tests.support.ports import LOOPBACK
from tests.support.programs import Program, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.e2e.conftest import StartAgent
    from tests.support.programs import Agent
    from tests.support.servers import MariaDb

    Run = Callable[[MariaDb, list[str]], object]

pytestmark = [
    pytest.mark.root,
    pytest.mark.server("mariadbd", "mariadb", "mariadb-slap", "mariadb-install-db", "openssl"),
]

_STATEMENTS = 200
_CLIENTS, _ROUNDS = 4, 300
_SLAPS = 12_000
_NO_TABLE, _SYNTAX = 1146, 1064
_MISSING = "SELECT * FROM shop.nowhere"
_SQLSTATE = {_NO_TABLE: "42S02", _SYNTAX: "42000"}


def _statements() -> list[str]:
    """Return statements of which each is unlike all others, two of them wrong."""
    good = [f"SELECT {number} AS n, 'text {number}'" for number in range(_STATEMENTS)]
    changes = ["INSERT INTO shop.item VALUES (7, 'seven')", "UPDATE shop.item SET name = 'x' WHERE id = 7"]
    return [*good, *changes, "DELETE FROM shop.item", "SELECT * FROM shop.nowhere", "SELEC 1"]


def _mariadb(server: MariaDb, statements: list[str]) -> None:
    run(*server.client, "--force", input=";\n".join(statements).encode())


def _pymysql(server: MariaDb, statements: list[str]) -> None:
    connection = pymysql.connect(host=LOOPBACK, port=server.port, user="root", ssl_disabled=True)
    with connection, connection.cursor() as cursor:
        for statement in statements:
            with contextlib.suppress(pymysql.MySQLError):
                cursor.execute(statement)


def _mysqlclient(server: MariaDb, statements: list[str]) -> None:
    connection = MySQLdb.connect(host=LOOPBACK, port=server.port, user="root")
    with contextlib.closing(connection), connection.cursor() as cursor:
        for statement in statements:
            with contextlib.suppress(MySQLdb.MySQLError):
                cursor.execute(statement)


def _session(server: MariaDb, statements: list[str]) -> None:
    with MySqlSession(server.port) as session:
        for statement in statements:
            session.query(statement)


def _prepared(server: MariaDb, statements: list[str]) -> None:
    with MySqlSession(server.port) as session:
        for statement in statements:
            number = session.prepare(statement)
            if number > 0:
                session.execute(number)
                session.close_statement(number)


def _by_role(
    agent: Agent, expected: int = 0, mine: Callable[[dict[str, Any]], bool] = bool
) -> dict[str, list[dict[str, Any]]]:
    found = agent.wait_counted(mine, expected)
    for one in found:
        json_log.check_line(one)
    return {role: [one for one in found if one["role"] == role] for role in ("client", "server")}


def _check_error(found: dict[str, Any], code: int | None) -> None:
    assert found["error"] == (code is not None)
    assert found.get("db.response.status_code") == (None if code is None else str(code))
    assert ("db.response.message" in found) == (code is not None)


def _code(statement: str) -> int | None:
    return {"SELECT * FROM shop.nowhere": _NO_TABLE, "SELEC 1": _SYNTAX}.get(statement)


@pytest.mark.parametrize("client", [_mariadb, _pymysql, _mysqlclient, _session])
def test_every_statement_of_a_client_is_there_once_per_side(
    mariadb: MariaDb, start_agent: StartAgent, client: Run
) -> None:
    """Text, order and outcome of each; whatever else the client sends does not repeat them."""
    agent = start_agent("--log", "json", ports=[mariadb.port])
    statements = _statements()
    client(mariadb, statements)
    for role, found in _by_role(agent).items():
        assert {one["protocol"] for one in found} == {"mysql"}
        assert {one["db.system.name"] for one in found} == {"mariadb"}
        mine = [one for one in found if one.get("db.query.text") in set(statements)]
        assert [one["db.query.text"] for one in mine] == statements, role
        for one in mine:
            _check_error(one, _code(one["db.query.text"]))
        assert [one["db.operation.name"] for one in mine[:-1]] == [
            text.split()[0] for text in statements[:-1]
        ]


def test_counts_equal_those_of_mariadb_slap(mariadb: MariaDb, start_agent: StartAgent) -> None:
    """At full speed, from several clients at once: each statement of each of them, once per side."""
    agent = start_agent("--log", "json", ports=[mariadb.port])
    statements = ["SELECT 7 AS n", "INSERT INTO shop.item VALUES (7, 'seven')", "DELETE FROM shop.item"]
    load = (f"--concurrency={_CLIENTS}", f"--number-of-queries={_CLIENTS * _ROUNDS * len(statements)}")
    database = ("--create-schema=shop", "--no-drop", "--delimiter=;")
    done = run("mariadb-slap", *mariadb.client[1:-1], *database, *load, f"--query={';'.join(statements)}")
    assert f"running queries: {_CLIENTS}" in done.stdout, done.stderr
    expected = dict.fromkeys(statements, _CLIENTS * _ROUNDS)
    for found in _by_role(agent, sum(expected.values()), lambda one: "db.query.text" in one).values():
        counted = Counter(one["db.query.text"] for one in found if "db.query.text" in one)
        assert counted == expected
        assert {one["db.namespace"] for one in found if one["db.operation.name"] == "INSERT"} == {"shop"}
        assert not any(one["error"] or one["truncated"] for one in found if "db.query.text" in one)


def test_errors_beside_mariadb_slap(mariadb: MariaDb, start_agent: StartAgent, tmp_path: Path) -> None:
    """mariadb-slap itself ends with its first error; a client beside it has every one of its own."""
    agent = start_agent("--log", "json", ports=[mariadb.port])
    slap = ("mariadb-slap", *mariadb.client[1:-1], "--create-schema=shop", "--no-drop")
    load = (f"--concurrency={_CLIENTS}", f"--number-of-queries={_SLAPS}", "--query=SELECT 7 AS n")
    with Program(tmp_path, *slap, *load) as benchmark:
        agent.wait_for(lambda lines: any("SELECT 7 AS n" in line for line in lines))
        _mariadb(mariadb, [_MISSING] * _ROUNDS)
        assert benchmark.ended().code == 0
    done = run(*slap, "--concurrency=1", "--number-of-queries=5", f"--query={_MISSING}")
    assert done.stderr.count("doesn't exist") == 1
    expected = {"SELECT 7 AS n": _SLAPS, _MISSING: _ROUNDS + 1}
    for found in _by_role(
        agent, sum(expected.values()), lambda one: one.get("db.query.text") in expected
    ).values():
        counted = Counter(one.get("db.query.text") for one in found)
        assert {text: counted[text] for text in expected} == expected
        for one in found:
            _check_error(one, _NO_TABLE if one.get("db.query.text") == _MISSING else None)


def test_prepared_statements_are_shown_with_their_text(mariadb: MariaDb, start_agent: StartAgent) -> None:
    """COM_STMT_PREPARE and COM_STMT_EXECUTE, one after the other: each execution has the prepared text."""
    agent = start_agent("--log", "json", ports=[mariadb.port])
    statements = _statements()
    _prepared(mariadb, statements)
    for found in _by_role(agent).values():
        prepared = [one for one in found if one["db.operation.name"] == "STMT_PREPARE"]
        assert len(prepared) == len(statements)
        assert [one["error"] for one in prepared] == [_code(text) is not None for text in statements]
        executed = [one.get("db.query.text") for one in found if one not in prepared]
        good = [text for text in statements if _code(text) is None]
        assert [text for text in executed if text in set(good)] == good


_ROWS = 700


def _inserted(server: MariaDb) -> int:
    """Return how many statements that insert the server itself has counted."""
    return int(run(*server.client, "--execute=SHOW GLOBAL STATUS LIKE 'Com_insert'").stdout.split()[-1])


@pytest.mark.server("java")
def test_batches_of_connector_j_are_counted_at_both_ends(mariadb: MariaDb, start_agent: StartAgent) -> None:
    """Sent without waiting for replies: the client's end sees the first of them, and counts the others."""
    before = _inserted(mariadb)
    agent = start_agent("--log", "json", ports=[mariadb.port])
    assert servers.mariadb_jdbc(mariadb, _ROWS).code == 0
    assert _inserted(mariadb) - before == 2 * _ROWS
    for found in _by_role(agent).values():
        inserts = [one for one in found if one.get("db.query.summary") == "INSERT item"]
        named = [one for one in inserts if one["db.operation.name"] == "INSERT"]
        assert len(named) == 2 * _ROWS
        executed = [
            one for one in named if one.get("db.query.text", "").startswith("INSERT INTO item VALUES (?")
        ]
        assert len(executed) == _ROWS
        assert [one["db.response.status_code"] for one in found if one["error"]] == [str(_NO_TABLE)] * 2


@pytest.mark.server("php")
def test_statements_of_php_are_there_once_per_side(mariadb: MariaDb, start_agent: StartAgent) -> None:
    """Each prepared, executed and closed; several results; long data; a cursor; another user."""
    agent = start_agent("--log", "json", ports=[mariadb.port])
    assert servers.mariadb_php(mariadb).code == 0
    for found in _by_role(agent).values():
        names = Counter(one["db.operation.name"] for one in found)
        expected = {"STMT_PREPARE": 9, "INSERT": 4, "STMT_SEND_LONG_DATA": 2, "STMT_CLOSE": 7, "CALL": 1}
        assert {name: names[name] for name in expected} == expected
        assert sum(one.get("db.query.text") == "SELECT name FROM item WHERE id = ?" for one in found) == 6
        codes = [one["db.response.status_code"] for one in found if one["error"]]
        assert codes[:1] == [str(_NO_TABLE)]


def test_each_command_has_its_line(mariadb: MariaDb, start_agent: StartAgent) -> None:
    """The text log names every command and what it is about; ERR has code, SQLSTATE and message."""
    agent = start_agent(ports=[mariadb.port])
    with MySqlSession(mariadb.port) as session:
        number = session.prepare("SELECT ? + ?")
        session.execute(number, 1, 2)
        session.reset_statement(number)
        session.execute(number, 3, 4)
        session.close_statement(number)
        assert session.prepare("SELEC ?") == -_SYNTAX
        assert session.query("SELECT * FROM shop.nowhere") == _NO_TABLE
        session.query("SELECT 1; SELECT 2")
        session.command(Command.INIT_DB, b"shop")
        session.field_list("item")
        session.command(Command.PING)
        session.command(Command.STATISTICS)
        session.command(Command.RESET_CONNECTION)
    requests, responses = _summaries(agent)
    assert requests == [
        "MySQL Login: root",
        "MySQL Prepare: SELECT ? + ?",
        "MySQL Execute: SELECT ? + ?",
        f"MySQL Reset Statement: {number}",
        "MySQL Execute: SELECT ? + ?",
        f"MySQL Close Statement: {number}",
        "MySQL Prepare: SELEC ?",
        "MySQL Query: SELECT * FROM shop.nowhere",
        "MySQL Query: SELECT 1; SELECT 2",
        "MySQL Init DB: shop",
        "MySQL Field List: item",
        "MySQL Ping",
        "MySQL Statistics",
        "MySQL Reset Connection",
        "MySQL Quit",
    ]
    errors = [response for response in responses if "ERR" in response]
    assert [error.split(":")[1] for error in errors] == [
        f" ERR {code} ({_SQLSTATE[code]})" for code in (_SYNTAX, _NO_TABLE)
    ]


def _summaries(agent: Agent) -> tuple[list[str], list[str]]:
    """Return what the client sent and got, in the words of the text log."""
    lines = [line for line in agent.settle().lines if "MySQL" in line]
    sent, got = ([line for line in lines if f"Type: {kind}" in line] for kind in ("TX", "RX"))
    requests = [line.split(", ", 4)[4].removesuffix(", , ") for line in sent if "MySQL Response" not in line]
    return requests, [line.split(", ", 4)[4] for line in got if "MySQL Response" in line]


@pytest.mark.parametrize(
    "options", [("--ssl",), ("--compress",), ("--ssl", "--compress")], ids=["TLS", "compressed", "both"]
)
def test_tls_and_compression_are_opaque(
    mariadb: MariaDb, start_agent: StartAgent, options: tuple[str, ...]
) -> None:
    """Bytes that can't be read are `tcp` turns: no statement, no garbage."""
    agent = start_agent("--log", "json", ports=[mariadb.port])
    client = [word for word in mariadb.client if word != "--skip-ssl" or "--ssl" not in options]
    done = run(*client, *options, "--execute=SELECT 'a secret', REPEAT('x', 2000)")
    assert "a secret" in done.stdout, done.stderr
    for found in _by_role(agent).values():
        kinds = Counter(one["protocol"] for one in found)
        assert kinds["tcp"] >= 2
        assert kinds.keys() <= {"mysql", "tcp"}
        names = [one["db.operation.name"] for one in found if one["protocol"] == "mysql"]
        assert names in ([], ["LOGIN"])
    for one in agent.objects:
        assert "secret" not in str({**one, "process.command_line": ""})


def test_a_long_statement_is_cut_and_marked(mariadb: MariaDb, start_agent: StartAgent) -> None:
    """A statement beyond the payload limit begins right, ends with the mark, and is `truncated`."""
    agent = start_agent("--log", "json", ports=[mariadb.port])
    statement = "SELECT '" + "x" * 100_000 + "'"
    _session(mariadb, [statement, "SELECT 'after'"])
    for found in _by_role(agent).values():
        long, after = [one for one in found if one["db.operation.name"] == "SELECT"]
        assert long["truncated"] is True
        assert long["db.query.text"].startswith("SELECT 'xxx")
        assert len(long["db.query.text"]) < 300
        assert long["request_bytes"] > 100_000
        assert (after["db.query.text"], after["truncated"]) == ("SELECT 'after'", False)


def test_the_database_in_use_is_known(mariadb: MariaDb, start_agent: StartAgent) -> None:
    """Chosen at login, by USE or by COM_INIT_DB: statements carry it as their namespace."""
    agent = start_agent("--log", "json", ports=[mariadb.port])
    run(*mariadb.client, "shop", "--execute=SELECT 'at login'")
    with MySqlSession(mariadb.port) as session:
        session.query("SELECT 'none'")
        session.query("USE shop")
        session.query("SELECT 'by use'")
        session.command(Command.INIT_DB, b"mysql")
        session.query("SELECT 'by command'")
    expected = {"at login": "shop", "none": None, "by use": "shop", "by command": "mysql"}
    for found in _by_role(agent).values():
        texts = {one["db.query.text"].split("'")[1]: one.get("db.namespace") for one in found if _quoted(one)}
        assert texts == expected


def _quoted(found: dict[str, Any]) -> bool:
    return "'" in found.get("db.query.text", "")


def test_statements_over_a_unix_socket(mariadb: MariaDb, start_agent: StartAgent) -> None:
    """The client's default on one host: the same objects, of transport `unix`."""
    agent = start_agent("--log", "json", "--include", "comm=mariadb", "--include", "comm=mariadbd")
    client = ("mariadb", "--no-defaults", f"--socket={mariadb.socket}", "--user=root", "--skip-ssl")
    assert run(*client, "--execute=SELECT 'over unix'").code == 0
    agent.wait_for(lambda _: len([one for one in agent.transactions if _quoted(one)]) >= 2)
    found = [one for one in agent.transactions if _quoted(one)]
    assert sorted(one["role"] for one in found) == ["client", "server"]
    assert {one["network.transport"] for one in found} == {"unix"}


def test_a_statement_prepared_before_the_start_is_still_followed(
    mariadb: MariaDb, start_agent: StartAgent
) -> None:
    """Its text is unknown, but its executions are counted as such, and later statements are whole."""
    with MySqlSession(mariadb.port) as session:
        number = session.prepare("SELECT ? + 1")
        session.execute(number, 1)
        agent = start_agent("--log", "json", ports=[mariadb.port])
        session.execute(number, 2)
        session.query("SELECT 'later'")
        session.execute(number, 3)
    for role, found in _by_role(agent).items():
        names = [one["db.operation.name"] for one in found if one["protocol"] == "mysql"]
        assert names == ["STMT_EXECUTE", "SELECT", "STMT_EXECUTE", "QUIT"], role
