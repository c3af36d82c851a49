"""Golden signals: counted in the kernel, exact whether or not the ring had room."""

from __future__ import annotations

import socket
import threading
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from masdeepflow.kernel.probes import Probes
from masdeepflow.schema import Flag, Kind, Role
from tests.support.histogram import bucket
from tests.support.stage import LOOPBACK, PORT, Gate, Stage, listen, read

if TYPE_CHECKING:
    from collections.abc import Callable

    from masdeepflow.kernel.probes import ServiceSignals
    from tests.support.stage import Actor, Slot

pytestmark = pytest.mark.root

TINY_RING = 1 << 12


def _ask(sock: socket.socket) -> None:
    sock.sendall(b"question")
    read(sock, 6)


def _answer(sock: socket.socket) -> None:
    read(sock, 8)
    sock.sendall(b"answer")


def _times(count: int, act: Callable[[socket.socket], None]) -> Callable[[socket.socket], None]:
    def play(sock: socket.socket) -> None:
        for _ in range(count):
            act(sock)

    return play


def _of(stage: Stage, actor: Actor) -> ServiceSignals:
    """Return the only service of a process."""
    assert stage.probes is not None
    (service,) = (service for service in stage.probes.services() if service.pid == actor.pid)
    return service


def _signals(stage: Stage, service: ServiceSignals) -> np.ndarray:
    assert stage.probes is not None
    return stage.probes._per_cpu("signals", service.index)


def _histogram(stage: Stage, service: ServiceSignals) -> list[int]:
    return [int(count) for count in _signals(stage, service)["turns_histogram"].sum(axis=0)]


def _expected(turns: list[Slot]) -> list[int]:
    counts = [0] * 208
    for turn in turns:
        counts[bucket(turn.duration_ns)] += 1
    return counts


def test_signals_equal_the_slots(counting: Stage) -> None:
    """Count, bytes, durations and histogram of a service are those of its turns."""

    def answer_slowly(sock: socket.socket) -> None:
        for pause_s in (0, 0.001, 0.003, 0.01, 0.02, 0.045):
            for _ in range(5):
                read(sock, 8)
                time.sleep(pause_s)
                sock.sendall(b"answer")

    asking, serving = counting.exchange(_times(30, _ask), answer_slowly)
    for role, actor in ((Role.CLIENT, asking), (Role.SERVER, serving)):
        turns = counting.turns(role)
        service = _of(counting, actor)
        assert (service.turns, service.lost, service.port, service.role) == (30, 0, PORT, role)
        assert service.comm == turns[0].comm
        assert {turn.service for turn in turns} == {service.index}
        assert _histogram(counting, service) == _expected(turns)
        signals = _signals(counting, service)
        assert int(signals["duration_ns"].sum()) == sum(turn.duration_ns for turn in turns)
        assert int(signals["request_bytes"].sum()) == 30 * 8
        assert int(signals["response_bytes"].sum()) == 30 * 6


def test_every_byte_that_moved_is_in_the_signals(counting: Stage) -> None:
    """Those of a server that speaks first, and of a response that goes on after a pause, too."""

    def serve(sock: socket.socket) -> None:
        sock.sendall(b"greeting")
        for pause_s in (0, 0.12, 0):
            read(sock, 8)
            sock.sendall(b"answer")
            time.sleep(pause_s)
            sock.sendall(b" and its rest")

    def ask(sock: socket.socket) -> None:
        read(sock, 8)
        for _ in range(3):
            sock.sendall(b"question")
            read(sock, 6 + 13)

    for role, actor in zip((Role.CLIENT, Role.SERVER), counting.exchange(ask, serve), strict=True):
        turns = counting.turns(role)
        assert any(turn.flags & Flag.SERVER_FIRST for turn in turns)
        assert any(turn.flags & Flag.CONTINUED for turn in turns)
        close = counting.event(Kind.CLOSE, role)
        service = _of(counting, actor)
        assert service.moved_bytes == close.request_bytes + close.response_bytes == 8 + 3 * (8 + 6 + 13)
        assert service.turns == 3


def test_a_request_without_response_counts_without_duration(counting: Stage) -> None:
    """An unanswered request is a turn in the count, and in no bucket."""

    def client(sock: socket.socket) -> None:
        sock.sendall(b"question")
        assert not sock.recv(1)

    asking, _ = counting.exchange(client, lambda sock: read(sock, 8))
    counting.settle()
    service = _of(counting, asking)
    assert service.turns == 1
    assert sum(_histogram(counting, service)) == 0


@pytest.mark.parametrize("ring_bytes", [TINY_RING, 1 << 14, 1 << 16])
def test_seen_and_lost_are_all_that_was_sent(ring_bytes: int) -> None:
    """However small the ring, turns seen and turns lost add up to the turns made, for each service."""
    count = 3000
    with Probes(ring_bytes=ring_bytes) as probes, Stage(probes, may_lose=True) as stage:
        actors = stage.exchange(_times(count, _ask), _times(count, _answer))
        stage.settle()
        for actor, role in zip(actors, (Role.CLIENT, Role.SERVER), strict=True):
            service = _of(stage, actor)
            seen = stage.turns(role)
            assert service.turns == count
            assert len(seen) + service.lost == count
            assert int(service.lost_histogram.sum()) == service.lost
            lost = (np.array(_histogram(stage, service)) - service.lost_histogram).tolist()
            assert lost == _expected(seen)
            assert [turn.request for turn in seen] == [b"question"] * len(seen)
        assert ring_bytes > TINY_RING or probes.counters()["lost_ring_full"] > count


def test_events_that_found_the_ring_full_are_counted(stage: Stage) -> None:
    """Connection events have a loss counter of their own."""
    with Probes(ring_bytes=TINY_RING) as probes:
        asking, _ = stage.exchange(_times(50, _ask), _times(50, _answer))
        while not asking.ended():
            time.sleep(0.005)
        assert probes.counters()["lost_event_ring_full"] >= 1
        assert probes.counters()["lost_ring_full"] >= 50


def test_sweeps_beside_requests_count_each_turn_once(counting: Stage) -> None:
    """A turn that a sweep finds idle just when the next request comes is written and counted once."""
    connections, rounds = 16, 60
    ready = Gate()

    def serve() -> None:
        with listen() as listener:
            ready.open()
            pairs = [listener.accept()[0] for _ in range(connections)]
        for _ in range(rounds):
            for sock in pairs:
                _answer(sock)

    def ask() -> None:
        ready.wait()
        clients = [socket.create_connection((LOOPBACK, PORT)) for _ in range(connections)]
        for number in range(rounds):
            started = time.monotonic_ns()
            for sock in clients:
                _ask(sock)
            idle = started + 30_000_000 + number % 20 * 25_000
            while time.monotonic_ns() < idle:
                pass

    serving, asking = counting.start(serve), counting.start(ask)
    while not asking.ended():
        counting.drain()
    turns = counting.turns()
    ids = [(turn.cookie, turn.turn) for turn in turns if not turn.flags & Flag.CONTINUED]
    assert len(ids) == len(set(ids)) == 2 * connections * rounds
    assert _of(counting, asking).turns == _of(counting, serving).turns == connections * rounds


def test_threads_that_send_and_receive_at_once_lose_no_bytes(counting: Stage) -> None:
    """However the bytes of both directions interleave, the turns add up to them, each written once."""
    pieces, size = 4000, 10

    def both_ways(sock: socket.socket) -> None:
        def send() -> None:
            for _ in range(pieces):
                sock.sendall(b"x" * size)

        sending = threading.Thread(target=send)
        sending.start()
        read(sock, pieces * size)
        sending.join()

    counting.exchange(both_ways, both_ways)
    for role in (Role.CLIENT, Role.SERVER):
        turns = counting.turns(role)
        ids = [(turn.cookie, turn.turn) for turn in turns if not turn.flags & Flag.CONTINUED]
        assert len(ids) == len(set(ids))
        assert sum(turn.request_bytes for turn in turns) == pieces * size
        assert sum(turn.response_bytes for turn in turns) == pieces * size
        close = counting.event(Kind.CLOSE, role)
        assert (close.request_bytes, close.response_bytes) == (pieces * size, pieces * size)
