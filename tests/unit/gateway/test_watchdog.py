"""Who is seen to wait for a socket: real threads in real system calls."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from typing import TYPE_CHECKING

import numpy as np
import pytest

from masdeepflow.gateway.kernel import object_path
from masdeepflow.gateway.pairs import STATES, Pairs, layout_of, pair_dtype
from masdeepflow.gateway.watchdog import Stall, Watchdog, waits_for

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator


@pytest.fixture
def ends() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Yield a pair of connected sockets."""
    left, right = socket.socketpair()
    with left, right:
        yield left, right


def _waits(sock: socket.socket) -> bool:
    return waits_for(os.getpid(), os.fstat(sock.fileno()).st_ino)


def _waits_in(call: Callable[[], object], ends: tuple[socket.socket, socket.socket]) -> bool:
    """Whether this process is seen to wait for the first socket while a thread is in `call`."""
    thread = threading.Thread(target=call)
    thread.start()
    end = time.monotonic() + 10
    while not (seen := _waits(ends[0])) and thread.is_alive() and time.monotonic() < end:
        time.sleep(0.005)
        ends[1].send(b"x") if time.monotonic() > end - 9 else None
    ends[1].send(b"x")
    thread.join()
    return seen


def _epoll(sock: socket.socket, events: int) -> None:
    poll = select.epoll()
    poll.register(sock, events)
    poll.poll(10)
    poll.close()


def _poll(sock: socket.socket, events: int) -> None:
    poll = select.poll()
    poll.register(sock, events)
    poll.poll(10_000)


def test_a_blocked_reader_waits(ends: tuple[socket.socket, socket.socket]) -> None:
    """It sleeps in a receive call on the descriptor."""
    assert _waits_in(lambda: ends[0].recv(1), ends)


def test_poll_for_input_waits(ends: tuple[socket.socket, socket.socket]) -> None:
    """The descriptors of poll() are read from the process's memory."""
    assert _waits_in(lambda: _poll(ends[0], select.POLLIN), ends)


def test_epoll_for_input_waits(ends: tuple[socket.socket, socket.socket]) -> None:
    """The descriptors of an epoll instance are in its fdinfo."""
    assert _waits_in(lambda: _epoll(ends[0], select.EPOLLIN), ends)


def test_a_process_that_does_something_else_does_not_wait(ends: tuple[socket.socket, socket.socket]) -> None:
    """A slow reader is no stall: nobody is in a call on that socket."""
    assert not _waits(ends[0])


def test_waiting_for_another_socket_is_no_waiting(ends: tuple[socket.socket, socket.socket]) -> None:
    """A server that has stopped to read one connection still polls the others."""
    with socket.socket() as other:
        stop = threading.Event()
        thread = threading.Thread(target=lambda: _poll(ends[1], select.POLLIN))
        thread.start()
        try:
            other.bind(("127.0.0.1", 0))
            assert not _waits(other)
        finally:
            ends[0].send(b"x")
            thread.join()
            stop.set()


def test_a_process_that_is_gone_does_not_wait() -> None:
    """Whatever /proc lacks is no error."""
    assert not waits_for(2**22 + 1, 1)


class _Rows(Pairs):
    """One redirected connection as the kernel tells of it: bytes wait for the server."""

    def __init__(self, client: socket.socket, server: socket.socket) -> None:
        self.rows = np.zeros(1, pair_dtype(layout_of(object_path())))
        row = self.rows[0]
        row["state"] = STATES.index("redirected")
        row["client_port"], row["server_port"] = client.getsockname()[1], server.getsockname()[1]
        row["ends"]["redirected"] = (10, 0)
        row["ends"]["tgid"] = (0, os.getpid())


@pytest.fixture
def connected() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Yield client and server of a TCP connection."""
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
        listener.accept()[0] as server,
    ):
        yield client, server


@pytest.mark.parametrize("read_before", [True, False], ids=["read before", "never read"])
def test_a_reader_that_is_not_woken_is_a_stall(
    connected: tuple[socket.socket, socket.socket],
    read_before: bool,  # noqa: FBT001  # a case
) -> None:
    """Bytes are queued and none is read from one look to the next, while a thread sleeps in recv()."""
    client, server = connected
    pairs = _Rows(client, server)
    if not read_before:
        pairs.rows["ends"]["tgid"] = 0
    watchdog = Watchdog(pairs, patience_ns=0)
    thread = threading.Thread(target=lambda: server.recv(1))
    thread.start()
    end = time.monotonic() + 10
    while not (stalls := watchdog.look()) and time.monotonic() < end:
        time.sleep(0.005)
    client.send(b"x")
    thread.join()
    assert [(stall.side, stall.queued, stall.pid) for stall in stalls] == [("server", 10, os.getpid())]


def test_bytes_that_have_just_come_are_no_stall(connected: tuple[socket.socket, socket.socket]) -> None:
    """Nor are those of a reader that makes progress, however late the looks are."""
    client, server = connected
    pairs = _Rows(client, server)
    watchdog = Watchdog(pairs, patience_ns=1)
    thread = threading.Thread(target=lambda: server.recv(1))
    thread.start()
    while not waits_for(os.getpid(), os.fstat(server.fileno()).st_ino):
        time.sleep(0.005)
    assert watchdog.look() == []
    for _ in range(3):
        pairs.rows["ends"]["received"] += 1
        assert watchdog.look() == []
    pairs.rows["state"] = STATES.index("tcp")
    assert [watchdog.look(), watchdog.look()] == [[], []]
    client.send(b"x")
    thread.join()


def test_a_stall_names_the_connection_and_the_process() -> None:
    """So that its user knows where to look."""
    told = str(Stall("server", "[::1]:1", "[::1]:2", 10, 77))
    assert (
        told == "[::1]:1 -> [::1]:2 stalls: 10 bytes are queued for the server, PID 77, which waits for them"
    )
