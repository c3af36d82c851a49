"""The conformance table itself: two plain pairs are never told apart, and a pair that misbehaves is."""

from __future__ import annotations

import socket
import threading

import pytest

from masdeepflow.gateway.conformance import BEHAVIOURS
from masdeepflow.gateway.conformance.table import TIMEOUT, Behaviour, observe

NAMES = [behaviour.name for behaviour in BEHAVIOURS]


def _pair() -> tuple[socket.socket, socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        client = socket.create_connection(listener.getsockname())
        return client, listener.accept()[0]


def _seen(behaviour: Behaviour) -> object:
    client, server = _pair()
    with client, server:
        return observe(behaviour, client, server)


def _named(name: str) -> Behaviour:
    return BEHAVIOURS[NAMES.index(name)]


@pytest.mark.parametrize("behaviour", BEHAVIOURS, ids=NAMES)
def test_plain_pairs_are_alike(behaviour: Behaviour) -> None:
    """What a behaviour sees holds no time, no port and no luck: any difference is the acceleration's."""
    assert _seen(behaviour) == _seen(behaviour)


def test_names_are_unique() -> None:
    """A refusal names the behaviour, and that has to be one."""
    assert len(set(NAMES)) == len(NAMES)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("FIONREAD", ([0, 10, 11, 5011, 5007, 0], 3)),
        ("MSG_WAITALL, bytes first", [b"0123456789"]),
        ("reset when closed with unread data", ("ECONNRESET", "EPIPE")),
        ("write after shutdown", "EPIPE"),
        ("back-pressure, non-blocking", (True, False, True, 4, b"more")),
        ("FIONREAD and edges of a slow reader", True),
        ("splice from the socket", (14, b"through a pipe")),
    ],
)
def test_plain_tcp_is_seen_as_the_manual_pages_have_it(name: str, expected: object) -> None:
    """A behaviour that saw nothing would call everything alike."""
    seen = _seen(_named(name))
    assert seen == expected or (isinstance(seen, tuple) and seen[0] == expected)


def test_what_never_comes_is_seen_as_a_timeout() -> None:
    """A behaviour is bounded: a pair on which bytes are lost does not hang the self-test."""
    client, server = _pair()
    with client, server, _pair()[0] as elsewhere:
        assert observe(_named("server speaks first"), elsewhere, server) == TIMEOUT


def test_bytes_in_the_wrong_order_are_seen() -> None:
    """The same bytes, two of them swapped on their way, give another digest."""
    client, relay_in = _pair()
    relay_out, server = _pair()

    def relay() -> None:
        first = True
        while data := relay_in.recv(1 << 16):
            relay_out.sendall(data[1:] + data[:1] if first else data)
            first = False
        relay_out.shutdown(socket.SHUT_WR)

    thread = threading.Thread(target=relay)
    thread.start()
    with relay_in, relay_out, client, server:
        seen = observe(_named("byte order"), client, server)
        thread.join()
    assert seen != _seen(_named("byte order"))
