"""Services: a bounded number of indices in the golden signals, given back and given again."""

from __future__ import annotations

import socket
from typing import TYPE_CHECKING

import pytest

from masdeepflow.kernel.probes import Probes
from masdeepflow.schema import MAX_SERVICES
from tests.support.stage import LOOPBACK, RING_BYTES, Stage, listen, read

if TYPE_CHECKING:
    from collections.abc import Iterable

pytestmark = pytest.mark.root


def _serve_ports(ports: Iterable[int], rounds: int = 1) -> None:
    """Ask and answer on each port: one service more for each, on both sides."""
    pairs = []
    for port in ports:
        with listen(LOOPBACK, port) as listener:
            client = socket.create_connection((LOOPBACK, port))
            pairs.append((client, listener.accept()[0]))
    for _ in range(rounds):
        for client, server in pairs:
            client.sendall(b"question")
            read(server, 8)
            server.sendall(b"answer")
            read(client, 6)


def test_more_services_than_there_is_room_for_are_counted_together() -> None:
    """Turns of services that found no index are all counted, under one for the rest, and say so."""
    ports = range(10000, 10000 + MAX_SERVICES // 2 + 20)
    total = 2 * 3 * len(ports)
    with Probes(ring_bytes=RING_BYTES) as probes, Stage(probes) as stage:
        actor = stage.start(lambda: _serve_ports(ports, 3))
        turns = stage.turns()
        services = probes.services()
        overflow = services[-1]
        known = [service for service in services if service.pid == actor.pid]
        assert len(turns) == total
        assert overflow.index == 0
        assert 0 < len(known) < MAX_SERVICES
        unnamed = sum(turn.service == overflow.index for turn in turns)
        assert sum(service.turns for service in known) == total - unnamed
        # What else runs on the host may be among the rest.
        assert overflow.turns >= unnamed >= 3 * (2 * len(ports) - MAX_SERVICES + 1)
        counted = probes.counters()["lost_service_full"]
        assert overflow.turns <= counted <= probes.services()[-1].turns


def test_a_freed_service_makes_room() -> None:
    """Connections that found no index get one that was freed; whoever has it goes on with its counts."""
    ports = range(10000, 10000 + MAX_SERVICES // 2 + 20)
    with Probes(ring_bytes=RING_BYTES) as probes, Stage(probes) as stage:
        gone = stage.start(lambda: _serve_ports(ports))
        stage.settle()
        theirs = [service for service in probes.services() if service.pid == gone.pid]
        freed = {probes.forget_service(service.key): service.turns for service in theirs}
        assert set(freed) == {service.index for service in theirs}
        actor = stage.start(lambda: _serve_ports(ports[:50], 2))
        stage.settle()
        new = [service for service in probes.services() if service.pid == actor.pid]
        assert len(new) == 2 * 50
        assert {service.index for service in new} <= set(freed)
        assert {service.turns - freed[service.index] for service in new} == {2}


def test_forgetting_what_is_not_known_does_nothing() -> None:
    """A key without a service is no error."""
    with Probes(ring_bytes=1 << 20) as probes:
        assert probes.forget_service(bytes(8)) is None
