"""Answers that take seconds: latency is time to the last byte, however the bytes move."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.ports import LOOPBACK

if TYPE_CHECKING:
    from tests.e2e.conftest import StartAgent
    from tests.support.servers import Nginx

pytestmark = [pytest.mark.root, pytest.mark.server("nginx")]

_BYTES = 200 * 1024 * 1024
_CHUNK = 1024 * 1024
_SECONDS = 4.0


def _read_slowly(port: int, path: str) -> tuple[int, int]:
    """Read an answer at an even pace; return its bytes and the ns from request to last byte."""
    with socket.socket() as client:
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        client.connect((LOOPBACK, port))
        start = time.monotonic_ns()
        client.sendall(f"GET {path} HTTP/1.1\r\nHost: files\r\nConnection: close\r\n\r\n".encode())
        return _drain(client, start)


def _drain(client: socket.socket, start_ns: int) -> tuple[int, int]:
    got, last = 0, start_ns
    while chunk := client.recv(_CHUNK):
        last = time.monotonic_ns()
        got += len(chunk)
        ahead_s = got / _BYTES * _SECONDS - (last - start_ns) / 1e9
        if ahead_s > 0:
            time.sleep(ahead_s)
    return got, last - start_ns


def test_a_file_sent_with_sendfile_to_a_slow_reader_lasts_to_its_last_byte(
    nginx: Nginx, start_agent: StartAgent
) -> None:
    """200 MB in about 4 s: both sides report the duration that the client measured, within 2 %."""
    with (nginx.files / "large").open("wb") as file:
        os.posix_fallocate(file.fileno(), 0, _BYTES)
    agent = start_agent("--log", "json", ports=[nginx.port])
    size, measured_ns = _read_slowly(nginx.port, "/files/large")
    found = {one["role"]: one for one in agent.settle().transactions}
    assert measured_ns > 3.5e9
    assert found.keys() == {"client", "server"}
    for one in found.values():
        assert one["url.path"] == "/files/large"
        assert one["response_bytes"] == size > _BYTES
        assert one["duration_ns"] == pytest.approx(measured_ns, rel=0.02)
        assert one["ttfb_ns"] < measured_ns / 10
