"""Ends of one connection, found by their addresses."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from masdeepflow.enrich import flows as module
from masdeepflow.enrich.addresses import words_of
from masdeepflow.enrich.end import FACTS
from masdeepflow.enrich.flows import NO_END, Flows, keys_of
from masdeepflow.schema import Role, Transport

if TYPE_CHECKING:
    import pytest

    from masdeepflow.enrich.identity import Attributes

_OTHER = {Role.CLIENT: Role.SERVER, Role.SERVER: Role.CLIENT}


class _End(NamedTuple):
    """One end's view of a connection of port 5000 of a client."""

    role: Role
    server: str = "10.0.0.2"
    port: int = 80
    netns: int = 1
    transport: Transport = Transport.TCP
    client_port: int = 5000


def _client(server: str = "10.0.0.2", port: int = 80, netns: int = 1) -> _End:
    return _End(Role.CLIENT, server, port, netns)


def _server(server: str = "10.0.0.2", port: int = 80, netns: int = 2) -> _End:
    return _End(Role.SERVER, server, port, netns)


def _facts(ends: list[_End]) -> np.ndarray:
    facts = np.zeros(len(ends), FACTS)
    for fact, end in zip(facts, ends, strict=True):
        mine, theirs = ("local", "remote") if end.role == Role.CLIENT else ("remote", "local")
        fact[mine], fact[theirs] = words_of("10.0.0.1") or (), words_of(end.server) or ()
        fact[f"{mine}_port"], fact[f"{theirs}_port"] = end.client_port, end.port
        fact["role"], fact["transport"], fact["netns"] = end.role, end.transport, end.netns
    return facts


class _Peers:
    """Who the peer of each end was last said to be: an end, or what one was that is gone."""

    def __init__(self) -> None:
        self.flows = Flows()
        self.of: dict[int, int | Attributes] = {}

    def add(self, *ends: tuple[_End, int]) -> int | Attributes:
        """Add ends at once; return the peer of the last."""
        facts = _facts([end for end, _ in ends])
        codes = np.array([code for _, code in ends], np.int32)
        self._take(self.flows.add(codes, keys_of(facts), facts["role"]))
        return self.of[ends[-1][1]]

    def again(self, *codes: int) -> int | Attributes | None:
        """Have ends meet again; return the peer of the last."""
        self._take(self.flows.again([*codes]))
        return self.of[codes[-1]] if codes else None

    def _take(self, met: module.Met) -> None:
        assert len(set(met.codes.tolist())) == len(met.codes)
        for code, other, gone in zip(*(column.tolist() for column in met), strict=True):
            self.of[code] = (gone or ()) if other == NO_END else other

    def remove(self, *codes: int) -> None:
        """Remove ends; each is remembered by its number."""
        as_peers = np.fromiter(((("peer.process.pid", code),) for code in codes), np.object_, len(codes))
        self.flows.remove(np.array(codes, np.int32), as_peers)
        for code in codes:
            del self.of[code]


def _was(code: int) -> Attributes:
    return (("peer.process.pid", code),)


def test_the_other_side_has_the_same_addresses_and_the_other_role() -> None:
    """In whichever order they come; a third that looks the same is no peer."""
    peers = _Peers()
    peers.add((_client(), 1))
    peers.add((_server(), 2))
    peers.add((_client(), 3))
    assert peers.of == {1: 2, 2: 3, 3: 2}
    assert peers.add((_server(port=81), 4)) == ()


def test_transports_and_loopback_namespaces_are_apart() -> None:
    """UDP is not TCP, and each namespace's loopback is its own."""
    peers = _Peers()
    peers.add((_client(), 1))
    assert peers.add((_server()._replace(transport=Transport.UDP), 2)) == ()
    peers.add((_client("127.0.0.1", netns=1), 3))
    assert peers.add((_server("127.0.0.1", netns=2), 4)) == ()
    assert peers.add((_server("127.0.0.1", netns=1), 5)) == 3


def test_a_translated_server_address_is_seen_through_if_only_one_can_be_meant() -> None:
    """The client's own address is the same to both; a client whose server is known is nobody else's."""
    peers = _Peers()
    peers.add((_client("10.96.0.1"), 1))
    assert peers.add((_server(port=8080), 2)) == 1
    peers = _Peers()
    peers.add((_client("10.96.0.1"), 1))
    peers.add((_client("10.96.0.2"), 2))
    assert peers.add((_server(port=8080), 3)) == ()
    peers.remove(2)
    assert peers.add((_server(port=8081), 4)) == 1


def test_what_is_gone_is_remembered_for_the_other_side() -> None:
    """Only by whoever had the end last: a process that used the connection before does not count."""
    peers = _Peers()
    peers.add((_client(), 1))
    peers.add((_client(), 2))
    peers.remove(1)
    assert peers.add((_server(), 3)) == 2
    peers.remove(2)
    assert peers.again(3) == _was(2)
    assert peers.add((_server(), 4)) == _was(2)


def test_a_port_that_is_used_again_is_another_connection() -> None:
    """Both ends of the one before are history as soon as either end of the next is seen."""
    for first, second in ((_client(), _server()), (_server(), _client())):
        peers = _Peers()
        peers.add((_client(), 1), (_server(), 2))
        peers.remove(2)
        peers.remove(1)
        assert peers.add((first, 3)) == ()
        peers.remove(3)
        assert peers.add((second, 4)) == _was(3)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that come and go leave nothing but the last few."""
    monkeypatch.setattr(module, "_GONE_LIMIT", 16)
    peers = _Peers()
    for port in range(1000):
        crowd = [(_client(port=port), 0), (_server(port=port), 1), *([(_client(port=port), 2)] * (port % 2))]
        peers.add(*crowd)
        peers.remove(*(code for _, code in crowd))
    flows = peers.flows
    assert [sum(map(len, part.values())) for part in (flows._ends, flows._crowds, flows._gone)] == [0, 0, 32]
    assert len(flows._roles) <= 4


class _Reference:
    """The same rules, one end at a time."""

    def __init__(self) -> None:
        self.known: dict[int, _End] = {}
        self.ends: dict[tuple[object, ...], int] = {}
        self.gone: dict[tuple[object, ...], Attributes] = {}
        self.of: dict[int, int | Attributes] = {}

    def add(self, end: _End, code: int) -> None:
        """Add an end; it and the other side are each other's peers."""
        self.known[code] = end
        if _key(end) not in self.ends and self.gone.pop(_key(end), None) is not None:
            self.gone.pop(_key(_reversed(end)), None)
        self.ends[_key(end)] = code
        self._meet(code)

    def again(self, code: int) -> None:
        """Have an end meet again; one that another has replaced is nobody's peer."""
        self._meet(code, mutual=self.ends.get(_key(self.known[code])) == code)

    def _meet(self, code: int, *, mutual: bool = True) -> None:
        other = self._other(self.known[code])
        self.of[code] = self.gone.get(_key(_reversed(self.known[code])), ()) if other is None else other
        if other is not None and mutual:
            self.of[other] = code

    def _other(self, end: _End) -> int | None:
        exact = self.ends.get(_key(_reversed(end)))
        if exact is not None:
            return exact
        single = [
            code
            for code in self.ends.values()
            if _client_side(self.known[code]) == _client_side(_reversed(end))
            and _key(_reversed(self.known[code])) not in self.ends
        ]
        return single[0] if len(single) == 1 else None

    def remove(self, code: int) -> None:
        """Remove an end."""
        end = self.known.pop(code)
        del self.of[code]
        if self.ends.get(_key(end)) == code:
            del self.ends[_key(end)]
            self.gone[_key(end)] = _was(code)


def _reversed(end: _End) -> _End:
    return end._replace(role=_OTHER[end.role])


def _client_side(end: _End) -> tuple[object, ...]:
    own = end.netns if end.server == "127.0.0.1" else 0
    return end.role, end.transport, end.client_port, own


def _key(end: _End) -> tuple[object, ...]:
    return *_client_side(end), end.server, end.port


ENDS = st.builds(
    _End,
    role=st.sampled_from([Role.CLIENT, Role.SERVER]),
    server=st.sampled_from(["10.0.0.2", "10.96.0.1", "127.0.0.1"]),
    port=st.sampled_from([80, 8080]),
    netns=st.sampled_from([1, 2]),
    client_port=st.sampled_from([5000, 5001]),
)


@given(st.lists(st.tuples(st.lists(ENDS, max_size=6), st.sets(st.integers(0, 20))), max_size=8))
def test_bulk_is_as_one_by_one(batches: list[tuple[list[_End], set[int]]]) -> None:
    """Whatever comes at once, and however many processes and connections have one client's port."""
    peers, reference, code = _Peers(), _Reference(), 0
    for ends, leaving in batches:
        batch = [(end, code + place) for place, end in enumerate(ends)]
        code += len(batch)
        if batch:
            peers.add(*batch)
        for end, number in batch:
            reference.add(end, number)
        assert peers.of == reference.of
        gone = sorted(leaving & reference.of.keys())
        peers.remove(*gone)
        for each in gone:
            reference.remove(each)
        left = sorted(reference.of)
        peers.again(*left)
        for each in left:
            reference.again(each)
        assert peers.of == reference.of
