"""Answers that take seconds: latency is time to the last byte, however the bytes move."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING, NamedTuple

import pytest

from tests.support.ports import LOOPBACK

if TYPE_CHECKING:
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
