"""Who is the client: a request goes from client to server, whoever speaks first, whenever the agent came."""

from __future__ import annotations

import socket
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pytest

from masdeepflow.kernel.probes import Probes
from masdeepflow.schema import Flag, Kind, Role, Transport
from tests.support.stage import LOOPBACK, PORT, RING_BYTES, Gate, Stage, listen, read

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

pytestmark = pytest.mark.root

HIGH_PORT = 45000  # a server's port among those that clients are given
HOSTS = [LOOPBACK, "::1", "\0masdeepflow-test"]


def _ask(sock: socket.socket) -> None:
    sock.sendall(b"question")
    read(sock, 6)


def _answer(sock: socket.socket) -> None:
    read(sock, 8)
    sock.sendall(b"answer")


def _be_greeted_and_ask(sock: socket.socket) -> None:
    read(sock, 5)
    _ask(sock)


def _greet_and_answer(sock: socket.socket) -> None:
    sock.sendall(b"hello")
    _answer(sock)


def _assert_one_turn(stage: Stage, flags: Flag) -> None:
    """Both ends have one turn, with the question, the answer and these flags."""
    for role in (Role.CLIENT, Role.SERVER):
        turn = stage.turn(role)
        assert (turn.request, turn.response) == (b"question", b"answer")
        assert turn.flags & flags == flags


@pytest.mark.parametrize("port", [PORT, HIGH_PORT])
def test_a_server_that_speaks_first_shifts_no_pair(counting: Stage, port: int) -> None:
    """A greeting is a turn without a request, before the first real one, and not counted as one."""
    client, server = counting.exchange(_be_greeted_and_ask, _greet_and_answer, port=port)
    for role, actor in ((Role.CLIENT, client), (Role.SERVER, server)):
        greeting, turn = counting.turns(role)
        assert (greeting.request, greeting.response, greeting.request_first_ns) == (b"", b"hello", 0)
        assert greeting.flags & Flag.SERVER_FIRST
        assert (turn.request, turn.response) == (b"question", b"answer")
        assert not turn.flags & Flag.SERVER_FIRST
        assert (greeting.turn, turn.turn, turn.pid) == (1, 2, actor.pid)
    assert counting.counted() == {client.pid: 1, server.pid: 1}


@contextmanager
def _joined_late(
    client: Callable[[socket.socket], None],
    server: Callable[[socket.socket], None],
    host: str = LOOPBACK,
    port: int = PORT,
    *,
    keep_listening: bool = True,
) -> Iterator[Stage]:
    """Yield a stage whose probes were loaded when the client and the server were connected."""
    ready, go = (Gate(), Gate()), (Gate(), Gate())

    def late(number: int, act: Callable[[socket.socket], None]) -> Callable[[socket.socket], None]:
        def play(sock: socket.socket) -> None:
            ready[number].open()
            go[number].wait()
            act(sock)

        return play

    with Stage(None) as stage:
        stage.exchange(late(0, client), late(1, server), host, port, keep_listening=keep_listening)
        for gate in ready:
            gate.wait()
        with Probes(ring_bytes=RING_BYTES) as stage.probes:
            for gate in go:
                gate.open()
            yield stage


@pytest.mark.parametrize("port", [PORT, HIGH_PORT])
@pytest.mark.parametrize("host", HOSTS)
def test_older_connections_are_seen_from_their_next_request_on(host: str, port: int) -> None:
    """A connection that was open before the agent has the right roles from its next request on."""

    def client(sock: socket.socket) -> None:
        for _ in range(2):
            _ask(sock)

    def server(sock: socket.socket) -> None:
        for _ in range(2):
            _answer(sock)

    with _joined_late(client, server, host, port) as stage:
        for role in (Role.CLIENT, Role.SERVER):
            turns = stage.turns(role)
            assert [(turn.request, turn.response) for turn in turns] == [(b"question", b"answer")] * 2
            old = turns[0].transport == Transport.TCP
            assert all(bool(turn.flags & Flag.OLD_CONNECTION) == old for turn in turns)
            assert not turns[0].flags & Flag.ROLE_GUESSED


@pytest.mark.parametrize("port", [PORT, HIGH_PORT])
@pytest.mark.parametrize("host", HOSTS[:2])
def test_the_rest_of_an_older_response_belongs_to_no_request(host: str, port: int) -> None:
    """Of a connection caught within a response, that response is left out, and the next pair is whole."""
    with _joined_late(_be_greeted_and_ask, _greet_and_answer, host, port) as stage:
        _assert_one_turn(stage, Flag.OLD_CONNECTION)


def test_without_a_listener_the_lower_port_serves() -> None:
    """When the listener of an older connection is gone, a port that clients are not given is the server's."""
    with _joined_late(_be_greeted_and_ask, _greet_and_answer, keep_listening=False) as stage:
        _assert_one_turn(stage, Flag.OLD_CONNECTION | Flag.ROLE_GUESSED)


def test_without_a_listener_who_speaks_first_asks() -> None:
    """When the ports tell nothing either, the end of an older connection that sends first is the client."""
    with _joined_late(_ask, _answer, port=HIGH_PORT, keep_listening=False) as stage:
        _assert_one_turn(stage, Flag.OLD_CONNECTION | Flag.ROLE_GUESSED)


def test_the_close_of_an_older_connection_is_seen() -> None:
    """An older connection that only closes has a CLOSE with the process that closed it."""

    def nothing(_: socket.socket) -> None:
        pass

    with _joined_late(nothing, nothing) as stage:
        closes = stage.events(Kind.CLOSE)
        assert sorted(close.role for close in closes) == [Role.CLIENT, Role.SERVER]
        assert all(close.pid in {actor.pid for actor in stage.actors} for close in closes)
        assert stage.turns() == []
        assert not stage.events(Kind.ACCEPT)


def test_listeners_that_share_a_port_serve_alike(stage: Stage) -> None:
    """With SO_REUSEPORT each connection is under the process that serves it."""
    ready, done = Gate(), Gate()

    def serve() -> int:
        with socket.socket() as listener:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            listener.bind((LOOPBACK, PORT))
            listener.listen()
            ready.open()
            done.wait()
            listener.settimeout(0)
            served = 0
            while True:
                try:
                    connection, _ = listener.accept()
                except BlockingIOError:
                    return served
                connection.settimeout(None)
                with connection:
                    _answer(connection)
                served += 1

    servers = [stage.start(serve) for _ in range(2)]
    for _ in servers:
        ready.wait()

    def ask() -> None:
        clients = [socket.create_connection((LOOPBACK, PORT)) for _ in range(20)]
        for sock in clients:
            sock.sendall(b"question")
        for _ in servers:
            done.open()
        for sock in clients:
            read(sock, 6)

    stage.start(ask)
    turns = stage.turns(Role.SERVER)
    assert len(turns) == 20
    for server in servers:
        assert sum(turn.pid == server.pid for turn in turns) == server.result
    assert {turn.local for turn in turns} == {(LOOPBACK, PORT)}


def test_an_ipv4_client_of_an_ipv6_listener_has_its_addresses(stage: Stage) -> None:
    """A server that listens on :: sees IPv4 clients under mapped addresses, the client sees plain ones."""
    ready = Gate()

    def serve() -> None:
        with listen("::") as listener:
            ready.open()
            connection, _ = listener.accept()
            with connection:
                _answer(connection)

    def ask() -> tuple[str, int]:
        ready.wait()
        with socket.create_connection((LOOPBACK, PORT)) as sock:
            _ask(sock)
            address: tuple[str, int] = sock.getsockname()
            return address

    stage.start(serve)
    asking = stage.start(ask)
    client, server = stage.turn(Role.CLIENT), stage.turn(Role.SERVER)
    assert (client.family, client.local, client.remote) == (
        socket.AF_INET,
        asking.result,
        (LOOPBACK, PORT),
    )
    assert (server.family, server.local) == (socket.AF_INET6, ("::ffff:127.0.0.1", PORT))
    assert server.remote == ("::ffff:127.0.0.1", asking.result[1])


def test_a_connection_to_itself_is_one_client(stage: Stage) -> None:
    """A socket connected to its own port, which some clients hit upon, is a client and no server."""

    def play() -> None:
        with socket.socket() as sock:
            sock.bind((LOOPBACK, HIGH_PORT))
            sock.connect((LOOPBACK, HIGH_PORT))
            sock.sendall(b"question")
            read(sock, 8)

    stage.start(play)
    assert {slot.role for slot in stage.settle()} == {Role.CLIENT}
    assert len(stage.events(Kind.CONNECT)) == 1
    assert stage.turn(Role.CLIENT).request == b"question"
