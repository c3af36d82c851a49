"""Every way in which bytes move through a stream socket is seen: their number, their prefix, in one turn."""

from __future__ import annotations

import os
import socket
import tempfile
from typing import TYPE_CHECKING

import pytest

from masdeepflow.schema import Flag, Kind, Role
from tests.support.stage import PORT, Gate, read
from tests.support.system_calls import Messages, preadv2, pwritev2, splice_in, splice_out

if TYPE_CHECKING:
    from collections.abc import Callable

    from masdeepflow.kernel.probes import Probes
    from tests.support.stage import Stage

pytestmark = pytest.mark.root

REQUEST = b"GET /every/way HTTP/1.1\r\nHost: here\r\n\r\n"
RESPONSE = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
HOSTS = ["127.0.0.1", "::1", "\0masdeepflow-test"]


def _halves(data: bytes) -> tuple[bytes, bytes]:
    return data[: len(data) // 2], data[len(data) // 2 :]


def _read_recvmsg_into(sock: socket.socket, size: int) -> bytes:
    buffers = [bytearray(5), bytearray(size - 5)]
    got = sock.recvmsg_into(buffers)[0]
    return b"".join(buffers)[:got]


def _read_readv(sock: socket.socket, size: int) -> bytes:
    buffers = [bytearray(5), bytearray(size - 5)]
    got = os.readv(sock.fileno(), buffers)
    return b"".join(buffers)[:got]


def _read_recv_into(sock: socket.socket, size: int) -> bytes:
    buffer = bytearray(size)
    return bytes(buffer[: sock.recv_into(buffer)])


def _read_recvmmsg(sock: socket.socket, size: int) -> bytes:
    messages = Messages([[size]])
    got = messages.receive(sock.fileno())
    return messages._buffers[0][0].raw[: got[0]]


SENDERS: dict[str, Callable[[socket.socket, bytes], object]] = {
    "write": lambda sock, data: os.write(sock.fileno(), data),
    "writev": lambda sock, data: os.writev(sock.fileno(), _halves(data)),
    "pwritev2": lambda sock, data: pwritev2(sock.fileno(), *_halves(data)),
    "send": lambda sock, data: sock.send(data),
    "sendto": lambda sock, data: sock.sendto(data, sock.getpeername()),
    "sendmsg": lambda sock, data: sock.sendmsg(_halves(data)),
    "sendmmsg": lambda sock, data: Messages.of(_halves(data)).send(sock.fileno()),
}
RECEIVERS: dict[str, Callable[[socket.socket, int], bytes]] = {
    "read": lambda sock, size: os.read(sock.fileno(), size),
    "readv": _read_readv,
    "preadv2": lambda sock, size: preadv2(sock.fileno(), 5, size - 5),
    "recv": lambda sock, size: sock.recv(size),
    "recv_into": _read_recv_into,
    "recvfrom": lambda sock, size: sock.recvfrom(size)[0],
    "recvmsg": lambda sock, size: sock.recvmsg(size)[0],
    "recvmsg_into": _read_recvmsg_into,
    "recvmmsg": _read_recvmmsg,
    "MSG_WAITALL": lambda sock, size: sock.recv(size, socket.MSG_WAITALL),
}


def _sendfile(sock: socket.socket, data: bytes) -> None:
    with tempfile.TemporaryFile() as file:
        file.write(data)
        file.flush()
        assert os.sendfile(sock.fileno(), file.fileno(), 0, len(data)) == len(data)


def _exchange(
    stage: Stage,
    send: Callable[[socket.socket, bytes], object],
    receive: Callable[[socket.socket, int], bytes],
    host: str = HOSTS[0],
) -> None:
    """Send request and response the same way."""

    def client(sock: socket.socket) -> None:
        send(sock, REQUEST)
        assert receive(sock, len(RESPONSE)) == RESPONSE

    def server(sock: socket.socket) -> None:
        assert receive(sock, len(REQUEST)) == REQUEST
        send(sock, RESPONSE)
        assert not sock.recv(1)

    stage.exchange(client, server, host)


def _assert_whole(stage: Stage) -> None:
    """Both ends have one turn with all of both payloads."""
    for role in (Role.CLIENT, Role.SERVER):
        turn = stage.turn(role)
        assert (turn.request_bytes, turn.response_bytes) == (len(REQUEST), len(RESPONSE))
        assert (turn.request, turn.response) == (REQUEST, RESPONSE)
        assert (turn.request_segments, turn.response_segments) == (1, 1)
        assert not turn.flags & (Flag.NO_PAYLOAD | Flag.SERVER_FIRST | Flag.CONTINUED)
        assert turn.turn == 1
        stamps = (turn.request_first_ns, turn.request_last_ns, turn.response_first_ns, turn.response_last_ns)
        assert 0 < stamps[0] == stamps[1] < stamps[2] == stamps[3]


@pytest.mark.parametrize("name", SENDERS)
def test_what_is_sent_is_seen_whatever_the_call(stage: Stage, name: str) -> None:
    """A request and a response have their bytes and prefix, by whichever system call they are sent."""
    _exchange(stage, SENDERS[name], read)
    _assert_whole(stage)


@pytest.mark.parametrize("name", RECEIVERS)
def test_what_is_received_is_seen_whatever_the_call(stage: Stage, name: str) -> None:
    """A request and a response have their bytes and prefix, by whichever system call they are received."""
    _exchange(stage, SENDERS["send"], RECEIVERS[name])
    _assert_whole(stage)


@pytest.mark.parametrize("host", HOSTS[1:])
@pytest.mark.parametrize(("sender", "receiver"), [("write", "read"), ("sendmsg", "recvmsg_into")])
def test_other_families_are_seen_like_ipv4(stage: Stage, host: str, sender: str, receiver: str) -> None:
    """IPv6 and Unix stream sockets give the same turns as IPv4."""
    _exchange(stage, SENDERS[sender], RECEIVERS[receiver], host)
    _assert_whole(stage)


@pytest.mark.parametrize("send", [_sendfile, splice_in])
@pytest.mark.parametrize("host", HOSTS)
def test_sendfile_and_splice_count_bytes_and_time(
    stage: Stage, send: Callable[[socket.socket, bytes], object], host: str
) -> None:
    """Bytes that never are in user memory count, are timed, and show no payload."""
    _exchange(stage, send, read, host)
    client, server = stage.turn(Role.CLIENT), stage.turn(Role.SERVER)
    assert (client.request_bytes, client.response_bytes) == (len(REQUEST), len(RESPONSE))
    assert (server.request_bytes, server.response_bytes) == (len(REQUEST), len(RESPONSE))
    assert (client.request, client.response) == (b"", RESPONSE)
    assert (server.request, server.response) == (REQUEST, b"")
    assert client.flags & server.flags & Flag.NO_PAYLOAD
    assert client.duration_ns > 0
    assert server.duration_ns > 0


def test_payload_behind_bytes_that_were_not_seen_is_left_out(stage: Stage) -> None:
    """What is written behind a sendfile is not taken for the bytes that the file had."""

    def server(sock: socket.socket) -> None:
        read(sock, len(REQUEST))
        sock.sendall(b"head")
        _sendfile(sock, b"file")
        sock.sendall(b"tail")

    def client(sock: socket.socket) -> None:
        sock.sendall(REQUEST)
        assert read(sock, 12) == b"headfiletail"

    stage.exchange(client, server)
    turn = stage.turn(Role.SERVER)
    assert turn.response == b"head"
    assert turn.response_bytes == 12
    assert turn.flags & Flag.NO_PAYLOAD


def testsplice_out_of_a_tcp_socket_is_counted(stage: Stage, probes: Probes) -> None:
    """Bytes that a process moves from a socket into a pipe are counted, once one was seen to do so."""
    found = Gate()

    def first(sock: socket.socket) -> None:
        splice_out(sock, len(REQUEST))
        splice_in(sock, RESPONSE)
        found.wait()

    stage.exchange(lambda sock: sock.sendall(REQUEST), first, port=PORT + 1)
    stage.until(lambda _: probes._splicing)
    found.open()
    stage.settle()
    _exchange(stage, SENDERS["send"], splice_out)
    for role in (Role.CLIENT, Role.SERVER):
        turns = [turn for turn in stage.turns(role) if PORT in (turn.local[1], turn.remote[1])]
        assert [(turn.request_bytes, turn.response_bytes) for turn in turns] == [
            (len(REQUEST), len(RESPONSE))
        ]
        assert turns[0].flags & Flag.NO_PAYLOAD
        assert 0 < turns[0].request_first_ns < turns[0].response_last_ns
        close = next(slot for slot in stage.events(Kind.CLOSE, role) if slot.cookie == turns[0].cookie)
        assert (close.request_bytes, close.response_bytes) == (len(REQUEST), len(RESPONSE))
