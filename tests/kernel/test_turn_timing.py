"""When turns are written, and what their times say: the last byte is the last, however slowly it came."""

from __future__ import annotations

import os
import socket
import tempfile
import time
from itertools import pairwise
from typing import IO, TYPE_CHECKING

import pytest

from masdeepflow.schema import Flag, Kind, Role
from tests.support.distance import ADDRESSES, relay
from tests.support.stage import LOOPBACK, PORT, Gate, Stage, listen, read
from tests.support.system_calls import splice_out

if TYPE_CHECKING:
    from collections.abc import Iterator

    from masdeepflow.kernel.probes import Probes
    from tests.support.stage import Slot

pytestmark = pytest.mark.root

MILLISECOND = 1_000_000
IDLE_NS = 30 * MILLISECOND  # of bpf/turn.h
SOON_NS = 1000 * MILLISECOND  # far more than it takes, far less than waiting for a close that does not come
_EXCHANGES = 300
_CPUS = sorted(os.sched_getaffinity(0))
HOSTS = [LOOPBACK, "\0masdeepflow-test"]


def _ask(sock: socket.socket) -> None:
    sock.sendall(b"question")
    read(sock, 6)


def _answer(sock: socket.socket) -> None:
    read(sock, 8)
    sock.sendall(b"answer")


def _is_readable(sock: socket.socket) -> bool:
    try:
        return bool(sock.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT))
    except BlockingIOError:
        return False


def _of_kind(slots: list[Slot], kind: Kind) -> list[Slot]:
    return [slot for slot in slots if slot.kind == kind]


@pytest.mark.parametrize("host", HOSTS)
def test_a_turn_is_written_soon_after_its_last_byte(stage: Stage, host: str) -> None:
    """A response that has come to rest is written by a sweep, while the connection stays open."""
    done = Gate(), Gate()

    def client(sock: socket.socket) -> None:
        _ask(sock)
        done[0].wait()

    def server(sock: socket.socket) -> None:
        _answer(sock)
        done[1].wait()

    stage.exchange(client, server, host)
    turns = _of_kind(stage.until(lambda slots: len(_of_kind(slots, Kind.TURN)) == 2), Kind.TURN)
    for gate in done:
        gate.open()
    for turn in turns:
        assert (turn.request, turn.response) == (b"question", b"answer")
        assert turn.flags & Flag.IDLE
        assert IDLE_NS <= turn.seen_ns - turn.response_last_ns < SOON_NS
    assert len(stage.turns()) == 2


def test_a_servers_turn_lies_within_its_clients(stage: Stage) -> None:
    """A send is told when its call ends, when the peer may have answered: what counts is when bytes left."""

    def client(sock: socket.socket) -> None:
        os.sched_setaffinity(0, {_CPUS[0]})
        for _ in range(_EXCHANGES):
            _ask(sock)

    def server(sock: socket.socket) -> None:
        os.sched_setaffinity(0, {_CPUS[-1]})
        for _ in range(_EXCHANGES):
            # It need not be woken, so it answers while the client is still in the call that sends.
            while not _is_readable(sock):
                pass
            _answer(sock)

    stage.exchange(client, server)
    sides = [sorted(stage.turns(role), key=lambda slot: slot.turn) for role in (Role.CLIENT, Role.SERVER)]
    assert [len(side) for side in sides] == [_EXCHANGES] * 2
    for asked, answered in zip(*sides, strict=True):
        assert asked.request_first_ns < answered.request_first_ns < answered.response_last_ns
        assert answered.response_last_ns < asked.response_last_ns
    for earlier, later in pairwise(sides[0]):
        assert earlier.response_last_ns < later.request_first_ns


def test_the_next_request_ends_a_turn_at_once(stage: Stage) -> None:
    """Turns of a busy connection are written without waiting for a sweep, numbered from 1."""

    def client(sock: socket.socket) -> None:
        for _ in range(5):
            _ask(sock)

    def server(sock: socket.socket) -> None:
        for _ in range(5):
            _answer(sock)

    stage.exchange(client, server)
    for role in (Role.CLIENT, Role.SERVER):
        turns = stage.turns(role)
        assert [turn.turn for turn in turns] == [1, 2, 3, 4, 5]
        assert not any(turn.flags & (Flag.IDLE | Flag.OPENED) for turn in turns)
        assert all(turn.request_first_ns < turn.response_last_ns for turn in turns)
        assert all(a.response_last_ns < b.request_first_ns for a, b in pairwise(turns))


@pytest.mark.parametrize("host", HOSTS)
def test_a_request_that_waits_is_shown_open(stage: Stage, host: str) -> None:
    """A request without a response gives one OPEN slot soon, and its TURN says so later."""
    answer = Gate()

    def server(sock: socket.socket) -> None:
        read(sock, 8)
        answer.wait()
        sock.sendall(b"answer")
        sock.recv(1)

    stage.exchange(_ask, server, host)
    stage.until(lambda slots: len(_of_kind(slots, Kind.OPEN)) == 2)
    time.sleep(0.1)
    opened = list(stage.drain())
    assert not _of_kind(opened, Kind.TURN)
    answer.open()
    for role in (Role.CLIENT, Role.SERVER):
        turn = stage.turn(role)
        waiting = stage.event(Kind.OPEN, role)
        assert (waiting.request, waiting.response, waiting.response_first_ns) == (b"question", b"", 0)
        assert (waiting.cookie, waiting.turn) == (turn.cookie, turn.turn)
        assert waiting.request_hash == turn.request_hash != 0
        assert waiting.seen_ns - waiting.request_first_ns < SOON_NS
        assert (turn.request, turn.response) == (b"question", b"answer")
        assert turn.flags & Flag.OPENED
        assert turn.duration_ns > 100 * MILLISECOND


@pytest.fixture
def large_file() -> Iterator[IO[bytes]]:
    """Yield a file of 64 MiB, mostly holes."""
    with tempfile.TemporaryFile() as file:
        file.truncate(64 << 20)
        yield file


def _read_slowly(sock: socket.socket, size: int) -> int:
    """Read, with pauses at the start, in the middle and before the end; return the nanoseconds it took."""
    started = time.monotonic_ns()
    buffer = bytearray(1 << 20)
    left = size
    while left:
        time.sleep(0.3 if left in (size, size // 2, 2 << 20) else 0.005)
        left -= sock.recv_into(buffer, min(left, 1 << 20), socket.MSG_WAITALL)
    return time.monotonic_ns() - started


def _send_file(sock: socket.socket, file: IO[bytes], size: int) -> None:
    sent = 0
    while sent < size:
        sent += os.sendfile(sock.fileno(), file.fileno(), sent, size - sent)


@pytest.mark.parametrize("closes", [False, True], ids=["stays", "closes"])
def test_a_large_response_to_a_slow_reader_is_one_turn(
    stage: Stage, large_file: IO[bytes], *, closes: bool
) -> None:
    """What sendfile put in the socket buffer leaves it as the reader takes it, not when sendfile returns."""
    size = large_file.seek(0, os.SEEK_END)
    ready, done = Gate(), Gate()

    def server() -> None:
        os.nice(-10)  # on a busy host it must not run out of bytes that wait to be sent
        with listen() as listener:
            ready.open()
            with listener.accept()[0] as sock:
                read(sock, 8)
                _send_file(sock, large_file, size)
                if not closes:
                    done.wait()

    def client() -> int:
        ready.wait()
        with socket.socket() as sock:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 << 10)
            sock.connect((LOOPBACK, PORT))
            sock.sendall(b"question")
            took = _read_slowly(sock, size)
            time.sleep(0.1)
            done.open()
            return took

    stage.start(server)
    asking = stage.start(client)
    for role in (Role.CLIENT, Role.SERVER):
        turn = stage.turn(role)
        assert turn.response_bytes == size
        assert 0.9 * asking.result < turn.duration_ns < 1.1 * asking.result
        assert stage.event(Kind.CLOSE, role).response_bytes == size


@pytest.mark.parametrize("again", [False, True], ids=["first", "later"])
def test_a_large_request_begins_with_its_first_byte(stage: Stage, *, again: bool) -> None:
    """Though one call hands all of it over, and waits for a slow reader: the hook is at its end."""
    size, ready = 32 << 20, Gate()

    def server() -> None:
        with listen() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 << 10)
            ready.open()
            with listener.accept()[0] as sock:
                if again:
                    _answer(sock)
                _read_slowly(sock, size)
                sock.sendall(b"answer")

    def client() -> int:
        ready.wait()
        with socket.create_connection((LOOPBACK, PORT)) as sock:
            if again:
                _ask(sock)
                time.sleep(0.2)
            started = time.monotonic_ns()
            sock.sendall(bytes(size))
            read(sock, 6)
            return time.monotonic_ns() - started

    stage.start(server)
    sending = stage.start(client)
    turn = max(stage.turns(Role.CLIENT), key=lambda slot: slot.request_bytes)
    assert turn.request_bytes == size
    assert 0.9 * sending.result < turn.duration_ns < 1.1 * sending.result


def _have_splices_seen(stage: Stage, probes: Probes) -> None:
    """Reads by splice are watched once a process was seen that does so."""
    found = Gate()

    def server(sock: socket.socket) -> None:
        splice_out(sock, 8)
        found.wait()

    stage.exchange(lambda sock: sock.sendall(b"question"), server, port=PORT + 1)
    stage.until(lambda _: probes._splicing)
    found.open()


def test_a_large_request_behind_a_response_read_by_splice_begins_with_its_first_byte(
    stage: Stage, probes: Probes
) -> None:
    """Not as much earlier as the request before it took to be sent."""
    size, ready = 32 << 20, Gate()
    _have_splices_seen(stage, probes)

    def server() -> None:
        with listen() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 << 10)
            ready.open()
            with listener.accept()[0] as sock:
                for _ in range(2):
                    _read_slowly(sock, size)
                    sock.sendall(b"answer")

    def client() -> list[int]:
        ready.wait()
        took = []
        with socket.create_connection((LOOPBACK, PORT)) as sock:
            for receive in (splice_out, read):
                started = time.monotonic_ns()
                sock.sendall(bytes(size))
                assert receive(sock, 6) == b"answer"
                took.append(time.monotonic_ns() - started)
        return took

    stage.start(server)
    sending = stage.start(client)
    turns = [turn for turn in stage.turns(Role.CLIENT) if turn.request_bytes == size]
    for turn, took in zip(turns, sending.result, strict=True):
        assert 0.9 * took < turn.duration_ns < 1.1 * took
    assert turns[0].response_last_ns < turns[1].request_first_ns


def test_a_large_response_begins_with_its_first_byte(stage: Stage) -> None:
    """Though one call hands all of it over to a slow reader: the time to it is short, at either end."""
    size, ready = 32 << 20, Gate()

    def server(sock: socket.socket) -> None:
        for _ in range(2):
            read(sock, 8)
            time.sleep(0.1)
            sock.sendall(bytes(size))
        ready.open()

    def client(sock: socket.socket) -> None:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 256 << 10)
        for _ in range(2):
            sock.sendall(b"question")
            assert sock.recv(1, socket.MSG_PEEK)
            sock.recv(1)
            _read_slowly(sock, size - 1)
        ready.wait()

    stage.exchange(client, server)
    for role in (Role.CLIENT, Role.SERVER):
        for turn in stage.turns(role):
            assert turn.response_bytes == size
            to_first = turn.response_first_ns - turn.request_first_ns
            assert 0.09 * 1e9 < to_first < 0.3 * turn.duration_ns
            assert turn.request_last_ns < turn.response_first_ns


def test_a_delayed_acknowledgement_is_not_part_of_the_response(stage: Stage) -> None:
    """A client acknowledges a small response up to 40 ms late: the server's turn ends when it was sent."""
    done = Gate()

    def client(sock: socket.socket) -> None:
        for _ in range(20):
            _ask(sock)
        done.wait()

    def server(sock: socket.socket) -> None:
        for _ in range(20):
            _answer(sock)
        sock.recv(1)

    stage.exchange(client, server)
    stage.until(lambda slots: len(_of_kind(slots, Kind.TURN)) == 40)
    done.open()
    client_turn, server_turn = stage.turns(Role.CLIENT)[-1], stage.turns(Role.SERVER)[-1]
    assert server_turn.flags & Flag.IDLE
    assert server_turn.duration_ns < client_turn.duration_ns + 20 * MILLISECOND


def test_a_response_whose_end_is_not_read_is_written(stage: Stage) -> None:
    """A client that keeps a connection which the server has closed has its turn all the same."""
    done = Gate()

    def client(sock: socket.socket) -> None:
        _ask(sock)
        done.wait()

    stage.exchange(client, _answer)
    slots = stage.until(lambda slots: any(s.kind == Kind.TURN and s.role == Role.CLIENT for s in slots))
    done.open()
    turn = next(slot for slot in slots if slot.kind == Kind.TURN and slot.role == Role.CLIENT)
    assert turn.response == b"answer"
    assert turn.flags & Flag.IDLE


@pytest.mark.parametrize("host", HOSTS)
def test_a_response_that_pauses_goes_on_in_another_slot(counting: Stage, host: str) -> None:
    """What comes behind a pause continues the same turn, with its own bytes only, and is not counted."""
    go_on = [Gate(), Gate()]

    def client(sock: socket.socket) -> None:
        sock.sendall(b"question")
        read(sock, 15)
        sock.sendall(b"question")
        read(sock, 6)

    def server(sock: socket.socket) -> None:
        read(sock, 8)
        for part, gate in zip((b"part1", b"part2"), go_on, strict=True):
            sock.sendall(part)
            gate.wait()
        sock.sendall(b"part3")
        _answer(sock)

    asking, serving = counting.exchange(client, server, host)
    for number, gate in enumerate(go_on, 1):
        counting.until(lambda slots, count=2 * number: len(_of_kind(slots, Kind.TURN)) == count)  # type: ignore[misc]
        gate.open()
    counting.until(lambda slots: len(_of_kind(slots, Kind.TURN)) == 8)
    for role in (Role.CLIENT, Role.SERVER):
        *parts, following = counting.turns(role)
        assert [part.response for part in parts] == [b"part1", b"part2", b"part3"]
        assert [part.response_bytes for part in parts] == [5, 5, 5]
        assert [bool(part.flags & Flag.CONTINUED) for part in parts] == [False, True, True]
        assert [part.turn for part in (*parts, following)] == [1, 1, 1, 2]
        assert [part.response_segments for part in parts] == [1, 1, 1]
        assert [part.request_bytes for part in parts] == [8, 0, 0]
        assert parts[0].response_last_ns < parts[1].response_last_ns < parts[2].response_last_ns
        assert (following.request, following.response) == (b"question", b"answer")
        assert not following.flags & Flag.CONTINUED
    assert counting.counted() == {asking.pid: 2, serving.pid: 2}


def test_a_response_from_afar_is_one_turn(stage: Stage) -> None:
    """The flights of a response that are a round trip apart belong together, and the last one ends it."""
    size, one_way_s = 100_000, 0.06
    ready, listening, done = Gate(), Gate(), Gate()
    with Stage(None) as far:
        relaying = stage.start(lambda: relay([stage.enter, far.enter], one_way_s, ready, done))
        ready.wait()

        def serve() -> None:
            with listen(ADDRESSES[1]) as listener:
                listening.open()
                connection, _ = listener.accept()
                with connection:
                    read(connection, 8)
                    connection.sendall(bytes(size))
                    connection.recv(1)

        def ask() -> int:
            listening.wait()
            with socket.create_connection((ADDRESSES[1], PORT)) as sock:
                started = time.monotonic_ns()
                sock.sendall(b"question")
                read(sock, size)
                return time.monotonic_ns() - started

        far.start(serve)
        asking = stage.start(ask)
        stage.until(lambda _: asking.ended())
        done.open()
        turn = stage.turn(Role.CLIENT)
        assert turn.response_bytes == size
        assert turn.duration_ns > 4 * one_way_s * 1e9  # two round trips at least: more than one flight
        assert 0.9 * asking.result < turn.duration_ns < 1.1 * asking.result
        assert relaying.ended()
