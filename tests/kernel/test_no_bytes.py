"""Calls that move no bytes, or move them otherwise than it seems, do not disturb a turn."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from masdeepflow.schema import Flag, Kind, Role
from tests.support.stage import LOOPBACK, PORT, Gate, read

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.stage import Stage

pytestmark = pytest.mark.root

HOSTS = [LOOPBACK, "\0masdeepflow-test"]


def _peek(sock: socket.socket) -> None:
    assert sock.recv(100, socket.MSG_PEEK) == b"request"


def _read_nothing(sock: socket.socket) -> None:
    assert sock.recvmsg(0)[0] == b""  # recv(0) of Python makes no system call
    assert os.read(sock.fileno(), 0) == b""


def _again(sock: socket.socket) -> None:
    with pytest.raises(BlockingIOError):
        sock.recv(100, socket.MSG_DONTWAIT)


def _send_nothing(sock: socket.socket) -> None:
    sock.send(b"")
    sock.sendmsg([b"", b""])


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize(
    ("request_waits", "nothing_waits"),
    [(_peek, _again), (_read_nothing, _again), (_send_nothing, _send_nothing)],
    ids=["peek", "zero-read", "zero-send"],
)
def test_what_moves_no_bytes_changes_nothing(
    stage: Stage,
    host: str,
    request_waits: Callable[[socket.socket], None],
    nothing_waits: Callable[[socket.socket], None],
) -> None:
    """Peeking, EAGAIN and empty calls leave two turns of one segment each way."""
    arrived = Gate()

    def client(sock: socket.socket) -> None:
        for _ in range(2):
            sock.sendall(b"request")
            arrived.open()
            read(sock, 8)

    def server(sock: socket.socket) -> None:
        for _ in range(2):
            arrived.wait()
            request_waits(sock)
            read(sock, 7)
            nothing_waits(sock)
            sock.sendall(b"response")
        assert not sock.recv(1)

    stage.exchange(client, server, host)
    turns = stage.turns(Role.SERVER)
    assert [(turn.request, turn.response) for turn in turns] == [(b"request", b"response")] * 2
    assert [(turn.request_bytes, turn.request_segments) for turn in turns] == [(7, 1)] * 2
    assert [(turn.response_bytes, turn.response_segments) for turn in turns] == [(8, 1)] * 2
    assert len(stage.events(Kind.CLOSE, Role.SERVER)) == 1


def test_reads_of_a_part_are_added_up(stage: Stage) -> None:
    """A request read byte by byte is one request."""

    def client(sock: socket.socket) -> None:
        sock.sendall(b"0123456789")
        read(sock, 2)

    def server(sock: socket.socket) -> None:
        for _ in range(10):
            sock.recv(1)
        sock.sendall(b"ok")

    stage.exchange(client, server)
    turn = stage.turn(Role.SERVER)
    assert (turn.request, turn.request_bytes, turn.request_segments) == (b"0123456789", 10, 10)


def test_a_send_cut_short_counts_what_went(stage: Stage) -> None:
    """Sends that take only a part of their buffer add up to what the peer gets."""
    size = 8 << 20
    full = Gate()

    def client(sock: socket.socket) -> None:
        sock.settimeout(0)
        sent = sock.send(bytes(size))
        assert sent < size
        full.open()
        sock.settimeout(None)
        sock.sendall(bytes(size - sent))
        read(sock, 2)

    def server(sock: socket.socket) -> None:
        full.wait()
        left = size
        while left:
            left -= len(sock.recv(1 << 20))
        sock.sendall(b"ok")

    stage.exchange(client, server)
    for role in Role.CLIENT, Role.SERVER:
        turn = stage.turn(role)
        assert (turn.request_bytes, turn.response_bytes) == (size, 2)
        assert turn.request_segments > 1


def test_bytes_thrown_away_unread_have_no_payload(stage: Stage) -> None:
    """TCP's MSG_TRUNC leaves the buffer as it was: what stands there is not shown."""

    def client(sock: socket.socket) -> None:
        sock.sendall(b"request")
        read(sock, 2)

    def server(sock: socket.socket) -> None:
        buffer = bytearray(b"SECRET!")
        assert sock.recv_into(buffer, 7, socket.MSG_TRUNC) == 7
        assert buffer == b"SECRET!"
        sock.sendall(b"ok")

    stage.exchange(client, server)
    turn = stage.turn(Role.SERVER)
    assert (turn.request, turn.request_bytes) == (b"", 7)
    assert turn.flags & Flag.NO_PAYLOAD


def test_a_datagram_longer_than_the_buffer_shows_the_buffer_only(stage: Stage) -> None:
    """With MSG_TRUNC a UDP read returns the datagram's length: what lies behind the buffer is not read."""
    ready = Gate()

    def server() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((LOOPBACK, PORT))
            ready.open()
            buffer = bytearray(b"." * 100)
            size, client = sock.recvfrom_into(memoryview(buffer)[:4], 4, socket.MSG_TRUNC)
            assert (size, bytes(buffer[:8])) == (20, b"0123....")
            sock.sendto(b"ok", client)

    def client() -> None:
        ready.wait()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect((LOOPBACK, PORT))
            sock.send(b"01234567890123456789")
            read(sock, 2)

    stage.start(server)
    stage.start(client)
    turn = stage.turn(Role.SERVER)
    assert (turn.request, turn.response) == (b"0123", b"ok")


def test_the_notice_of_a_zero_copy_send_is_no_response(stage: Stage) -> None:
    """MSG_ZEROCOPY shows its payload; reading from the error queue that it is done moves no bytes."""
    so_zerocopy, msg_zerocopy = 60, 0x4000000

    def client(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, so_zerocopy, 1)
        sock.send(b"question", msg_zerocopy)
        assert read(sock, 6) == b"answer"
        sock.recvmsg(0, 100, socket.MSG_ERRQUEUE)

    def server(sock: socket.socket) -> None:
        read(sock, 8)
        sock.sendall(b"answer")

    stage.exchange(client, server)
    turn = stage.turn(Role.CLIENT)
    assert (turn.request, turn.response, turn.response_segments) == (b"question", b"answer", 1)


def test_a_report_from_the_error_queue_is_no_response(stage: Stage) -> None:
    """A datagram that came back with an error, read from the error queue, is not counted as received."""

    def client() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.setsockopt(socket.IPPROTO_IP, 11, 1)  # IP_RECVERR
            sock.connect((LOOPBACK, PORT))
            sock.send(b"nobody listens")
            with pytest.raises(ConnectionRefusedError):
                sock.recv(100)
            assert sock.recvmsg(100, 100, socket.MSG_ERRQUEUE)[0] == b"nobody listens"
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
                server.bind((LOOPBACK, PORT))
                sock.send(b"somebody listens")
                server.sendto(b"answer", server.recvfrom(100)[1])
                sock.recv(100)

    stage.start(client)
    unanswered, answered = stage.turns(Role.CLIENT)
    assert (unanswered.request, unanswered.response_bytes) == (b"nobody listens", 0)
    assert (answered.request, answered.response) == (b"somebody listens", b"answer")
