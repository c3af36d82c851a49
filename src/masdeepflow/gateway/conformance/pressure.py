"""A slow reader blocks its writer, and memory does not grow."""

from __future__ import annotations

import contextlib
import hashlib
import select
import socket
import struct
import threading

from masdeepflow.gateway.conformance.table import (
    ENDLESS,
    attempt,
    behaviour,
    beside,
    error_name,
    pattern,
    queued,
)


def _fill(sock: socket.socket) -> tuple[int, str]:
    """Send until the socket takes no more; return how much it took, as a digest too."""
    sock.setblocking(False)  # noqa: FBT003  # the socket module's signature
    digest, sent, chunk = hashlib.blake2b(digest_size=16), 0, pattern(3, 1 << 16)
    with contextlib.suppress(BlockingIOError):
        while sent < ENDLESS:
            count = sock.send(chunk)
            digest.update(chunk[:count])
            sent += count
    return sent, digest.hexdigest()


def _drain(sock: socket.socket, count: int) -> tuple[int, str]:
    digest, got = hashlib.blake2b(digest_size=16), 0
    while got < count and (data := sock.recv(min(1 << 18, count - got))):
        digest.update(data)
        got += len(data)
    return got, digest.hexdigest()


def _writable(sock: socket.socket, seconds: float) -> bool:
    return bool(select.select([], [sock], [], seconds)[1])


@behaviour("back-pressure, non-blocking")
def _back_pressure_non_blocking(client: socket.socket, server: socket.socket) -> object:
    sent, expected = _fill(client)
    full = _writable(client, 0)
    got = _drain(server, sent)
    with contextlib.suppress(BlockingIOError):
        again = _writable(client, 2) and client.send(b"more")
    return sent < ENDLESS, full, got == (sent, expected), again, server.recv(10)


@behaviour("back-pressure, small buffers", dangerous=False)
def _back_pressure_small_buffers(client: socket.socket, server: socket.socket) -> object:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    sent, expected = _fill(client)
    counted = queued(server) > 0
    return sent < 8 << 20, counted, _drain(server, sent) == (sent, expected), _writable(client, 2)


@behaviour("FIONREAD and edges of a slow reader")
def _fionread_and_edges_of_a_slow_reader(client: socket.socket, server: socket.socket) -> object:
    """As nginx reads: until a short read or an FIONREAD of zero, then it waits for an edge."""
    total = ENDLESS // 4

    def send() -> None:
        client.settimeout(5)
        client.sendall(bytes(total))
        client.shutdown(socket.SHUT_WR)

    server.setblocking(False)  # noqa: FBT003  # the socket module's signature
    poll = select.epoll()
    poll.register(server, select.EPOLLIN | select.EPOLLET | select.EPOLLRDHUP)
    got = 0
    with beside(send):
        threading.Event().wait(0.1)
        while got < total and poll.poll(2):
            while data := attempt(lambda: server.recv(1 << 18)):
                if not isinstance(data, bytes):
                    break
                got += len(data)
                if not queued(server):
                    break
    poll.close()
    return got == total


@behaviour("SO_SNDTIMEO")
def _so_sndtimeo(client: socket.socket, server: socket.socket) -> object:
    client.settimeout(None)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 50_000))
    sent = 0
    error: object = None
    while sent < ENDLESS and error is None:
        try:
            sent += client.send(bytes(1 << 18))
        except OSError as caught:
            error = error_name(caught)
    return error, _drain(server, sent)[0] == sent
