"""queue_ns: how long a request lay in the server's socket buffer before it was read."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import pytest

from masdeepflow.kernel.probes import Probes
from masdeepflow.schema import Role
from tests.support.stage import RING_BYTES, Gate, Stage, read

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.root

MILLISECOND = 1_000_000


def _ask(sock: socket.socket) -> None:
    sock.sendall(b"question")
    read(sock, 6)


def _serve_late(sock: socket.socket) -> None:
    """Let each of three requests wait for 50 ms, but not the second."""
    for number in range(3):
        while not sock.recv(8, socket.MSG_PEEK):
            pass
        time.sleep(0 if number == 1 else 0.05)
        read(sock, 8)
        sock.sendall(b"answer")


def _ask_three_times(sock: socket.socket) -> None:
    for _ in range(3):
        _ask(sock)


def _assert_waits(stage: Stage) -> None:
    first, second, third = stage.turns(Role.SERVER)
    assert first.queue_ns >= 50 * MILLISECOND <= third.queue_ns
    # The client had the previous response before it asked.
    had = [turn.response_last_ns for turn in stage.turns(Role.CLIENT)]
    assert 0 < second.queue_ns <= second.request_first_ns - had[0]
    assert third.queue_ns <= third.request_first_ns - had[1]


@pytest.mark.parametrize("host", ["127.0.0.1", "::1"])
def test_a_server_that_reads_late_shows_the_wait(stage: Stage, host: str) -> None:
    """Each request's wait is its own: long, short, long. A client has none."""
    stage.exchange(_ask_three_times, _serve_late, host)
    _assert_waits(stage)
    assert {turn.queue_ns for turn in stage.turns(Role.CLIENT)} == {0}


def test_waiting_for_accept_counts(stage: Stage) -> None:
    """A request that came before its connection was accepted has waited since then."""
    asked = Gate()

    def client(sock: socket.socket) -> None:
        sock.sendall(b"question")
        asked.open()
        read(sock, 6)

    def server(sock: socket.socket) -> None:
        asked.wait()
        time.sleep(0.05)
        read(sock, 8)
        sock.sendall(b"answer")

    stage.exchange(client, server)
    assert stage.turn(Role.SERVER).queue_ns >= 50 * MILLISECOND


def test_a_request_that_comes_while_the_server_still_sends_has_its_wait(stage: Stage) -> None:
    """A pipelined request arrives before the response to the first has gone; its wait is not forgotten."""
    sent = Gate()

    def client(sock: socket.socket) -> None:
        sock.sendall(b"question")
        sock.recv(1)
        sock.sendall(b"question")
        sent.open()
        read(sock, 12)

    def server(sock: socket.socket) -> None:
        read(sock, 8)
        sock.sendall(b"an")
        sent.wait()
        sock.sendall(b"swer.")
        time.sleep(0.05)
        read(sock, 8)
        sock.sendall(b"answer")

    stage.exchange(client, server)
    first, second = stage.turns(Role.SERVER)
    assert (first.response, second.response) == (b"answer.", b"answer")
    assert second.queue_ns >= 50 * MILLISECOND


def test_an_older_connection_has_its_waits(stage: Stage) -> None:
    """The first request of a connection older than the agent is timed as well."""
    ready, go = (Gate(), Gate()), (Gate(), Gate())

    def late(number: int, act: Callable[[socket.socket], None]) -> Callable[[socket.socket], None]:
        def play(sock: socket.socket) -> None:
            ready[number].open()
            go[number].wait()
            act(sock)

        return play

    stage.probes = None
    stage.exchange(late(0, _ask_three_times), late(1, _serve_late))
    for gate in ready:
        gate.wait()
    with Probes(ring_bytes=RING_BYTES) as stage.probes:
        for gate in go:
            gate.open()
        _assert_waits(stage)


def test_it_can_be_switched_off() -> None:
    """Without queue_time the hook is not there, and no wait is shown."""
    with Probes(ring_bytes=RING_BYTES, queue_time=False) as probes, Stage(probes) as stage:
        stage.exchange(_ask_three_times, _serve_late)
        assert [turn.queue_ns for turn in stage.turns(Role.SERVER)] == [0, 0, 0]
        assert "on_data_ready" not in probes._descriptors
