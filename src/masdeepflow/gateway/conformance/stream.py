"""The bytes, their order and their end, and who holds the sockets."""

from __future__ import annotations

import contextlib
import hashlib
import os
import random
import socket
import struct
import threading
from typing import TYPE_CHECKING

from masdeepflow.gateway.conformance.table import (
    WAIT_S,
    attempt,
    behaviour,
    beside,
    exactly,
    pattern,
    readable,
    settle,
    to_end,
)

if TYPE_CHECKING:
    from collections.abc import Callable

_LARGE = 3 << 20
_LONG_S = 5.0
"""A slow machine takes half a second to make up what is sent, and other behaviours run meanwhile."""


@behaviour("byte order")
def _byte_order(client: socket.socket, server: socket.socket) -> object:
    sizes = random.Random(1)  # noqa: S311  # not for secrets
    pieces = [pattern(seed, sizes.choice((1, 7, 64, 4096, 65537, 300_000))) for seed in range(40)]

    def send() -> None:
        for piece in pieces:
            client.sendall(piece)
        client.shutdown(socket.SHUT_WR)

    with beside(send):
        return to_end(server)


@behaviour("server speaks first")
def _server_speaks_first(client: socket.socket, server: socket.socket) -> object:
    server.sendall(b"greeting")
    greeting = exactly(client, 8)
    client.sendall(b"query")
    return greeting, exactly(server, 5)


@behaviour("both directions at once")
def _both_directions_at_once(client: socket.socket, server: socket.socket) -> object:
    def send(sock: socket.socket, data: bytes) -> None:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)

    for sock in client, server:
        sock.settimeout(_LONG_S)
    forth, back = pattern(1, _LARGE), pattern(2, _LARGE)
    with (
        beside(lambda: send(client, forth)),
        beside(lambda: send(server, back)),
        beside(lambda: to_end(client)) as seen,
    ):
        at_server = to_end(server)
    return at_server, seen


@behaviour("half-close, and end of file after pending data")
def _half_close_and_end_of_file_after_pending_data(client: socket.socket, server: socket.socket) -> object:
    client.sendall(b"last words")
    client.shutdown(socket.SHUT_WR)
    settle()
    events = readable(server)
    first = server.recv(4), readable(server)
    rest = exactly(server, 6), server.recv(1), readable(server)
    server.sendall(b"answer")
    return events, first, rest, exactly(client, 6), attempt(lambda: client.send(b"x"))


@behaviour("close after pending data")
def _close_after_pending_data(client: socket.socket, server: socket.socket) -> object:
    client.sendall(b"0123456789" * 1000)
    client.close()
    settle()
    return to_end(server), readable(server)


@behaviour("reset (SO_LINGER 0)")
def _reset_so_linger_0(client: socket.socket, server: socket.socket) -> object:
    client.sendall(b"data")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    settle()
    return (
        attempt(lambda: server.recv(10)),
        attempt(lambda: server.recv(10)),
        attempt(lambda: server.send(b"x")),
    )


@behaviour("reset when closed with unread data")
def _reset_when_closed_with_unread_data(client: socket.socket, server: socket.socket) -> object:
    server.sendall(b"first")
    exactly(client, 2)
    client.close()
    readable(server)
    settle()
    return attempt(lambda: server.recv(1)), attempt(lambda: server.send(b"x"))


@behaviour("SO_LINGER")
def _so_linger(client: socket.socket, server: socket.socket) -> object:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 1))
    client.sendall(bytes(100_000))
    with beside(client.close):
        return to_end(server)


@behaviour("TCP_NODELAY and TCP_CORK", dangerous=False)
def _tcp_nodelay_and_tcp_cork(client: socket.socket, server: socket.socket) -> object:
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.sendall(b"a")
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    client.sendall(b"b")
    client.sendall(b"c", socket.MSG_MORE)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
    options = [client.getsockopt(socket.IPPROTO_TCP, name) for name in (socket.TCP_NODELAY, socket.TCP_CORK)]
    return options, exactly(server, 3)


@behaviour("keep-alive", dangerous=False)
def _keep_alive(client: socket.socket, server: socket.socket) -> object:
    for sock in (client, server):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    client.sendall(b"a")
    first = exactly(server, 1)
    threading.Event().wait(1.2)
    server.sendall(b"b")
    return first, exactly(client, 1)


def _in_child(work: Callable[[], None]) -> int:
    child = os.fork()
    if not child:
        code = 1
        with contextlib.suppress(BaseException):
            work()
            code = 0
        os._exit(code)
    return os.waitpid(child, 0)[1]


@behaviour("fork", dangerous=False)
def _fork(client: socket.socket, server: socket.socket) -> object:
    client.sendall(b"to the child")

    def serve() -> None:
        server.sendall(exactly(server, 12).upper())

    status = _in_child(serve)
    server.sendall(b" and parent")
    return status, exactly(client, 23)


@behaviour("SCM_RIGHTS", dangerous=False)
def _scm_rights(client: socket.socket, server: socket.socket) -> object:
    left, right = socket.socketpair()
    with left, right:
        client.sendall(b"before")
        socket.send_fds(left, [b"x"], [server.fileno()])
        _, descriptors, _, _ = socket.recv_fds(right, 1, 1)
        server.close()
        with socket.socket(fileno=descriptors[0]) as passed:
            passed.settimeout(WAIT_S)
            client.sendall(b"+after")
            got = exactly(passed, 12)
            passed.sendall(got)
            return got, exactly(client, 12)


@behaviour("write after shutdown")
def _write_after_shutdown(client: socket.socket, server: socket.socket) -> object:
    client.sendall(b"a")
    client.shutdown(socket.SHUT_WR)
    refused = attempt(lambda: client.send(b"b"))
    return refused, to_end(server)


@behaviour("write to a closed peer")
def _write_to_a_closed_peer(client: socket.socket, server: socket.socket) -> object:
    client.sendall(b"a")
    exactly(server, 1)
    server.close()
    settle()
    first = attempt(lambda: client.send(b"b"))
    settle()
    return first, attempt(lambda: client.send(b"c")), attempt(lambda: client.recv(1))


@behaviour("vectors")
def _vectors(client: socket.socket, server: socket.socket) -> object:
    client.sendmsg([b"one", b"", b"two" * 10_000])
    parts = [bytearray(3), bytearray(10)]
    count = server.recvmsg_into(parts)[0]
    return count, parts, hashlib.md5(exactly(server, 29_990)).hexdigest()  # noqa: S324  # not for secrets
