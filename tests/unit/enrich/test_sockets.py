"""Ends by socket."""

from __future__ import annotations

import numpy as np
import pytest

from masdeepflow.enrich.end import FACTS
from masdeepflow.enrich.sockets import Sockets
from masdeepflow.schema import Transport


def _add(sockets: Sockets, *pairs: tuple[int, int], transport: Transport = Transport.TCP) -> None:
    codes, facts = _ends(*pairs, transport=transport)
    sockets.add(codes, facts)


def _ends(*pairs: tuple[int, int], transport: Transport = Transport.TCP) -> tuple[np.ndarray, np.ndarray]:
    facts = np.zeros(len(pairs), FACTS)
    facts["cookie"] = [cookie for cookie, _ in pairs]
    facts["transport"] = transport
    return np.array([code for _, code in pairs], np.int32), facts


@pytest.mark.parametrize("cookie", [1, 2**42 - 1, 2**64 - 1])
def test_a_socket_has_the_ends_of_all_its_processes(cookie: int) -> None:
    """Those that come at once as those that come later; once it is closed, none."""
    sockets = Sockets()
    _add(sockets, (cookie, 4))
    assert sockets.users(cookie) == [4]
    assert sockets.shared(np.array([cookie], np.uint64)) == []
    _add(sockets, (7, 1), (cookie, 5), (cookie, 6))
    assert sockets.users(cookie) == [4, 5, 6]
    assert sockets.shared(np.array([7, cookie], np.uint64)) == [cookie]
    assert sorted(sockets.take([cookie, cookie, 99]).tolist()) == [4, 5, 6]
    assert (sockets.users(cookie), sockets.users(7), len(sockets)) == ([], [1], 1)


def test_one_process_may_go_before_the_others() -> None:
    """Nothing is left of a socket that nobody has."""
    sockets = Sockets()
    _add(sockets, (1, 4), (1, 5), (2, 6))
    sockets.remove(*_ends((1, 4), (2, 6)))
    assert (sockets.users(1), sockets.users(2)) == ([5], [])
    sockets.remove(*_ends((1, 5)))
    assert len(sockets) == 0


def test_peers_of_a_udp_socket_are_no_processes_of_it() -> None:
    """It may have thousands."""
    sockets = Sockets()
    _add(sockets, (1, 4), (1, 5), transport=Transport.UDP)
    assert (len(sockets), sockets.users(1)) == (0, [])
    sockets.remove(*_ends((1, 4), transport=Transport.UDP))
