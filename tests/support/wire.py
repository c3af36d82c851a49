"""Bytes over sockets, as exactly as a test wants them."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

from tests.support.ports import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["answer", "exchange", "pieces", "read_until"]

_PAUSE_S = 0.005


def read_until(sock: socket.socket, end: bytes) -> bytes:
    """Read until the bytes end with `end`, or to the end of the stream."""
    data = b""
    while not data.endswith(end) and (chunk := sock.recv(65536)):
        data += chunk
    return data


def pieces(sock: socket.socket, parts: Iterable[bytes]) -> None:
    """Send each part as a segment of its own."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for part in parts:
        sock.sendall(part)
        time.sleep(_PAUSE_S)


def exchange(port: int, data: bytes, host: str = LOOPBACK) -> bytes:
    """Send all of `data`, then read to the end of the stream."""
    with socket.create_connection((host, port), 10) as client:
        client.sendall(data)
        return read_until(client, b"\0never\0")


def answer(body: bytes = b"ok", *lines: bytes, status: bytes = b"200 OK") -> bytes:
    """Return an HTTP response with a body of known length."""
    head = (b"HTTP/1.1 " + status, b"Content-Length: %d" % len(body), *lines, b"", b"")
    return b"\r\n".join(head) + body
