"""Golden signals: counted in the kernel, exact whether or not the ring had room."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from masdeepflow.kernel.probes import Probes
from masdeepflow.schema import Flag, Role
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


def _of(probes: Probes, actor: Actor) -> ServiceSignals:
    """Return the only service of a process."""
    (service,) = (service for service in probes.services() if service.pid == actor.pid)
    return service


def _histogram(probes: Probes, service: ServiceSignals) -> list[int]:
    signals = probes._per_cpu("signals", service.index)
    return [int(count) for count in signals["turns_histogram"].sum(axis=0)]


def _expected(turns: list[Slot]) -> list[int]:
    counts = [0] * 208
    for turn in turns:
        counts[bucket(turn.duration_ns)] += 1
    return counts


def test_signals_equal_the_slots(stage: Stage, probes: Probes) -> None:
    """Count, bytes, durations and histogram of a service are those of its turns."""

    def answer_slowly(sock: socket.socket) -> None:
        for pause_s in (0, 0.001, 0.003, 0.01, 0.02, 0.045):
            for _ in range(5):
                read(sock, 8)
                time.sleep(pause_s)
                sock.sendall(b"answer")

    asking, serving = stage.exchange(_times(30, _ask), answer_slowly)
    for role, actor in ((Role.CLIENT, asking), (Role.SERVER, serving)):
        turns = stage.turns(role)
        service = _of(probes, actor)
        assert (service.turns, service.lost, service.port, service.role) == (30, 0, PORT, role)
        assert service.comm == turns[0].comm
        assert {turn.service for turn in turns} == {service.index}
        assert _histogram(probes, service) == _expected(turns)
        signals = probes._per_cpu("signals", service.index)
        assert int(signals["duration_ns"].sum()) == sum(turn.duration_ns for turn in turns)
        assert int(signals["request_bytes"].sum()) == 30 * 8
        assert int(signals["response_bytes"].sum()) == 30 * 6


def test_a_request_without_response_counts_without_duration(stage: Stage, probes: Probes) -> None:
    """An unanswered request is a turn in the count, and in no bucket."""

    def client(sock: socket.socket) -> None:
        sock.sendall(b"question")
        assert not sock.recv(1)

    asking, _ = stage.exchange(client, lambda sock: read(sock, 8))
    stage.settle()
    service = _of(probes, asking)
    assert service.turns == 1
    assert sum(_histogram(probes, service)) == 0


@pytest.mark.parametrize("ring_bytes", [TINY_RING, 1 << 14, 1 << 16])
def test_seen_and_lost_are_all_that_was_sent(ring_bytes: int) -> None:
    """However small the ring, turns seen and turns lost add up to the turns made, for each service."""
    count = 3000
    with Probes(ring_bytes=ring_bytes) as probes, Stage(probes) as stage:
        actors = stage.exchange(_times(count, _ask), _times(count, _answer))
        stage.settle()
        for actor, role in zip(actors, (Role.CLIENT, Role.SERVER), strict=True):
            service = _of(probes, actor)
            seen = stage.turns(role)
            assert service.turns == count
            assert len(seen) + service.lost == count
            assert int(service.lost_histogram.sum()) == service.lost
            lost = (np.array(_histogram(probes, service)) - service.lost_histogram).tolist()
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


def test_sweeps_beside_requests_count_each_turn_once(stage: Stage, probes: Probes) -> None:
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

    serving, asking = stage.start(serve), stage.start(ask)
    while not asking.ended():
        stage.drain()
    turns = stage.turns()
    ids = [(turn.cookie, turn.turn) for turn in turns if not turn.flags & Flag.CONTINUED]
    assert len(ids) == len(set(ids)) == 2 * connections * rounds
    assert _of(probes, asking).turns == _of(probes, serving).turns == connections * rounds
