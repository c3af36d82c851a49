"""Endpoints for columns of slots, held against a plain dictionary."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from masdeepflow.enrich import endpoints as module
from masdeepflow.enrich.directory import Directory
from masdeepflow.enrich.endpoints import NO_PROTOCOL, Endpoints
from masdeepflow.enrich.facts import PodFact, ProcessFact, ServiceFact, ServicePort
from masdeepflow.schema import Kind, Role, Transport
from tests.support.slots import make_slots, turn

if TYPE_CHECKING:
    from masdeepflow.endpoint import Endpoint
    from masdeepflow.enrich.facts import Fact

IPV6 = bytes.fromhex("20010db8000000000000000000000001")
MAPPED = bytes(10) + b"\xff\xff" + bytes((192, 0, 2, 7))
# Few, so that they come back; the last is one that the kernel counted down from 2^64.
COOKIES = st.sampled_from([1, 2, 3, 4, 5, 2**41, 2**64 - 1])
PIDS = st.sampled_from([1, 2, 4_194_303])
BATCHES = st.lists(
    st.tuples(
        st.lists(st.tuples(COOKIES, PIDS), max_size=12),
        st.lists(st.tuples(COOKIES, st.integers(0, 3)), max_size=2),  # recognised as
        st.lists(COOKIES, max_size=3),  # closed
    ),
    max_size=8,
)


def _slots(pairs: list[tuple[int, int]]) -> np.ndarray:
    return make_slots(*(turn(b"x", cookie=cookie, pid=pid, tid=pid + 1) for cookie, pid in pairs))


def _resolve(table: Endpoints, slots: np.ndarray) -> list[Endpoint]:
    codes, ends = table.compact(table.codes(slots))
    return [ends[code] for code in codes.tolist()]


def _one(table: Endpoints | None = None, /, request: bytes = b"x", **fields: object) -> Endpoint:
    table = Endpoints(Directory()) if table is None else table
    return _resolve(table, make_slots(turn(request, b"", **fields)))[0]


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> int:
    """Lower the number of endpoints that are kept."""
    monkeypatch.setattr(module, "_LIMIT", 6)
    return 6


@given(BATCHES)
def test_codes_are_those_of_a_dictionary(
    batches: list[tuple[list[tuple[int, int]], list[tuple[int, int]], list[int]]],
) -> None:
    """A process's end of a connection is one object until the connection is closed, and a new one after."""
    table, known = Endpoints(Directory()), dict[tuple[int, int], "Endpoint"]()
    for pairs, _, closed in batches:
        for pair, endpoint in zip(pairs, _resolve(table, _slots(pairs)), strict=True):
            assert (endpoint.cookie, endpoint.pid) == pair
            assert known.setdefault(pair, endpoint) is endpoint
        table.forget(closed)
        known = {pair: endpoint for pair, endpoint in known.items() if pair[0] not in closed}
        assert len(table) == len(known)


@given(BATCHES)
def test_protocols_are_those_of_a_dictionary(
    batches: list[tuple[list[tuple[int, int]], list[tuple[int, int]], list[int]]],
) -> None:
    """A connection's protocol holds for every process that uses it, later ones too, until it is closed."""
    table, known = Endpoints(Directory()), dict[int, int]()
    for pairs, recognised, closed in batches:
        codes = table.codes(_slots(pairs))
        assert table.protocols(codes).tolist() == [known.get(cookie, NO_PROTOCOL) for cookie, _ in pairs]
        for cookie, protocol in recognised:
            table.set_protocol(cookie, protocol)
            known[cookie] = protocol
        table.forget(closed)
        known = {cookie: protocol for cookie, protocol in known.items() if cookie not in closed}


def test_many_connections_in_one_batch() -> None:
    """A thousand connections that come at once are a thousand endpoints, each with its own protocol."""
    table = Endpoints(Directory())
    slots = _slots([(cookie, 1) for cookie in range(1, 1001)])
    assert [end.cookie for end in _resolve(table, slots)] == list(range(1, 1001))
    codes = table.codes(slots)
    protocols = np.arange(1000, dtype=np.int16)
    table.recognise(codes, protocols)
    table.forget(list(range(1, 1001, 2)))
    assert table.protocols(table.codes(slots)).tolist()[1::2] == protocols[1::2].tolist()
    assert table.protocols(table.codes(slots)).tolist()[::2] == [NO_PROTOCOL] * 500


@given(st.lists(st.lists(st.tuples(st.integers(1, 20), PIDS), max_size=10), max_size=8))
def test_eviction_never_mixes_up_endpoints(batches: list[list[tuple[int, int]]]) -> None:
    """Beyond the limit old endpoints go, but each slot still gets its own, in the same batch too."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_LIMIT", 6)
        table = Endpoints(Directory())
        for pairs in batches:
            ends = _resolve(table, _slots(pairs))
            assert [(end.cookie, end.pid) for end in ends] == pairs
            assert len(table) <= 6 + 2 * 10


def test_evictions_are_counted(small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Open connections that had to go; not those that were closed, nor sockets that never tell that."""
    table = Endpoints(Directory())
    table.codes(_slots([(cookie, 1) for cookie in range(1, 1 + small)]))
    table.forget([1])
    assert table.evictions() == {"connections": 0}
    before = len(table)
    table.codes(_slots([(cookie, 2) for cookie in range(100, 100 + small)]))
    assert table.evictions() == {"connections": before + small - len(table)}
    assert table.evictions()["connections"] > 0
    monkeypatch.setattr(module, "_UNCLOSED_LIMIT", 1)
    udp = Endpoints(Directory())
    for cookie in range(1, 9):
        slots = _slots([(cookie, 1)])
        slots["transport"] = Transport.UDP
        udp.codes(slots)
    assert len(udp) < 8
    assert udp.evictions()["connections"] == 0


def test_eviction_keeps_what_is_in_use(small: int) -> None:
    """The connections that were silent for longest go first, whatever their number or process."""
    table = Endpoints(Directory())
    busy = [(1, 1), (100, 2)]
    first = _resolve(table, _slots(busy))
    for cookie in range(10, 10 + 5 * small):
        _resolve(table, _slots([(cookie, 1)]))
        _resolve(table, _slots(busy))
    assert [kept is end for kept, end in zip(_resolve(table, _slots(busy)), first, strict=True)] == [True] * 2


def test_eviction_keeps_what_came_last(small: int) -> None:
    """A connection that has only just come is no old one, even where its code was used before."""
    table = Endpoints(Directory())
    for cookie in range(1, 1 + small):
        table.codes(_slots([(cookie, 1)]))
    table.forget([1])  # its code goes to the next, and with it the time when it was used
    newest = _resolve(table, _slots([(50, 1)]))[0]
    table.codes(_slots([(60, 1), (61, 1)]))
    assert _resolve(table, _slots([(50, 1)]))[0] is newest


@pytest.mark.parametrize("transport", [Transport.UDP, Transport.UNIX])
def test_sockets_that_never_tell_their_close_stay_few(
    monkeypatch: pytest.MonkeyPatch, transport: Transport
) -> None:
    """A host that looks up a name a request must not make the agent grow, nor forget its TCP connections."""
    monkeypatch.setattr(module, "_UNCLOSED_LIMIT", 64)
    table = Endpoints(Directory())
    idle = _slots([(cookie, 1) for cookie in range(10**6, 10**6 + 200)])
    kept = _resolve(table, idle)
    for start in range(1, 2000, 10):
        churn = [
            turn(b"/run/x", cookie=cookie, kind=Kind.CONNECT, transport=transport)
            for cookie in range(start, start + 10)
        ]
        codes = table.codes(make_slots(*churn))
        table.recognise(codes, np.zeros(len(codes), np.int16))
    for part in (table._ends, table._protocols, table._by_cookie, table._unix_paths, table._sockets):
        assert len(part) <= 512
    assert len(table) <= len(kept) + 64 + 10
    assert all(now is before for now, before in zip(_resolve(table, idle), kept, strict=True))


def test_memory_is_bounded_when_closes_are_lost(monkeypatch: pytest.MonkeyPatch) -> None:
    """A full ring loses closes of TCP connections, too: what is kept of them is bounded all the same."""
    monkeypatch.setattr(module, "_LIMIT", 64)
    table = Endpoints(Directory())
    for start in range(1, 2000, 10):
        codes = table.codes(_slots([(cookie, 1) for cookie in range(start, start + 10)]))
        table.recognise(codes, np.zeros(len(codes), np.int16))
    for part in (table._ends, table._protocols, table._by_cookie, table._sockets, table._keys):
        assert len(part) <= 256


def test_codes_are_recycled(small: int) -> None:
    """A hundred short connections take the room of one."""
    table = Endpoints(Directory())
    for cookie in range(1, 101):
        table.codes(_slots([(cookie, 1)]))
        table.forget([cookie])
    assert len(table) == 0
    assert len(table._ends) < small


def test_recognise_takes_the_protocol_of_each_connection() -> None:
    """Protocol numbers go with the connection's code, however often it occurs in the batch."""
    table = Endpoints(Directory())
    codes = table.codes(_slots([(1, 1), (2, 1), (1, 1)]))
    table.recognise(codes, np.array([3, 4, 3], np.int16))
    assert table.protocols(table.codes(_slots([(2, 1), (1, 1), (1, 2)]))).tolist() == [4, 3, 3]


def test_recognised_services_are_known_by_process_port_and_role() -> None:
    """Turns that only the kernel counted can be named by what was recognised for their service."""
    table = Endpoints(Directory())
    slots = make_slots(turn(b"x", pid=7, role=Role.SERVER, local_port=80, comm=b"nginx"))
    table.recognise(table.codes(slots), np.array([2], np.int16))
    (((pid, port, role), (end, protocol)),) = table.services.items()
    assert (pid, port, role, end.endpoint().service, protocol) == (7, 80, Role.SERVER, "nginx", 2)


def test_compact_numbers_only_what_occurs() -> None:
    """A table carries the endpoints of its own rows, each once."""
    table = Endpoints(Directory())
    table.codes(_slots([(1, 1), (2, 1), (3, 1)]))
    codes, ends = table.compact(table.codes(_slots([(3, 1), (1, 1), (3, 1)])))
    assert [end.cookie for end in ends] == [1, 3]
    assert codes.tolist() == [1, 0, 1]


def test_compact_gives_the_same_endpoints_while_nothing_changed() -> None:
    """What is made of them can be kept until another one is among them, or one is named anew; by who asks."""
    directory = Directory()
    table = Endpoints(directory)
    slots = _slots([(1, 1), (2, 1), (3, 1)])
    first = table.compact(table.codes(slots))[1]
    assert table.compact(table.codes(slots[::-1].copy()))[1] is first
    others = table.compact(table.codes(slots[:2]), 1)[1]
    assert table.compact(table.codes(slots))[1] is first
    assert [end.cookie for end in others] == [1, 2]
    table.codes(_slots([(4, 1)]))
    assert [end.cookie for end in table.compact(table.codes(slots))[1]] == [1, 2, 3]
    again = table.compact(table.codes(slots))[1]
    table.refresh(directory.learn([ProcessFact(1, "a", "nginx")]))
    named = table.compact(table.codes(slots))[1]
    assert named is not again
    assert [end.executable for end in named] == ["nginx"] * 3


def test_codes_stay_right_when_connections_come_and_go() -> None:
    """A socket's code may become another's: nothing that was remembered of the first is taken for it."""
    table = Endpoints(Directory())
    for cookie in range(1, 40):
        some = _slots([(cookie, 1), (cookie + 1, 1)])
        codes, ends = table.compact(table.codes(some))
        assert [ends[code].cookie for code in codes.tolist()] == [cookie, cookie + 1]
        table.forget([cookie])


def test_no_slots_no_endpoints() -> None:
    """An empty batch is none to trip over, neither in an empty table nor in one with entries."""
    table = Endpoints(Directory())
    assert len(table.codes(_slots([]))) == 0
    table.codes(_slots([(1, 1)]))
    assert len(table.codes(_slots([]))) == 0
    table.forget([])
    assert len(table) == 1


@pytest.mark.parametrize(
    ("role", "client", "server"),
    [
        (Role.CLIENT, ("10.0.0.1", 50000), ("10.0.0.2", 80)),
        (Role.SERVER, ("10.0.0.2", 80), ("10.0.0.1", 50000)),
        (Role.UNKNOWN, ("10.0.0.2", 80), ("10.0.0.1", 50000)),
    ],
)
def test_role_tells_client_and_server_address(
    role: Role, client: tuple[str, int], server: tuple[str, int]
) -> None:
    """Local and remote stay as the process sees them; which is the client's follows from the role."""
    local, remote = [10, 0, 0, 1, *bytes(12)], [10, 0, 0, 2, *bytes(12)]
    end = _one(role=role, local_address=local, remote_address=remote)
    assert (end.local, end.remote) == ("10.0.0.1:50000", "10.0.0.2:80")
    assert (end.client_address, end.client_port) == client
    assert (end.server_address, end.server_port) == server
    assert end.role == {Role.CLIENT: "client", Role.SERVER: "server"}.get(role, "")


def test_ipv6_addresses_are_bracketed_and_shortest() -> None:
    """The text log's form has brackets, the attribute has not (RFC 5952)."""
    end = _one(family=10, local_address=list(IPV6), remote_address=list(bytes(15) + b"\1"))
    assert (end.local, end.client_address) == ("[2001:db8::1]:50000", "2001:db8::1")
    assert (end.remote, end.server_address) == ("[::1]:80", "::1")


def test_ipv4_over_an_ipv6_socket_is_shown_as_ipv4() -> None:
    """Both ends of a connection get the same address, whichever kind of socket they use."""
    end = _one(family=10, local_address=list(MAPPED), remote_address=list(MAPPED))
    assert (end.local, end.server_address) == ("192.0.2.7:50000", "192.0.2.7")


@pytest.mark.parametrize(
    ("raw", "path"),
    [
        (b"/run/db.sock\0", "/run/db.sock"),
        (b"/run/db.sock", "/run/db.sock"),
        (b"\0name\0x", "@name\0x"),
        (b"/caf\xe9", "/caf\\xe9"),
    ],
)
def test_unix_path_names_the_server_end(raw: bytes, path: str) -> None:
    """The path comes with the opening event, for either role; abstract names start with @ as in ss(8)."""
    common: dict[str, Any] = {"transport": Transport.UNIX, "local_port": 0, "remote_port": 0, "request": raw}
    peer = np.array([7, 0], np.uint64).view(np.uint8)
    client = _one(kind=Kind.CONNECT, role=Role.CLIENT, remote_address=peer, **common)
    server = _one(kind=Kind.ACCEPT, role=Role.SERVER, remote_address=peer, **common)
    for end in (client, server):
        assert (end.server_address, end.server_port, end.client_address, end.client_port) == (
            path,
            *[None] * 3,
        )
        assert end.transport == "unix"
    assert (client.local, client.remote) == ("unix:1", path)
    assert (server.local, server.remote) == (path, "unix:7")


def test_unix_path_is_known_to_later_processes_of_the_connection() -> None:
    """A connection that is handed on keeps its path; once it is closed, the cookie means nothing."""
    table = Endpoints(Directory())
    common: dict[str, Any] = {"cookie": 9, "transport": Transport.UNIX, "role": Role.SERVER}
    _one(table, request=b"/run/db.sock", kind=Kind.ACCEPT, pid=1, **common)
    assert _one(table, pid=2, **common).local == "/run/db.sock"
    table.forget([9])
    assert _one(table, pid=2, **common).local == "unix:9"


@pytest.mark.parametrize(("kind", "request_"), [(Kind.CONNECT, b""), (Kind.TURN, b"/etc/passwd")])
def test_unix_connection_without_a_name_is_told_by_its_cookie(kind: Kind, request_: bytes) -> None:
    """Socket pairs have no path, and the bytes of a turn are never taken for one."""
    peer = np.zeros(16, np.uint8)  # it has moved no byte yet
    end = _one(request=request_, kind=kind, transport=Transport.UNIX, cookie=77, remote_address=peer)
    assert (end.local, end.remote, end.server_address) == ("unix:77", "unix:*", None)


def _known(*facts: Fact) -> Endpoints:
    directory = Directory()
    directory.learn(facts)
    return Endpoints(directory)


def test_process_names_come_with_the_endpoint() -> None:
    """Executable and command are those of the process; bytes that are no UTF-8 show as what they are."""
    table = _known(ProcessFact(42, "caf\\xe9", "exe-42", ("/bin/cafe", "-x")))
    end = _one(table, pid=42, comm=b"caf\xe9")
    assert (end.comm, end.executable, end.command) == ("caf\\xe9", "exe-42", "/bin/cafe")
    assert ("process.command_line", "/bin/cafe -x") in end.attributes


@pytest.mark.parametrize(
    ("comm", "facts", "service"),
    [
        (b"worker", [ProcessFact(100, "worker", "nginx")], "nginx"),
        (b"nginx", [], "nginx"),
        (b"", [], "(unknown)"),
    ],
)
def test_a_service_has_always_a_name(comm: bytes, facts: list[ProcessFact], service: str) -> None:
    """Golden signals go under the executable, else the comm, else a name that shows there was none."""
    assert _one(_known(*facts), comm=comm).service == service


CLIENT_END = {
    "role": Role.CLIENT,
    "cookie": 1,
    "pid": 7,
    "comm": b"curl",
    "local_port": 5000,
    "remote_port": 80,
}
SERVER_END = {
    "role": Role.SERVER,
    "cookie": 2,
    "pid": 8,
    "comm": b"nginx",
    "local_port": 80,
    "remote_port": 5000,
}
A, B, C = [10, 0, 0, 1, *bytes(12)], [10, 0, 0, 2, *bytes(12)], [10, 96, 0, 1, *bytes(12)]


def _peers(table: Endpoints, *ends: dict[str, object]) -> list[tuple[object, object]]:
    """Return PID and service of each end's peer, as far as they are known."""
    found = _resolve(table, make_slots(*(turn(b"x", b"", **end) for end in ends)))
    peers = [dict(end.peer) for end in found]
    return [(peer.get("peer.process.pid"), peer.get("peer.service.name")) for peer in peers]


def test_two_ends_on_this_host_are_each_others_peers() -> None:
    """By their addresses, in whichever order they come, and in one batch or in two."""
    table = Endpoints(Directory())
    assert _peers(table, CLIENT_END) == [(None, None)]
    assert _peers(table, SERVER_END) == [(7, "curl")]
    assert _peers(table, CLIENT_END) == [(8, "nginx")]
    assert _peers(Endpoints(Directory()), SERVER_END, CLIENT_END) == [(7, "curl"), (8, "nginx")]


def test_loopback_addresses_are_those_of_their_namespace() -> None:
    """Each network namespace has a 127.0.0.1 of its own; other addresses mean the same in all of them."""
    other = {**SERVER_END, "netns": 5}
    assert _peers(Endpoints(Directory()), CLIENT_END, other) == [(None, None)] * 2
    client = {**CLIENT_END, "local_address": A, "remote_address": B}
    server = {**other, "local_address": B, "remote_address": A}
    assert _peers(Endpoints(Directory()), client, server) == [(8, "nginx"), (7, "curl")]


def test_an_address_that_was_translated_on_the_way_is_seen_through() -> None:
    """The client of a Service knows another server address than the server; its own is the same to both."""
    client = {**CLIENT_END, "local_address": A, "remote_address": C}
    server = {**SERVER_END, "local_address": B, "remote_address": A, "local_port": 8080}
    assert _peers(Endpoints(Directory()), client, server) == [(8, "nginx"), (7, "curl")]
    # Not when the server's own client is known, or when it may be either of two.
    direct = {
        **CLIENT_END,
        "cookie": 3,
        "pid": 9,
        "local_address": A,
        "remote_address": B,
        "remote_port": 8080,
    }
    assert _peers(Endpoints(Directory()), direct, server, client)[2] == (None, None)


def test_a_name_that_was_resolved_names_open_connections() -> None:
    """As any other fact about the address does."""
    directory = Directory()
    table = Endpoints(directory)
    end = {**CLIENT_END, "local_address": A, "remote_address": B}
    assert _peers(table, end) == [(None, None)]
    table.refresh(directory.learn_names([("10.0.0.2", "web.example", 10**12)], 0))
    assert _peers(table, end) == [(None, "web.example")]


def test_of_many_connections_only_some_are_named_anew_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """One fact may be about all of them: the rest follows with the next batches."""
    monkeypatch.setattr(module, "_AT_ONCE", 2)
    directory = Directory()
    table = Endpoints(directory)
    slots = make_slots(*(turn(b"x", cookie=cookie, pid=7, comm=b"a") for cookie in range(1, 6)))
    codes = table.codes(slots)

    def renamed() -> list[bool]:
        return [end.executable == "nginx" for end in table.compact(codes)[1]]

    table.refresh(directory.learn([ProcessFact(7, "a", "nginx")]))
    assert renamed() == [True, True, False, False, False]
    table.freshen()
    assert renamed() == [True, True, True, True, False]
    table.forget([5])
    table.freshen()
    table.freshen()
    assert not table._stale


def test_of_processes_that_share_a_socket_the_last_to_use_it_is_the_peer() -> None:
    """Also when more becomes known of one that used it before."""
    directory = Directory()
    table = Endpoints(directory)
    _peers(table, CLIENT_END)
    for pid, comm in ((8, b"master"), (9, b"worker")):
        assert _peers(table, {**SERVER_END, "pid": pid, "comm": comm}) == [(7, "curl")]
    assert _peers(table, CLIENT_END) == [(9, "worker")]
    table.refresh(directory.learn([ProcessFact(8, "master", "master", service="old")]))
    assert _peers(table, CLIENT_END) == [(9, "worker")]
    table.refresh(directory.learn([ProcessFact(9, "worker", "worker", service="new")]))
    assert _peers(table, CLIENT_END) == [(9, "new")]
    table.refresh(directory.learn([ProcessFact(7, "curl", "curl", service="shop")]))
    for pid in (8, 9):
        comm = b"master" if pid == 8 else b"worker"
        assert _peers(table, {**SERVER_END, "pid": pid, "comm": comm})[0][0] == 7
    assert _peers(table, {**SERVER_END, "pid": 9, "comm": b"worker"}) == [(7, "shop")]


def test_two_ends_of_a_unix_connection_are_each_others_peers() -> None:
    """The end that comes second knows the cookie of the first; late facts reach both."""
    directory = Directory()
    table = Endpoints(directory)
    client = {
        "transport": Transport.UNIX,
        "cookie": 5,
        "pid": 7,
        "comm": b"psql",
        "remote_address": bytes(16),
    }
    server = {**client, "role": Role.SERVER, "cookie": 6, "pid": 8, "comm": b"postgres"}
    client, server = (
        {**end, "remote_address": [peer, *bytes(15)]} for end, peer in ((client, 0), (server, 5))
    )
    assert _peers(table, client) == [(None, None)]
    assert _peers(table, server) == [(7, "psql")]
    assert _peers(table, client) == [(8, "postgres")]
    table.refresh(directory.learn([ProcessFact(8, "postgres", "postgres", service="orders")]))
    assert _peers(table, client) == [(8, "orders")]
    table.forget([5, 6])
    assert not table._peers._by_socket


def test_the_other_end_is_known_for_a_while_after_its_close() -> None:
    """A short connection's client may be gone when the server's first record is read."""
    table = Endpoints(Directory())
    _peers(table, CLIENT_END)
    table.forget([1])
    assert _peers(table, SERVER_END) == [(7, "curl")]


def test_late_facts_name_connections_that_are_open() -> None:
    """What lookups find out holds for the next batch, at both ends; untouched endpoints stay the same."""
    directory = Directory()
    table = Endpoints(directory)
    stranger = {**CLIENT_END, "cookie": 9, "pid": 99, "local_port": 6000}
    before = _resolve(
        table, make_slots(*(turn(b"x", b"", **end) for end in (CLIENT_END, SERVER_END, stranger)))
    )
    table.refresh(directory.learn([ProcessFact(8, "nginx", "nginx-debug", ("nginx-debug", "-g"))]))
    after = _resolve(
        table, make_slots(*(turn(b"x", b"", **end) for end in (CLIENT_END, SERVER_END, stranger)))
    )
    assert (after[1].executable, after[1].service) == ("nginx-debug", "nginx-debug")
    assert dict(after[0].peer)["peer.service.name"] == "nginx-debug"
    assert after[2] is before[2]


def test_a_peer_elsewhere_is_named_by_its_address() -> None:
    """Pods and Services of other nodes by IP, at the time when the connection was first seen."""
    directory = Directory()
    table = Endpoints(directory)
    pod = {**CLIENT_END, "local_address": A, "remote_address": B}
    service = {**CLIENT_END, "cookie": 2, "local_address": A, "remote_address": C}
    assert _peers(table, pod, service) == [(None, None)] * 2
    facts: list[Fact] = [
        PodFact("u1", "web-0", "shop", addresses=("10.0.0.2",), owners=(("Deployment", "web"),), from_ns=1),
        ServiceFact("s1", "front", "shop", ("10.96.0.1",), (ServicePort(80),), from_ns=1),
    ]
    table.refresh(directory.learn(facts))
    assert _peers(table, pod, service) == [(None, "web"), (None, "front")]


def test_services_are_known_before_anything_is_recognised_there() -> None:
    """What only the kernel counts has the name that its records have; facts that come late change it."""
    directory = Directory()
    table = Endpoints(directory)
    _resolve(table, make_slots(turn(b"?", b"", **SERVER_END)))
    ((key, (end, protocol)),) = table.services.items()
    assert (key, end.endpoint().service, protocol) == ((8, 80, int(Role.SERVER)), "nginx", NO_PROTOCOL)
    table.refresh(directory.learn([ProcessFact(8, "nginx", "nginx", service="shop")]))
    assert table.services[key][0].endpoint().service == "shop"
    table.recognise(table.codes(make_slots(turn(b"?", b"", **SERVER_END))), np.array([2], np.int16))
    assert (table.services[key][0].endpoint().service, table.services[key][1]) == ("shop", 2)
