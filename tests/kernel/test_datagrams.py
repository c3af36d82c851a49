"""Ports whose datagrams are followed one by one: a slot each, to be paired by an id in user space."""

from __future__ import annotations

import socket
import time
from typing import TYPE_CHECKING

import pytest

from masdeepflow.kernel.probes import Probes
from masdeepflow.schema import Flag, Kind, Role, Transport
from tests.support.ports import free_port
from tests.support.stage import LOOPBACK, RING_BYTES, Gate, Stage
from tests.support.system_calls import Messages

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.stage import Slot

pytestmark = pytest.mark.root

FOLLOWED = 5300
HOSTS = [LOOPBACK, "::1"]


@pytest.fixture(scope="module")
def probes() -> Iterator[Probes]:
    """Yield probes that follow the datagrams of one port."""
    with Probes(ring_bytes=RING_BYTES) as attached:
        attached.follow_datagrams(FOLLOWED)
        yield attached


def _udp(host: str = LOOPBACK) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)


def _datagrams(stage: Stage, role: Role) -> list[Slot]:
    return [slot for slot in stage.settle() if slot.kind == Kind.DATAGRAM and slot.role == role]


def _bytes(slot: Slot) -> bytes:
    return slot.request + slot.response


def _serving(stage: Stage, host: str, count: int, port: int = FOLLOWED) -> None:
    """Start a server that waits for `count` datagrams, and answers them from last to first."""
    ready = Gate()

    def serve() -> None:
        with _udp(host) as sock:
            sock.bind((host, port))
            ready.open()
            asked = [sock.recvfrom(4096) for _ in range(count)]
            for data, peer in reversed(asked):
                sock.sendto(b"re: " + data, peer)

    stage.start(serve)
    ready.wait()


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("connected", [True, False], ids=["connected", "unconnected"])
def test_each_datagram_has_a_slot(stage: Stage, host: str, *, connected: bool) -> None:
    """Questions asked back to back and answered in another order are told apart, with times and peers."""
    _serving(stage, host, 2)

    def ask() -> int:
        with _udp(host) as sock:
            if connected:
                sock.connect((host, FOLLOWED))
                assert Messages.of([b"A?"], [b"AAAA?"]).send(sock.fileno()) == 2
            else:
                for question in (b"A?", b"AAAA?"):
                    sock.sendto(question, (host, FOLLOWED))
            assert [sock.recv(100) for _ in range(2)] == [b"re: AAAA?", b"re: A?"]
            return int(sock.getsockname()[1])

    port = stage.start(ask)
    slots = _datagrams(stage, Role.CLIENT)
    assert [_bytes(slot) for slot in slots] == [b"A?", b"AAAA?", b"re: AAAA?", b"re: A?"]
    assert [(slot.request_bytes, slot.response_bytes) for slot in slots] == [(2, 0), (5, 0), (0, 9), (0, 6)]
    assert [bool(slot.request_first_ns) for slot in slots] == [True, True, False, False]
    assert [bool(slot.response_first_ns) for slot in slots] == [False, False, True, True]
    assert {slot.remote for slot in slots} == {(host, FOLLOWED)}
    assert {(slot.local[1], slot.transport) for slot in slots} == {(port.result, Transport.UDP)}
    assert len({slot.cookie for slot in slots}) == 1
    assert [slot.turn for slot in slots] == sorted({slot.turn for slot in slots})
    served = _datagrams(stage, Role.SERVER)
    assert [_bytes(slot) for slot in served] == [b"A?", b"AAAA?", b"re: AAAA?", b"re: A?"]
    assert {slot.remote for slot in served[2:]} == {(host, port.result)}
    assert not stage.turns()


def _serving_in_turns(stage: Stage, host: str, rounds: int, count: int) -> Gate:
    """Start a server that reads one datagram, opens a gate, and answers `rounds` times `count` of them."""
    ready, read = Gate(), Gate()

    def serve() -> None:
        with _udp(host) as sock:
            sock.bind((host, FOLLOWED))
            ready.open()
            sock.recv(100)
            read.open()
            for _ in range(rounds):
                for data, peer in [sock.recvfrom(100) for _ in range(count)]:
                    sock.sendto(b"re: " + data, peer)

    stage.start(serve)
    ready.wait()
    return read


@pytest.mark.parametrize("host", HOSTS)
def test_who_asks_a_server_is_known_before_it_answers(stage: Stage, host: str) -> None:
    """Answered or not; but for what came before its socket was first read, or read before it was noted."""
    rounds, count = 30, 3
    ready = _serving_in_turns(stage, host, rounds, count)

    def ask() -> list[int]:
        with _udp(host) as first:
            first.sendto(b"first", (host, FOLLOWED))
            ready.wait()
        sockets = [_udp(host) for _ in range(count)]
        for number in range(rounds):
            for sock in sockets:
                sock.sendto(b"%03d who?" % number, (host, FOLLOWED))
            assert [sock.recv(100) for sock in sockets] == [b"re: %03d who?" % number] * count
        return [sock.getsockname()[1] for sock in sockets]

    client = stage.start(ask)
    slots = _datagrams(stage, Role.SERVER)[1:]
    asked = [slot.remote for slot in slots if slot.request_first_ns]
    answered = [slot.remote for slot in slots if slot.response_first_ns]
    assert answered == [(host, port) for port in client.result] * rounds
    named = [(mine, theirs) for mine, theirs in zip(asked, answered, strict=True) if mine[1]]
    assert all(mine == theirs for mine, theirs in named)
    assert len(named) > len(asked) // 2


def test_the_peers_of_a_flood_are_known_or_not_named(stage: Stage) -> None:
    """More than are noted wait in the buffer: nobody is taken for another."""
    ready, read, flooded, total = Gate(), Gate(), Gate(), 200

    def serve() -> None:
        with _udp() as sock:
            sock.bind((LOOPBACK, FOLLOWED))
            ready.open()
            sock.recv(100)
            read.open()
            flooded.wait()
            for _ in range(total):
                data, peer = sock.recvfrom(100)
                assert data == b"%05d" % peer[1]

    def ask() -> None:
        ready.wait()
        with _udp() as sock:
            sock.sendto(b"first", (LOOPBACK, FOLLOWED))
            read.wait()
        for _ in range(total):
            with _udp() as sock:
                sock.bind((LOOPBACK, 0))
                sock.sendto(b"%05d" % sock.getsockname()[1], (LOOPBACK, FOLLOWED))
        flooded.open()

    stage.start(serve)
    stage.start(ask)
    slots = [slot for slot in _datagrams(stage, Role.SERVER) if slot.request[:1].isdigit()]
    assert len(slots) == total
    named = [slot for slot in slots if slot.remote[1]]
    # Told apart by the first bytes: of ports that begin alike the next one's may be taken.
    assert {slot.remote[1] // 10 for slot in named} <= {int(slot.request) // 10 for slot in slots}
    assert len(named) >= 40


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("reads", [True, False])
def test_a_refusal_is_told_at_once(stage: Stage, host: str, *, reads: bool) -> None:
    """Whether its client reads of it or not: some go on to the next server as soon as there is an error."""

    def ask() -> None:
        with _udp(host) as sock:
            sock.connect((host, FOLLOWED))
            sock.send(b"nobody listens")
            if reads:
                with pytest.raises(ConnectionRefusedError):
                    sock.recv(100)

    stage.start(ask)
    slots = _datagrams(stage, Role.CLIENT)
    asked = next(slot for slot in slots if slot.request_first_ns)
    refused = [slot for slot in slots if Flag.FAILED in slot.flags]
    assert {(slot.error, slot.remote, slot.cookie, slot.request) for slot in refused} == {
        (111, (host, FOLLOWED), asked.cookie, b"")
    }
    assert any(slot.response_first_ns >= asked.request_first_ns for slot in refused)
    assert Flag.FAILED not in asked.flags


def test_what_can_not_be_sent_is_told_with_the_reason(stage: Stage) -> None:
    """No route leads there, or the answer to what was sent before is in its way: errors of the send."""
    nowhere = "192.0.2.1"

    def ask() -> None:
        with _udp() as lost, _udp() as refused:
            with pytest.raises(OSError, match="unreachable"):
                lost.sendto(b"no route", (nowhere, FOLLOWED))
            refused.connect((LOOPBACK, FOLLOWED))
            refused.send(b"sent")
            with pytest.raises(ConnectionRefusedError):
                refused.send(b"in its way")
            with pytest.raises(BlockingIOError):
                lost.recv(100, socket.MSG_DONTWAIT)

    stage.start(ask)
    unsent = [slot for slot in _datagrams(stage, Role.CLIENT) if Flag.FAILED in slot.flags and slot.request]
    assert [(slot.request, slot.error, slot.remote) for slot in unsent] == [
        (b"no route", 101, (nowhere, FOLLOWED)),
        (b"in its way", 111, (LOOPBACK, FOLLOWED)),
    ]
    assert all(slot.request_first_ns and not slot.request_bytes for slot in unsent)


def test_an_error_of_a_server_is_none_of_a_client(stage: Stage) -> None:
    """A server that can't reach who has asked has no request that failed."""

    def play() -> None:
        with _udp() as server:
            server.bind((LOOPBACK, FOLLOWED))
            with pytest.raises(OSError, match="unreachable"):
                server.sendto(b"an answer", ("192.0.2.1", 40000))

    stage.start(play)
    assert not stage.settle()


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("closed", [True, False], ids=["answered behind the close", "left in the buffer"])
def test_an_answer_that_nobody_reads_is_told(
    stage: Stage, probes: Probes, host: str, *, closed: bool
) -> None:
    """Who has asked several servers takes one answer: that the others live is known too, and since when."""
    other = free_port()
    probes.follow_datagrams(other)

    def ask() -> int:
        with _udp(host) as first, _udp(host) as second, _udp(host) as sock:
            first.bind((host, FOLLOWED))
            second.bind((host, other))
            for port in (FOLLOWED, other):
                sock.sendto(b"1: who?", (host, port))
            client = first.recvfrom(100)[1]
            assert second.recvfrom(100)[1] == client
            if closed:
                first.sendto(b"1: first", client)
                assert sock.recv(100) == b"1: first"
                sock.close()
                second.sendto(b"1: second, " + b"long" * 100, client)
                return 0
            first.sendto(b"1: first", client)
            second.sendto(b"1: second", client)
            at_ns = time.monotonic_ns()
            assert sock.recv(100) == b"1: first"
            time.sleep(0.1)
            return at_ns

    stage.start(ask)
    stage.settle()
    assert probes.sweep() in {True, False}  # has on_drop attached, if that was not done before
    asking = stage.start(ask)
    slots = [slot for slot in _datagrams(stage, Role.CLIENT) if slot.response_first_ns]
    unread = [slot for slot in slots if Flag.UNREAD in slot.flags]
    read = [slot for slot in slots if Flag.UNREAD not in slot.flags]
    assert [_bytes(slot)[:9] for slot in read] == [b"1: first"] * 2
    assert {_bytes(slot)[:9] for slot in unread} == {b"1: second"}
    assert {(slot.remote, slot.cookie) for slot in unread[-1:]} == {((host, other), read[-1].cookie)}
    assert Flag.WATCHED in unread[-1].flags
    assert unread[-1].response_bytes == (411 if closed else 9)
    assert len(_bytes(unread[-1])) == (312 if closed else 9)
    if not closed:
        assert abs(unread[-1].response_first_ns - asking.result) < 50_000_000


def test_an_answer_that_one_alone_was_asked_for_is_not_told_unread(stage: Stage) -> None:
    """Its client has given up, and that is told."""
    _serving(stage, LOOPBACK, 1)

    def ask() -> None:
        with _udp() as sock:
            sock.sendto(b"who", (LOOPBACK, FOLLOWED))

    stage.start(ask)
    assert [_bytes(slot) for slot in _datagrams(stage, Role.CLIENT)] == [b"who"]


@pytest.mark.parametrize(
    ("host", "others"), [(LOOPBACK, ["127.0.53.7", "127.0.53.8"]), ("::1", ["::1", "::1"])]
)
def test_who_of_several_has_answered_is_known(
    stage: Stage, probes: Probes, host: str, others: list[str]
) -> None:
    """C libraries ask all name servers at once, and the first may answer when the last was asked."""
    ports = [free_port() for _ in range(3)]
    for port in ports:
        probes.follow_datagrams(port)
    peers = list(zip([host, *others], ports, strict=True))

    def ask() -> None:
        servers = [_udp(host) for _ in peers]
        for server, peer in zip(servers, peers, strict=True):
            server.bind(peer)
        with _udp(host) as sock:
            for peer in peers:
                sock.sendto(b"1: who?", peer)
            asked = [server.recvfrom(100)[1] for server in servers]
            for number in (1, 0, 1):
                servers[number].sendto(b"1: %d!" % number, asked[number])
            assert [sock.recv(100) for _ in range(3)] == [b"1: 1!", b"1: 0!", b"1: 1!"]
            sock.sendto(b"2: who?", peers[0])
            client = servers[0].recvfrom(100)[1]
            for number in (2, 0):
                servers[number].sendto(b"2: %d!" % number, client)
            assert [sock.recv(100) for _ in range(2)] == [b"2: 2!", b"2: 0!"]

    stage.start(ask)
    slots = _datagrams(stage, Role.CLIENT)
    expected = [*peers, peers[1], peers[0], peers[1], peers[0], peers[2], peers[0]]
    assert [slot.remote for slot in slots] == expected


def test_an_answer_of_a_stranger_is_of_who_was_asked(stage: Stage, probes: Probes) -> None:
    """What translates addresses may show another sender than the process sees."""
    other, third = free_port(), free_port()
    for port in (other, third):
        probes.follow_datagrams(port)

    def ask() -> None:
        with _udp() as first, _udp() as second, _udp() as stranger, _udp() as sock:
            first.bind((LOOPBACK, FOLLOWED))
            second.bind((LOOPBACK, other))
            stranger.bind((LOOPBACK, third))
            for port in (other, FOLLOWED):
                sock.sendto(b"who?", (LOOPBACK, port))
            for number in range(2):
                stranger.sendto(b"%d: me!" % number, (LOOPBACK, sock.getsockname()[1]))
                assert sock.recv(100) == b"%d: me!" % number

    stage.start(ask)
    slots = _datagrams(stage, Role.CLIENT)
    assert [slot.remote[1] for slot in slots] == [other, FOLLOWED, FOLLOWED, FOLLOWED]


def test_a_long_datagram_goes_on_in_the_response(stage: Stage) -> None:
    """Its payload fills the whole slot, whichever way it goes."""
    room = 504 - 192  # PAYLOAD_BYTES of bpf/wire.h
    data = bytes(range(256)) * 2
    _serving(stage, LOOPBACK, 1)

    def ask() -> None:
        with _udp() as sock:
            sock.sendto(data, (LOOPBACK, FOLLOWED))
            sock.recv(4096)

    stage.start(ask)
    for role in (Role.CLIENT, Role.SERVER):
        asked, answered = _datagrams(stage, role)
        assert _bytes(asked) == data[:room]
        assert _bytes(answered) == (b"re: " + data)[:room]
        assert (asked.request_bytes, answered.response_bytes) == (len(data), len(data) + 4)


def test_other_ports_have_turns(stage: Stage) -> None:
    """A port that is not followed is paired by order as ever."""
    _serving(stage, LOOPBACK, 1, FOLLOWED + 1)

    def ask() -> None:
        with _udp() as sock:
            sock.sendto(b"who", (LOOPBACK, FOLLOWED + 1))
            sock.recv(100)

    stage.start(ask)
    turn = stage.turn(Role.CLIENT)
    assert (turn.request, turn.response) == (b"who", b"re: who")


def test_the_ports_tell_who_serves(stage: Stage) -> None:
    """A server whose first datagram in sight is one that it sends is a server all the same."""

    def play() -> None:
        with _udp() as server, _udp() as client:
            server.bind((LOOPBACK, FOLLOWED))
            client.connect((LOOPBACK, FOLLOWED))
            server.sendto(b"notify", client.getsockname())
            client.recv(100)

    stage.start(play)
    assert [_bytes(slot) for slot in _datagrams(stage, Role.SERVER)] == [b"notify"]
    assert [_bytes(slot) for slot in _datagrams(stage, Role.CLIENT)] == [b"notify"]
    assert all(slot.response_first_ns for slot in stage.settle())


def test_a_socket_that_is_not_answered_tells_so_once(stage: Stage) -> None:
    """Five seconds behind the last question, a slot shows that time has passed."""

    def ask() -> None:
        with _udp() as deaf, _udp() as sock:
            deaf.bind((LOOPBACK, FOLLOWED))
            sock.connect((LOOPBACK, FOLLOWED))
            sock.send(b"nobody listens")

    def mine(slots: list[Slot]) -> list[Slot]:
        # Of a namespace that an earlier test had, with the same number, there may be others.
        cookies = {slot.cookie for slot in slots if slot.request == b"nobody listens"}
        return [slot for slot in slots if slot.cookie in cookies]

    stage.start(ask)
    slots = stage.until(lambda slots: any(slot.kind == Kind.SILENT for slot in mine(slots)))
    asked, silent = mine(slots)
    assert (_bytes(asked), asked.kind) == (b"nobody listens", Kind.DATAGRAM)
    assert silent.cookie == asked.cookie
    assert 5_000_000_000 <= silent.request_first_ns - asked.request_first_ns < 8_000_000_000
    assert len(mine(stage.settle())) == 2


def test_a_socket_nobody_makes_sense_of_goes_back_to_turns(stage: Stage, probes: Probes) -> None:
    """Once it is told to, a socket of a followed port has turns again, within as many datagrams."""
    rounds = 100
    asking, go = Gate(), Gate()
    _answering(stage, 2 + rounds)

    def ask() -> None:
        with _udp() as sock:
            sock.connect((LOOPBACK, FOLLOWED))
            for number in range(2 + rounds):
                sock.send(b"noise")
                sock.recv(100)
                if number == 1:
                    asking.open()
                    go.wait()

    stage.start(ask)
    asking.wait()
    for slot in stage.until(lambda slots: len(slots) == 8):
        probes.leave_datagrams(slot.cookie)
    go.open()
    turns = stage.turns(Role.CLIENT)
    datagrams = _datagrams(stage, Role.CLIENT)
    assert len(datagrams) < 64
    assert (turns[-1].request, turns[-1].response) == (b"noise", b"re: noise")
    # The one in between may be a request of one kind and a response of the other.
    assert 2 * len(turns) + len(datagrams) in range(2 * rounds + 3, 2 * rounds + 7)


def _answering(stage: Stage, count: int, port: int = FOLLOWED) -> None:
    """Start a server that answers each of `count` datagrams at once."""
    ready = Gate()

    def serve() -> None:
        with _udp() as sock:
            sock.bind((LOOPBACK, port))
            ready.open()
            for _ in range(count):
                data, peer = sock.recvfrom(100)
                sock.sendto(b"re: " + data, peer)

    stage.start(serve)
    ready.wait()


def test_golden_signals_count_every_question(counting: Stage) -> None:
    """A followed port's requests are counted as turns are, answered or not."""
    assert counting.probes is not None
    counting.probes.follow_datagrams(FOLLOWED)
    _answering(counting, 5)

    def ask() -> None:
        with _udp() as sock, _udp() as deaf:
            deaf.bind((LOOPBACK, 0))
            sock.connect((LOOPBACK, FOLLOWED))
            for _ in range(5):
                sock.send(b"who")
                sock.recv(100)

    counting.start(ask)
    counting.settle()
    assert set(counting.counted().values()) == {5}


def test_a_flood_of_turns_is_counted_and_shown_now_and_then(counting: Stage) -> None:
    """Very many turns that nobody makes sense of do not fill the ring, and none is uncounted."""
    flood = 3000
    assert counting.probes is not None
    before = counting.probes.counters()["unshown"]

    def tell() -> None:
        with _udp() as deaf, _udp() as sock:
            deaf.bind((LOOPBACK, FOLLOWED + 1))
            sock.connect(deaf.getsockname())
            for _ in range(flood):
                sock.send(b"media")

    teller = counting.start(tell)
    shown = len(counting.turns(Role.CLIENT))
    unshown = counting.probes.counters()["unshown"] - before
    counted = sum(
        service.turns
        for service in counting.probes.services()
        if service.pid == teller.pid and service.role == 1
    )
    assert 256 <= shown < flood
    assert unshown
    # The last one waits for an answer.
    assert flood - 1 <= counted <= flood
    assert not any(slot.flags & Flag.NO_PAYLOAD for slot in counting.settle())
