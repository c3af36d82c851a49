"""Unix stream sockets: turns, names and roles; nothing tells that such a socket goes."""

from __future__ import annotations

import os
import socket
import tempfile
from typing import TYPE_CHECKING

import pytest

from masdeepflow.schema import Flag, Kind, Role, Transport
from tests.support.stage import Gate, listen, read

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.support.stage import Stage

pytestmark = pytest.mark.root

ABSTRACT = "\0masdeepflow-test"


@pytest.fixture
def path() -> Iterator[str]:
    """Yield a path for a socket, as short as sun_path wants it."""
    with tempfile.TemporaryDirectory(prefix="masdeepflow-") as directory:
        yield os.path.join(directory, "socket")  # noqa: PTH118  # socket addresses are strings


def _ask(sock: socket.socket) -> None:
    sock.sendall(b"question")
    read(sock, 6)


def _answer(sock: socket.socket) -> None:
    read(sock, 8)
    sock.sendall(b"answer")


def test_the_last_turn_of_a_client_that_closes_at_once_is_written(stage: Stage, path: str) -> None:
    """Nothing tells that a Unix client closed, but its turn outlives it."""
    stage.exchange(_ask, _answer, path)
    turn = stage.turn(Role.CLIENT)
    assert (turn.request, turn.response, turn.transport) == (b"question", b"answer", Transport.UNIX)
    assert 0 < turn.request_first_ns < turn.response_last_ns


def test_opening_names_the_socket(stage: Stage, path: str) -> None:
    """CONNECT and ACCEPT carry the path, once for each end, before the first turn."""

    def client(sock: socket.socket) -> None:
        for _ in range(2):
            _ask(sock)

    def server(sock: socket.socket) -> None:
        for _ in range(2):
            _answer(sock)

    asking, serving = stage.exchange(client, server, path)
    connect, accept = stage.event(Kind.CONNECT), stage.event(Kind.ACCEPT)
    assert connect.request.rstrip(b"\0") == accept.request.rstrip(b"\0") == path.encode()
    assert (connect.pid, accept.pid) == (asking.pid, serving.pid)
    assert [turn.turn for turn in stage.turns(Role.CLIENT)] == [1, 2]
    assert [turn.turn for turn in stage.turns(Role.SERVER)] == [1, 2]


def test_no_end_opens_after_its_first_byte(stage: Stage, path: str) -> None:
    """An end is first known by the bytes that it moves: in a log it opens before these, not behind them."""
    stage.exchange(_ask, _answer, path)
    for opened, role in ((Kind.CONNECT, Role.CLIENT), (Kind.ACCEPT, Role.SERVER)):
        assert stage.event(opened).request_first_ns <= stage.turn(role).request_first_ns


@pytest.mark.parametrize("name", [ABSTRACT, "\0" + "n" * 107, "\0a"])
def test_abstract_names_are_shown_whole(stage: Stage, name: str) -> None:
    """An abstract name is shown with its leading zero byte, whatever its length."""
    stage.exchange(_ask, _answer, name)
    assert stage.event(Kind.CONNECT).request == stage.event(Kind.ACCEPT).request == name.encode()


def test_the_longest_path_is_shown_whole(stage: Stage, path: str) -> None:
    """A path of 107 bytes, the most that fit with a zero byte behind them, is not cut."""
    long = path + "-" * (107 - len(path))
    stage.exchange(_ask, _answer, long)
    assert stage.event(Kind.ACCEPT).request.rstrip(b"\0") == long.encode()


def test_a_greeting_does_not_shift_the_pairs(stage: Stage, path: str) -> None:
    """The name tells who serves, also when the server speaks first."""

    def client(sock: socket.socket) -> None:
        read(sock, 5)
        _ask(sock)

    def server(sock: socket.socket) -> None:
        sock.sendall(b"hello")
        _answer(sock)

    stage.exchange(client, server, path)
    for role in (Role.CLIENT, Role.SERVER):
        greeting, turn = stage.turns(role)
        assert (greeting.request, greeting.response) == (b"", b"hello")
        assert greeting.flags & Flag.SERVER_FIRST
        assert (turn.request, turn.response) == (b"question", b"answer")


def test_a_client_with_a_name_is_a_client(stage: Stage, path: str) -> None:
    """A client that has bound a path of its own is not taken for a server."""
    ready = Gate()

    def serve() -> None:
        with listen(path) as listener:
            ready.open()
            connection, _ = listener.accept()
            with connection:
                _answer(connection)

    def ask() -> None:
        ready.wait()
        with socket.socket(socket.AF_UNIX) as sock:
            sock.bind(path + ".client")
            sock.connect(path)
            _ask(sock)

    client, server = stage.start(ask), stage.start(serve)
    for role, actor in ((Role.CLIENT, client), (Role.SERVER, server)):
        turn = stage.turn(role)
        assert (turn.pid, turn.request, turn.response) == (actor.pid, b"question", b"answer")
    assert stage.event(Kind.CONNECT).request.rstrip(b"\0") == path.encode()


def test_the_one_that_speaks_first_on_a_socketpair_is_the_client(stage: Stage) -> None:
    """A pair without a name has its roles guessed from the first byte, and says so."""

    def play() -> None:
        left, right = socket.socketpair()
        left.sendall(b"question")
        _answer(right)
        read(left, 6)

    stage.start(play)
    for role in (Role.CLIENT, Role.SERVER):
        turn = stage.turn(role)
        assert (turn.request, turn.response) == (b"question", b"answer")
        assert turn.flags & Flag.ROLE_GUESSED


def test_an_answer_behind_the_end_of_the_request_is_whole(stage: Stage, path: str) -> None:
    """Reading the end of a half-closed Unix connection does not end the turn."""

    def client(sock: socket.socket) -> None:
        sock.sendall(b"question")
        sock.shutdown(socket.SHUT_WR)
        read(sock, 6)

    def server(sock: socket.socket) -> None:
        read(sock, 8)
        assert not sock.recv(1)
        sock.sendall(b"answer")

    stage.exchange(client, server, path)
    for role in (Role.CLIENT, Role.SERVER):
        turn = stage.turn(role)
        assert (turn.request, turn.response) == (b"question", b"answer")
    assert len(stage.events(Kind.CONNECT)) == len(stage.events(Kind.ACCEPT)) == 1


def test_the_end_that_reads_the_others_close_tells_the_totals(stage: Stage, path: str) -> None:
    """CLOSE is written by the end that finds its peer gone, with all bytes of the connection."""

    def client(sock: socket.socket) -> None:
        for _ in range(3):
            _ask(sock)

    def server(sock: socket.socket) -> None:
        for _ in range(3):
            _answer(sock)
        assert not sock.recv(1)
        assert not sock.recv(1)

    stage.exchange(client, server, path)
    close = stage.event(Kind.CLOSE)
    assert (close.role, close.request_bytes, close.response_bytes) == (Role.SERVER, 24, 18)
    assert 0 < close.request_first_ns < close.response_last_ns
    assert close.flags & Flag.PEER_CLOSED


def test_datagrams_are_ignored(stage: Stage, path: str) -> None:
    """Unix datagrams and packets, such as those of syslog, give no slots."""

    def play() -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as server:
            server.bind(path)
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
                client.connect(path)
                client.send(b"<13>log line")
                server.recv(100)
        left, right = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        left.send(b"packet")
        right.recv(100)

    stage.start(play)
    assert stage.settle() == []


def test_many_short_connections_lose_no_turn(stage: Stage, path: str) -> None:
    """Connections that come and go between two sweeps all have their turn, on both ends."""
    count = 1000

    def serve() -> None:
        for _ in range(count):
            connection, _ = listener.accept()
            _answer(connection)
            connection.close()

    def ask() -> None:
        for _ in range(count):
            with socket.socket(socket.AF_UNIX) as sock:
                sock.connect(path)
                _ask(sock)

    with listen(path) as listener:
        stage.start(serve)
        stage.start(ask)
        assert len(stage.turns(Role.CLIENT)) == len(stage.turns(Role.SERVER)) == count
