"""CONNECT, CONNECT_FAILED, ACCEPT and CLOSE: once each, with process, addresses, times and totals."""

from __future__ import annotations

import array
import contextlib
import ctypes
import errno
import os
import socket
import struct
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from masdeepflow.schema import Flag, Kind, Role, Transport
from tests.support.stage import LOOPBACK, PORT, Gate, listen, read

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.support.stage import Slot, Stage

pytestmark = pytest.mark.root

HOSTS = [LOOPBACK, "::1"]
MILLISECOND = 1_000_000
_HERE, _THERE = Flag.SELF_CLOSED, Flag.PEER_CLOSED


def _ask(sock: socket.socket) -> None:
    sock.sendall(b"question")
    read(sock, 6)


def _answer(sock: socket.socket) -> None:
    read(sock, 8)
    sock.sendall(b"answer")


def _reset(sock: socket.socket) -> None:
    """Have the close of the socket send RST."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _kinds(slots: list[Slot], role: Role) -> list[Kind]:
    return [slot.kind for slot in slots if slot.role == role and slot.kind != Kind.OPEN]


@pytest.mark.parametrize("host", HOSTS)
def test_a_connection_is_opened_and_closed_once_on_each_end(stage: Stage, host: str) -> None:
    """The order is CONNECT or ACCEPT, TURN, CLOSE, under one cookie, with the right process and addresses."""

    def client(sock: socket.socket) -> tuple[str, int]:
        _ask(sock)
        address: tuple[str, int] = sock.getsockname()[:2]
        return address

    asking, serving = stage.exchange(client, _answer, host)
    slots = stage.settle()
    assert _kinds(slots, Role.CLIENT) == [Kind.CONNECT, Kind.TURN, Kind.CLOSE]
    assert _kinds(slots, Role.SERVER) == [Kind.ACCEPT, Kind.TURN, Kind.CLOSE]
    for slot in slots:
        client_side = slot.role == Role.CLIENT
        ends = (asking.result, (host, PORT))
        assert (slot.local, slot.remote) == (ends if client_side else ends[::-1])
        assert slot.pid == (asking.pid if client_side else serving.pid)
        assert slot.transport == Transport.TCP
    assert len({(slot.role, slot.cookie) for slot in slots}) == 2


def test_close_has_the_totals(stage: Stage) -> None:
    """CLOSE has all bytes each way, the time the connection lasted, and the round trip time."""

    def client(sock: socket.socket) -> None:
        for _ in range(3):
            _ask(sock)
        time.sleep(0.05)

    def server(sock: socket.socket) -> None:
        for _ in range(3):
            _answer(sock)
        assert not sock.recv(1)

    stage.exchange(client, server)
    opened = {Role.CLIENT: stage.event(Kind.CONNECT), Role.SERVER: stage.event(Kind.ACCEPT)}
    for close in stage.events(Kind.CLOSE):
        assert (close.request_bytes, close.response_bytes) == (24, 18)
        assert (close.request, close.response, close.retransmits) == (b"", b"", 0)
        assert close.request_first_ns == opened[close.role].request_first_ns
        assert close.duration_ns >= 50 * MILLISECOND
        assert 0 < close.srtt_us < 1_000_000


def test_connecting_is_timed_and_retransmits_are_counted(stage: Stage) -> None:
    """A connect whose first SYN was dropped took until the second; its CLOSE counts the retransmit."""
    full, sent = Gate(), Gate()

    def server() -> None:
        with listen(backlog=0) as listener:
            full.open()
            sent.wait()
            time.sleep(0.1)
            for _ in range(2):
                connection, _ = listener.accept()
                connection.close()

    def client() -> None:
        full.wait()
        with socket.create_connection((LOOPBACK, PORT)), socket.socket() as second:
            second.settimeout(0)
            assert second.connect_ex((LOOPBACK, PORT)) == errno.EINPROGRESS
            sent.open()
            second.settimeout(20)
            assert not second.recv(1)

    stage.start(server)
    stage.start(client)
    first, second = stage.events(Kind.CONNECT)
    assert 0 < first.duration_ns < 500 * MILLISECOND <= second.duration_ns
    retransmits = {close.cookie: close.retransmits for close in stage.events(Kind.CLOSE, Role.CLIENT)}
    assert retransmits[first.cookie] == 0 < retransmits[second.cookie]


def _connect(sock: socket.socket) -> None:
    sock.connect(("::1" if sock.family == socket.AF_INET6 else LOOPBACK, PORT))


def _refused(sock: socket.socket) -> None:
    with pytest.raises(ConnectionRefusedError):
        _connect(sock)


def _timed_out(sock: socket.socket) -> None:
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_SYNCNT, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, 100)
    with pytest.raises(TimeoutError):
        _connect(sock)


def _given_up(sock: socket.socket) -> None:
    sock.settimeout(0.05)
    with pytest.raises(TimeoutError):
        _connect(sock)


@pytest.mark.parametrize("host", HOSTS)
@pytest.mark.parametrize(
    ("fail", "error", "least_ms"),
    [
        (_refused, errno.ECONNREFUSED, 0),
        (_timed_out, errno.ETIMEDOUT, 100),
        (_given_up, errno.ECANCELED, 50),
    ],
    ids=["refused", "timeout", "given-up"],
)
def test_a_failed_connect_tells_why(
    stage: Stage, host: str, fail: Callable[[socket.socket], None], error: int, least_ms: int
) -> None:
    """CONNECT_FAILED has the error, both addresses with the local port, and the time; no CLOSE follows."""

    def client() -> tuple[str, int]:
        with listen(host, PORT, 0) if least_ms else socket.socket() as blocked:
            waiting = socket.socket(blocked.family)
            if least_ms:
                _connect(waiting)  # fills the backlog: SYNs of others are dropped
            with waiting, socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as sock:
                sock.bind((host, 0))
                address: tuple[str, int] = sock.getsockname()[:2]
                fail(sock)
        return address

    actor = stage.start(client)
    failed = stage.event(Kind.CONNECT_FAILED)
    assert failed.error == error
    assert (failed.local, failed.remote, failed.pid) == (actor.result, (host, PORT), actor.pid)
    assert failed.role == Role.CLIENT
    assert failed.duration_ns >= least_ms * MILLISECOND
    cookies = [slot.cookie for slot in stage.settle() if slot.kind in (Kind.CLOSE, Kind.CONNECT)]
    assert failed.cookie not in cookies


def test_a_refused_connect_keeps_the_port_it_was_given(stage: Stage) -> None:
    """Without bind, the local port is the one that the kernel chose, though it is free again."""

    def client() -> None:
        with socket.socket() as sock:
            _refused(sock)

    stage.start(client)
    assert stage.event(Kind.CONNECT_FAILED).local[1] != 0


def test_a_connect_that_finds_no_port_says_so(stage: Stage) -> None:
    """When all local ports are taken, no SYN is sent, and the error is not that of a connection given up."""

    def client() -> None:
        Path("/proc/sys/net/ipv4/ip_local_port_range").write_text("50000 50000", encoding="ascii")
        with listen(), socket.create_connection((LOOPBACK, PORT)), socket.socket() as sock:
            assert sock.connect_ex((LOOPBACK, PORT)) == errno.EADDRNOTAVAIL

    stage.start(client)
    assert stage.event(Kind.CONNECT_FAILED).error == errno.EADDRNOTAVAIL


def test_a_socket_may_connect_again(stage: Stage) -> None:
    """A socket that was refused, then served, then disconnected and served again has an event for each."""
    ready, served = Gate(), Gate()

    def server() -> None:
        served.wait()
        with listen() as listener:
            ready.open()
            for _ in range(2):
                connection, _ = listener.accept()
                _answer(connection)
                with connection, pytest.raises(ConnectionResetError):
                    connection.recv(1)

    def client() -> None:
        with socket.socket() as sock:
            _refused(sock)
            served.open()
            ready.wait()
            for _ in range(2):
                _connect(sock)
                _ask(sock)
                _disconnect(sock)

    stage.start(server)
    stage.start(client)
    slots = stage.settle()
    assert _kinds(slots, Role.CLIENT) == [
        Kind.CONNECT_FAILED,
        *(Kind.CONNECT, Kind.TURN, Kind.CLOSE) * 2,
    ]
    closes = stage.events(Kind.CLOSE, Role.CLIENT)
    assert [(close.request_bytes, close.response_bytes) for close in closes] == [(8, 6)] * 2


def _disconnect(sock: socket.socket) -> None:
    """connect(AF_UNSPEC), see connect(2)."""
    unspecified = bytes(16)
    assert ctypes.CDLL(None).connect(sock.fileno(), unspecified, len(unspecified)) == 0


def test_accept_names_a_process_that_never_reads(stage: Stage) -> None:
    """ACCEPT and CLOSE of a connection without I/O have the process that accepted and closed it."""

    def client(sock: socket.socket) -> None:
        assert not sock.recv(1)

    def server(_: socket.socket) -> None:
        pass

    _, serving = stage.exchange(client, server)
    assert stage.event(Kind.ACCEPT).pid == stage.event(Kind.CLOSE, Role.SERVER).pid == serving.pid
    assert stage.turns() == []


@pytest.mark.parametrize("sends", [b"", b"never read"])
@pytest.mark.parametrize("resets", ["client", "server"])
def test_a_reset_closes_both_ends_once(stage: Stage, sends: bytes, resets: str) -> None:
    """RST, from either end, with bytes unread or not, gives one CLOSE an end under the right process."""
    sent, gone = Gate(), Gate()

    def client(sock: socket.socket) -> None:
        sock.sendall(sends)
        sent.open()
        if resets == "client":
            _reset(sock)
            sock.close()
            gone.open()
        else:
            with pytest.raises(ConnectionResetError):
                sock.recv(1)

    def server(sock: socket.socket) -> None:
        sent.wait()
        if resets == "client":
            gone.wait()
        else:
            _reset(sock)

    asking, serving = stage.exchange(client, server)
    slots = stage.settle()
    request = [Kind.TURN] if sends else []
    assert _kinds(slots, Role.CLIENT) == [Kind.CONNECT, *request, Kind.CLOSE]
    assert _kinds(slots, Role.SERVER) == [Kind.ACCEPT, Kind.CLOSE]
    assert {slot.pid for slot in slots if slot.role == Role.SERVER} == {serving.pid}
    assert {slot.pid for slot in slots if slot.role == Role.CLIENT} == {asking.pid}


def test_closing_with_bytes_unread_names_the_process(stage: Stage) -> None:
    """A server that closes without reading what came resets the connection, and is named all the same."""

    def client(sock: socket.socket) -> None:
        sock.sendall(b"never read")
        with pytest.raises(ConnectionResetError):
            sock.recv(1)

    def server(sock: socket.socket) -> None:
        while not sock.recv(10, socket.MSG_PEEK):
            pass

    _, serving = stage.exchange(client, server)
    assert stage.event(Kind.ACCEPT).pid == serving.pid
    close = stage.event(Kind.CLOSE, Role.SERVER)
    assert (close.pid, close.request_bytes) == (serving.pid, 0)
    assert stage.turn(Role.CLIENT).request == b"never read"


def test_a_killed_process_closes_its_connections(stage: Stage) -> None:
    """The end of a process, however it comes, closes: the turn and the totals are written."""
    asked = Gate()

    def server(sock: socket.socket) -> None:
        _answer(sock)
        asked.wait()
        os.kill(os.getpid(), 9)

    def client(sock: socket.socket) -> None:
        _ask(sock)
        asked.open()
        assert not sock.recv(1)

    _, serving = stage.exchange(client, server)
    serving.may_be_killed = True
    close = stage.event(Kind.CLOSE, Role.SERVER)
    assert (close.pid, close.request_bytes, close.response_bytes) == (serving.pid, 8, 6)


def test_an_answer_behind_a_half_close_is_whole(stage: Stage) -> None:
    """A client that shuts down its sending side has one turn, with the response, whatever state TCP is in."""
    closed = Gate()

    def client(sock: socket.socket) -> None:
        sock.sendall(b"question")
        sock.shutdown(socket.SHUT_WR)
        closed.wait()
        time.sleep(0.05)  # the FINs of both have come: TIME_WAIT
        read(sock, 6)
        assert not sock.recv(1)

    def server(sock: socket.socket) -> None:
        _answer(sock)
        assert not sock.recv(1)
        sock.close()
        closed.open()

    stage.exchange(client, server)
    slots = stage.settle()
    assert _kinds(slots, Role.CLIENT) == [Kind.CONNECT, Kind.TURN, Kind.CLOSE]
    for role in (Role.CLIENT, Role.SERVER):
        turn = stage.turn(role)
        assert (turn.request, turn.response) == (b"question", b"answer")
        close = stage.event(Kind.CLOSE, role)
        assert (close.request_bytes, close.response_bytes) == (8, 6)
    assert stage.turn(Role.CLIENT).duration_ns >= 50 * MILLISECOND


@pytest.mark.parametrize("how", [socket.SHUT_WR, socket.SHUT_RDWR])
def test_an_answer_that_waits_behind_the_peers_close_is_whole(stage: Stage, how: int) -> None:
    """A client that shuts down when the server has already answered and closed still has its response."""
    closed = Gate()

    def client(sock: socket.socket) -> None:
        sock.sendall(b"question")
        closed.wait()
        time.sleep(0.02)
        sock.shutdown(how)
        read(sock, 6)

    def server(sock: socket.socket) -> None:
        _answer(sock)
        sock.close()
        closed.open()

    stage.exchange(client, server)
    turn = stage.turn(Role.CLIENT)
    assert (turn.request, turn.response, turn.response_bytes) == (b"question", b"answer", 6)
    assert stage.event(Kind.CLOSE, Role.CLIENT).response_bytes == 6


def test_what_a_reset_left_in_the_buffer_is_still_read(stage: Stage) -> None:
    """Bytes that came before the peer's RST and are read behind it belong to the turn."""
    reset = Gate()

    def client(sock: socket.socket) -> None:
        sock.sendall(b"question")
        reset.wait()
        time.sleep(0.02)
        read(sock, 6)

    def server(sock: socket.socket) -> None:
        _answer(sock)
        _reset(sock)
        sock.close()
        reset.open()

    stage.exchange(client, server)
    assert stage.turn(Role.CLIENT).response == b"answer"


def test_a_forked_process_takes_over(stage: Stage) -> None:
    """Accepted by one process and served by its child: the child has ACCEPT and turns."""

    def server(sock: socket.socket) -> int:
        child = os.fork()
        if not child:
            _answer(sock)
            os._exit(0)
        sock.close()
        os.waitpid(child, 0)
        return child

    _, serving = stage.exchange(_ask, server)
    assert stage.turn(Role.SERVER).pid == serving.result
    assert stage.event(Kind.ACCEPT).pid == serving.result


def test_a_passed_socket_changes_hands_between_turns(stage: Stage) -> None:
    """A connection that goes from process to process has each turn under the process that served it."""
    ours, theirs = socket.socketpair()
    first_done = Gate()

    def client(sock: socket.socket) -> None:
        _ask(sock)
        first_done.wait()
        _ask(sock)
        assert not sock.recv(1)

    def first(sock: socket.socket) -> None:
        _answer(sock)
        socket.send_fds(ours, [b"x"], [sock.fileno()])

    def second() -> int:
        descriptors = array.array("i", socket.recv_fds(theirs, 1, 1)[1])
        with socket.socket(fileno=descriptors[0]) as sock:
            first_done.open()
            _answer(sock)
        return os.getpid()

    taking = stage.start(second)
    _, giving = stage.exchange(client, first)
    turns = [turn for turn in stage.turns(Role.SERVER) if turn.transport == Transport.TCP]
    assert [turn.pid for turn in turns] == [giving.pid, taking.pid]
    assert stage.event(Kind.CLOSE, Role.SERVER).pid == taking.pid
    assert all(turn.request == b"question" for turn in turns)


def test_a_name_is_the_processs_not_the_threads(stage: Stage) -> None:
    """A slot has the name of the process and the number of the thread."""

    def server(sock: socket.socket) -> int:
        _rename("self", "the-process")

        def serve() -> None:
            _rename(f"self/task/{threading.get_native_id()}", "a-thread")
            _answer(sock)

        return _threaded(serve)

    _, serving = stage.exchange(_ask, server)
    turn = stage.turn(Role.SERVER)
    assert (turn.comm, turn.pid, turn.tid) == ("the-process", serving.pid, serving.result)


def _rename(task: str, name: str) -> None:
    Path("/proc", task, "comm").write_text(name, encoding="ascii")


def _threaded(act: Callable[[], None]) -> int:
    """Run in a new thread; return its number."""
    numbers: list[int] = []

    def work() -> None:
        numbers.append(threading.get_native_id())
        act()

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    return numbers[0]


def test_each_turn_has_its_own_thread(stage: Stage) -> None:
    """Threads that take turns on one connection each have theirs."""

    def client(sock: socket.socket) -> list[int]:
        return [_threaded(lambda: _ask(sock)) for _ in range(3)]

    def server(sock: socket.socket) -> None:
        for _ in range(3):
            _answer(sock)

    asking, _ = stage.exchange(client, server)
    assert [turn.tid for turn in stage.turns(Role.CLIENT)] == asking.result


def test_a_request_that_comes_with_the_syn_is_one(stage: Stage) -> None:
    """With TCP Fast Open the request is on its way before the connection is; both are seen as ever."""
    ready = Gate()

    def server() -> None:
        Path("/proc/sys/net/ipv4/tcp_fastopen").write_text("3", encoding="ascii")
        with listen() as listener:
            listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_FASTOPEN, 16)
            ready.open()
            for _ in range(2):
                with listener.accept()[0] as connection:
                    _answer(connection)
                    assert not connection.recv(1)

    def client() -> None:
        ready.wait()
        for _ in range(2):  # the first gets the cookie, the second shows it
            with socket.socket() as sock:
                sock.sendto(b"question", socket.MSG_FASTOPEN, (LOOPBACK, PORT))
                read(sock, 6)

    stage.start(server)
    stage.start(client)
    slots = stage.settle()
    assert _kinds(slots, Role.CLIENT) == [Kind.CONNECT, Kind.TURN, Kind.CLOSE] * 2
    assert _kinds(slots, Role.SERVER) == [Kind.ACCEPT, Kind.TURN, Kind.CLOSE] * 2
    assert {(turn.request, turn.response) for turn in stage.turns()} == {(b"question", b"answer")}


def _hangs_up(how: str) -> Callable[[socket.socket], object]:
    """Return who ends the connection before its peer does."""

    def end(sock: socket.socket) -> None:
        if how == "unread":
            sock.recv(1, socket.MSG_PEEK)
        elif sock.getsockname()[1] == PORT:
            read(sock, 8)
        if how == "linger":
            _reset(sock)
        if how == "kill":
            os.kill(os.getpid(), 9)

    return end


def _waits(sock: socket.socket) -> None:
    with contextlib.suppress(ConnectionResetError):
        while sock.recv(100):
            pass


@pytest.mark.parametrize(
    ("how", "error"), [("close", 0), ("kill", 0), ("linger", errno.ECONNRESET), ("unread", errno.ECONNRESET)]
)
def test_it_is_told_which_end_closed_first(stage: Stage, how: str, error: int) -> None:
    """On the turn that is cut short and on CLOSE, at both ends; what was reset has the errno of that."""

    def client(sock: socket.socket) -> None:
        sock.sendall(b"question")
        _waits(sock)

    _, serving = stage.exchange(client, _hangs_up(how))
    serving.may_be_killed = True
    for role, closer, broken in ((Role.CLIENT, _THERE, error), (Role.SERVER, _HERE, 0)):
        close = stage.event(Kind.CLOSE, role)
        assert (close.flags & (_HERE | _THERE), close.error) == (closer, broken)
        if (how, role) != ("unread", Role.SERVER):
            turn = stage.turn(role)
            assert (turn.flags & (_HERE | _THERE), turn.error) == (closer, broken)


def test_a_client_that_gives_up_is_told_from_a_server_that_hangs_up(stage: Stage) -> None:
    """The client closes while the server is at it: both ends have that the client was first."""

    def client(sock: socket.socket) -> None:
        sock.sendall(b"question")

    stage.exchange(client, _waits)
    assert stage.turn(Role.CLIENT).flags & (_HERE | _THERE) == _HERE
    assert stage.turn(Role.SERVER).flags & (_HERE | _THERE) == _THERE


def test_an_answer_to_a_client_that_has_gone_breaks_the_connection(stage: Stage) -> None:
    """The server's CLOSE has EPIPE: its answer came back as a reset."""
    gone = Gate()

    def client(sock: socket.socket) -> None:
        sock.sendall(b"question")
        sock.close()
        gone.open()

    def server(sock: socket.socket) -> None:
        gone.wait()
        _answer(sock)
        time.sleep(0.02)

    stage.exchange(client, server)
    close = stage.event(Kind.CLOSE, Role.SERVER)
    assert (close.error, close.flags & (_HERE | _THERE)) == (errno.EPIPE, _THERE)


def test_a_turn_cut_short_by_the_close_is_marked(stage: Stage) -> None:
    """A request whose connection closes before the response is a turn without one that ends there."""

    def client(sock: socket.socket) -> None:
        sock.sendall(b"question")
        assert not sock.recv(1)

    def server(sock: socket.socket) -> None:
        read(sock, 8)

    stage.exchange(client, server)
    for role in (Role.CLIENT, Role.SERVER):
        turn = stage.turn(role)
        assert (turn.request, turn.response, turn.response_first_ns) == (b"question", b"", 0)
        assert turn.flags & Flag.CLOSED
        (close,) = [slot for slot in stage.settle() if slot.kind == Kind.CLOSE and slot.role == role]
        assert turn.request_last_ns < turn.response_last_ns == close.response_last_ns
