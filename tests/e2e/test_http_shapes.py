"""HTTP/1.x in the shapes that it has: each exchange is one transaction per side, whatever the segments."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.ports import LOOPBACK
from tests.support.programs import Agent
from tests.support.servers import scripted
from tests.support.wire import answer, exchange, pieces, read_until

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.servers import Nginx

pytestmark = [pytest.mark.root, pytest.mark.server("nginx")]

_CLOSE = b"Host: test\r\nConnection: close\r\n\r\n"
_NAP_S = 0.1
_HEAD_END = b"\r\n\r\n"


class Watch:
    """What the agent has seen of this process and nginx since the test began."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent
        self._before = len(agent.settle().objects)

    def by_role(self) -> dict[str, list[dict[str, Any]]]:
        """Return the transactions of each side, in the order in which they began."""
        found = [one for one in self._agent.settle().objects[self._before :] if "event" not in one]
        found.sort(key=lambda one: one["timestamp"])
        return {role: [one for one in found if one["role"] == role] for role in ("client", "server")}

    def is_seen(self, *expected: tuple[str, str, int | None]) -> None:
        """Hold that both sides have exactly these methods, paths and statuses, in this order."""
        for role, found in self.by_role().items():
            assert [_described(one) for one in found] == list(expected), role


def _described(found: dict[str, Any]) -> tuple[str, str, int | None]:
    status = found.get("http.response.status_code")
    return found.get("http.request.method", found["protocol"]), found.get("url.path", ""), status


@pytest.fixture(scope="module")
def agent(nginx: Nginx, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Agent]:
    """Run one agent that shows this process and nginx."""
    (nginx.files / "page.html").write_text('<!--#echo var="uri" -->\n' * 100)
    (nginx.files / "large.bin").write_bytes(bytes(5000))
    pids = [word for pid in (os.getpid(), nginx.worker) for word in ("--include", f"pid={pid}")]
    with Agent(tmp_path_factory.mktemp("agent"), "--log", "json", *pids) as running:
        yield running


@pytest.fixture
def watch(agent: Agent) -> Watch:
    """Look at what is seen from here on."""
    return Watch(agent)


def test_pipelined_requests_are_counted_one_by_one(nginx: Nginx, watch: Watch) -> None:
    """Three requests in one write: three transactions; what the payload prefix cut off is marked."""
    sent = [b"GET %s HTTP/1.1\r\nHost: a\r\n\r\n" % path for path in (b"/1", b"/missing")]
    assert exchange(nginx.port, b"".join(sent) + b"GET /3 HTTP/1.1\r\n" + _CLOSE).count(b"HTTP/1.1 ") == 3
    for side in watch.by_role().values():
        assert [one["url.path"] for one in side] == ["/1", "/missing", "/3"]
        for one, status in zip(side, (200, 404, 200), strict=True):
            assert one.get("http.response.status_code", status) == status
            assert one["truncated"] or "http.response.status_code" in one
        assert side[0]["http.response.status_code"] == 200


def test_100_continue_is_not_the_answer(nginx: Nginx, watch: Watch) -> None:
    """The client waits for 100 before its body: one transaction with the final status."""
    with socket.create_connection((LOOPBACK, nginx.port), 10) as client:
        client.sendall(
            b"PUT /files/new HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n"
        )
        assert b" 100 " in read_until(client, _HEAD_END)
        client.sendall(b"hello")
        assert b" 201 " in read_until(client, _HEAD_END)
        client.sendall(b"GET /next HTTP/1.1\r\n" + _CLOSE)
        read_until(client, b"never")
    watch.is_seen(("PUT", "/files/new", 201), ("GET", "/next", 200))


def test_a_head_request_has_no_body_to_wait_for(nginx: Nginx, watch: Watch) -> None:
    """The length that a HEAD's answer tells is not taken for bytes to come."""
    with socket.create_connection((LOOPBACK, nginx.port), 10) as client:
        client.sendall(b"HEAD /files/large.bin HTTP/1.1\r\nHost: a\r\n\r\n")
        assert b"Content-Length: 5000" in read_until(client, _HEAD_END)
        client.sendall(b"GET /next HTTP/1.1\r\n" + _CLOSE)
        read_until(client, b"never")
    watch.is_seen(("HEAD", "/files/large.bin", 200), ("GET", "/next", 200))


def test_chunked_answers_on_a_kept_connection(nginx: Nginx, watch: Watch) -> None:
    """Two chunked pages one after the other are two transactions."""
    with socket.create_connection((LOOPBACK, nginx.port), 10) as client:
        for _ in range(2):
            client.sendall(b"GET /files/page.html HTTP/1.1\r\nHost: a\r\n\r\n")
            assert b"chunked" in read_until(client, b"0\r\n\r\n")
    watch.is_seen(("GET", "/files/page.html", 200), ("GET", "/files/page.html", 200))


def test_a_chunked_request_in_many_segments(nginx: Nginx, watch: Watch) -> None:
    """Chunks that come one by one are one request, also when a chunk looks like a request."""
    chunks = [b"e\r\nGET / HTTP/1.1\r\n"] * 20
    with socket.create_connection((LOOPBACK, nginx.port), 10) as client:
        head = b"PUT /files/chunked HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n"
        pieces(client, [head, *chunks, b"0\r\n\r\n"])
        assert b" 201 " in read_until(client, _HEAD_END)
    watch.is_seen(("PUT", "/files/chunked", 201))


def test_a_status_line_in_pieces(watch: Watch) -> None:
    """A response that arrives byte by byte has its status all the same."""

    def serve(client: socket.socket) -> None:
        read_until(client, _HEAD_END)
        pieces(client, [bytes([byte]) for byte in b"HTTP/1.1 418"])
        client.sendall(b" I'm a teapot\r\nContent-Length: 0\r\n\r\n")

    with scripted(serve) as port:
        exchange(port, b"GET /tea HTTP/1.1\r\n" + _CLOSE)
        watch.is_seen(("GET", "/tea", 418))


def test_a_request_line_in_pieces(nginx: Nginx, watch: Watch) -> None:
    """A request that arrives byte by byte has its method and path all the same."""
    with socket.create_connection((LOOPBACK, nginx.port), 10) as client:
        pieces(client, [bytes([byte]) for byte in b"GET /slow?typed=1 HTTP"] + [b"/1.1\r\n" + _CLOSE])
        read_until(client, b"never")
    watch.is_seen(("GET", "/slow", 200))


def test_a_tunnel_is_opaque_after_connect(watch: Watch) -> None:
    """A proxy's CONNECT is reported with its status; what goes through the tunnel is not HTTP any more."""

    def serve(client: socket.socket) -> None:
        read_until(client, _HEAD_END)
        client.sendall(b"HTTP/1.1 200 Connection established\r\n\r\n")
        while data := client.recv(1000):
            client.sendall(data)

    with scripted(serve) as port, socket.create_connection((LOOPBACK, port), 10) as client:
        client.sendall(b"CONNECT db.example:443 HTTP/1.1\r\nHost: db.example:443\r\n\r\n")
        read_until(client, _HEAD_END)
        for _ in range(3):
            client.sendall(b"GET /inside HTTP/1.1\r\n\r\n")
            read_until(client, _HEAD_END)
        client.close()
        found = watch.by_role()
    for side in found.values():
        assert [one["protocol"] for one in side] == ["http", "tcp", "tcp", "tcp"]
        assert (side[0]["http.request.method"], side[0]["http.response.status_code"]) == ("CONNECT", 200)


def test_a_websocket_is_opaque_after_101(watch: Watch) -> None:
    """The upgrade is reported as 101; frames behind it are not HTTP, even if they look like it."""

    def serve(client: socket.socket) -> None:
        read_until(client, _HEAD_END)
        client.sendall(b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n")
        while client.recv(1000):
            client.sendall(b"HTTP/1.1 200 OK\r\n\r\n")

    with scripted(serve) as port, socket.create_connection((LOOPBACK, port), 10) as client:
        client.sendall(b"GET /chat HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n")
        read_until(client, _HEAD_END)
        for _ in range(3):
            client.sendall(b"GET /frame HTTP/1.1\r\n\r\n")
            read_until(client, _HEAD_END)
        client.close()
        found = watch.by_role()
    for side in found.values():
        assert [one["protocol"] for one in side] == ["http", "tcp", "tcp", "tcp"]
        assert side[0]["http.response.status_code"] == 101


@pytest.mark.parametrize("method", ["BREW", "M-SEARCH", "get", "X!#$%&'*+.^_`|~"])
def test_any_token_is_a_method(watch: Watch, method: str) -> None:
    """RFC 9110 section 9.1: methods are an open set."""

    def serve(client: socket.socket) -> None:
        read_until(client, _HEAD_END)
        client.sendall(answer(status=b"405 Method Not Allowed"))

    with scripted(serve) as port:
        exchange(port, method.encode() + b" /pot HTTP/1.1\r\n" + _CLOSE)
        watch.is_seen((method, "/pot", 405))


def test_http_1_0_without_a_length(nginx: Nginx, watch: Watch) -> None:
    """A version 1.0 request whose answer ends with the connection."""
    exchange(nginx.port, b"GET /old HTTP/1.0\r\n\r\n")
    watch.is_seen(("GET", "/old", 200))
    assert {one["network.protocol.version"] for side in watch.by_role().values() for one in side} == {"1.0"}


def test_headers_and_query_are_attributes(nginx: Nginx, watch: Watch) -> None:
    """Host, User-Agent, query and absolute targets are told apart."""
    exchange(nginx.port, b"GET /a?b=c&d HTTP/1.1\r\nUser-Agent: test/1\r\n" + _CLOSE)
    for side in watch.by_role().values():
        (found,) = side
        assert (found["url.path"], found["url.query"]) == ("/a", "b=c&d")
        assert (found["server.name"], found["user_agent.original"]) == ("test", "test/1")


def test_a_server_that_closes_without_an_answer(watch: Watch) -> None:
    """The request is there, as an error and without a status."""

    def serve(client: socket.socket) -> None:
        read_until(client, _HEAD_END)

    with scripted(serve) as port:
        exchange(port, b"GET /void HTTP/1.1\r\n" + _CLOSE)
        watch.is_seen(("GET", "/void", None))
    assert all(one["error"] for side in watch.by_role().values() for one in side)


def test_an_answer_before_the_request_is_whole(watch: Watch) -> None:
    """A server that refuses an upload early: one transaction with its status."""

    def serve(client: socket.socket) -> None:
        read_until(client, _HEAD_END)
        client.sendall(answer(b"too much", b"Connection: close", status=b"413 Content Too Large"))
        while client.recv(65536):
            pass

    with scripted(serve) as port, socket.create_connection((LOOPBACK, port), 10) as client:
        client.sendall(b"POST /upload HTTP/1.1\r\nHost: a\r\nContent-Length: 200000\r\n\r\n")
        read_until(client, b"too much")
        client.sendall(bytes(200_000))
        client.close()
        found = watch.by_role()
    for side in found.values():
        statuses = [one.get("http.response.status_code") for one in side if one["protocol"] == "http"]
        assert statuses == [413]


def test_answers_with_pauses_last_to_their_last_byte(watch: Watch) -> None:
    """A service whose bodies pause: from its second answer on durations reach to the last part."""

    def serve(client: socket.socket) -> None:
        while read_until(client, _HEAD_END):
            client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\n")
            for _ in range(3):
                time.sleep(_NAP_S)
                client.sendall(b"x")

    with scripted(serve) as port, socket.create_connection((LOOPBACK, port), 10) as client:
        for number in range(3):
            client.sendall(b"GET /report/%d HTTP/1.1\r\n\r\n" % number)
            read_until(client, b"xxx")
        client.close()
        watch.is_seen(*(("GET", f"/report/{number}", 200) for number in range(3)))
    for side in watch.by_role().values():
        for found in side[1:]:
            assert found["duration_ns"] == pytest.approx(3 * _NAP_S * 1e9, rel=0.2)
