"""Ends of one connection, found by their addresses."""

from __future__ import annotations

import pytest

from masdeepflow.enrich import flows as module
from masdeepflow.enrich.flows import Flow, Flows, is_loopback


def _client(server: str = "10.0.0.2", port: int = 80, netns: int = 1) -> Flow:
    return Flow.of("client", "tcp", "10.0.0.1", 5000, server, port, netns)


def _server(server: str = "10.0.0.2", port: int = 80, netns: int = 2) -> Flow:
    return Flow.of("server", "tcp", "10.0.0.1", 5000, server, port, netns)


@pytest.mark.parametrize(
    ("address", "loopback"),
    [("127.0.0.1", True), ("127.9.9.9", True), ("::1", True), ("10.0.0.1", False), ("/run/x.sock", False)],
)
def test_loopback_is_what_means_something_else_in_each_namespace(address: str, *, loopback: bool) -> None:
    """Of both families; what is no address is none."""
    assert is_loopback(address) is loopback


def test_the_other_side_has_the_same_addresses_and_the_other_role() -> None:
    """In whichever order they come; a third that looks the same is no peer."""
    flows = Flows()
    assert flows.add(_client(), 1) is None
    assert flows.add(_server(), 2) == 1
    assert flows.add(_client(), 3) == 2
    assert flows.add(_server(port=81), 4) is None


def test_transports_and_loopback_namespaces_are_apart() -> None:
    """UDP is not TCP, and each namespace's loopback is its own."""
    flows = Flows()
    flows.add(_client(), 1)
    assert flows.add(Flow.of("server", "udp", "10.0.0.1", 5000, "10.0.0.2", 80, 2), 2) is None
    flows.add(_client("127.0.0.1", netns=1), 3)
    assert flows.add(_server("127.0.0.1", netns=2), 4) is None
    assert flows.add(_server("127.0.0.1", netns=1), 5) == 3


def test_a_translated_server_address_is_seen_through_if_only_one_can_be_meant() -> None:
    """The client's own address is the same to both; a client whose server is known is nobody else's."""
    flows = Flows()
    flows.add(_client("10.96.0.1"), 1)
    assert flows.add(_server(port=8080), 2) == 1
    flows = Flows()
    flows.add(_client("10.96.0.1"), 1)
    flows.add(_client("10.96.0.2"), 2)
    assert flows.add(_server(port=8080), 3) is None
    flows.remove(_client("10.96.0.2"), 2, ())
    assert flows.add(_server(port=8081), 4) == 1


def test_what_is_gone_is_remembered_for_the_other_side() -> None:
    """Only by whoever had the end last: a process that used the connection before does not count."""
    flows = Flows()
    flows.add(_client(), 1)
    flows.add(_client(), 2)
    flows.remove(_client(), 1, (("peer.process.pid", 1),))
    assert flows.gone(_server()) == ()
    flows.remove(_client(), 2, (("peer.process.pid", 2),))
    assert flows.gone(_server()) == (("peer.process.pid", 2),)
    assert flows.add(_server(), 3) is None


def test_a_port_that_is_used_again_is_another_connection() -> None:
    """Both ends of the one before are history as soon as either end of the next is seen."""
    for first, second in ((_client(), _server()), (_server(), _client())):
        flows = Flows()
        flows.add(_client(), 1)
        flows.add(_server(), 2)
        flows.remove(_server(), 2, (("peer.process.pid", 2),))
        flows.remove(_client(), 1, (("peer.process.pid", 1),))
        assert flows.add(first, 3) is None
        assert (flows.gone(first), flows.gone(second)) == ((), ())
        flows.remove(first, 3, (("peer.process.pid", 3),))
        assert flows.gone(second) == (("peer.process.pid", 3),)


def test_memory_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that come and go leave nothing but the last few."""
    monkeypatch.setattr(module, "_GONE_LIMIT", 16)
    flows = Flows()
    for port in range(1000):
        flows.add(_client(port=port), port)
        flows.remove(_client(port=port), port, ())
    for part, left in ((flows._ends, 0), (flows._gone, 16)):
        assert sum(map(len, part.values())) == left
