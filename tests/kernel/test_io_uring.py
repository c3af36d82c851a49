"""io_uring: bytes and time are counted, the payload is missing, and never is another call's buffer shown."""

from __future__ import annotations

import os
import socket
import time
from typing import TYPE_CHECKING

import pytest

from masdeepflow.schema import Flag, Role
from tests.support import io_uring
from tests.support.stage import Gate, read

if TYPE_CHECKING:
    from tests.support.stage import Slot, Stage

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(io_uring.disabled(), reason="this host forbids io_uring (kernel.io_uring_disabled)"),
]

MILLISECOND = 1_000_000


def _assert_counted(turn: Slot) -> None:
    assert (turn.request_bytes, turn.response_bytes) == (8, 6)
    assert (turn.request, turn.response) == (b"", b"")
    assert turn.flags & Flag.NO_PAYLOAD
    assert 0 < turn.request_first_ns < turn.response_last_ns


@pytest.mark.parametrize("worker", [False, True], ids=["inline", "worker"])
def test_a_turn_over_io_uring_has_bytes_and_times(stage: Stage, *, worker: bool) -> None:
    """Whether the caller or a worker thread moves them, bytes count under the right process."""

    def client(sock: socket.socket) -> None:
        with io_uring.Ring() as ring:
            ring.send(sock.fileno(), b"question", 1, worker=worker)
            assert ring.wait() == (1, 8)
            buffer = ring.receive(sock.fileno(), 100, 2, worker=worker)
            assert ring.wait() == (2, 6)
            assert buffer.value == b"answer"

    def server(sock: socket.socket) -> None:
        with io_uring.Ring() as ring:
            ring.receive(sock.fileno(), 100, 1, worker=worker)
            assert ring.wait() == (1, 8)
            time.sleep(0.02)
            ring.send(sock.fileno(), b"answer", 2, worker=worker)
            assert ring.wait() == (2, 6)

    asking, serving = stage.exchange(client, server)
    for role, actor in ((Role.CLIENT, asking), (Role.SERVER, serving)):
        turn = stage.turn(role)
        _assert_counted(turn)
        assert turn.pid == actor.pid
        assert turn.duration_ns >= (20 if role == Role.SERVER else 0) * MILLISECOND


def test_bytes_received_behind_another_calls_back_are_not_that_calls(stage: Stage) -> None:
    """A receive that completes while the process writes to a pipe does not show what it writes."""
    waiting = Gate()

    def client(sock: socket.socket) -> None:
        reading, writing = os.pipe()
        with io_uring.Ring() as ring:
            ring.send(sock.fileno(), b"question", 1)
            assert ring.wait() == (1, 8)
            buffer = ring.receive(sock.fileno(), 6, 2)
            waiting.open()
            while not ring.completed():
                os.write(writing, b"SECRET")
                os.read(reading, 6)
            assert buffer.raw == b"answer"

    def server(sock: socket.socket) -> None:
        read(sock, 8)
        waiting.wait()
        time.sleep(0.02)
        sock.sendall(b"answer")

    stage.exchange(client, server)
    _assert_counted(stage.turn(Role.CLIENT))


def test_bytes_received_while_another_call_waits_are_not_that_calls(stage: Stage) -> None:
    """A receive that completes while the process sleeps in read or recv of something else shows neither."""
    waiting = Gate()

    def client(sock: socket.socket) -> None:
        other, peer = socket.socketpair()
        with io_uring.Ring() as ring:
            ring.send(sock.fileno(), b"question", 1)
            assert ring.wait() == (1, 8)
            buffer = ring.receive(sock.fileno(), 6, 2)
            waiting.open()
            other.settimeout(None)
            if not os.fork():
                time.sleep(0.1)
                peer.sendall(b"SECRET")
                os._exit(0)
            assert other.recv(6) == b"SECRET"
            assert ring.wait() == (2, 6)
            assert buffer.raw == b"answer"

    def server(sock: socket.socket) -> None:
        read(sock, 8)
        waiting.wait()
        time.sleep(0.02)
        sock.sendall(b"answer")

    stage.exchange(client, server)
    turns = [turn for turn in stage.turns(Role.CLIENT) if turn.request_bytes == 8]
    assert len(turns) == 1
    _assert_counted(turns[0])
