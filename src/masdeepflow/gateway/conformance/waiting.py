"""How applications learn that there is something to read."""

from __future__ import annotations

import array
import fcntl
import select
import socket
import struct
import termios

from masdeepflow.gateway.conformance.table import (
    SETTLE_S,
    WAIT_S,
    attempt,
    behaviour,
    beside,
    exactly,
    queued,
    readable,
    settle,
)

_TCP_INQ = 36


@behaviour("FIONREAD")
def _fionread(client: socket.socket, server: socket.socket) -> object:
    counts = [queued(server)]
    for size in (10, 1, 5000):
        client.sendall(bytes(size))
        readable(server)
        settle()
        counts.append(queued(server))
    for size in (4, 5007):
        exactly(server, size)
        counts.append(queued(server))
    server.sendall(b"abc")
    readable(client)
    return counts, queued(client)


@behaviour("poll, level-triggered")
def _poll_level_triggered(client: socket.socket, server: socket.socket) -> object:
    seen = [readable(server, 0)]
    client.sendall(b"ab")
    seen += [readable(server), readable(server, 0)]
    server.recv(1)
    seen.append(readable(server, 0))
    server.recv(1)
    seen.append(readable(server, 0))
    with beside(lambda: readable(server)) as events:
        settle()
        client.sendall(b"c")
    return seen, list(events)


@behaviour("epoll, edge-triggered")
def _epoll_edge_triggered(client: socket.socket, server: socket.socket) -> object:
    poll = select.epoll()
    poll.register(server, select.EPOLLIN | select.EPOLLET | select.EPOLLRDHUP)
    try:
        client.sendall(b"ab")
        seen = [poll.poll(WAIT_S), poll.poll(0)]
        client.sendall(b"cd")
        seen.append(poll.poll(WAIT_S))
        server.recv(10)
        seen.append(poll.poll(0))
        client.shutdown(socket.SHUT_WR)
        seen.append(poll.poll(WAIT_S))
        return [[event for _, event in events] for events in seen]
    finally:
        poll.close()


@behaviour("SO_RCVLOWAT")
def _so_rcvlowat(client: socket.socket, server: socket.socket) -> object:
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 4)
    client.sendall(b"ab")
    seen = [readable(server, SETTLE_S)]
    client.sendall(b"cd")
    return [*seen, readable(server)], server.recv(10)


@behaviour("SO_RCVLOWAT set when bytes have come")
def _so_rcvlowat_set_when_bytes_have_come(client: socket.socket, server: socket.socket) -> object:
    client.sendall(b"xyz")
    first = exactly(server, 3)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 4)
    client.sendall(b"ab")
    seen = [readable(server, SETTLE_S)]
    client.sendall(b"cd")
    return first, [*seen, readable(server)], server.recv(10)


@behaviour("SO_RCVTIMEO")
def _so_rcvtimeo(client: socket.socket, server: socket.socket) -> object:
    server.settimeout(None)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 20_000))
    empty = attempt(lambda: server.recv(1))
    client.sendall(b"now")
    return empty, server.recv(10), attempt(lambda: server.recv(1))


@behaviour("nothing to read")
def _nothing_to_read(_client: socket.socket, server: socket.socket) -> object:
    server.settimeout(None)
    return attempt(lambda: server.recv(1, socket.MSG_DONTWAIT)), server.recv(0, socket.MSG_DONTWAIT)


@behaviour("TCP_INQ")
def _tcp_inq(client: socket.socket, server: socket.socket) -> object:
    client.sendall(b"x")
    first = exactly(server, 1)
    server.setsockopt(socket.IPPROTO_TCP, _TCP_INQ, 1)
    client.sendall(b"abcdef")
    readable(server)
    settle()
    data, ancillary, _, _ = server.recvmsg(2, 64)
    return first, data, ancillary


@behaviour("SIOCOUTQ after all was read", dangerous=False)
def _siocoutq_after_all_was_read(client: socket.socket, server: socket.socket) -> object:
    client.sendall(b"abc")
    exactly(server, 3)
    settle()
    count = array.array("i", [0])
    fcntl.ioctl(client, termios.TIOCOUTQ, count)
    return count[0]
