"""What applications can observe of a TCP connection: each behaviour a function of a fresh pair of sockets.

A behaviour returns what it saw. It conforms if that is the same on an accelerated pair as on a plain one. None has a
time in what it returns, and all are bounded: what would hang is seen as `TIMEOUT`.
"""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import hashlib
import os
import random
import select
import socket
import struct
import tempfile
import termios
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = ["BEHAVIOURS", "TIMEOUT", "Behaviour", "observe"]

TIMEOUT = "timeout"
"""What a call that did not return in time is seen as."""

_WAIT_S = 0.5
_SETTLE_S = 0.01
_LARGE = 3 << 20
_ENDLESS = 256 << 20
_MSG_TRUNC = 0x20
_SO_PEEK_OFF = 42
_TCP_INQ = 36

Sockets = tuple[socket.socket, socket.socket]


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One row of the table. dangerous: part of the self-test. see: client and server socket -> what was seen.

    guarded: a call that no member of a socket hash serves; programs that make it are found out and left to TCP.
    """

    name: str
    see: Callable[[socket.socket, socket.socket], object]
    dangerous: bool
    guarded: bool


BEHAVIOURS: list[Behaviour] = []
"""The table, in the order in which it is shown."""

_See = Callable[[socket.socket, socket.socket], object] if TYPE_CHECKING else object


def _behaviour(name: str, *, dangerous: bool = True, guarded: bool = False) -> Callable[[_See], _See]:
    def add(see: _See) -> _See:
        BEHAVIOURS.append(Behaviour(name, see, dangerous, guarded))
        return see

    return add


def observe(behaviour: Behaviour, client: socket.socket, server: socket.socket) -> object:
    """Return what the behaviour sees of this pair; an error that it did not expect is what it saw."""
    client.settimeout(_WAIT_S)
    server.settimeout(_WAIT_S)
    try:
        return behaviour.see(client, server)
    except OSError as error:
        return _name(error)


def _name(error: OSError) -> str:
    return TIMEOUT if isinstance(error, TimeoutError) else errno.errorcode.get(error.errno or 0, repr(error))


def _attempt(call: Callable[[], object]) -> object:
    try:
        return call()
    except OSError as error:
        return _name(error)


def _exactly(sock: socket.socket, count: int) -> bytes:
    data = bytearray()
    while len(data) < count and (more := sock.recv(count - len(data))):
        data += more
    return bytes(data)


def _to_end(sock: socket.socket) -> tuple[int, str]:
    digest, count = hashlib.blake2b(digest_size=16), 0
    while data := sock.recv(1 << 18):
        digest.update(data)
        count += len(data)
    return count, digest.hexdigest()


def _readable(sock: socket.socket, seconds: float = _WAIT_S) -> int:
    """Return the poll events of a socket, of those that a reader cares for."""
    poll = select.poll()
    poll.register(sock, select.POLLIN | select.POLLPRI | select.POLLRDHUP)
    return sum(event for _, event in poll.poll(seconds * 1000))


def _settle() -> None:
    """Give what is on its way the time to arrive."""
    threading.Event().wait(_SETTLE_S)


def _waiting(sock: socket.socket) -> int:
    """Return what FIONREAD says."""
    count = array.array("i", [0])
    fcntl.ioctl(sock, termios.FIONREAD, count)
    return count[0]


@contextlib.contextmanager
def _beside(call: Callable[[], object]) -> Iterator[list[object]]:
    """Run a call in a thread meanwhile; give the list that its result is put in."""
    result: list[object] = []
    thread = threading.Thread(target=lambda: result.append(_attempt(call)), daemon=True)
    thread.start()
    try:
        yield result
    finally:
        thread.join(10)


def _pattern(seed: int, count: int) -> bytes:
    return random.Random(seed).randbytes(count)  # noqa: S311  # not for secrets


@_behaviour("byte order")
def _(client: socket.socket, server: socket.socket) -> object:
    sizes = random.Random(1)  # noqa: S311  # not for secrets
    pieces = [_pattern(seed, sizes.choice((1, 7, 64, 4096, 65537, 300_000))) for seed in range(40)]

    def send() -> None:
        for piece in pieces:
            client.sendall(piece)
        client.shutdown(socket.SHUT_WR)

    with _beside(send):
        return _to_end(server)


@_behaviour("server speaks first")
def _(client: socket.socket, server: socket.socket) -> object:
    server.sendall(b"greeting")
    greeting = _exactly(client, 8)
    client.sendall(b"query")
    return greeting, _exactly(server, 5)


@_behaviour("both directions at once")
def _(client: socket.socket, server: socket.socket) -> object:
    def send(sock: socket.socket, seed: int) -> None:
        sock.sendall(_pattern(seed, _LARGE))
        sock.shutdown(socket.SHUT_WR)

    with _beside(lambda: send(client, 1)), _beside(lambda: send(server, 2)), _beside(lambda: _to_end(client)) as seen:
        at_server = _to_end(server)
    return at_server, seen


@_behaviour("half-close, and end of file after pending data")
def _(client: socket.socket, server: socket.socket) -> object:
    client.sendall(b"last words")
    client.shutdown(socket.SHUT_WR)
    _settle()
    events = _readable(server)
    first = server.recv(4), _readable(server)
    rest = _exactly(server, 6), server.recv(1), _readable(server)
    server.sendall(b"answer")
    return events, first, rest, _exactly(client, 6), _attempt(lambda: client.send(b"x"))


@_behaviour("close after pending data")
def _(client: socket.socket, server: socket.socket) -> object:
    client.sendall(b"0123456789" * 1000)
    client.close()
    _settle()
    return _to_end(server), _readable(server)


@_behaviour("reset (SO_LINGER 0)")
def _(client: socket.socket, server: socket.socket) -> object:
    client.sendall(b"data")
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    client.close()
    _settle()
    return _attempt(lambda: server.recv(10)), _attempt(lambda: server.recv(10)), _attempt(lambda: server.send(b"x"))


@_behaviour("reset when closed with unread data")
def _(client: socket.socket, server: socket.socket) -> object:
    server.sendall(b"first")
    _exactly(client, 2)
    client.close()
    _readable(server)
    _settle()
    return _attempt(lambda: server.recv(1)), _attempt(lambda: server.send(b"x"))


@_behaviour("FIONREAD")
def _(client: socket.socket, server: socket.socket) -> object:
    counts = [_waiting(server)]
    for size in (10, 1, 5000):
        client.sendall(bytes(size))
        _readable(server)
        _settle()
        counts.append(_waiting(server))
    for size in (4, 5007):
        _exactly(server, size)
        counts.append(_waiting(server))
    server.sendall(b"abc")
    _readable(client)
    return counts, _waiting(client)


@_behaviour("poll, level-triggered")
def _(client: socket.socket, server: socket.socket) -> object:
    seen = [_readable(server, 0)]
    client.sendall(b"ab")
    seen += [_readable(server), _readable(server, 0)]
    server.recv(1)
    seen.append(_readable(server, 0))
    server.recv(1)
    seen.append(_readable(server, 0))
    with _beside(lambda: _readable(server)) as events:
        _settle()
        client.sendall(b"c")
    return seen, list(events)


@_behaviour("epoll, edge-triggered")
def _(client: socket.socket, server: socket.socket) -> object:
    poll = select.epoll()
    poll.register(server, select.EPOLLIN | select.EPOLLET | select.EPOLLRDHUP)
    try:
        client.sendall(b"ab")
        seen = [poll.poll(_WAIT_S), poll.poll(0)]
        client.sendall(b"cd")
        seen.append(poll.poll(_WAIT_S))
        server.recv(10)
        seen.append(poll.poll(0))
        client.shutdown(socket.SHUT_WR)
        seen.append(poll.poll(_WAIT_S))
        return [[event for _, event in events] for events in seen]
    finally:
        poll.close()


@_behaviour("MSG_PEEK")
def _(client: socket.socket, server: socket.socket) -> object:
    client.sendall(b"peekaboo")
    peeked = server.recv(4, socket.MSG_PEEK), server.recv(20, socket.MSG_PEEK)
    read = server.recv(20)
    server.setblocking(False)
    return peeked, read, _attempt(lambda: server.recv(1, socket.MSG_PEEK))


def _recv_in_kernel(sock: socket.socket, count: int, flags: int) -> object:
    """Receive without Python's own poll() before it, which a timeout brings."""
    sock.settimeout(None)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, int(_WAIT_S * 1e6)))
    return _attempt(lambda: sock.recv(count, flags))


@_behaviour("MSG_WAITALL, reader first", guarded=True)
def _(client: socket.socket, server: socket.socket) -> object:
    with _beside(lambda: _recv_in_kernel(server, 10, socket.MSG_WAITALL)) as result:
        _settle()
        client.sendall(b"01234")
        _settle()
        client.sendall(b"56789")
    return result


@_behaviour("MSG_WAITALL, bytes first", guarded=True)
def _(client: socket.socket, server: socket.socket) -> object:
    client.sendall(b"01234")
    _settle()
    with _beside(lambda: _recv_in_kernel(server, 10, socket.MSG_WAITALL)) as result:
        _settle()
        client.sendall(b"56789")
    return result


@_behaviour("SO_RCVLOWAT")
def _(client: socket.socket, server: socket.socket) -> object:
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 4)
    client.sendall(b"ab")
    seen = [_readable(server, _SETTLE_S)]
    client.sendall(b"cd")
    return [*seen, _readable(server)], server.recv(10)


@_behaviour("SO_RCVLOWAT set when bytes have come")
def _(client: socket.socket, server: socket.socket) -> object:
    client.sendall(b"xyz")
    first = _exactly(server, 3)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 4)
    client.sendall(b"ab")
    seen = [_readable(server, _SETTLE_S)]
    client.sendall(b"cd")
    return first, [*seen, _readable(server)], server.recv(10)


@_behaviour("SO_RCVTIMEO")
def _(client: socket.socket, server: socket.socket) -> object:
    server.settimeout(None)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, struct.pack("ll", 0, 20_000))
    empty = _attempt(lambda: server.recv(1))
    client.sendall(b"now")
    return empty, server.recv(10), _attempt(lambda: server.recv(1))


@_behaviour("SO_LINGER")
def _(client: socket.socket, server: socket.socket) -> object:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 1))
    client.sendall(bytes(100_000))
    with _beside(client.close):
        return _to_end(server)


def _fill(sock: socket.socket) -> tuple[int, str]:
    """Send until the socket takes no more; return how much it took, as a digest too."""
    sock.setblocking(False)
    digest, sent, chunk = hashlib.blake2b(digest_size=16), 0, _pattern(3, 1 << 16)
    with contextlib.suppress(BlockingIOError):
        while sent < _ENDLESS:
            count = sock.send(chunk)
            digest.update(chunk[:count])
            sent += count
    return sent, digest.hexdigest()


def _drain(sock: socket.socket, count: int) -> tuple[int, str]:
    digest, got = hashlib.blake2b(digest_size=16), 0
    while got < count and (data := sock.recv(min(1 << 18, count - got))):
        digest.update(data)
        got += len(data)
    return got, digest.hexdigest()


def _writable(sock: socket.socket, seconds: float) -> bool:
    return bool(select.select([], [sock], [], seconds)[1])


@_behaviour("back-pressure, non-blocking")
def _(client: socket.socket, server: socket.socket) -> object:
    sent, expected = _fill(client)
    full = _writable(client, 0)
    got = _drain(server, sent)
    with contextlib.suppress(BlockingIOError):
        again = _writable(client, 2) and client.send(b"more")
    return sent < _ENDLESS, full, got == (sent, expected), again, server.recv(10)


@_behaviour("back-pressure, small buffers", dangerous=False)
def _(client: socket.socket, server: socket.socket) -> object:
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 8192)
    server.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8192)
    sent, expected = _fill(client)
    counted = _waiting(server) > 0
    return sent < 8 << 20, counted, _drain(server, sent) == (sent, expected), _writable(client, 2)


@_behaviour("FIONREAD and edges of a slow reader")
def _(client: socket.socket, server: socket.socket) -> object:
    """As nginx reads: until a short read or an FIONREAD of zero, then it waits for an edge."""
    total = _ENDLESS // 4

    def send() -> None:
        client.settimeout(5)
        client.sendall(bytes(total))
        client.shutdown(socket.SHUT_WR)

    server.setblocking(False)
    poll = select.epoll()
    poll.register(server, select.EPOLLIN | select.EPOLLET | select.EPOLLRDHUP)
    got = 0
    with _beside(send):
        threading.Event().wait(0.1)
        while got < total and poll.poll(2):
            while data := _attempt(lambda: server.recv(1 << 18)):
                if not isinstance(data, bytes):
                    break
                got += len(data)
                if not _waiting(server):
                    break
    poll.close()
    return got == total


@_behaviour("SO_SNDTIMEO")
def _(client: socket.socket, server: socket.socket) -> object:
    client.settimeout(None)
    client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, struct.pack("ll", 0, 50_000))
    sent = 0
    error: object = None
    while sent < _ENDLESS and error is None:
        try:
            sent += client.send(bytes(1 << 18))
        except OSError as caught:
            error = _name(caught)
    return error, _drain(server, sent)[0] == sent


@_behaviour("sendfile")
def _(client: socket.socket, server: socket.socket) -> object:
    with tempfile.TemporaryFile() as file:
        file.write(_pattern(4, 500_000))
        file.flush()

        def send() -> None:
            client.settimeout(5)
            client.sendfile(file)
            client.shutdown(socket.SHUT_WR)

        with _beside(send):
            return _to_end(server)


@_behaviour("splice into the socket")
def _(client: socket.socket, server: socket.socket) -> object:
    out, into = os.pipe()
    try:
        os.write(into, b"through a pipe")
        return os.splice(out, client.fileno(), 14), _exactly(server, 14)
    finally:
        os.close(out)
        os.close(into)


@_behaviour("splice from the socket", guarded=True)
def _(client: socket.socket, server: socket.socket) -> object:
    out, into = os.pipe()
    try:
        client.sendall(b"through a pipe")
        _settle()
        server.setblocking(False)
        moved = _attempt(lambda: os.splice(server.fileno(), into, 14))
        return moved, os.read(out, 20) if moved == 14 else b""
    finally:
        os.close(out)
        os.close(into)


@_behaviour("TCP_NODELAY and TCP_CORK", dangerous=False)
def _(client: socket.socket, server: socket.socket) -> object:
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    client.sendall(b"a")
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 1)
    client.sendall(b"b")
    client.sendall(b"c", socket.MSG_MORE)
    client.setsockopt(socket.IPPROTO_TCP, socket.TCP_CORK, 0)
    options = [client.getsockopt(socket.IPPROTO_TCP, name) for name in (socket.TCP_NODELAY, socket.TCP_CORK)]
    return options, _exactly(server, 3)


@_behaviour("urgent data")
def _(client: socket.socket, server: socket.socket) -> object:
    client.sendall(b"before")
    seen = [_exactly(server, 6)]
    client.send(b"!", socket.MSG_OOB)
    events = _readable(server)
    client.sendall(b"after")
    seen += [server.recv(1, socket.MSG_OOB), _exactly(server, 5)]
    return events & select.POLLPRI, seen


@_behaviour("urgent data behind unread data")
def _(client: socket.socket, server: socket.socket) -> object:
    client.sendall(b"before")
    client.send(b"!", socket.MSG_OOB)
    client.sendall(b"after")
    seen = [_exactly(server, 6)]
    _readable(server)
    _settle()
    return seen, _attempt(lambda: server.recv(1, socket.MSG_OOB)), _exactly(server, 5)


@_behaviour("urgent data in line")
def _(client: socket.socket, server: socket.socket) -> object:
    server.setsockopt(socket.SOL_SOCKET, socket.SO_OOBINLINE, 1)
    client.sendall(b"a")
    first = _exactly(server, 1)
    client.send(b"b!", socket.MSG_OOB)
    return first, _exactly(server, 2)


@_behaviour("keep-alive", dangerous=False)
def _(client: socket.socket, server: socket.socket) -> object:
    for sock in (client, server):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, 1)
    client.sendall(b"a")
    first = _exactly(server, 1)
    threading.Event().wait(1.2)
    server.sendall(b"b")
    return first, _exactly(client, 1)


def _in_child(work: Callable[[], None]) -> int:
    child = os.fork()
    if not child:
        code = 1
        with contextlib.suppress(BaseException):
            work()
            code = 0
        os._exit(code)
    return os.waitpid(child, 0)[1]


@_behaviour("fork", dangerous=False)
def _(client: socket.socket, server: socket.socket) -> object:
    client.sendall(b"to the child")

    def serve() -> None:
        server.sendall(_exactly(server, 12).upper())

    status = _in_child(serve)
    server.sendall(b" and parent")
    return status, _exactly(client, 23)


@_behaviour("SCM_RIGHTS", dangerous=False)
def _(client: socket.socket, server: socket.socket) -> object:
    left, right = socket.socketpair()
    with left, right:
        client.sendall(b"before")
        socket.send_fds(left, [b"x"], [server.fileno()])
        _, descriptors, _, _ = socket.recv_fds(right, 1, 1)
        server.close()
        with socket.socket(fileno=descriptors[0]) as passed:
            passed.settimeout(_WAIT_S)
            client.sendall(b"+after")
            got = _exactly(passed, 12)
            passed.sendall(got)
            return got, _exactly(client, 12)


@_behaviour("write after shutdown")
def _(client: socket.socket, server: socket.socket) -> object:
    client.sendall(b"a")
    client.shutdown(socket.SHUT_WR)
    refused = _attempt(lambda: client.send(b"b"))
    return refused, _to_end(server)


@_behaviour("write to a closed peer")
def _(client: socket.socket, server: socket.socket) -> object:
    client.sendall(b"a")
    _exactly(server, 1)
    server.close()
    _settle()
    first = _attempt(lambda: client.send(b"b"))
    _settle()
    return first, _attempt(lambda: client.send(b"c")), _attempt(lambda: client.recv(1))


@_behaviour("MSG_TRUNC discards", guarded=True)
def _(client: socket.socket, server: socket.socket) -> object:
    client.sendall(b"discard+keep")
    _settle()
    buffer = bytearray(b"........")
    count = server.recv_into(buffer, 8, _MSG_TRUNC)
    return count, bytes(buffer), _exactly(server, 4)


@_behaviour("vectors")
def _(client: socket.socket, server: socket.socket) -> object:
    client.sendmsg([b"one", b"", b"two" * 10_000])
    parts = [bytearray(3), bytearray(10)]
    count = server.recvmsg_into(parts)[0]
    return count, parts, hashlib.md5(_exactly(server, 29_990)).hexdigest()  # noqa: S324  # not for secrets


@_behaviour("nothing to read")
def _(_client: socket.socket, server: socket.socket) -> object:
    server.settimeout(None)
    return _attempt(lambda: server.recv(1, socket.MSG_DONTWAIT)), server.recv(0, socket.MSG_DONTWAIT)


@_behaviour("SO_PEEK_OFF")
def _(client: socket.socket, server: socket.socket) -> object:
    client.sendall(b"x")
    first = _exactly(server, 1)
    server.setsockopt(socket.SOL_SOCKET, _SO_PEEK_OFF, 0)
    client.sendall(b"abcdef")
    _settle()
    return first, [server.recv(2, socket.MSG_PEEK) for _ in range(3)], server.recv(10)


@_behaviour("TCP_INQ")
def _(client: socket.socket, server: socket.socket) -> object:
    client.sendall(b"x")
    first = _exactly(server, 1)
    server.setsockopt(socket.IPPROTO_TCP, _TCP_INQ, 1)
    client.sendall(b"abcdef")
    _readable(server)
    _settle()
    data, ancillary, _, _ = server.recvmsg(2, 64)
    return first, data, ancillary


@_behaviour("SIOCOUTQ after all was read", dangerous=False)
def _(client: socket.socket, server: socket.socket) -> object:
    client.sendall(b"abc")
    _exactly(server, 3)
    _settle()
    count = array.array("i", [0])
    fcntl.ioctl(client, termios.TIOCOUTQ, count)
    return count[0]
