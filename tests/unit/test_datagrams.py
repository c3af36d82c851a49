"""What the kernel side is told about UDP: which ports are followed one by one, and which sockets are not."""

from __future__ import annotations

import numpy as np

from masdeepflow.datagrams import Datagrams
from masdeepflow.schema import Role
from tests.support.slots import make_slots, turn


def _turns(*ports: int, role: Role = Role.CLIENT) -> np.ndarray:
    side = "local_port" if role == Role.SERVER else "remote_port"
    slots = make_slots(*(turn(b"?", role=role) for _ in ports))
    slots[side] = ports
    return slots


def _strange(cookie: int, count: int) -> np.ndarray:
    return np.resize(make_slots(turn(b"?", cookie=cookie)), count)


def test_ports_are_told_once() -> None:
    """Those known from the start first, then each port on which a protocol is recognised."""
    datagrams = Datagrams([53])
    assert datagrams.take() == ([53], [])
    assert datagrams.take() == ([], [])
    datagrams.recognised(_turns(53, 5300, 5300))
    datagrams.recognised(_turns(5400, role=Role.SERVER))
    datagrams.recognised(_turns(5300))
    assert datagrams.take() == ([5300, 5400], [])


def test_ports_are_bounded() -> None:
    """Nobody can have all of a host's UDP written to the ring."""
    datagrams = Datagrams([53], port_limit=3)
    datagrams.recognised(_turns(*range(1000, 2000)))
    assert datagrams.take()[0] == [53, 1000, 1001, 1002]


def test_a_socket_of_strange_datagrams_is_left() -> None:
    """After too many of them, and once; a few are nothing."""
    datagrams = Datagrams([], patience=10)
    datagrams.strange(_strange(1, 10))
    datagrams.strange(_strange(2, 3))
    assert datagrams.take() == ([], [])
    datagrams.strange(_strange(1, 1))
    datagrams.strange(_strange(1, 50))
    assert datagrams.take() == ([], [1])


def test_sockets_are_bounded() -> None:
    """Those seen longest ago are forgotten, whoever takes what there is to tell or not."""
    datagrams = Datagrams([], patience=0)
    slots = np.resize(make_slots(turn(b"?")), 10_000)
    slots["cookie"] = np.arange(len(slots))
    datagrams.strange(slots)
    assert len(datagrams._strange) == 4096
    assert len(datagrams.take()[1]) == 4096
