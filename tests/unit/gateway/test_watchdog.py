"""Who is seen to wait for a socket: real threads in real system calls."""

from __future__ import annotations

import os
import select
import socket
import threading
import time
from typing import TYPE_CHECKING

import pytest

from masdeepflow.gateway.watchdog import Stall, waits_for

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


def test_a_stall_names_the_connection_and_the_process() -> None:
    """So that its user knows where to look."""
    told = str(Stall("server", "[::1]:1", "[::1]:2", 10, 77))
    assert (
        told == "[::1]:1 -> [::1]:2 stalls: 10 bytes are queued for the server, PID 77, which waits for them"
    )
