"""sendmmsg and recvmmsg: several messages a call, each with its own payload."""

from __future__ import annotations

import socket
import struct
import time
from typing import TYPE_CHECKING

import pytest

from masdeepflow.schema import Flag, Role
from tests.support.stage import LOOPBACK, PORT, Gate, read
from tests.support.system_calls import Messages

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.stage import Stage

pytestmark = pytest.mark.root

DONTWAIT, WAITFORONE = socket.MSG_DONTWAIT, 0x10000


def _numbered(*numbers: int, size: int = 8) -> list[bytes]:
    return [(b"msg %d " % number).ljust(size, b".") for number in numbers]


def _datagrams(
    stage: Stage, client: Callable[[socket.socket], None], server: Callable[[socket.socket], object]
) -> None:
    """Run a UDP client whose last datagram is answered by the server's return."""
    ready = Gate()

    def serve() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.bind((LOOPBACK, PORT))
            ready.open()
            server(sock)
            _, peer = sock.recvfrom(100)
            sock.sendto(b"answer", peer)

    def ask() -> None:
        ready.wait()
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            sock.connect((LOOPBACK, PORT))
            client(sock)
            sock.send(b"question")
            read(sock, 6)

    stage.start(serve)
    stage.start(ask)


def _requests(stage: Stage, role: Role) -> list[bytes]:
    """Return the requests before the question."""
    turns = stage.turns(role)
    assert (turns[-1].request, turns[-1].response) == (b"question", b"answer")
    assert not any(turn.flags & Flag.NO_PAYLOAD for turn in turns)
    return [turn.request for turn in turns[:-1]]


def _collect(count: int) -> Callable[[socket.socket], None]:
    def server(sock: socket.socket) -> None:
        for _ in range(count):
            sock.recv(100)

    return server


def test_every_message_of_a_sendmmsg_has_its_own_payload(stage: Stage) -> None:
    """Messages sent in one call are told apart, also when each is in several pieces."""
    expected = _numbered(*range(5))
    messages = Messages.of(*([data[:3], data[3:]] for data in expected))
    _datagrams(stage, lambda sock: _assert_equal(messages.send(sock.fileno()), 5), _collect(5))
    assert _requests(stage, Role.CLIENT) == expected


def _assert_equal(got: object, expected: object) -> None:
    assert got == expected


def test_a_vector_sent_again_starts_over(stage: Stage) -> None:
    """The same vector in the next call, with other bytes as long, is read from its first message on."""
    messages = Messages([[8]] * 3)
    sent: list[bytes] = []

    def client(sock: socket.socket) -> None:
        for start, count in ((0, 3), (10, 3), (20, 1), (30, 2), (40, 3)):
            for number, data in enumerate(_numbered(*range(start, start + count))):
                messages.fill(number, data)
            assert messages.send(sock.fileno(), count) == count

    for start, count in ((0, 3), (10, 3), (20, 1), (30, 2), (40, 3)):
        sent += _numbered(*range(start, start + count))
    _datagrams(stage, client, _collect(len(sent)))
    assert _requests(stage, Role.CLIENT) == sent


@pytest.mark.parametrize("flags", [DONTWAIT, WAITFORONE])
def test_a_vector_partly_received_starts_over(stage: Stage, flags: int) -> None:
    """After a call that got fewer messages than it has room for, the next one starts with the first again."""
    batches = [_numbered(0, 1), _numbered(10, 11, 12), _numbered(20), _numbered(30, 31)]
    sent = [data for batch in batches for data in batch]
    turn, go = Gate(), Gate()

    def server(sock: socket.socket) -> None:
        messages = Messages([[100]] * 5)
        for batch in batches:
            go.wait()
            assert messages.receive(sock.fileno(), flags=flags) == [len(data) for data in batch]
            turn.open()

    def client(sock: socket.socket) -> None:
        for batch in batches:
            for data in batch:
                sock.send(data)
            go.open()
            turn.wait()

    _datagrams(stage, client, server)
    assert _requests(stage, Role.SERVER) == sent


def test_an_empty_datagram_between_others_shifts_nothing(stage: Stage) -> None:
    """A message without bytes takes its place in the vector."""

    def client(sock: socket.socket) -> None:
        for data in (b"first", b"", b"third"):
            sock.send(data)

    def server(sock: socket.socket) -> None:
        assert Messages([[100]] * 3).receive(sock.fileno()) == [5, 0, 5]

    _datagrams(stage, client, server)
    assert _requests(stage, Role.SERVER) == [b"first", b"third"]


def test_peeking_at_messages_shifts_nothing(stage: Stage) -> None:
    """Messages peeked at with the same vector are not received, and do not move those that are."""
    sent = Gate()

    def client(sock: socket.socket) -> None:
        for data in _numbered(0, 1):
            sock.send(data)
        sent.open()

    def server(sock: socket.socket) -> None:
        sent.wait()
        messages = Messages([[100]] * 4)
        assert messages.receive(sock.fileno(), 2, socket.MSG_PEEK) == [8, 8]
        assert messages.receive(sock.fileno(), 2) == [8, 8]

    _datagrams(stage, client, server)
    assert _requests(stage, Role.SERVER) == _numbered(0, 1)


def test_a_call_that_ran_out_of_time_shows_no_other_messages(stage: Stage) -> None:
    """Nothing tells that recvmmsg's time was over: with a timeout, a wrong payload is never shown."""
    first_sent, received = Gate(), Gate()

    def client(sock: socket.socket) -> None:
        for first in (0, 10):
            sock.send(_numbered(first)[0])
            first_sent.open()
            time.sleep(0.1)
            sock.send(_numbered(first + 1)[0])
            received.wait()

    def server(sock: socket.socket) -> None:
        messages = Messages([[100]] * 5)
        for _ in range(2):
            first_sent.wait()
            left = 2
            while left:
                left -= len(messages.receive(sock.fileno(), timeout_s=0.02))
            received.open()

    _datagrams(stage, client, server)
    turns = stage.turns(Role.SERVER)[:-1]
    assert [turn.request_bytes for turn in turns] == [8] * 4
    for turn, data in zip(turns, _numbered(0, 1, 10, 11), strict=True):
        assert turn.request == data or (not turn.request and turn.flags & Flag.NO_PAYLOAD)


def test_messages_over_tcp_are_one_stream(stage: Stage) -> None:
    """Messages on a stream are put together like any other segments, sent and received."""
    expected = b"".join(_numbered(*range(4)))

    def client(sock: socket.socket) -> None:
        assert Messages.of(*([data] for data in _numbered(*range(4)))).send(sock.fileno()) == 4
        read(sock, 2)

    def server(sock: socket.socket) -> None:
        while len(sock.recv(100, socket.MSG_PEEK)) < len(expected):
            pass
        assert Messages([[3, 5]] * 4).receive(sock.fileno()) == [8] * 4
        sock.sendall(b"ok")

    stage.exchange(client, server)
    for turn in (stage.turn(Role.CLIENT), stage.turn(Role.SERVER)):
        assert (turn.request, turn.request_segments) == (expected, 4)


def test_a_message_sent_in_part_over_tcp_starts_over(stage: Stage) -> None:
    """A full send buffer ends sendmmsg within a message; the next call starts with the first again."""
    large = 32 << 20
    read_all = Gate()

    def client(sock: socket.socket) -> None:
        messages = Messages.of([b"x" * large], [b"second"])
        sock.settimeout(0)
        assert messages.send(sock.fileno(), 2) == 1
        sent = messages._headers[0].length
        assert 0 < sent < large
        sock.settimeout(None)
        sock.sendall(b"y" * (large - sent))
        read(sock, 2)
        read_all.wait()
        messages.fill(0, b"first")
        messages._vectors[0][0].length = sent
        assert messages.send(sock.fileno(), 2) == 2

    def server(sock: socket.socket) -> None:
        left = large
        while left:
            left -= len(sock.recv(1 << 20))
        sock.sendall(b"ok")
        read_all.open()
        while sock.recv(1 << 20):
            pass

    stage.exchange(client, server)
    turns = stage.turns(Role.CLIENT)
    assert turns[0].request.startswith(b"xxxx")
    assert turns[1].request.startswith(b"firstxxx")


def test_datagrams_to_several_peers_in_one_call_show_each_peer(stage: Stage) -> None:
    """The address in each message is that turn's peer."""
    addresses = [(LOOPBACK, PORT + number) for number in range(3)]

    def client() -> None:
        sockets = [socket.socket(socket.AF_INET, socket.SOCK_DGRAM) for _ in addresses]
        for sock, address in zip(sockets, addresses, strict=True):
            sock.bind(address)
        messages = Messages.of(*([data] for data in _numbered(*range(3))))
        for number, (host, port) in enumerate(addresses):
            name = (
                struct.pack("=H", socket.AF_INET)
                + struct.pack(">H", port)
                + socket.inet_aton(host)
                + bytes(8)
            )
            messages.address(number, name)
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
            assert messages.send(sock.fileno()) == 3
            sock.sendto(b"question", addresses[0])
            sockets[0].recvfrom(100)
            sockets[0].sendto(b"answer", sockets[0].recvfrom(100)[1])
            sock.recv(100)

    stage.start(client)
    turns = stage.turns(Role.CLIENT)
    assert [turn.request for turn in turns] == [*_numbered(*range(3)), b"question"]
    assert [turn.remote for turn in turns] == [*addresses, addresses[0]]
