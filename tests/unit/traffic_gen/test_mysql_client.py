"""The MySQL client, against scripted packets, the mock server and a real MariaDB."""

from __future__ import annotations

import contextlib
import getpass
import socket
import subprocess
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from masdeepflow.traffic_gen import mysql_client, mysql_server, net
from masdeepflow.traffic_gen import mysql_wire as wire
from masdeepflow.traffic_gen.mysql_wire import Capability, Packet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from masdeepflow.traffic_gen.net import Handle

_MARIADBD = Path("/usr/sbin/mariadbd")
_INSTALL_DB = Path("/usr/bin/mariadb-install-db")
_OK = wire.Ok().encode()
_MORE = wire.Ok(affected_rows=2, status=wire.MORE_RESULTS).encode()
_SALT = bytes(range(1, 21))
_GREETING = wire.Greeting(
    "8.0.36", 1, _SALT, Capability.PROTOCOL_41 | Capability.PLUGIN_AUTH | Capability.PLUGIN_AUTH_LENENC_DATA
).encode()


def _lines(*payloads: bytes) -> list[str]:
    return list(mysql_client.answer_lines(Packet(number, payload) for number, payload in enumerate(payloads)))


def _rows(*rows: bytes, end: bytes = wire.EOF) -> list[bytes]:
    columns = [wire.column_definition("a"), wire.column_definition("b")]
    return [b"\x02", *columns, wire.EOF, *rows, end]


def test_ok() -> None:
    """An OK packet is one line with the rows it changed."""
    assert _lines(wire.Ok(affected_rows=3).encode()) == ["OK, 3 rows affected"]


def test_rows_are_tab_separated_text() -> None:
    """A result set is its names and its rows, with NULL as a word and control characters escaped."""
    rows = _rows(wire.lenenc(b"x\ty\n\\") + b"\xfb", wire.lenenc("é".encode()) + wire.lenenc(b"\xff"))
    assert _lines(*rows) == ["a\tb", "x\\ty\\n\\\\\tNULL", "é\t\\\\xff"]


def test_several_results_follow_each_other() -> None:
    """While the status says more results, they are read and printed."""
    more = wire.EOF[:3] + wire.MORE_RESULTS.to_bytes(2, "little")
    assert _lines(_MORE, *_rows(end=more), _OK) == ["OK, 2 rows affected", "a\tb", "OK, 0 rows affected"]


@pytest.mark.parametrize("before", [[], [_MORE], _rows()[:-1]], ids=["first", "second", "among rows"])
def test_err_wherever_it_comes(before: list[bytes]) -> None:
    """An ERR packet, even among rows, is an error with code, SQLSTATE and message."""
    error = wire.Err(1317, "70100", "Query execution was interrupted").encode()
    with pytest.raises(mysql_client.ServerError, match=r"^1317 \(70100\): Query execution was interrupted$"):
        _lines(*before, error)


@pytest.mark.parametrize("payloads", [[b""], [b"\xfbfile"], [b"\x01", wire.column_definition("a"), _OK]])
def test_what_is_no_answer_is_a_wire_error(payloads: list[bytes]) -> None:
    """An empty packet, a request for a local file, or columns without an end are no answer."""
    with pytest.raises(wire.WireError):
        _lines(*payloads)


def _script(*steps: bytes, received: list[bytes] | None = None) -> Handle:
    """Play a server that sends a packet and reads one, step by step, and then goes away."""

    def handle(sock: socket.socket, _address: object, _server: object) -> None:
        reader = wire.PacketReader()
        for number, step in enumerate(steps):
            sock.sendall(wire.frame(step, 2 * number))
            packets = reader.feed(sock.recv(4096))
            if received is not None:
                received.extend(packet.payload for packet in packets)

    return handle


def _run(port: int, password: str = "") -> None:
    mysql_client.run_client("127.0.0.1", port, "SELECT 1;", "root", password)


def test_login_answers_the_salt(serve: Callable[[Handle], int], capsys: pytest.CaptureFixture[str]) -> None:
    """The login carries user and scrambled password, and the statement is sent as typed."""
    received: list[bytes] = []
    _run(serve(_script(_GREETING, _OK, _OK, received=received)), "pw")
    login = wire.Login.parse(received[0])
    assert (login.user, login.auth, login.plugin) == ("root", wire.scramble("pw", _SALT), wire.NATIVE)
    assert received[1] == b"\x03SELECT 1;"
    assert capsys.readouterr().out == "OK, 0 rows affected\n"


def test_login_follows_a_switch_to_the_native_method(serve: Callable[[Handle], int]) -> None:
    """A server that asks for mysql_native_password with a new salt gets the answer to that."""
    received: list[bytes] = []
    switch = wire.AuthSwitch(wire.NATIVE, _SALT[::-1]).encode()
    _run(serve(_script(_GREETING, switch, _OK, _OK, received=received)), "pw")
    assert received[1] == wire.scramble("pw", _SALT[::-1])


@pytest.mark.parametrize(
    ("answer", "method"),
    [
        (wire.AuthSwitch(wire.CACHING_SHA2, _SALT).encode(), "caching_sha2_password"),
        (b"\xfe", "mysql_old_password"),
        (b"\x01\x04", "mysql_native_password"),
    ],
)
def test_other_methods_are_named(serve: Callable[[Handle], int], answer: bytes, method: str) -> None:
    """A user of another method is told which, and what to do."""
    with pytest.raises(net.TrafficError, match=rf"'root' logs in with {method}, .*--user"):
        _run(serve(_script(_GREETING, answer)))


@pytest.mark.parametrize("steps", [[], [_GREETING]], ids=["connection", "login"])
def test_refusal_is_the_servers_own_words(serve: Callable[[Handle], int], steps: list[bytes]) -> None:
    """A server that refuses the connection or the login is quoted."""
    error = wire.Err(1045, "28000", "Access denied").encode()
    with pytest.raises(mysql_client.ServerError, match=r"^1045 \(28000\): Access denied$"):
        _run(serve(_script(*steps, error)))


@pytest.mark.parametrize("greeting", [b"\x09old", b"\x0aodd", b""])
def test_other_protocols_are_told(serve: Callable[[Handle], int], greeting: bytes) -> None:
    """A peer that greets in another way is named as no MySQL server."""
    with pytest.raises(net.TrafficError, match="does not answer like a MySQL server"):
        _run(serve(_script(greeting)))


@pytest.mark.parametrize("steps", [[], [_GREETING], [_GREETING, _OK]], ids=len)
def test_a_connection_that_ends_early_is_told(serve: Callable[[Handle], int], steps: list[bytes]) -> None:
    """A server that goes away before its answer is whole is a sentence, wherever that happens."""
    with pytest.raises(net.TrafficError, match="closed the connection before its answer was whole"):
        _run(serve(_script(*steps)))


def test_silence_is_told(serve: Callable[[Handle], int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that waits for the client to speak first, such as HTTP, is given up with a sentence."""
    monkeypatch.setattr(net, "CONNECT_TIMEOUT_S", 0.05)
    port = serve(lambda sock, *_: sock.recv(1))
    with pytest.raises(net.TrafficError, match="sent no MySQL packet in time"):
        _run(port)


def test_against_the_mock_server(serve: Callable[[Handle], int], capsys: pytest.CaptureFixture[str]) -> None:
    """Client and mock server understand each other; the answer is on stdout, its time on stderr."""
    _run(serve(mysql_server.handler(delay_s=0.05)), "any")
    captured = capsys.readouterr()
    assert captured.out == "OK, 0 rows affected\n"
    assert float(captured.err.removeprefix("Latency: ").removesuffix(" ms\n")) >= 50


@pytest.fixture(scope="module")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Start a MariaDB whose root has no password, and give its port."""
    if not (_MARIADBD.exists() and _INSTALL_DB.exists()):
        pytest.skip("no MariaDB server here")
    home = tmp_path_factory.mktemp("mariadb")
    common = ["--no-defaults", f"--datadir={home / 'data'}", f"--user={getpass.getuser()}"]
    subprocess.run(
        [_INSTALL_DB, *common, "--auth-root-authentication-method=normal", "--skip-test-db"],
        check=True,
        capture_output=True,
    )
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
    with (home / "log").open("w") as log:
        server = subprocess.Popen(
            [_MARIADBD, *common, f"--socket={home / 's'}", f"--port={port}", "--bind-address=127.0.0.1"],
            stderr=log,
        )
        try:
            _wait_for(port)
            yield port
        finally:
            server.terminate()
            server.wait()


def _wait_for(port: int) -> None:
    for _ in range(300):
        with contextlib.suppress(ConnectionRefusedError), socket.create_connection(("127.0.0.1", port)):
            return
        time.sleep(0.1)
    pytest.fail("MariaDB did not start in 30 s")


@pytest.mark.server
def test_rows_of_a_real_server(mariadb: int, capsys: pytest.CaptureFixture[str]) -> None:
    """Several statements against MariaDB give its rows and its OKs, one after the other."""
    statement = "SELECT 1 AS a, NULL AS b; DO 0; SELECT REPEAT('x', 300) AS c WHERE 1 = 0"
    mysql_client.run_client("127.0.0.1", mariadb, statement, "root", "")
    assert capsys.readouterr().out == "a\tb\n1\tNULL\nOK, 0 rows affected\nc\n"


@pytest.mark.server
def test_password_of_a_real_server(mariadb: int, capsys: pytest.CaptureFixture[str]) -> None:
    """MariaDB lets the right password in, and refuses the wrong one with error 1045."""
    create = "CREATE USER u@'%' IDENTIFIED BY 'secret'"
    mysql_client.run_client("127.0.0.1", mariadb, create, "root", "")
    mysql_client.run_client("127.0.0.1", mariadb, "DO 0", "u", "secret")
    assert capsys.readouterr().out == "OK, 0 rows affected\n" * 2
    with pytest.raises(mysql_client.ServerError, match=r"^1045 \(28000\): "):
        mysql_client.run_client("127.0.0.1", mariadb, "DO 0", "u", "wrong")


@pytest.mark.server
def test_error_of_a_real_server(mariadb: int) -> None:
    """A statement MariaDB cannot parse is its error 1064."""
    with pytest.raises(mysql_client.ServerError, match=r"^1064 \(42000\): You have an error"):
        mysql_client.run_client("127.0.0.1", mariadb, "SELEC 1", "root", "")
