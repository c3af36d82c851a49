"""The HTTP server and client, against each other and against raw bytes."""

from __future__ import annotations

import contextlib
import http.client
import time
from typing import TYPE_CHECKING

import pytest

from masdeepflow.traffic_gen import http as traffic_http
from masdeepflow.traffic_gen import net

if TYPE_CHECKING:
    import socket
    from collections.abc import Callable, Iterator

    from masdeepflow.traffic_gen.net import Handle


def _exchange(port: int, request: bytes) -> bytes:
    """Send ``request`` and return all that comes before the server closes."""
    with net.connect("127.0.0.1", port) as sock:
        sock.sendall(request)
        with sock.makefile("rb") as answer:
            return answer.read()


def _bodies(answers: bytes) -> list[bytes]:
    return [part.partition(b"\r\n\r\n")[2] for part in answers.split(b"HTTP/1.1 ")[1:]]


def test_keep_alive_and_pipelining(serve: Callable[[Handle], int]) -> None:
    """One connection carries many requests, answered in their order."""
    port = serve(traffic_http.handler())
    answers = _exchange(
        port, b"GET /1 HTTP/1.1\r\nHost: x\r\n\r\nGET /2 HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    )
    assert _bodies(answers) == [b"GET /1\n", b"GET /2\n"]


@pytest.mark.parametrize(
    "body",
    [
        pytest.param(b"Content-Length: 14\r\n\r\nGET /no HTTP/1", id="length"),
        pytest.param(
            b"Transfer-Encoding: chunked\r\n\r\n5;x=y\r\nGET /\r\n2\r\nno\r\n0\r\nA: b\r\n\r\n", id="chunked"
        ),
    ],
)
def test_body_is_not_taken_for_a_request(serve: Callable[[Handle], int], body: bytes) -> None:
    """A request body is read away before the next request is looked for."""
    port = serve(traffic_http.handler())
    answers = _exchange(
        port, b"POST /a HTTP/1.1\r\n" + body + b"GET /b HTTP/1.1\r\nConnection: close\r\n\r\n"
    )
    assert _bodies(answers) == [b"POST /a\n", b"GET /b\n"]


@pytest.mark.parametrize("header", [b"Content-Length: x", b"Transfer-Encoding: chunked"])
def test_unreadable_length_is_refused(serve: Callable[[Handle], int], header: bytes) -> None:
    """Without a length the end of the request is unknown: 400 and the connection ends."""
    port = serve(traffic_http.handler())
    answer = _exchange(port, b"POST / HTTP/1.1\r\n" + header + b"\r\n\r\nzz\r\n")
    assert answer.startswith(b"HTTP/1.1 400 ")


def test_head_has_no_body(serve: Callable[[Handle], int]) -> None:
    """HEAD announces the length of the body and leaves it out."""
    port = serve(traffic_http.handler())
    with contextlib.closing(http.client.HTTPConnection("127.0.0.1", port)) as connection:
        connection.request("HEAD", "/x")
        response = connection.getresponse()
        assert (response.status, response.headers["Content-Length"], response.read()) == (200, "8", b"")


def test_path_comes_back_byte_for_byte(serve: Callable[[Handle], int]) -> None:
    """The server shows the path it was sent, whatever its encoding."""
    port = serve(traffic_http.handler())
    answer = _exchange(port, b"GET /\xc3\xa4?q=\xff HTTP/1.1\r\nConnection: close\r\n\r\n")
    assert _bodies(answer) == [b"GET /\xc3\xa4?q=\xff\n"]


def test_delay_is_a_lower_bound(serve: Callable[[Handle], int]) -> None:
    """An answer comes no sooner than the delay after its request."""
    port = serve(traffic_http.handler(delay_s=0.05))
    with contextlib.closing(traffic_http.Client("127.0.0.1", port, "/")) as client:
        assert client.get()[2] >= 50_000_000


@pytest.mark.parametrize(("keepalive", "connections"), [(True, 1), (False, 3)])
def test_client_keepalive(serve: Callable[[Handle], int], *, keepalive: bool, connections: int) -> None:
    """With keepalive all requests share one connection, without it each has its own."""
    peers = set()
    answer = traffic_http.handler()

    def handle(sock: socket.socket, address: tuple[str, int], server: net.Server) -> None:
        peers.add(address)
        answer(sock, address, server)

    client = traffic_http.Client("127.0.0.1", serve(handle), "/", keepalive=keepalive)
    with contextlib.closing(client):
        for _ in range(3):
            assert client.get()[:2] == ("HTTP/1.1 200 OK", 6)
    assert len(peers) == connections


def test_client_encodes_the_path(serve: Callable[[Handle], int]) -> None:
    """A path is sent with what a request line may not hold percent-encoded, and the rest as typed."""
    received = []

    def handle(sock: socket.socket, _address: object, _server: object) -> None:
        received.append(sock.recv(4096).partition(b"\r\n")[0])
        sock.sendall(b"HTTP/1.0 204 No Content\r\n\r\n")

    client = traffic_http.Client("127.0.0.1", serve(handle), "/a b\r\nX: ä?q=%20&r=\udcff")
    assert client.get()[0] == "HTTP/1.0 204 No Content"
    assert received == [b"GET /a%20b%0D%0AX:%20%C3%A4?q=%20&r=%FF HTTP/1.1"]


@pytest.mark.parametrize(
    "answer", [b"", b"5.7.44\0hello\r\n", b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nfour"]
)
def test_client_says_what_it_got(serve: Callable[[Handle], int], answer: bytes) -> None:
    """No answer, another protocol's, or half of one is a sentence that names the server."""

    def handle(sock: socket.socket, _address: object, _server: object) -> None:
        sock.recv(4096)
        sock.sendall(answer)

    port = serve(handle)
    with pytest.raises(net.TrafficError, match=rf"127\.0\.0\.1:{port} gave no complete HTTP answer"):
        traffic_http.Client("127.0.0.1", port, "/").get()


def test_client_gives_up_on_silence(serve: Callable[[Handle], int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that says nothing is given up, with a sentence."""
    monkeypatch.setattr(traffic_http, "ANSWER_TIMEOUT_S", 0.05)
    port = serve(lambda sock, *_: sock.recv(4096) and sock.recv(4096))
    with pytest.raises(net.TrafficError, match="gave no HTTP answer in"):
        traffic_http.Client("127.0.0.1", port, "/").get()


def test_summary_counts_by_status() -> None:
    """The summary holds the number of requests, their statuses and percentiles."""
    result = traffic_http.Result()
    for status, latency_ns in (
        ("HTTP/1.1 200 OK", 1_000_000),
        ("HTTP/1.1 200 OK", 3_000_000),
        ("x", 2_000_000),
    ):
        result.add(status, latency_ns)
    assert result.summary(2.0) == (
        "3 requests in 2.00 s (1.5/s): 2 x HTTP/1.1 200 OK, 1 x x; latency p50 2.00 ms, p99 3.00 ms"
    )


class _Interrupted(traffic_http.Client):
    """A client whose user presses Ctrl-C during the third request."""

    def __init__(self) -> None:
        super().__init__("127.0.0.1", 1, "/")
        self._answers: Iterator[tuple[str, int, int]] = iter([("HTTP/1.1 200 OK", 0, 1_000_000)] * 2)

    def get(self) -> tuple[str, int, int]:
        for answer in self._answers:
            return answer
        raise KeyboardInterrupt


def test_interrupt_ends_with_the_summary(capsys: pytest.CaptureFixture[str]) -> None:
    """SIGINT ends a run early, and what was done is summed up."""
    traffic_http.run_client(_Interrupted(), 100)
    assert capsys.readouterr().out.startswith("2 requests in ")


def test_long_runs_show_progress(serve: Callable[[Handle], int], capsys: pytest.CaptureFixture[str]) -> None:
    """A run of more than ten requests prints progress on stderr each second instead of status lines."""
    port = serve(traffic_http.handler(delay_s=0.1))
    start = time.monotonic()
    traffic_http.run_client(traffic_http.Client("127.0.0.1", port, "/", keepalive=True), 12)
    assert time.monotonic() - start >= 1.2
    captured = capsys.readouterr()
    assert captured.out.count("\n") == 1
    assert captured.err.startswith("1 s: ")
    assert captured.err.endswith(" of 12 requests\n")
