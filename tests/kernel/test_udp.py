"""UDP: a request datagram and what answers it are a turn; a socket may have many peers."""

from __future__ import annotations

import contextlib
import errno
import socket
from typing import TYPE_CHECKING

import pytest

from masdeepflow.schema import Flag, Kind, Role, Transport
from tests.support.stage import LOOPBACK, PORT, Gate

if TYPE_CHECKING:
    from tests.support.stage import Stage

pytestmark = pytest.mark.root

HOSTS = [LOOPBACK, "::1"]
UNANSWERED_NS = 5_000_000_000  # of bpf/turn.h


def _udp(host: str) -> socket.socket:
    return socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM)


def _answering(stage: Stage, host: str, count: int, port: int = PORT) -> None:
    """Start a server that answers `count` datagrams with `re: ` and their text."""
    ready = Gate()

    def serve() -> None:
        with _udp(host) as sock:
            sock.bind((host, port))
            ready.open()
            for _ in range(count):
                data, peer = sock.recvfrom(500)
                sock.sendto(b"re: " + data, peer)

    stage.start(serve)
    ready.wait()


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize("connected", [True, False], ids=["connected", "unconnected"])
def test_question_and_answer_are_a_turn(stage: Stage, host: str, *, connected: bool) -> None:
    """Both ends of an exchange of datagrams have it, with bytes, payload, times, roles and addresses."""
    _answering(stage, host, 2)

    def ask() -> tuple[str, int]:
        with _udp(host) as sock:
            if connected:
                sock.connect((host, PORT))
            for question in (b"who", b"where"):
                if connected:
                    sock.send(question)
                else:
                    sock.sendto(question, (host, PORT))
                assert sock.recv(100) == b"re: " + question
            return host if connected else str(sock.getsockname()[0]), sock.getsockname()[1]

    client = stage.start(ask)
    for role in (Role.CLIENT, Role.SERVER):
        turns = stage.turns(role)
        assert [(turn.request, turn.response) for turn in turns] == [
            (b"who", b"re: who"),
            (b"where", b"re: where"),
        ]
        assert [(turn.request_bytes, turn.response_bytes) for turn in turns] == [(3, 7), (5, 9)]
        assert {turn.transport for turn in turns} == {Transport.UDP}
        assert all(0 < turn.request_first_ns < turn.response_last_ns for turn in turns)
        assert len({turn.cookie for turn in turns}) == 1
    assert {(turn.local, turn.remote) for turn in stage.turns(Role.CLIENT)} == {(client.result, (host, PORT))}
    assert {turn.remote for turn in stage.turns(Role.SERVER)} == {(host, client.result[1])}
    assert {turn.local[1] for turn in stage.turns(Role.SERVER)} == {PORT}


@pytest.mark.parametrize("host", HOSTS)
def test_a_socket_with_several_peers_names_the_right_one(stage: Stage, host: str) -> None:
    """An unconnected client that asks several servers has each turn under its own server."""
    ports = [PORT, PORT + 1, PORT]
    _answering(stage, host, 2, PORT)
    _answering(stage, host, 1, PORT + 1)

    def ask() -> None:
        with _udp(host) as sock:
            for port in ports:
                sock.sendto(b"%d" % port, (host, port))
                sock.recv(100)

    stage.start(ask)
    turns = stage.turns(Role.CLIENT)
    assert [(turn.request, turn.remote) for turn in turns] == [(b"%d" % port, (host, port)) for port in ports]


def test_a_socket_connected_anew_names_its_new_peer(stage: Stage) -> None:
    """A resolver connects one socket to server after server."""
    ports = [PORT, PORT + 1]
    for port in ports:
        _answering(stage, LOOPBACK, 1, port)

    def ask() -> None:
        with _udp(LOOPBACK) as sock:
            for port in ports:
                sock.connect((LOOPBACK, port))
                sock.send(b"%d" % port)
                sock.recv(100)

    stage.start(ask)
    turns = stage.turns(Role.CLIENT)
    assert [(turn.request, turn.remote[1]) for turn in turns] == [(b"%d" % port, port) for port in ports]


def test_a_server_names_each_client(stage: Stage) -> None:
    """Each turn of a server's one socket has the client that it answered."""
    _answering(stage, LOOPBACK, 3)

    def ask() -> list[int]:
        ports = []
        for _ in range(3):
            with _udp(LOOPBACK) as sock:
                sock.sendto(b"who", (LOOPBACK, PORT))
                sock.recv(100)
                ports.append(sock.getsockname()[1])
        return ports

    client = stage.start(ask)
    assert [turn.remote[1] for turn in stage.turns(Role.SERVER)] == client.result


def test_every_datagram_of_an_answer_belongs_to_it(stage: Stage) -> None:
    """Several response datagrams are one response, put together."""

    def play() -> None:
        with _udp(LOOPBACK) as server, _udp(LOOPBACK) as client:
            server.bind((LOOPBACK, PORT))
            client.sendto(b"list", (LOOPBACK, PORT))
            peer = server.recvfrom(100)[1]
            for part in (b"one ", b"two ", b"three"):
                server.sendto(part, peer)
            for _ in range(3):
                client.recv(100)

    stage.start(play)
    for role in (Role.CLIENT, Role.SERVER):
        turn = stage.turn(role)
        assert (turn.response, turn.response_segments) == (b"one two three", 3)


def test_an_unanswered_question_is_written_in_the_end(stage: Stage) -> None:
    """A datagram that nobody answers becomes a turn without a response, seconds later."""

    def ask() -> None:
        with _udp(LOOPBACK) as deaf, _udp(LOOPBACK) as sock:
            deaf.bind((LOOPBACK, PORT))
            sock.connect((LOOPBACK, PORT))
            sock.send(b"nobody listens")

    stage.start(ask)
    slots = stage.until(lambda slots: any(slot.kind == Kind.TURN for slot in slots))
    assert [slot.kind for slot in slots] == [Kind.OPEN, Kind.TURN], slots
    opened, turn = slots
    assert opened.request == b"nobody listens"
    assert (turn.request, turn.response_bytes, turn.response_first_ns) == (b"nobody listens", 0, 0)
    assert turn.response_last_ns >= turn.request_last_ns + UNANSWERED_NS
    assert turn.flags & Flag.OPENED
    assert turn.flags & Flag.IDLE


def test_requests_without_response_end_at_the_next(stage: Stage) -> None:
    """One-way datagrams are a turn each."""
    _answering(stage, LOOPBACK, 1)

    def tell() -> None:
        with _udp(LOOPBACK) as deaf, _udp(LOOPBACK) as sock:
            deaf.bind((LOOPBACK, PORT + 1))
            for number in range(3):
                sock.sendto(b"%d" % number, (LOOPBACK, PORT + 1))
            sock.sendto(b"last", (LOOPBACK, PORT))
            sock.recv(100)

    stage.start(tell)
    turns = stage.turns(Role.CLIENT)
    assert [(turn.request, turn.response) for turn in turns] == [
        (b"0", b""),
        (b"1", b""),
        (b"2", b""),
        (b"last", b"re: last"),
    ]


@pytest.mark.parametrize("host", HOSTS)
def test_a_datagram_that_nobody_listens_for_is_refused(stage: Stage, host: str) -> None:
    """CONNECT_FAILED tells at once, under the right process, from the first datagram of the socket on."""

    def ask() -> tuple[str, int]:
        with _udp(host) as sock:
            sock.connect((host, PORT))
            sock.send(b"anybody?")
            with pytest.raises(ConnectionRefusedError):
                sock.recv(100)
            address: tuple[str, int] = sock.getsockname()[:2]
            return address

    client = stage.start(ask)
    refused = stage.event(Kind.CONNECT_FAILED)
    assert (refused.error, refused.transport, refused.pid) == (errno.ECONNREFUSED, Transport.UDP, client.pid)
    assert (refused.role, refused.local, refused.remote) == (Role.CLIENT, client.result, (host, PORT))
    assert 0 < refused.request_first_ns <= refused.response_last_ns


def test_a_socket_that_is_refused_again_and_again_tells_so_once_a_second(stage: Stage) -> None:
    """So metrics that are sent to a collector that is gone do not fill the ring; the turns are all there."""

    def send() -> None:
        with _udp(LOOPBACK) as sock:
            sock.connect((LOOPBACK, PORT))
            for _ in range(40):
                with contextlib.suppress(ConnectionRefusedError):
                    sock.send(b"load:1|g")

    stage.start(send)
    stage.settle()
    assert len(stage.events(Kind.CONNECT_FAILED)) == 1


def test_a_turn_is_whole_though_a_datagram_before_it_was_refused(stage: Stage) -> None:
    """Somebody listens by then: question and answer are a turn as ever, the refusal leaves nothing in it."""
    refused = Gate()

    def ask() -> None:
        with _udp(LOOPBACK) as sock:
            sock.connect((LOOPBACK, PORT))
            sock.send(b"anybody?")
            with pytest.raises(ConnectionRefusedError):
                sock.recv(100)
            refused.open()
            again.wait()
            sock.send(b"and now?")
            assert sock.recv(100) == b"re: and now?"

    again = Gate()
    stage.start(ask)
    refused.wait()
    _answering(stage, LOOPBACK, 1)
    again.open()
    turn = stage.turns(Role.CLIENT)[-1]
    assert (turn.request, turn.response, turn.error) == (b"and now?", b"re: and now?", 0)
    assert turn.request_first_ns < turn.response_last_ns < turn.request_first_ns + UNANSWERED_NS
