"""Payload prefixes: the first bytes of a request and of a response, put together from wherever they lie."""

from __future__ import annotations

import os
import socket
from typing import TYPE_CHECKING

import pytest

from masdeepflow.kernel.probes import Probes
from masdeepflow.schema import Flag, Role
from tests.support.stage import RING_BYTES, Slot, Stage, read

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

pytestmark = pytest.mark.root

MAX_IOVECS = 16  # of bpf/turn.h


def _room(probes: Probes) -> tuple[int, int]:
    slot = {member.name: member.count for member in probes.layout.structs["slot"][1]}
    return slot["request"], slot["response"]


def _numbered(size: int) -> bytes:
    """Return bytes that differ from place to place."""
    return b"".join(b"%07d\n" % number for number in range(size // 8 + 1))[:size]


def _request(stage: Stage, send: Callable[[socket.socket], object], size: int) -> Slot:
    """Return the client's turn, whose request of `size` bytes `send` sends."""

    def client(sock: socket.socket) -> None:
        send(sock)
        read(sock, 2)

    def server(sock: socket.socket) -> None:
        read(sock, size)
        sock.sendall(b"ok")

    stage.exchange(client, server)
    return stage.turn(Role.CLIENT)


def test_entries_of_a_vector_are_put_together(stage: Stage) -> None:
    """The prefix goes on from one entry of a vector to the next, empty ones included."""
    parts = [b"", b"GET ", b"", b"/path", b" HTTP/1.1\r\n", b"", b"\r\n"]
    turn = _request(stage, lambda sock: os.writev(sock.fileno(), parts), len(b"".join(parts)))
    assert turn.request == b"".join(parts)
    assert not turn.flags & Flag.NO_PAYLOAD


def test_a_partly_filled_vector_shows_only_what_was_read(stage: Stage) -> None:
    """A vector that is larger than what came ends where the bytes end."""

    def server(sock: socket.socket) -> None:
        buffers = [bytearray(b"x" * 3), bytearray(b"y" * 100), bytearray(b"z" * 100)]
        assert os.readv(sock.fileno(), buffers) == 8
        sock.sendall(b"ok")

    def client(sock: socket.socket) -> None:
        sock.sendall(b"12345678")
        read(sock, 2)

    stage.exchange(client, server)
    assert stage.turn(Role.SERVER).request == b"12345678"


@pytest.mark.parametrize("count", [9, MAX_IOVECS])
def test_a_vector_of_many_entries_is_shown_whole(stage: Stage, count: int) -> None:
    """The handshake of libmongoc has nine: without the last one it would be no message."""
    parts = [b"%d;" % number for number in range(count)]
    turn = _request(stage, lambda sock: os.writev(sock.fileno(), parts), len(b"".join(parts)))
    assert turn.request == b"".join(parts)
    assert not turn.flags & Flag.NO_PAYLOAD


@pytest.mark.parametrize(
    "send", [os.writev, lambda fd, parts: socket.socket(fileno=os.dup(fd)).sendmsg(parts)]
)
def test_a_long_vector_gives_a_true_prefix(stage: Stage, send: Callable[[int, Sequence[bytes]], int]) -> None:
    """Of a vector with more entries than are looked at, the first are shown, and nothing fills the gap."""
    parts = [b"%d;" % number for number in range(30)]
    whole = b"".join(parts) + b"behind"

    def write(sock: socket.socket) -> None:
        send(sock.fileno(), parts)
        sock.sendall(b"behind")

    turn = _request(stage, write, len(whole))
    assert turn.request_bytes == len(whole)
    assert len(turn.request) >= len(b"".join(parts[:MAX_IOVECS]))
    assert whole.startswith(turn.request)
    assert (len(turn.request) == len(whole)) != bool(turn.flags & Flag.NO_PAYLOAD)


def test_segments_are_put_together_until_the_room_is_full(stage: Stage, probes: Probes) -> None:
    """A request and a response of many segments show their first bytes, as many as there is room for."""
    room, response_room = _room(probes)
    data = _numbered(1000)
    pieces = [data[at : at + 90] for at in range(0, len(data), 90)]

    def client(sock: socket.socket) -> None:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for piece in pieces:
            sock.sendall(piece)
            assert read(sock, 1) if piece is pieces[-1] else True
        read(sock, len(data) - 1)

    def server(sock: socket.socket) -> None:
        for piece in pieces:
            read(sock, len(piece))
        for piece in pieces:
            sock.sendall(piece)
        assert not sock.recv(1)

    stage.exchange(client, server)
    for turn in (stage.turn(Role.CLIENT), stage.turn(Role.SERVER)):
        assert (turn.request_bytes, turn.response_bytes) == (len(data), len(data))
        assert (turn.request, turn.response) == (data[:room], data[:response_room])
        assert not turn.flags & Flag.NO_PAYLOAD


@pytest.mark.parametrize("slot_bytes", [512, 1024, 2048, 4096])
def test_every_slot_size_holds_as_much_as_it_says(slot_bytes: int) -> None:
    """A larger slot shows more of the payload, up to its own room, and one byte less is shown whole."""
    with Probes(slot_bytes, RING_BYTES) as probes, Stage(probes) as stage:
        room, response_room = _room(probes)
        sizes = [(room + 1, response_room + 1), (room, response_room), (room - 1, response_room - 1)]

        def client(sock: socket.socket) -> None:
            for request, response in sizes:
                sock.sendall(_numbered(request))
                read(sock, response)

        def server(sock: socket.socket) -> None:
            for request, response in sizes:
                read(sock, request)
                sock.sendall(_numbered(response))

        stage.exchange(client, server)
        turns = stage.turns(Role.SERVER)
        assert [(turn.request, turn.response) for turn in turns] == [
            (_numbered(request)[:room], _numbered(response)[:response_room]) for request, response in sizes
        ]
        assert [(turn.request_bytes, turn.response_bytes) for turn in turns] == sizes


def test_a_turn_shows_nothing_of_the_one_before(stage: Stage) -> None:
    """A short turn behind a long one has its own bytes only, and its own hash."""

    def client(sock: socket.socket) -> None:
        for data in (b"q" * 300, b"short", b"q" * 300):
            sock.sendall(data)
            read(sock, 2)

    def server(sock: socket.socket) -> None:
        for size in (300, 5, 300):
            read(sock, size)
            sock.sendall(b"ok")

    stage.exchange(client, server)
    first, second, third = stage.turns(Role.CLIENT)
    assert (second.request, second.response) == (b"short", b"ok")
    assert first.request == third.request
    assert first.request_hash == third.request_hash != second.request_hash
    assert first.response_hash == second.response_hash == third.response_hash != 0


def test_equal_prefixes_have_equal_hashes(stage: Stage) -> None:
    """Whatever the length, equal prefixes hash alike on both ends, and another last byte changes the hash."""
    lengths = [1, 7, 8, 9, 15, 16, 17, 31, 32, 100, 207, 208]
    requests = [_numbered(length)[:-1] + last for length in lengths for last in (b"A", b"B")]

    def client(sock: socket.socket) -> None:
        for request in requests:
            sock.sendall(request)
            read(sock, 2)

    def server(sock: socket.socket) -> None:
        for request in requests:
            read(sock, len(request))
            sock.sendall(b"ok")

    stage.exchange(client, server)
    sent, received = stage.turns(Role.CLIENT), stage.turns(Role.SERVER)
    assert [turn.request_hash for turn in sent] == [turn.request_hash for turn in received]
    assert len({turn.request_hash for turn in sent}) == len(requests)
    assert 0 not in {turn.request_hash for turn in sent}


def test_a_page_that_is_not_there_costs_the_payload_only(stage: Stage, probes: Probes) -> None:
    """Bytes that can't be read are counted all the same, and what comes behind them is not moved forward."""
    before = probes.counters()["payload_missing"]

    def client(sock: socket.socket) -> None:
        with open("/proc/self/exe", "rb") as file:  # noqa: PTH123  # its descriptor is what matters
            os.sendfile(sock.fileno(), file.fileno(), 0, 10)
        sock.sendall(b"behind")
        read(sock, 2)

    def server(sock: socket.socket) -> None:
        read(sock, 16)
        sock.sendall(b"ok")

    stage.exchange(client, server)
    turn = stage.turn(Role.CLIENT)
    assert (turn.request, turn.request_bytes, turn.response) == (b"", 16, b"ok")
    assert turn.flags & Flag.NO_PAYLOAD
    assert probes.counters()["payload_missing"] > before
