"""Payloads made to hurt: nothing raw reaches the terminal, nothing is mistaken, the agent lives."""

from __future__ import annotations

import os
import random
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from tests.support import json_log
from tests.support.ports import LOOPBACK
from tests.support.programs import TRAFFIC_GEN, run
from tests.support.servers import scripted
from tests.support.wire import answer, read_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.e2e.conftest import StartAgent, StartTraffic
    from tests.support.programs import Agent

pytestmark = [pytest.mark.root]

_ESCAPES = [
    b"\x1b[31mred",
    b"\x1b]0;title\x07",
    b"\x9b31m",
    b"\xc2\x9b31m",
    b"\x00\x01\x02\x7f\x80\xff",
    b"\xff\xfe\xc0\xaf\xed\xa0\x80",
    b"\r\nFAKE [INFO] line",
    b"\xe2\x80\xae\xe2\x80\xa8\xe2\x80\xa9\xef\xbb\xbf",
    b'"},{"injected":"',
    b"%1b%5b31m%00",
    "täglich/日本/🚀".encode(),
]
_LAST_CONTROL = 0x1F


class Both:
    """A text and a JSON log of the same traffic: this process's."""

    def __init__(self, text: Agent, objects: Agent) -> None:
        self._text = text
        self._json = objects

    def transactions(self) -> list[dict[str, object]]:
        """Hold that nothing unsafe is in either log, then return what the JSON log has."""
        for agent in self._text.settle(), self._json.settle():
            assert agent.process.poll() is None
            assert "Traceback" not in agent.errors
            _check_safe(agent.stdout_path.read_bytes())
        for found in self._json.objects:
            json_log.check_line(found)
        return self._json.transactions

    def text(self) -> list[str]:
        """Return the text log."""
        return self._text.settle().lines


def _check_safe(printed: bytes) -> None:
    """Hold that a log is UTF-8 without any character that a terminal acts upon."""
    text = printed.decode("utf-8")
    bad = {char for char in text.replace("\n", "") if not char.isprintable()}
    assert not bad, [hex(ord(char)) for char in bad]


@pytest.fixture
def both(start_agent: StartAgent) -> Both:
    """Run the two agents."""
    mine = ("--include", f"pid={os.getpid()}")
    return Both(start_agent(*mine), start_agent("--log", "json", *mine))


def _serve_http(client: socket.socket) -> None:
    while read_until(client, b"\r\n\r\n"):
        client.sendall(answer(b"\x1b[2J", b"X-Bad: \x1b[31m", status=b"200 \x1b[31mO\xffK\x9b"))


def _ask(port: int, request: bytes) -> bytes:
    with socket.create_connection((LOOPBACK, port), 10) as client:
        client.sendall(request)
        return read_until(client, b"\x1b[2J")


def test_escape_sequences_in_http_are_escaped(both: Both) -> None:
    """In the target, in headers, in the reason phrase: each request is there, and its bytes are harmless."""
    with scripted(_serve_http) as port:
        for number, bad in enumerate(_ESCAPES):
            target = b"/%d/" % number + bad.replace(b"\r\n", b"\x0b")
            head = (b"GET " + target + b" HTTP/1.1", b"Host: " + bad, b"User-Agent: " + bad)
            _ask(port, b"\r\n".join((*head, b"", b"")))
        found = both.transactions()
    for role in "client", "server":
        mine = [one for one in found if one["role"] == role]
        assert {one["http.response.status_code"] for one in mine} == {200}
        # A target with control characters is none (RFC 9112, 3.2): such a request has a status only.
        paths = [str(one["url.path"]).split("/")[1] for one in mine if "url.path" in one]
        assert len(mine) == len(_ESCAPES)
        assert set(paths) >= {str(number) for number, bad in enumerate(_ESCAPES) if min(bad) > _LAST_CONTROL}
    lines = both.text()
    assert sum("HTTP Response: HTTP/1.1 200" in line for line in lines) == 2 * len(_ESCAPES)
    assert not [line for line in lines if line.startswith("FAKE")]


def test_escape_sequences_in_sql_are_escaped(start_traffic: StartTraffic, start_agent: StartAgent) -> None:
    """Statements are harmless too, in both logs."""
    port = start_traffic("mysql-server", "--delay-ms", 0)
    both = Both(start_agent(ports=[port]), start_agent("--log", "json", ports=[port]))
    for number, bad in enumerate(_ESCAPES):
        statement = b"SELECT %d, '" % number + bad.replace(b"\0", b"") + b"'"
        assert run(TRAFFIC_GEN, "mysql-client", "--port", port, "--query", os.fsdecode(statement)).code == 0
    texts = [str(one.get("db.query.text")) for one in both.transactions() if one["protocol"] == "mysql"]
    for number in range(len(_ESCAPES)):
        assert sum(f"SELECT {number}, '" in text for text in texts) == 2
    assert sum("MySQL Query: SELECT " in line for line in both.text()) == 2 * len(_ESCAPES)


def test_a_header_line_of_a_megabyte(both: Both) -> None:
    """Its request is reported with what the prefix holds; a target of a megabyte is marked as cut."""
    size = 1 << 20
    with scripted(_serve_http) as port:
        _ask(port, b"GET /long-header HTTP/1.1\r\nX-Long: " + b"x" * size + b"\r\n\r\n")
        _ask(port, b"GET /" + b"y" * size + b" HTTP/1.1\r\n\r\n")
        _ask(port, b"GET /after HTTP/1.1\r\n\r\n")
        found = both.transactions()
    for role in "client", "server":
        header, target, after = [one for one in found if one["role"] == role]
        assert header["url.path"] == "/long-header"
        assert int(str(header["request_bytes"])) > size
        assert str(target["url.path"]).startswith("/yyy")
        assert target["truncated"] is True
        assert (after["url.path"], after["truncated"]) == ("/after", False)
    assert max(map(len, both.text())) < 4096


def _serve_random(seed: int) -> Callable[[socket.socket], None]:
    noise = random.Random(seed)  # noqa: S311  # the same noise in every run

    def serve(client: socket.socket) -> None:
        while client.recv(65536):
            client.sendall(noise.randbytes(noise.randrange(1, 3000)))

    return serve


@pytest.mark.parametrize("address", [("127.0.80.80", 80), ("127.0.33.6", 3306)])
def test_random_bytes_on_known_ports_are_nobodys(both: Both, address: tuple[str, int]) -> None:
    """Noise on the ports of HTTP and MySQL is shown as `tcp`, in JSON only."""
    noise = random.Random(1)  # noqa: S311  # the same noise in every run
    with scripted(_serve_random(2), address):
        for _ in range(50):
            _send_noise(address, noise)
        found = both.transactions()
    assert found
    assert {one["protocol"] for one in found} == {"tcp"}
    assert not [line for line in both.text() if "Request" in line or "Query" in line or "Response" in line]


def _send_noise(address: tuple[str, int], noise: random.Random) -> None:
    with socket.create_connection(address, 10) as client:
        for _ in range(3):
            client.sendall(noise.randbytes(noise.randrange(1, 3000)))
            client.recv(65536)


def _cuts() -> Iterator[bytes]:
    """Yield the beginnings of a request, of a response and of MySQL packets."""
    whole = [
        b"GET /cut?a=b HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\n\r\n0123456789",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        b"\x0a\x00\x00\x00\x03SELECT 1",
        b"\x4a\x00\x00\x00\x0a5.5.5-10.11\x00" + bytes(60),
        b"\xff\xff\xff\x00\x03SELECT " + b"a" * 100,
        b"\x00\x00\x00\x00\x01\x00\x00\x00\x16",
    ]
    for data in whole:
        yield from (data[:length] for length in (1, 3, 4, 5, len(data) // 2, len(data) - 1, len(data)))


def test_cut_packets_never_stop_the_agent(both: Both) -> None:
    """Every beginning of valid messages in either direction, then the end: the agent goes on."""
    for sent in _cuts():
        for got in b"", b"HTTP/1.1 2", b"\x07\x00\x00\x01\x00", sent:
            _talk(sent, got)
    both.transactions()
    with scripted(_serve_http) as port:
        _ask(port, b"GET /alive HTTP/1.1\r\n\r\n")
        paths = [one.get("url.path") for one in both.transactions()]
    assert paths.count("/alive") == 2


def _talk(sent: bytes, got: bytes) -> None:
    """Send one message each way over a new connection, and close it."""
    with socket.create_server((LOOPBACK, 0)) as listener, socket.socket() as client:
        client.connect(listener.getsockname())
        server, _ = listener.accept()
        with server:
            client.sendall(sent)
            server.recv(65536)
            if got:
                server.sendall(got)
                client.recv(65536)


def test_names_of_processes_and_sockets_are_escaped(both: Both, tmp_path: Path) -> None:
    """A comm and a Unix socket's path with escape sequences are as harmless as payloads."""
    path = str(tmp_path / "\x1b[31m\n.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        thread = threading.Thread(target=_serve_one, args=(listener,))
        thread.start()
        with socket.socket(socket.AF_UNIX) as client:
            client.connect(path)
            client.sendall(b"GET /unix HTTP/1.1\r\n\r\n")
            read_until(client, b"\x1b[2J")
        thread.join()
    found = [one for one in both.transactions() if one["network.transport"] == "unix"]
    assert [one["url.path"] for one in found] == ["/unix", "/unix"]
    assert any("[UNIX]" in line and "/unix" in line for line in both.text())


def _serve_one(listener: socket.socket) -> None:
    client, _ = listener.accept()
    with client:
        _serve_http(client)
