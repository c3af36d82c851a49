"""Both ends of connections; most of the rules are told in test_endpoints.py and test_flows.py."""

from __future__ import annotations

import numpy as np
import pytest

from masdeepflow.enrich.directory import Directory
from masdeepflow.enrich.end import FACTS, EndColumns, Party, owner_of
from masdeepflow.enrich.peers import Peers, have_flow
from masdeepflow.schema import Role, Transport


def _facts(count: int, **fields: object) -> np.ndarray:
    """Return the facts (n,) of clients on TCP, each from a port of its own."""
    facts = np.zeros(count, FACTS)
    facts["role"], facts["transport"], facts["remote_port"] = Role.CLIENT, Transport.TCP, 80
    facts["local_port"] = 5000 + np.arange(count)
    for name, value in fields.items():
        facts[name] = value
    return facts


def _reversed(facts: np.ndarray) -> np.ndarray:
    other = facts.copy()
    other["role"], other["local_port"], other["remote_port"] = Role.SERVER, 80, facts["local_port"]
    return other


class _Table:
    """Ends of process 1 and process 2."""

    def __init__(self, directory: Directory | None = None) -> None:
        self.directory = directory or Directory()
        self.ends = EndColumns()
        self.peers = Peers(self.ends, self.directory)

    def add(self, facts: np.ndarray, pid: int) -> tuple[np.ndarray, bool]:
        """Return the codes of new ends, and whether old ones have other peers now."""
        identity = self.directory.identity(pid, f"p{pid}", 0)
        role, transport = int(facts["role"][0]), int(facts["transport"][0])
        party = Party(pid, f"p{pid}", identity, owner_of(identity, role, transport), role, transport)
        codes = self.ends.new(facts, [party], np.zeros(len(facts), np.intp))
        return codes, self.peers.meet(codes)

    def pids(self, codes: np.ndarray) -> list[object]:
        """Return the PID of each end's peer."""
        return [dict(end.peer).get("peer.process.pid") for end in self.ends.take(codes)]


@pytest.mark.parametrize("count", [1, 300])
def test_ends_that_were_looked_at_are_others_when_their_peer_comes(count: int) -> None:
    """Who has made something of an endpoint keeps what it was."""
    table = _Table()
    clients, changed = table.add(_facts(count), 1)
    assert not changed
    before = list(table.ends.take(clients))
    servers, changed = table.add(_reversed(_facts(count)), 2)
    assert changed
    assert (table.pids(clients), table.pids(servers)) == ([2] * count, [1] * count)
    assert all(end.peer == () for end in before)
    assert not table.peers.again([*clients.tolist(), *servers.tolist()])


def test_an_end_that_leaves_is_still_the_peer_of_the_other() -> None:
    """Its last records come later."""
    table = _Table()
    clients, _ = table.add(_facts(3), 1)
    servers, _ = table.add(_reversed(_facts(3)), 2)
    table.peers.leave(clients[:2])
    assert not table.peers.again(servers.tolist())
    assert table.pids(servers) == [1, 1, 1]


def test_sockets_of_unknown_role_or_peer_have_no_other_end() -> None:
    """Neither have they a name by their address."""
    directory = Directory()
    directory.learn_names([("::", "example", 10**12)], 0)
    table = _Table(directory)
    for facts in (_facts(2, role=Role.UNKNOWN), _facts(2, nowhere=True, transport=Transport.UDP)):
        assert not have_flow(facts).any()
        codes, changed = table.add(facts, 1)
        assert not changed
        assert [end.peer for end in table.ends.take(codes)] == [(), ()]
        table.peers.leave(codes)
    named, _ = table.add(_facts(1), 1)
    assert [dict(end.peer) for end in table.ends.take(named)] == [
        {"peer.service.name": "example", "peer.dns.name": "example"}
    ]


def test_a_unix_socket_learns_its_peers_cookie_from_it() -> None:
    """Only the one that comes second knows the first; a socket without a cookie is nobody's peer."""
    unix = {"transport": Transport.UNIX, "nowhere": True}
    table = _Table()
    first, _ = table.add(_facts(1, cookie=5, **unix), 1)
    second, changed = table.add(_facts(1, cookie=6, peer_cookie=5, **unix), 2)
    assert changed
    assert (table.pids(first), table.pids(second)) == ([2], [1])
    assert table.ends.facts["peer_cookie"][first] == 6
    strange, changed = table.add(_facts(2, cookie=0, **unix), 2)
    assert (table.pids(strange), changed) == ([None, None], False)
    table.peers.leave(np.concatenate((first, second, strange)))
    assert not table.peers._by_socket
