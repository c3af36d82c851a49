"""System calls and flags beside plain reads and writes."""

from __future__ import annotations

import os
import select
import socket
import struct
import tempfile

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

_MSG_TRUNC = 0x20
_SPLICED = b"through a pipe"
_SO_PEEK_OFF = 42


@behaviour("MSG_PEEK")
def _msg_peek(client: socket.socket, server: socket.socket) -> object:
    client.sendall(b"peekaboo")
    peeked = server.recv(4, socket.MSG_PEEK), server.recv(20, socket.MSG_PEEK)
    read = server.recv(20)
    server.setblocking(False)  # noqa: FBT003  # the socket module's signature
    return peeked, read, attempt(lambda: server.recv(1, socket.MSG_PEEK))


def _wait_in_kernel(sock: socket.socket) -> None:
    """Have it wait in the call itself, not in Python's own poll() before it, which a timeout brings."""
    sock.settimeout(None)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, int(WAIT_S * 1e6)))


def _recv_in_kernel(sock: socket.socket, count: int, flags: int) -> object:
    _wait_in_kernel(sock)
    return attempt(lambda: sock.recv(count, flags))


@behaviour("MSG_WAITALL, reader first", guarded=True)
def _msg_waitall_reader_first(client: socket.socket, server: socket.socket) -> object:
    with beside(lambda: _recv_in_kernel(server, 10, socket.MSG_WAITALL)) as result:
        settle()
        client.sendall(b"01234")
        settle()
        client.sendall(b"56789")
    return result


@behaviour("MSG_WAITALL, bytes first", guarded=True)
def _msg_waitall_bytes_first(client: socket.socket, server: socket.socket) -> object:
    client.sendall(b"01234")
    settle()
    with beside(lambda: _recv_in_kernel(server, 10, socket.MSG_WAITALL)) as result:
        settle()
        client.sendall(b"56789")
    return result


@behaviour("sendfile")
def _sendfile(client: socket.socket, server: socket.socket) -> object:
    with tempfile.TemporaryFile() as file:
        file.write(pattern(4, 500_000))
        file.flush()

        def send() -> None:
            client.settimeout(5)
            client.sendfile(file)
            client.shutdown(socket.SHUT_WR)

        with beside(send):
            return to_end(server)


@behaviour("splice into the socket")
def _splice_into_the_socket(client: socket.socket, server: socket.socket) -> object:
    out, into = os.pipe()
    try:
        os.write(into, b"through a pipe")
        return os.splice(out, client.fileno(), 14), exactly(server, 14)
    finally:
        os.close(out)
        os.close(into)


@behaviour("splice from the socket", guarded=True)
def _splice_from_the_socket(client: socket.socket, server: socket.socket) -> object:
    out, into = os.pipe()
    try:
        client.sendall(_SPLICED)
        settle()
        server.setblocking(False)  # noqa: FBT003  # the socket module's signature
        moved = attempt(lambda: os.splice(server.fileno(), into, len(_SPLICED)))
        return moved, os.read(out, 20) if moved == len(_SPLICED) else b""
    finally:
        os.close(out)
        os.close(into)


@behaviour("urgent data")
def _urgent_data(client: socket.socket, server: socket.socket) -> object:
    client.sendall(b"before")
    seen = [exactly(server, 6)]
    client.send(b"!", socket.MSG_OOB)
    events = readable(server)
    client.sendall(b"after")
    seen += [server.recv(1, socket.MSG_OOB), exactly(server, 5)]
    return events & select.POLLPRI, seen


@behaviour("urgent data behind unread data")
def _urgent_data_behind_unread_data(client: socket.socket, server: socket.socket) -> object:
    client.sendall(b"before")
    client.send(b"!", socket.MSG_OOB)
    client.sendall(b"after")
    seen = [exactly(server, 6)]
    readable(server)
    settle()
    return seen, attempt(lambda: server.recv(1, socket.MSG_OOB)), exactly(server, 5)


@behaviour("urgent data in line")
def _urgent_data_in_line(client: socket.socket, server: socket.socket) -> object:
    server.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    client.sendall(b"a")
    first = exactly(server, 1)
    client.send(b"b!", socket.MSG_OOB)
    return first, exactly(server, 2)


@behaviour("MSG_TRUNC discards", guarded=True)
def _msg_trunc_discards(client: socket.socket, server: socket.socket) -> object:
    client.sendall(b"discard+keep")
    settle()
    buffer = bytearray(b"........")
    count = server.recv_into(buffer, 8, _MSG_TRUNC)
    return count, bytes(buffer), exactly(server, 4)


@behaviour("MSG_TRUNC, reader first", guarded=True)
def _msg_trunc_reader_first(client: socket.socket, server: socket.socket) -> object:
    buffer = bytearray(b"........")
    _wait_in_kernel(server)
    with beside(lambda: server.recv_into(buffer, 8, _MSG_TRUNC)) as result:
        settle()
        client.sendall(b"discard+keep")
    return result, bytes(buffer), exactly(server, 4)


@behaviour("SO_PEEK_OFF")
def _so_peek_off(client: socket.socket, server: socket.socket) -> object:
    client.sendall(b"x")
    first = exactly(server, 1)
    server.setsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF, 0)
    client.sendall(b"abcdef")
    settle()
    return first, [server.recv(2, socket.MSG_PEEK) for _ in range(3)], server.recv(10)
