"""The mock MySQL server, by its protocol and through real clients."""

from __future__ import annotations

import secrets
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import MySQLdb
import pymysql
import pytest
from hypothesis import given
from hypothesis import strategies as st

from masdeepflow.traffic_gen import mysql_server
from masdeepflow.traffic_gen import mysql_wire as wire
from masdeepflow.traffic_gen.mysql_wire import Capability, Command

if TYPE_CHECKING:
    from collections.abc import Callable

    from masdeepflow.traffic_gen.net import Handle

_MARIADB = Path("/usr/bin/mariadb")
_OK = wire.Ok().encode()
_CAPABILITIES = (
    Capability.PROTOCOL_41
    | Capability.SECURE_CONNECTION
    | Capability.PLUGIN_AUTH
    | Capability.PLUGIN_AUTH_LENENC_DATA
)


def _payloads(session: mysql_server.Session, payload: bytes, sequence: int = 0) -> list[bytes]:
    """Send one packet and return the answer's payloads, whose sequence numbers must follow on."""
    data = b"".join(reply.data for reply in session.receive(wire.frame(payload, sequence)))
    packets = list(wire.PacketReader().feed(data))
    assert [packet.sequence for packet in packets] == list(range(sequence + 1, sequence + 1 + len(packets)))
    return [packet.payload for packet in packets]


def _login(plugin: str = wire.NATIVE) -> bytes:
    return wire.Login("me", b"x" * 20, _CAPABILITIES, plugin).encode()


@pytest.fixture
def session() -> mysql_server.Session:
    """Give a session that has logged in."""
    session = mysql_server.Session(1)
    assert _payloads(session, _login(), 1) == [_OK]
    return session


def test_greeting_is_random_and_names_its_method() -> None:
    """Each connection gets its own salt of 20 bytes without NUL, for mysql_native_password."""
    greetings = [wire.Greeting.parse(mysql_server.Session(number).greeting()[4:]) for number in (1, 2)]
    assert [greeting.connection_id for greeting in greetings] == [1, 2]
    assert [(len(greeting.salt), greeting.plugin) for greeting in greetings] == [(20, wire.NATIVE)] * 2
    assert greetings[0].salt != greetings[1].salt


def test_greeting_offers_nothing_that_hides_the_traffic() -> None:
    """Neither TLS nor compression is offered."""
    greeting = wire.Greeting.parse(mysql_server.Session(1).greeting()[4:])
    compress = 1 << 5
    assert not greeting.capabilities & (Capability.SSL | compress)


def test_client_of_another_method_is_switched() -> None:
    """A client that opens with a method the server lacks is asked for mysql_native_password."""
    session = mysql_server.Session(1)
    salt = wire.Greeting.parse(session.greeting()[4:]).salt
    assert _payloads(session, _login("dialog"), 1) == [wire.AuthSwitch(wire.NATIVE, salt).encode()]
    assert _payloads(session, b"x" * 20, 3) == [_OK]
    assert _payloads(session, bytes([Command.PING])) == [_OK]


@pytest.mark.parametrize(
    ("answer", "replies"), [(b"x" * 32, [b"\x01\x03", _OK]), (b"\0", [_OK]), (b"", [_OK])]
)
def test_caching_sha2_passes_as_if_cached(answer: bytes, replies: list[bytes]) -> None:
    """Clients without mysql_native_password (MySQL 9) get in by the fast path of caching_sha2_password."""
    session = mysql_server.Session(1)
    assert (
        wire.AuthSwitch.parse(*_payloads(session, _login(wire.CACHING_SHA2), 1)).plugin == wire.CACHING_SHA2
    )
    assert _payloads(session, answer, 3) == replies


@pytest.mark.parametrize(
    "payload", [b"", b"GET / HTTP/1.1", Capability.SSL.to_bytes(4, "little") + bytes(28)]
)
def test_bad_handshake_ends_the_session(payload: bytes) -> None:
    """What is no login gets error 1043 and the connection ends."""
    session = mysql_server.Session(1)
    (error,) = _payloads(session, payload, 1)
    assert wire.Err.parse(error) == wire.Err(1043, "08S01", "Bad handshake")
    assert session.closed


@pytest.mark.parametrize(
    ("command", "answer"),
    [
        (Command.QUERY, _OK),
        (Command.INIT_DB, _OK),
        (Command.PING, _OK),
        (Command.CHANGE_USER, _OK),
        (Command.RESET_CONNECTION, _OK),
        (Command.FIELD_LIST, wire.EOF),
        (Command.SET_OPTION, wire.EOF),
        (Command.DEBUG, wire.EOF),
    ],
)
def test_commands(session: mysql_server.Session, command: Command, answer: bytes) -> None:
    """Each command gets one packet of the kind its manual page asks for."""
    assert _payloads(session, bytes([command]) + b"x") == [answer]


def test_statistics_is_plain_text(session: mysql_server.Session) -> None:
    """COM_STATISTICS answers a bare string that starts with the uptime."""
    assert _payloads(session, bytes([Command.STATISTICS]))[0].startswith(b"Uptime: ")


@pytest.mark.parametrize("payload", [b"", b"\x00", b"\x1c\0\0\0\0", b"\xfe"])
def test_unknown_command(session: mysql_server.Session, payload: bytes) -> None:
    """A command the server does not know is error 1047, and the connection goes on."""
    (error,) = _payloads(session, payload)
    assert wire.Err.parse(error) == wire.Err(1047, "08S01", "Unknown command")
    assert _payloads(session, bytes([Command.PING])) == [_OK]


def test_quit_closes_and_ends_the_stream(session: mysql_server.Session) -> None:
    """COM_QUIT gets no answer, nor does anything after it."""
    stream = wire.frame(bytes([Command.QUIT]), 0) + wire.frame(bytes([Command.PING]), 0)
    assert list(session.receive(stream)) == []
    assert session.closed


def test_split_and_joined_packets(session: mysql_server.Session) -> None:
    """Commands are answered in order however the reads split or join them, and only statements as such."""
    stream = wire.frame(b"\x03SELECT 1;", 0) + wire.frame(bytes([Command.PING]), 0)
    whole = list(session.receive(stream))
    assert [reply.is_answer for reply in whole] == [True, False]
    assert [reply for byte in stream for reply in session.receive(bytes([byte]))] == whole


def test_too_large_a_packet_ends_the_session(session: mysql_server.Session) -> None:
    """A packet beyond the limit is error 1153 and the connection ends, as its end cannot be found."""
    chunk = wire.frame(bytes(0xFFFFFF), 0)[:-4]
    replies = [reply for _ in range(5) for reply in session.receive(chunk)]
    (packet,) = wire.PacketReader().feed(replies[0].data)
    assert wire.Err.parse(packet.payload).code == 1153
    assert session.closed


def test_prepared_statement(session: mysql_server.Session) -> None:
    """A prepared statement has its parameters and no columns, and can be executed until it is closed."""
    first, *definitions = _payloads(session, b"\x16INSERT INTO t VALUES (?, '?', ?)")
    assert first == bytes.fromhex("00 01000000 0000 0200 00 0000")
    assert [wire.column_name(definition) for definition in definitions[:2]] == ["?", "?"]
    assert definitions[2:] == [wire.EOF]
    statement = first[1:5]
    assert _payloads(session, b"\x17" + statement + bytes(5)) == [_OK]
    assert _payloads(session, b"\x18" + statement + b"\0\0long") == []
    assert _payloads(session, b"\x1a" + statement) == [_OK]
    assert _payloads(session, b"\x19" + statement) == []
    (error,) = _payloads(session, b"\x17" + statement + bytes(5))
    assert wire.Err.parse(error).code == 1243


def test_statement_without_parameters_has_no_eof(session: mysql_server.Session) -> None:
    """The EOF packet ends a list of definitions, so none comes where there is no list."""
    assert _payloads(session, b"\x16COMMIT") == [bytes.fromhex("00 01000000 0000 0000 00 0000")]


def test_statements_end_with_the_connection_state(session: mysql_server.Session) -> None:
    """A reset connection has no prepared statements, nor has a changed user."""
    _payloads(session, b"\x16COMMIT")
    _payloads(session, bytes([Command.RESET_CONNECTION]))
    (error,) = _payloads(session, b"\x17\x01\0\0\0" + bytes(5))
    assert wire.Err.parse(error).code == 1243


def test_prepared_statements_are_bounded(
    session: mysql_server.Session, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A client that never closes its statements gets error 1461 instead of the server's memory."""
    monkeypatch.setattr(mysql_server, "_MAX_STATEMENTS", 2)
    answers = [_payloads(session, b"\x16COMMIT")[0] for _ in range(3)]
    assert [answer[0] for answer in answers] == [wire.OK_HEADER, wire.OK_HEADER, wire.ERR_HEADER]
    assert wire.Err.parse(answers[2]).code == 1461


@pytest.mark.parametrize(
    ("statement", "count"),
    [
        (b"SELECT ?", 1),
        (b"SELECT '?', '\\'?', '''?', ?", 1),
        (b'SELECT "?", "a""?", ?', 1),
        (b"SELECT `a?` -- ?\n, ? # ?", 1),
        (b"SELECT /* ? \n ? */ 1 - ?", 1),
        (b"SELECT 1--?", 1),
        (b"?" * 70000, 65535),
    ],
)
def test_parameters_outside_strings_and_comments(statement: bytes, count: int) -> None:
    """Only a ``?`` that MySQL takes for a parameter counts, and no more than the protocol can announce."""
    assert mysql_server.parameter_count(statement) == count


@given(st.lists(st.binary(max_size=40), max_size=6), st.binary(max_size=40))
def test_no_bytes_break_a_session(payloads: list[bytes], tail: bytes) -> None:
    """Whatever a client sends, as packets or not, is answered or ignored, never an exception."""
    session = mysql_server.Session(1)
    for payload in [_login(), *payloads]:
        list(session.receive(wire.frame(payload, 0)))
    list(session.receive(tail))


def test_pymysql(serve: Callable[[Handle], int]) -> None:
    """PyMySQL connects, with its statements at connect, queries and pings, and OK comes after the delay."""
    port = serve(mysql_server.handler(delay_s=0.05))
    with pymysql.connect(
        host="127.0.0.1",
        port=port,
        user="any",
        password=secrets.token_hex(4),
        database="d",
        init_command="SET @a = 1",
    ) as connection:
        start = time.monotonic()
        with connection.cursor() as cursor:
            assert cursor.execute("SELECT %s;", ("é",)) == 0
        assert time.monotonic() - start >= 0.05
        connection.ping(reconnect=False)
        connection.commit()


def test_pymysql_sends_a_statement_longer_than_a_packet(serve: Callable[[Handle], int]) -> None:
    """A statement of more than 16 MB, which takes two chunks and many reads, is one statement."""
    port = serve(mysql_server.handler(delay_s=0))
    with (
        pymysql.connect(host="127.0.0.1", port=port, max_allowed_packet=1 << 26) as connection,
        connection.cursor() as cursor,
    ):
        assert cursor.execute(f"SELECT '{'x' * 0x1100000}'") == 0
        assert cursor.execute("SELECT 1") == 0


def test_mysqlclient(serve: Callable[[Handle], int]) -> None:
    """The C client library connects, queries, asks for statistics and changes the database."""
    port = serve(mysql_server.handler(delay_s=0))
    connection: Any = MySQLdb.connect(
        host="127.0.0.1", port=port, user="any", password=secrets.token_hex(4), database="d"
    )
    with connection.cursor() as cursor:
        assert cursor.execute("SELECT 1;") == 0
    connection.select_db("other")
    connection.ping()
    assert connection.stat().startswith("Uptime: ")
    connection.close()


def test_several_clients_at_once(serve: Callable[[Handle], int]) -> None:
    """Connections that stay open and idle do not hold up another."""
    port = serve(mysql_server.handler(delay_s=0))
    connections: list[Any] = [pymysql.connect(host="127.0.0.1", port=port) for _ in range(8)]
    assert len({connection.thread_id() for connection in connections}) == 8
    for connection in reversed(connections):
        connection.query("SELECT 1")
        connection.close()


@pytest.mark.skipif(not _MARIADB.exists(), reason="no mariadb command-line client here")
@pytest.mark.parametrize("database", [[], ["-Dtest"]], ids=["plain", "database"])
def test_mariadb_command_line_client(serve: Callable[[Handle], int], database: list[str]) -> None:
    """The command-line client connects, with its statements at connect, shows OK, and leaves in peace.

    ``-vv`` makes it say ``Query OK``, ``--force`` is left out so that any error would end it.
    """
    port = serve(mysql_server.handler(delay_s=0))
    login = ["-h127.0.0.1", f"-P{port}", "-uany", "-pany"]
    done = subprocess.run(
        [_MARIADB, "--no-defaults", *login, "-vv", "--auto-rehash", *database],
        input="SELECT 1;\nUSE other;\nSELECT 2;\nstatus\n",
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.count("Query OK, 0 rows affected") == 2
    assert "5.7.44-traffic_gen" in done.stdout
