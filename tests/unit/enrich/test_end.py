"""Ends as they were seen, and the endpoints that are made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from masdeepflow.enrich import end as module
from masdeepflow.enrich.addresses import words_of
from masdeepflow.enrich.directory import Directory
from masdeepflow.enrich.end import FACTS, EndColumns, Party, mixed, owner_of
from masdeepflow.filters import Filter, parse
from masdeepflow.pipeline import Pipeline
from masdeepflow.protocols import registry
from masdeepflow.schema import Kind, Role, Transport
from masdeepflow.sinks.metrics import Metrics
from masdeepflow.table import Output
from tests.support.slots import make_slots, turn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from masdeepflow.endpoint import Endpoint

GET = b"GET / HTTP/1.1\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n\r\n"
IDENTITY = Directory().identity(7, "nginx", 0)


def _short_connections(count: int) -> np.ndarray:
    """Return the slots of connections with one request each, from process 1 to process 2 on port 80."""
    slots = []
    for number in range(count):
        client = {"cookie": 2 * number + 1, "local_port": 10_000 + number, "remote_port": 80}
        server = {"cookie": 2 * number + 2, "local_port": 80, "remote_port": 10_000 + number}
        sides = ((client, Role.CLIENT, b"curl", Kind.CONNECT), (server, Role.SERVER, b"nginx", Kind.ACCEPT))
        for ports, role, comm, opened in sides:
            fields: dict[str, Any] = {**ports, "role": role, "pid": int(role), "comm": comm}
            slots += [turn(kind=opened, **fields), turn(GET, OK, **fields), turn(kind=Kind.CLOSE, **fields)]
    return make_slots(*slots)


def _facts(role: Role = Role.SERVER, **fields: object) -> np.ndarray:
    """Return the facts (1,) of an end from 10.0.0.1, port 80, to ::2, port 5000."""
    facts = np.zeros(1, FACTS)
    facts["local"], facts["remote"] = words_of("10.0.0.1"), words_of("::2")
    facts["cookie"], facts["pid"], facts["local_port"], facts["remote_port"] = 9, 7, 80, 5000
    facts["role"], facts["transport"] = role, Transport.TCP
    for name, value in fields.items():
        facts[name] = value
    return facts


def _party(facts: np.ndarray, number: int = 1) -> Party:
    role, transport = int(facts["role"][0]), int(facts["transport"][0])
    return Party(number, "nginx", IDENTITY, owner_of(IDENTITY, role, transport), role, transport)


def _table(*rows: np.ndarray) -> tuple[EndColumns, np.ndarray]:
    """Return a table of ends, each of a party of its own, and their codes."""
    ends = EndColumns()
    parties = [_party(facts, number) for number, facts in enumerate(rows)]
    return ends, ends.new(np.concatenate(rows), parties, np.arange(len(rows)))


def _endpoint(path: str | None = None, role: Role = Role.SERVER, **fields: object) -> Endpoint:
    ends, codes = _table(_facts(role, **fields))
    ends.path[codes] = path
    return ends.take(codes)[0]


@pytest.mark.parametrize(
    ("role", "client", "server"),
    [(Role.SERVER, "::2", "10.0.0.1"), (Role.CLIENT, "10.0.0.1", "::2"), (Role.UNKNOWN, "::2", "10.0.0.1")],
)
def test_an_endpoint_has_both_sides_by_role(role: Role, client: str, server: str) -> None:
    """As the text log shows them, and as attributes."""
    endpoint = _endpoint(role=role)
    assert (endpoint.local, endpoint.remote) == ("10.0.0.1:80", "[::2]:5000")
    assert (endpoint.client_address, endpoint.server_address) == (client, server)
    assert (endpoint.service, endpoint.pid) == ("nginx", 7)
    assert endpoint.role == {Role.UNKNOWN: ""}.get(role, role.name.lower())


def test_a_side_without_name_or_port_is_shown_as_it_is() -> None:
    """Unix sockets: a path, or the cookie of the socket at that side, which only its first byte gives it."""
    unix: dict[str, Any] = {"transport": Transport.UNIX, "nowhere": True}
    endpoint = _endpoint("/run/x", peer_cookie=8, **unix)
    assert (endpoint.local, endpoint.remote) == ("/run/x", "unix:8")
    assert (endpoint.server_address, endpoint.server_port, endpoint.client_address) == ("/run/x", None, None)
    pair = _endpoint(role=Role.CLIENT, **unix)
    assert (pair.local, pair.remote) == ("unix:9", "unix:*")
    datagrams = _endpoint(transport=Transport.UDP, nowhere=True)
    assert (datagrams.local, datagrams.remote, datagrams.client_port) == ("10.0.0.1:80", "*:*", None)


def test_an_end_gives_the_same_object_each_time() -> None:
    """Sinks keep what they made of it, whoever else is asked for it; of another party it is another."""
    ends, codes = _table(_facts())
    first, second = ends.take(codes), ends.take(codes)
    endpoint = first[0]
    assert endpoint is first[0] is second[0] is second.end(0).endpoint()
    ends.name(codes, [_party(_facts(), 2)], np.zeros(1, np.intp))
    assert ends.take(codes)[0] is not endpoint
    assert first[0] is endpoint


def test_what_is_known_on_this_host_goes_before_what_an_address_tells() -> None:
    """Each alone is all that is known of the peer."""
    here, there = (("peer.process.pid", 1), ("peer.a", "x")), (("peer.a", "y"), ("peer.b", "z"))
    ends, codes = _table(*([_facts()] * 4))
    ends.peer[codes] = np.fromiter((None, here, None, here), np.object_, 4)
    ends.remote[codes] = np.fromiter((None, None, there, there), np.object_, 4)
    both = (("peer.a", "x"), ("peer.b", "z"), ("peer.process.pid", 1))
    assert [end.peer for end in ends.take(codes)] == [(), here, there, both]


def test_what_was_handed_out_stays_as_it_was() -> None:
    """A table may be written when its connections are long closed and their room is others'."""
    ends, codes = _table(_facts(cookie=1), _facts(cookie=2))
    seen = ends.take(codes)
    ends.drop(codes)
    again = ends.new(_facts(cookie=3), [_party(_facts(), 3)], np.zeros(1, np.intp))
    assert again[0] in codes
    assert [end.cookie for end in seen] == [1, 2]
    assert [end.cookie for end in ends.take(again)] == [3]


def test_room_is_used_again() -> None:
    """Many ends that come and go take no more of it than those that were there at once."""
    ends, codes = _table(*([_facts()] * 5))
    for _ in range(100):
        ends.drop(codes)
        codes = ends.new(np.resize(_facts(), 5), [_party(_facts())], np.zeros(5, np.intp))
        assert sorted(codes.tolist()) == list(range(5))
    assert len(ends) <= 16
    ends.drop(codes)
    assert all(party is None for party in ends.party)


def test_owners_and_likenesses_need_no_endpoint() -> None:
    """An owner for each party, in the order in which they come; what a filter tells apart has a port, too."""
    party = _party(_facts())
    other = _party(_facts(), 0)
    ends = EndColumns()
    rows = [_facts(), _facts(local_port=81), _facts(cookie=3), _facts()]
    codes = ends.new(np.concatenate(rows), [party, other], np.array([0, 0, 0, 1]))
    seen = ends.take(codes)
    owners, numbers = seen.owners()
    assert [owners[number] for number in numbers] == [party.owner] * 3 + [other.owner]
    assert owners[0] is party.owner
    examples, like = seen.likenesses()
    assert examples[like].tolist() == [0, 1, 0, 3]
    assert seen.services() == [(7, 80, 2), (7, 81, 2), (7, 80, 2), (7, 80, 2)]


def test_a_hash_is_of_all_words() -> None:
    """Whichever of them differs."""
    words = np.array([[1, 2, 3], [1, 2, 4], [1, 3, 3], [2, 2, 3], [1, 2, 3]], np.uint64)
    for width in (1, 2, 3):
        hashes = mixed(words[:, :width])
        same = (words[:, None, :width] == words[None, :, :width]).all(axis=2)
        assert ((hashes[:, None] == hashes[None]) == same).all()


def test_without_a_log_no_endpoint_of_a_new_connection_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that come and go by the thousand are counted by what they have in common."""
    monkeypatch.setattr(module.End, "_make", lambda end: pytest.fail(f"made one of {end.party.comm}"))
    pipeline, metrics = Pipeline(registry.load(), Directory(), parse([], [])), Metrics()
    for part in np.array_split(_short_connections(100), 3):
        tables, events = pipeline.process(part, 0)
        metrics.write(Output(tables, events, 0, 0))
    found = {(one.service, one.role): one.requests for one in metrics.services()}
    assert found == {("curl", "client"): 100, ("nginx", "server"): 100}


def test_a_filter_looks_once_at_ends_that_it_can_not_tell_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand connections of two processes to one port are two questions, and two more for events."""
    asked: list[str | None] = []
    passes = Filter.passes

    def ask(shown: Filter, values: Mapping[str, str | None]) -> bool:
        asked.append(values["pid"])
        return passes(shown, values)

    monkeypatch.setattr(Filter, "passes", ask)
    pipeline = Pipeline(registry.load(), Directory(), parse(["port=80"], ["pid=2"]))
    tables, events = pipeline.process(_short_connections(500), 0)
    assert sorted(map(str, asked)) == ["1", "1", "2", "2"]
    assert [len(table) for table in tables] == [500]
    assert len(events) == 1000
