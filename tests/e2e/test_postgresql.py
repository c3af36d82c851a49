"""PostgreSQL against the real server: every statement of every client is there, once per side."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections import Counter
from typing import TYPE_CHECKING, Any

import asyncpg
import psycopg
import pytest

from tests.support import json_log
from tests.support.ports import LOOPBACK
from tests.support.programs import run, until

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.e2e.conftest import StartAgent
    from tests.support.programs import Agent
    from tests.support.servers import PostgreSql

    Run = Callable[[PostgreSql, list[str]], object]

pytestmark = [
    pytest.mark.root,
    pytest.mark.server("postgres", "initdb", "psql", "pgbench", "openssl"),
]

_STATEMENTS = 100
_ROWS = 2000
_NO_TABLE, _SYNTAX = "42P01", "42601"
_CLIENTS, _TRANSACTIONS = 4, 50
_MODES = ["simple", "extended", "prepared"]
_TPC_B = ["BEGIN", "UPDATE", "SELECT", "UPDATE", "UPDATE", "INSERT", "END"]
_REDACTED = ["SELECT ?, ?, ?, ?", "SELECT ?::int", "SELECT ?"]
_SLEEP = "SELECT pg_sleep(60)"
_BALANCE = "SELECT abalance FROM pgbench_accounts WHERE aid = "


def _statements() -> list[str]:
    """Return statements of which each is unlike all others, two of them wrong."""
    good = [f"SELECT {number} AS n, 'text {number}' AS t" for number in range(_STATEMENTS)]
    changes = ["INSERT INTO item VALUES (7, 'seven')", "UPDATE item SET name = 'x' WHERE id = 7"]
    return [*good, *changes, "DELETE FROM item", "SELECT * FROM nowhere", "SELEC 1"]


def _code(statement: str) -> str | None:
    return {"SELECT * FROM nowhere": _NO_TABLE, "SELEC 1": _SYNTAX}.get(statement)


def _psql(server: PostgreSql, statements: list[str]) -> None:
    run(*server.psql("--file=-"), input=";\n".join([*statements, ""]).encode())


def _psycopg(server: PostgreSql, statements: list[str]) -> None:
    with psycopg.connect(server.uri(), autocommit=True) as session:
        for statement in statements:
            with contextlib.suppress(psycopg.Error):
                session.execute(statement.encode())


def _psycopg_bound(server: PostgreSql, statements: list[str]) -> None:
    """Force the extended protocol, which psycopg uses for statements with values."""
    with psycopg.connect(server.uri(), autocommit=True) as session:
        cursor = psycopg.RawCursor(session)
        for statement in statements:
            with contextlib.suppress(psycopg.Error):
                cursor.execute(statement.encode(), [], binary=True)


def _pipeline(server: PostgreSql, statements: list[str]) -> None:
    """One turn holds a statement with its result, or its error, and the Sync behind."""
    with psycopg.connect(server.uri(), autocommit=True) as session:
        for statement in statements:
            with contextlib.suppress(psycopg.Error), session.pipeline():
                session.execute(statement.encode())


async def _execute_all(port: int, statements: list[str]) -> None:
    session = await asyncpg.connect(host=LOOPBACK, port=port, user="postgres", database="shop", ssl=False)
    for statement in statements:
        with contextlib.suppress(asyncpg.PostgresError):
            await session.execute(statement)
    await session.close()


def _asyncpg(server: PostgreSql, statements: list[str]) -> None:
    asyncio.run(_execute_all(server.port, statements))


def _by_role(
    agent: Agent, expected: int = 0, mine: Callable[[dict[str, Any]], bool] = bool
) -> dict[str, list[dict[str, Any]]]:
    found = agent.wait_counted(mine, expected)
    for one in found:
        json_log.check_line(one)
    return {role: [one for one in found if one["role"] == role] for role in ("client", "server")}


def _named(found: list[dict[str, Any]], *operations: str) -> list[dict[str, Any]]:
    return [one for one in found if one.get("db.operation.name") in operations]


@pytest.mark.parametrize("client", [_psql, _psycopg, _psycopg_bound, _pipeline, _asyncpg])
def test_every_statement_of_a_client_is_there_once_per_side(
    postgresql: PostgreSql, start_agent: StartAgent, client: Run
) -> None:
    """Text, order and outcome of each; whatever else the client sends does not repeat them."""
    agent = start_agent("--log", "json", ports=[postgresql.port])
    statements = _statements()
    client(postgresql, statements)
    for role, found in _by_role(agent).items():
        assert {one["protocol"] for one in found} == {"postgresql"}
        assert {one["db.namespace"] for one in found} == {"shop"}
        mine = [one for one in found if one.get("db.query.text", "").rstrip(";") in set(statements)]
        assert [one["db.query.text"].rstrip(";") for one in mine] == statements, role
        for one, statement in zip(mine, statements, strict=True):
            assert one["error"] == (_code(statement) is not None)
            assert one.get("db.response.status_code") == _code(statement)
            assert ("db.response.message" in one) == one["error"]
        assert [one["db.operation.name"] for one in mine[:-1]] == [
            text.split()[0] for text in statements[:-1]
        ]


async def _insert_with_asyncpg(port: int) -> None:
    session = await asyncpg.connect(host=LOOPBACK, port=port, user="postgres", database="shop", ssl=False)
    await session.executemany("INSERT INTO batch VALUES ($1, $2)", [(one, "x" * 9) for one in range(_ROWS)])
    await session.close()


def _insert_with_psycopg(server: PostgreSql) -> None:
    with psycopg.connect(server.uri(), autocommit=True) as session:
        rows = [(-1 - one, "x" * 9) for one in range(_ROWS)]
        session.cursor().executemany("INSERT INTO batch VALUES (%b, %b)", rows)


def test_each_row_of_a_batch_counts(postgresql: PostgreSql, start_agent: StartAgent) -> None:
    """Though next to none of it is captured, and the server answers in the midst of it."""
    made = run(*postgresql.psql("--command=CREATE TABLE IF NOT EXISTS batch (id int, name text)"))
    assert made.code == 0, made.stderr
    agent = start_agent("--log", "json", ports=[postgresql.port])
    asyncio.run(_insert_with_asyncpg(postgresql.port))
    _insert_with_psycopg(postgresql)
    for found in _by_role(agent, 2 * _ROWS, lambda one: one.get("db.operation.name") == "INSERT").values():
        assert {one["protocol"] for one in found} == {"postgresql"}
        inserted = _named(found, "INSERT")
        assert {one["db.query.text"] for one in inserted} == {"INSERT INTO batch VALUES ($1, $2)"}
        assert sum(one["request_bytes"] for one in inserted) > 2 * _ROWS * 30
        # Whether that is all of them is told by sizes, so nearly all of them are marked.
        assert len(inserted) == 2 * _ROWS
        assert sum(one["truncated"] for one in inserted) > 2 * _ROWS - 100


def _is_tpc_b(found: dict[str, Any]) -> bool:
    """Whether it is of the script: pgbench also asks for its tables, and counts their rows."""
    text = found.get("db.query.text", "")
    asked = "pg_catalog" in text or text.startswith("select count(*)")
    return found.get("db.operation.name") in _TPC_B and not asked


@pytest.mark.parametrize("mode", _MODES)
def test_counts_equal_those_of_pgbench(postgresql: PostgreSql, start_agent: StartAgent, mode: str) -> None:
    """Seven statements a transaction, in its order; and one a transaction with --select-only."""
    agent = start_agent("--log", "json", ports=[postgresql.port])
    load = (f"--protocol={mode}", f"--client={_CLIENTS}", f"--transactions={_TRANSACTIONS}")
    done = run(*postgresql.pgbench(*load))
    assert f"actually processed: {_CLIENTS * _TRANSACTIONS}/" in done.stdout, done.stderr
    expected = len(_TPC_B) * _CLIENTS * _TRANSACTIONS
    for found in _by_role(agent, expected, _is_tpc_b).values():
        mine = [one for one in found if _is_tpc_b(one)]
        assert len(mine) == expected
        by_port: dict[int, list[str]] = {}
        for one in mine:
            by_port.setdefault(one["client.port"], []).append(one["db.operation.name"])
            assert not one["error"]
            assert not one["truncated"]
        assert list(by_port.values()) == [_TPC_B * _TRANSACTIONS] * _CLIENTS
        _check_prepared(found, mode)


def _check_prepared(found: list[dict[str, Any]], mode: str) -> None:
    """Statements are prepared by themselves in one mode only, once for each connection."""
    assert len(_named(found, "PREPARE")) == (mode == "prepared") * len(_TPC_B) * _CLIENTS


def _is_balance(found: dict[str, Any]) -> bool:
    return found.get("db.operation.name") == "SELECT" and found["db.query.text"].startswith(_BALANCE)


@pytest.mark.parametrize("mode", _MODES)
def test_pgbench_selects(postgresql: PostgreSql, start_agent: StartAgent, mode: str) -> None:
    """At full speed nothing is lost, and each execution has its statement's text."""
    agent = start_agent("--log", "json", ports=[postgresql.port])
    transactions = 500
    load = (f"--protocol={mode}", f"--client={_CLIENTS}", f"--transactions={transactions}", "--select-only")
    done = run(*postgresql.pgbench(*load))
    assert f"actually processed: {_CLIENTS * transactions}/" in done.stdout, done.stderr
    for found in _by_role(agent, _CLIENTS * transactions, _is_balance).values():
        mine = [one["db.query.text"] for one in found if _is_balance(one)]
        assert len(mine) == _CLIENTS * transactions
        values = {text.removeprefix(_BALANCE) for text in mine}
        assert values == {"$1;"} if mode != "simple" else len(values) > transactions


@pytest.mark.parametrize("mode", _MODES)
def test_errors_of_pgbench(
    postgresql: PostgreSql, start_agent: StartAgent, tmp_path: Path, mode: str
) -> None:
    """Each error that pgbench tells of is there, with text, SQLSTATE and message; none of the rest is one."""
    agent = start_agent("--log", "json", ports=[postgresql.port])
    script = tmp_path / "counts_down.sql"
    script.write_text("\\set left :left - 1\nSELECT 100 / :left AS share;\n")
    load = (f"--protocol={mode}", f"--client={_CLIENTS}", f"--transactions={_TRANSACTIONS}")
    done = run(*postgresql.pgbench(*load, f"--define=left={_TRANSACTIONS}", f"--file={script}"))
    # A client ends with its first error.
    assert done.stderr.count("ERROR:  division by zero") == _CLIENTS
    divisors = [str(left) if mode == "simple" else "$1" for left in range(_TRANSACTIONS - 1, -1, -1)]
    texts = [f"SELECT 100 / {divisor} AS share;" for divisor in divisors]
    for found in _by_role(agent, _CLIENTS * _TRANSACTIONS, _is_share).values():
        by_port: dict[int, list[dict[str, Any]]] = {}
        for one in filter(_is_share, found):
            by_port.setdefault(one["client.port"], []).append(one)
        assert len(by_port) == _CLIENTS
        for mine in by_port.values():
            assert [one["db.query.text"] for one in mine] == texts
            assert [one["error"] for one in mine] == [False] * (_TRANSACTIONS - 1) + [True]
            assert mine[-1]["db.response.status_code"] == "22012"
            assert mine[-1]["db.response.message"] == "division by zero"


def _is_share(found: dict[str, Any]) -> bool:
    return found.get("db.operation.name") == "SELECT" and "AS share" in found["db.query.text"]


def test_each_message_has_its_line(postgresql: PostgreSql, start_agent: StartAgent) -> None:
    """The text log names what a client does; errors have severity, SQLSTATE and message."""
    agent = start_agent(ports=[postgresql.port])
    with psycopg.connect(postgresql.uri(application_name="lines"), autocommit=True) as session:
        session.execute("SELECT %s + 1", (1,), prepare=True)
        session.execute("SELECT 1; SELECT 2")
        session.execute("DROP TABLE IF EXISTS nowhere")
        with contextlib.suppress(psycopg.Error):
            session.execute("SELECT * FROM nowhere")
        with session.cursor().copy("COPY item FROM STDIN") as copy:
            copy.write_row((300, "z"))
        session.execute("DELETE FROM item")
        session.execute("LISTEN news")
        session.execute("NOTIFY news")
    requests, responses = _summaries(agent)
    assert requests == [
        "PostgreSQL Login: postgres@shop (lines)",
        "PostgreSQL Prepare: SELECT $1 + 1",
        "PostgreSQL Query: SELECT $1 + 1",
        "PostgreSQL Query: SELECT 1; SELECT 2",
        "PostgreSQL Query: DROP TABLE IF EXISTS nowhere",
        "PostgreSQL Query: DEALLOCATE ALL",
        "PostgreSQL Query: SELECT * FROM nowhere",
        "PostgreSQL Query: COPY item FROM STDIN",
        "PostgreSQL Query: DELETE FROM item",
        "PostgreSQL Query: LISTEN news",
        "PostgreSQL Query: NOTIFY news",
        "PostgreSQL Terminate",
    ]
    assert responses == [
        "PostgreSQL Response: OK",
        "PostgreSQL Response: OK",
        "PostgreSQL Response: SELECT 1",
        "PostgreSQL Response: SELECT 1; Result set, 1 column",
        'PostgreSQL Response: NOTICE: table "nowhere" does not exist, skipping',
        "PostgreSQL Response: DEALLOCATE ALL",
        'PostgreSQL Response: ERROR 42P01: relation "nowhere" does not exist',
        "PostgreSQL Response: COPY 1",
        "PostgreSQL Response: DELETE 1",
        "PostgreSQL Response: LISTEN",
        "PostgreSQL Notification: news",
        "PostgreSQL Response: NOTIFY",
    ]


def _summaries(agent: Agent) -> tuple[list[str], list[str]]:
    """Return what the client sent and got, in the words of the text log."""
    lines = [line for line in agent.settle().lines if "PostgreSQL" in line and "Comm: postgres" not in line]
    sent, got = (
        [line.split(", ", 4)[4] for line in lines if f"Type: {kind}" in line] for kind in ("TX", "RX")
    )
    return [line.removesuffix(", , ") for line in sent], [line.rpartition(", , Latency")[0] for line in got]


def test_tls_is_opaque(postgresql: PostgreSql, start_agent: StartAgent) -> None:
    """The request for it is shown, and what follows are `tcp` turns: no statement, no garbage."""
    agent = start_agent("--log", "json", ports=[postgresql.port])
    # Not on the command line, which is no secret.
    done = run(*postgresql.psql("--file=-", sslmode="require"), input=b"SELECT 'a secret';")
    assert "a secret" in done.stdout, done.stderr
    for found in _by_role(agent).values():
        kinds = Counter(one["protocol"] for one in found)
        assert (kinds["postgresql"], kinds["tcp"] > 1, len(kinds)) == (1, True, 2)
        assert [one["db.operation.name"] for one in found if "db.operation.name" in one] == ["SSL_REQUEST"]
    assert "secret" not in agent.stdout_path.read_text()


def test_a_login_with_a_password_is_one_transaction(postgresql: PostgreSql, start_agent: StartAgent) -> None:
    """SCRAM takes three turns; none of what was said is shown."""
    agent = start_agent("--log", "json", ports=[postgresql.port])
    assert run(*postgresql.psql("--command=SELECT 1", user="scram", password="scram")).code == 0  # noqa: S106
    assert run(*postgresql.psql("--command=SELECT 1", user="scram", password="wrong")).code == 2  # noqa: S106
    for found in _by_role(agent).values():
        logins = _named(found, "LOGIN")
        assert [one.get("db.response.status_code") for one in logins] == [None, "28P01"]
        assert [one["db.operation.name"] for one in found] == ["LOGIN", "SELECT", "TERMINATE", "LOGIN"]
    assert "SCRAM-SHA" not in agent.stdout_path.read_text()


def test_a_long_statement_is_cut_and_marked(postgresql: PostgreSql, start_agent: StartAgent) -> None:
    """A statement beyond the payload limit begins right, ends with the mark, and is `truncated`."""
    agent = start_agent("--log", "json", ports=[postgresql.port])
    statement = "SELECT length('" + "x" * 100_000 + "')"
    for client in (_psycopg, _psycopg_bound):
        client(postgresql, [statement, "SELECT 'after'"])
    for found in _by_role(agent).values():
        for long, after in zip(*[iter(_named(found, "SELECT"))] * 2, strict=True):
            assert long["truncated"] is True
            assert long["db.query.text"].startswith("SELECT length('xxx")
            assert len(long["db.query.text"]) < 300
            assert long["request_bytes"] > 100_000
            assert (after["db.query.text"], after["truncated"]) == ("SELECT 'after'", False)


def test_statements_over_a_unix_socket(postgresql: PostgreSql, start_agent: StartAgent) -> None:
    """The client's default on one host: the same objects, of transport `unix`."""
    agent = start_agent("--log", "json", "--include", "comm=psql", "--include", "comm=postgres")
    where = (f"--host={postgresql.directory}", f"--port={postgresql.port}", "--username=postgres", "shop")
    assert run("psql", "--no-psqlrc", *where, "--command=SELECT 'over unix'").code == 0

    def found() -> list[dict[str, Any]]:
        return [one for one in agent.transactions if "over unix" in one.get("db.query.text", "")]

    agent.wait_for(lambda _: len(found()) >= 2)
    assert sorted(one["role"] for one in found()) == ["client", "server"]
    assert {one["network.transport"] for one in found()} == {"unix"}


def test_a_statement_prepared_before_the_start_is_still_followed(
    postgresql: PostgreSql, start_agent: StartAgent
) -> None:
    """Its text is unknown: executions are shown by its name, and later statements are whole."""
    with psycopg.connect(postgresql.uri(), autocommit=True) as session:
        session.execute("SELECT %s + 1", (1,), prepare=True)
        agent = start_agent("--log", "json", ports=[postgresql.port])
        texts = start_agent(ports=[postgresql.port])
        session.execute("SELECT %s + 1", (2,), prepare=True)
        session.execute("SELECT 'later'")
        session.execute("SELECT %s + 1", (3,), prepare=True)
    for role, found in _by_role(agent).items():
        names = [one["db.operation.name"] for one in found if one["protocol"] == "postgresql"]
        assert names == ["EXECUTE", "SELECT", "EXECUTE", "TERMINATE"], role
    requests, _ = _summaries(texts)
    assert requests[0] == "PostgreSQL Query: EXECUTE _pg3_0"


def test_a_pipeline_of_several_statements(postgresql: PostgreSql, start_agent: StartAgent) -> None:
    """Each has its row and its own outcome; what is behind an error was skipped."""
    agent = start_agent("--log", "json", ports=[postgresql.port])
    with psycopg.connect(postgresql.uri(), autocommit=True) as session:
        with session.pipeline():
            session.execute("SET a.b TO 1")
            session.execute("SET a.c TO 2")
        with contextlib.suppress(psycopg.Error), session.pipeline():
            session.execute("SET a.b TO 3")
            session.execute("SELEC 4")
            session.execute("SET a.b TO 5")
    for found in _by_role(agent).values():
        mine = [
            (one["db.query.text"], one["error"], one.get("db.response.status_code")) for one in found[1:-1]
        ]
        assert mine == [
            ("SET a.b TO 1", False, None),
            ("SET a.c TO 2", False, None),
            ("SET a.b TO 3", False, None),
            ("SELEC 4", True, _SYNTAX),
            ("SET a.b TO 5", True, None),
        ]


def test_an_answer_that_pauses(postgresql: PostgreSql, start_agent: StartAgent) -> None:
    """A notice that comes long before the end does not end the query, nor its time."""
    agent = start_agent("--log", "json", ports=[postgresql.port])
    steps = ("RAISE INFO 'x'", "PERFORM pg_sleep(0.2)", "RAISE EXCEPTION 'no' USING ERRCODE = 'P0007'")
    block = f"DO $$ BEGIN {'; '.join(steps)}; END $$"
    _psycopg(postgresql, [block, "SELECT 'after'"])
    for found in _by_role(agent).values():
        (one,) = _named(found, "DO")
        assert (one["error"], one["db.response.status_code"], one["db.response.message"]) == (
            True,
            "P0007",
            "no",
        )
        assert one["duration_ns"] > 200_000_000
        assert [after["error"] for after in _named(found, "SELECT")] == [False]


def test_literals_are_redacted(postgresql: PostgreSql, start_agent: StartAgent) -> None:
    """Neither statements nor messages of errors give away what was in them."""
    agent = start_agent("--log", "json", "--redact", ports=[postgresql.port])
    texts = start_agent("--redact", ports=[postgresql.port])
    _psycopg(
        postgresql,
        [
            "SELECT 'secret', $$secret$$, E'it\\'s secret', 2047110747",
            "SELECT 'secret'::int",
            "SELECT 'C:\\', 'secret'",
            "INSERT INTO item VALUES (2047110747, 'secret'), (2047110747, 'secret')",
        ],
    )
    for found in _by_role(agent).values():
        assert [one["db.query.text"] for one in _named(found, "SELECT")] == _REDACTED
        assert [one["db.response.status_code"] for one in found if one["error"]] == ["22P02", "23505"]
    for printed in agent.stdout_path, texts.settle().stdout_path:
        text = printed.read_text()
        assert "secret" not in text
        assert "2047110747" not in text  # fewer digits are part of a timestamp at times


def test_what_a_server_says_unasked(postgresql: PostgreSql, start_agent: StartAgent) -> None:
    """A notification to a client that waits has no request; nor has the error that ends its connection."""
    agent = start_agent(ports=[postgresql.port])
    with contextlib.ExitStack() as stack:
        listener, other = (
            stack.enter_context(psycopg.connect(postgresql.uri(), autocommit=True)) for _ in "12"
        )
        listener.execute("LISTEN news")
        agent.wait_for(lambda lines: any("Response: LISTEN" in line and "psql" not in line for line in lines))
        other.execute("NOTIFY news")
        assert len(list(listener.notifies(timeout=20, stop_after=1))) == 1
        agent.wait_for(lambda lines: sum("PostgreSQL Notification: news, " in line for line in lines) >= 2)
        other.execute("SELECT pg_terminate_backend(%s)", (listener.info.backend_pid,))
        with pytest.raises(psycopg.OperationalError):
            listener.execute("SELECT 1")
    assert any("PostgreSQL Response: FATAL 57P01: terminating" in line for line in agent.settle().lines)


def test_a_cancelled_statement(postgresql: PostgreSql, start_agent: StartAgent) -> None:
    """The request for it comes on a connection of its own; the statement ends with its error."""
    agent = start_agent("--log", "json", ports=[postgresql.port])
    with psycopg.connect(postgresql.uri(), autocommit=True) as session:
        sleeper = threading.Thread(target=_sleep, args=(session,))
        sleeper.start()
        active = "SELECT wait_event FROM pg_stat_activity"
        until(lambda: "PgSleep" in run(*postgresql.psql(f"--command={active}")).stdout)
        session.cancel()
        sleeper.join(20)
    for found in _by_role(agent).values():
        assert [one["error"] for one in _named(found, "CANCEL")] == [False]
        (cancelled,) = [one for one in found if one.get("db.query.text") == _SLEEP]
        assert cancelled["db.response.status_code"] == "57014"


def _sleep(session: psycopg.Connection) -> None:
    with contextlib.suppress(psycopg.Error):
        session.execute(_SLEEP.encode())
