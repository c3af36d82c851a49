"""When datagrams left: their sends are told at the end of the call, when they may have been answered."""

from __future__ import annotations

import os
import resource
import socket
import time
from contextlib import ExitStack
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from masdeepflow.kernel.probes import Probes
from masdeepflow.schema import Kind, Role
from tests.support.stage import LOOPBACK, PORT, RING_BYTES, Gate, Stage
from tests.support.system_calls import Messages

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.support.stage import Slot

pytestmark = pytest.mark.root

EVERYBODY = "127.255.255.255"  # the loopback interface's broadcast address
FOLLOWED = 5300
_NOBODYS = 5301
_OTHERS = 1000
_CPUS = sorted(os.sched_getaffinity(0))
_SENDS: dict[str, Callable[[socket.socket], object]] = {
    "send": lambda sock: sock.send(b"who"),
    "write": lambda sock: os.write(sock.fileno(), b"who"),
    "writev": lambda sock: os.writev(sock.fileno(), [b"w", b"ho"]),
    "sendmsg": lambda sock: sock.sendmsg([b"who"]),
    "sendmmsg": lambda sock: Messages.of([b"who"]).send(sock.fileno()),
}


@pytest.fixture(scope="module")
def probes() -> Iterator[Probes]:
    """Yield probes that follow the datagrams of one port."""
    with Probes(ring_bytes=RING_BYTES) as attached:
        attached.follow_datagrams(FOLLOWED)
        yield attached


def _udp() -> socket.socket:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
    return sock


def _bound(stack: ExitStack, port: int) -> socket.socket:
    sock = stack.enter_context(_udp())
    sock.bind(("", port))
    return sock


def _serving(stage: Stage, port: int, serve: Callable[[socket.socket], object]) -> None:
    """Start a server that has a datagram while its client is still in the call that sends it.

    Its socket is in the midst of many that get the same: handing it to the others keeps the client there.
    """
    ready = Gate()

    def play() -> None:
        os.sched_setaffinity(0, {_CPUS[-1]})
        os.nice(-10)  # on a busy host too it runs while the client is in its call
        resource.setrlimit(resource.RLIMIT_NOFILE, (4 * _OTHERS, 4 * _OTHERS))
        with ExitStack() as stack:
            sock = [_bound(stack, port) for _ in range(2 * _OTHERS)][_OTHERS]
            ready.open()
            serve(sock)

    stage.start(play)
    ready.wait()


def _exchange(stage: Stage) -> None:
    """Have a question answered while it is still being sent; the answer is read when it has been sent."""
    answered = Gate()

    def answer(sock: socket.socket) -> None:
        data, peer = sock.recvfrom(100)
        sock.sendto(b"re: " + data, peer)
        answered.open()

    def ask() -> None:
        os.sched_setaffinity(0, {_CPUS[0]})
        with _udp() as sock:
            sock.sendto(b"who", (EVERYBODY, PORT))
            answered.wait()
            assert sock.recv(100) == b"re: who"

    _serving(stage, PORT, answer)
    stage.start(ask)


def _datagrams(stage: Stage, role: Role) -> list[Slot]:
    return [slot for slot in stage.settle() if slot.kind == Kind.DATAGRAM and slot.role == role]


@pytest.mark.parametrize("send", _SENDS)
def test_a_datagram_leaves_before_it_is_read(stage: Stage, send: str) -> None:
    """Whatever call sends it, and however long that goes on."""
    _serving(stage, FOLLOWED, lambda sock: sock.recv(100))

    def ask() -> int:
        os.sched_setaffinity(0, {_CPUS[0]})
        with _udp() as sock:
            sock.connect((EVERYBODY, FOLLOWED))
            started = time.monotonic_ns()
            _SENDS[send](sock)
            return started

    asking = stage.start(ask)
    (asked,), (was_asked,) = (_datagrams(stage, role) for role in (Role.CLIENT, Role.SERVER))
    assert asked.request == was_asked.request == b"who"
    assert asking.result < asked.request_first_ns < was_asked.request_first_ns


def test_a_servers_turn_lies_within_its_clients(stage: Stage) -> None:
    """The same is true of ports whose datagrams are turns."""
    _exchange(stage)
    asked, served = (stage.turn(role) for role in (Role.CLIENT, Role.SERVER))
    assert asked.request_first_ns < served.request_first_ns < served.response_last_ns
    assert served.response_last_ns < asked.response_last_ns


def test_messages_of_one_call_leave_one_after_the_other(stage: Stage) -> None:
    """Each message of a sendmmsg has a time of its own, before the receiver has it."""
    _serving(stage, FOLLOWED, lambda sock: [sock.recv(100) for _ in range(3)])

    def send() -> None:
        os.sched_setaffinity(0, {_CPUS[0]})
        with _udp() as sock:
            sock.connect((EVERYBODY, FOLLOWED))
            assert Messages.of([b"a"], [b"b"], [b"c"]).send(sock.fileno()) == 3

    stage.start(send)
    sent, received = (_datagrams(stage, role) for role in (Role.CLIENT, Role.SERVER))
    assert [slot.request for slot in sent] == [slot.request for slot in received] == [b"a", b"b", b"c"]
    assert all(a.request_first_ns < b.request_first_ns for a, b in zip(sent, received, strict=True))
    assert all(earlier.request_first_ns < later.request_first_ns for earlier, later in pairwise(sent))


@pytest.mark.parametrize("first", [b"", b"who"], ids=["empty", "full"])
def test_what_is_not_delivered_has_no_earlier_calls_time(stage: Stage, first: bytes) -> None:
    """A datagram that nobody gets is stamped by its own call, though one before it was delivered."""

    def send() -> int:
        data = memoryview(bytearray(b"who"))
        with _udp() as receiver, _udp() as sock:
            receiver.bind((LOOPBACK, _NOBODYS))
            # The same descriptor and the same buffer: by these, the calls look alike.
            sock.sendto(data[: len(first)], (LOOPBACK, _NOBODYS))
            started = time.monotonic_ns()
            sock.sendto(data, (LOOPBACK, FOLLOWED))
            return started

    sending = stage.start(send)
    (asked,) = _datagrams(stage, Role.CLIENT)[-1:]
    assert asked.request == b"who"
    assert asked.remote[1] == FOLLOWED
    assert asked.request_first_ns > sending.result


def test_without_queue_time_the_end_of_the_call_counts() -> None:
    """The hook that sees deliveries is left out; a question is stamped within its call all the same."""
    with Probes(ring_bytes=RING_BYTES, queue_time=False) as probes, Stage(probes) as stage:
        probes.follow_datagrams(FOLLOWED)

        def ask() -> tuple[int, int]:
            with _udp() as sock:
                started = time.monotonic_ns()
                sock.sendto(b"who", (EVERYBODY, FOLLOWED))
                return started, time.monotonic_ns()

        asking = stage.start(ask)
        (asked,) = _datagrams(stage, Role.CLIENT)
        started, ended = asking.result
        assert started < asked.request_first_ns < ended
