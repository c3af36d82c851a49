"""Bodies that take seconds: latency is from the first byte to the last, however the bytes move."""

from __future__ import annotations

import os
import socket
import tempfile
import threading
import time
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support.ports import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.conftest import StartAgent
    from tests.support.servers import Nginx

pytestmark = [pytest.mark.root, pytest.mark.server("nginx")]

_BYTES = 200 * 1024 * 1024
_CHUNK = 1024 * 1024
_SECONDS = 4.0
_ATTEMPTS = 3
_LONGEST_STALL_NS = 20_000_000
"""When a busy machine holds nginx up for longer, the answer really pauses, which is another test's matter."""


class _Read(NamedTuple):
    """size: bytes. duration: ns from request to last byte. stall: the longest wait for bytes, in ns."""

    size: int
    duration: int
    stall: int


def _read_slowly(port: int, path: str) -> _Read:
    """Read an answer at an even pace."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        client.connect((LOOPBACK, port))
        start = time.monotonic_ns()
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: files\r\nConnection: close\r\n\r\n".encode())
        return _drain(client, start)


def _drain(client: socket.socket, start: int) -> _Read:
    got, last, stall, asked = 0, start, 0, start
    while chunk := client.recv(_CHUNK):
        last = time.monotonic_ns()
        got += len(chunk)
        stall = max(stall, last - asked)
        ahead_s = got / _BYTES * _SECONDS - (last - start) / 1e9
        if ahead_s > 0:
            time.sleep(ahead_s)
        asked = time.monotonic_ns()
    return _Read(got, last - start, stall)


def test_a_file_sent_with_sendfile_to_a_slow_reader_lasts_to_its_last_byte(
    nginx: Nginx, start_agent: StartAgent
) -> None:
    """200 MB in about 4 s: both sides report the duration that the client measured, within 2 %."""
    with (nginx.files / "large").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, _BYTES)
    agent = start_agent("--log", "json", ports=[nginx.port])
    for attempt in range(_ATTEMPTS):
        read = _read_slowly(nginx.port, f"/files/large?{attempt}")
        if read.stall < _LONGEST_STALL_NS:
            break
    found = [one for one in agent.settle().transactions if one["url.query"] == str(attempt)]
    assert sorted(one["role"] for one in found) == ["client", "server"]
    assert read.duration > 0.9 * _SECONDS * 1e9
    for one in found:
        assert one["url.path"] == "/files/large"
        assert one["response_bytes"] == read.size > _BYTES
        assert one["duration_ns"] == pytest.approx(read.duration, rel=0.02)
        assert one["ttfb_ns"] < read.duration / 10


_UPLOAD = 20 * 1024 * 1024


def _take_slowly(sock: socket.socket) -> None:
    """Read a request of `_UPLOAD` bytes behind its head at an even pace, in a second; answer it."""
    got, start = 0, time.monotonic()
    head = b""
    while b"\r\n\r\n" not in head:
        head += sock.recv(1)
    while got < _UPLOAD:
        got += len(sock.recv(_CHUNK // 4))
        time.sleep(max(0.0, got / _UPLOAD - (time.monotonic() - start)))
    sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nok")


@contextmanager
def _slow_server() -> Iterator[int]:
    """Serve one request; yield the port."""
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        listener.bind((LOOPBACK, 0))
        listener.listen()

        def serve() -> None:
            with listener.accept()[0] as sock:
                _take_slowly(sock)

        serving = threading.Thread(target=serve)
        serving.start()
        yield int(listener.getsockname()[1])
        serving.join()


def _put_file(port: int, target: str) -> int:
    """Send a file as Python does, by sendfile; return the nanoseconds until the whole answer was there."""
    head = f"PUT {target} HTTP/1.1\r\nHost: files\r\nContent-Length: {_UPLOAD}\r\nConnection: close\r\n\r\n"
    with tempfile.TemporaryFile() as file, socket.create_connection((LOOPBACK, port)) as client:
        file.truncate(_UPLOAD)
        start = time.monotonic_ns()
        client.sendall(head.encode())
        client.sendfile(file)
        answer = b""
        while chunk := client.recv(4096):
            answer += chunk
        assert answer.endswith(b"ok")
        return time.monotonic_ns() - start


def test_a_file_put_with_sendfile_to_a_slow_reader_lasts_from_its_first_byte(start_agent: StartAgent) -> None:
    """20 MB in a second: the client's request, and its duration, is what the client measured."""
    with _slow_server() as port:
        agent = start_agent("--log", "json", ports=[port])
        took = _put_file(port, "/upload/file")
        found = agent.settle().transactions
    assert sorted(one["role"] for one in found) == ["client", "server"]
    for one in found:
        assert one["url.path"] == "/upload/file"
        assert one["request_bytes"] > _UPLOAD
        assert one["duration_ns"] == pytest.approx(took, rel=0.05)


def test_an_upload_that_nginx_hands_on_lasts_as_long_at_each_hop(
    nginx: Nginx, start_agent: StartAgent
) -> None:
    """It takes the whole file first: its own request begins then, and lasts as long as its server's."""
    with _slow_server() as port:
        agent = start_agent("--log", "json", ports=[nginx.port, port])
        took = _put_file(nginx.port, f"/upload/?port={port}")
        found = agent.settle().transactions
    at = {(one["server.port"], one["role"]): one for one in found}
    assert len(found) == len(at) == 4
    for role in ("client", "server"):
        asked, handed_on = at[nginx.port, role], at[port, role]
        assert asked["request_bytes"] > _UPLOAD < handed_on["request_bytes"]
        assert asked["duration_ns"] == pytest.approx(took, rel=0.05)
        assert 0.95e9 < handed_on["duration_ns"] < asked["duration_ns"]
    assert at[port, "client"]["duration_ns"] == pytest.approx(at[port, "server"]["duration_ns"], rel=0.05)
