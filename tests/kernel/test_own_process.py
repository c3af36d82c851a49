"""The agent's own sockets are not watched: what it serves and asks gives no slots and no services."""

from __future__ import annotations

import os
import socket
import threading
from typing import TYPE_CHECKING

import pytest

from masdeepflow.kernel.probes import Probes
from masdeepflow.schema import Kind, Role
from tests.support.stage import LOOPBACK, PORT, RING_BYTES, Gate, Stage, listen, read

if TYPE_CHECKING:
    from collections.abc import Callable

pytestmark = pytest.mark.root

HOSTS = [LOOPBACK, "::1", "\0masdeepflow-test"]


def _here(stage: Stage, act: Callable[[], None]) -> None:
    """Run in this process, which is the agent's, but in the stage's namespace."""
    errors: list[BaseException] = []

    def play() -> None:
        try:
            stage.enter()
            act()
        except BaseException as error:  # noqa: BLE001  # raised again below
            errors.append(error)

    thread = threading.Thread(target=play)
    thread.start()
    thread.join()
    if errors:
        raise errors[0]


def _family(host: str) -> socket.AddressFamily:
    if host.startswith("\0"):
        return socket.AF_UNIX
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _connect(host: str) -> socket.socket:
    sock = socket.socket(_family(host))
    sock.connect(host if host.startswith("\0") else (host, PORT))
    return sock


def _exchange(client: socket.socket, server: socket.socket) -> None:
    client.sendall(b"question")
    read(server, 8)
    server.sendall(b"answer")
    read(client, 6)


@pytest.mark.parametrize("host", HOSTS)
def test_the_agents_connections_to_itself_are_not_seen(stage: Stage, probes: Probes, host: str) -> None:
    """Neither end of a connection inside the agent gives a slot, used or not."""

    def play() -> None:
        with listen(host) as listener:
            for act in (_exchange, lambda *_: None):
                with _connect(host) as client, listener.accept()[0] as server:
                    act(client, server)

    _here(stage, play)
    assert stage.settle() == []
    assert os.getpid() not in {service.pid for service in probes.services()}


def test_the_agents_refused_connections_are_not_seen(stage: Stage) -> None:
    """A connect of the agent that fails gives no slot."""

    def play() -> None:
        with pytest.raises(ConnectionRefusedError):
            _connect(LOOPBACK)

    _here(stage, play)
    assert stage.settle() == []


def test_the_agents_datagrams_are_not_seen(stage: Stage) -> None:
    """UDP and socketpairs of the agent give no slots."""

    def play() -> None:
        with (
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server,
            socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client,
        ):
            server.bind((LOOPBACK, PORT))
            client.connect((LOOPBACK, PORT))
            client.send(b"question")
            server.recv(100)
        _exchange(*socket.socketpair())

    _here(stage, play)
    assert stage.settle() == []


@pytest.mark.parametrize("used", [True, False], ids=["used", "unused"])
@pytest.mark.parametrize("closes_first", ["agent", "peer", "peer, with RST"])
def test_what_the_agent_serves_is_seen_at_the_clients_end_only(
    stage: Stage, closes_first: str, *, used: bool
) -> None:
    """Of a scrape of the agent's HTTP server the client's end is watched, the agent's end is not."""
    ready, closed = Gate(), Gate()

    def ask() -> None:
        ready.wait()
        with _connect(LOOPBACK) as sock:
            if used:
                sock.sendall(b"question")
                read(sock, 6)
            if closes_first == "agent":
                assert not sock.recv(1)
            elif "RST" in closes_first:
                sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        closed.open()

    def serve() -> None:
        with listen() as listener:
            ready.open()
            with listener.accept()[0] as sock:
                if used:
                    read(sock, 8)
                    sock.sendall(b"answer")
                if closes_first != "agent":
                    closed.wait()

    asking = stage.start(ask)
    _here(stage, serve)
    slots = stage.settle()
    assert {(slot.role, slot.pid) for slot in slots} == {(Role.CLIENT, asking.pid)}
    assert [slot.kind for slot in slots] == [Kind.CONNECT, *[Kind.TURN] * used, Kind.CLOSE]


def test_connections_older_than_the_probes_are_not_seen_either() -> None:
    """A socket that the agent had before it loaded its probes stays unseen, in use and when it closes."""
    with Stage(None) as stage:

        def play() -> None:
            with (
                listen() as listener,
                _connect(LOOPBACK) as client,
                listener.accept()[0] as server,
                _connect(LOOPBACK) as unused,
                listener.accept()[0],
                Probes(ring_bytes=RING_BYTES) as stage.probes,
            ):
                _exchange(client, server)
                unused.close()
                client.close()
                assert not server.recv(1)
                server.close()
                assert stage.settle() == []

        _here(stage, play)
