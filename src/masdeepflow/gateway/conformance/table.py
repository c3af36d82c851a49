"""What a behaviour is, and the small tools that the behaviours are written with."""

from __future__ import annotations

import array
import contextlib
import errno
import fcntl
import hashlib
import random
import select
import socket
import termios
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "BEHAVIOURS",
    "ENDLESS",
    "SETTLE_S",
    "TIMEOUT",
    "WAIT_S",
    "Behaviour",
    "See",
    "attempt",
    "behaviour",
    "beside",
    "error_name",
    "exactly",
    "observe",
    "pattern",
    "queued",
    "readable",
    "settle",
    "to_end",
]

TIMEOUT = "timeout"
"""What a call that did not return in time is seen as."""
WAIT_S = 0.5
"""How long a call may take before it is seen as `TIMEOUT`."""
SETTLE_S = 0.01
"""How long `settle` waits."""
ENDLESS = 256 << 20
"""More bytes than any socket may hold for a reader that does not read."""

See = Callable[[socket.socket, socket.socket], object]
"""Client and server socket -> what was seen."""


@dataclass(frozen=True, slots=True)
class Behaviour:
    """One row of the table. dangerous: part of the self-test.

    guarded: a call that no member of a socket hash serves; programs that make it are left to TCP.
    """

    name: str
    see: See
    dangerous: bool
    guarded: bool


BEHAVIOURS: list[Behaviour] = []
"""Rows as the modules that hold them add them."""


def behaviour(name: str, *, dangerous: bool = True, guarded: bool = False) -> Callable[[See], See]:
    """Add the decorated function to the table."""

    def add(see: See) -> See:
        BEHAVIOURS.append(Behaviour(name, see, dangerous, guarded))
        return see

    return add


def observe(row: Behaviour, client: socket.socket, server: socket.socket) -> object:
    """Return what the behaviour sees of this pair; an error that it did not expect is what it saw."""
    client.settimeout(WAIT_S)
    server.settimeout(WAIT_S)
    try:
        return row.see(client, server)
    except OSError as error:
        return error_name(error)


def error_name(error: OSError) -> str:
    """Return the errno's name, or `TIMEOUT`."""
    return TIMEOUT if isinstance(error, TimeoutError) else errno.errorcode.get(error.errno or 0, repr(error))


def attempt(call: Callable[[], object]) -> object:
    """Return what a call returns, or the name of its error."""
    try:
        return call()
    except OSError as error:
        return error_name(error)


def exactly(sock: socket.socket, count: int) -> bytes:
    """Read so many bytes, fewer only at the end of the stream."""
    data = bytearray()
    while len(data) < count and (more := sock.recv(count - len(data))):
        data += more
    return bytes(data)


def to_end(sock: socket.socket) -> tuple[int, str]:
    """Read to the end of the stream; return the number of bytes and their digest."""
    digest, count = hashlib.blake2b(digest_size=16), 0
    while data := sock.recv(1 << 18):
        digest.update(data)
        count += len(data)
    return count, digest.hexdigest()


def readable(sock: socket.socket, seconds: float = WAIT_S) -> int:
    """Return the poll events of a socket, of those that a reader cares for."""
    poll = select.poll()
    poll.register(sock, select.POLLIN | select.POLLPRI | select.POLLRDHUP)
    return sum(event for _, event in poll.poll(seconds * 1000))


def settle() -> None:
    """Give what is on its way the time to arrive."""
    threading.Event().wait(SETTLE_S)


def queued(sock: socket.socket) -> int:
    """Return what FIONREAD says."""
    count = array.array("i", [0])
    fcntl.ioctl(sock, termios.FIONREAD, count)
    return count[0]


@contextlib.contextmanager
def beside(call: Callable[[], object]) -> Iterator[list[object]]:
    """Run a call in a thread meanwhile; give the list that its result is put in."""
    result: list[object] = []
    thread = threading.Thread(target=lambda: result.append(attempt(call)), daemon=True)
    thread.start()
    try:
        yield result
    finally:
        thread.join(10)


def pattern(seed: int, count: int) -> bytes:
    """Return bytes that are the same for the same seed."""
    return random.Random(seed).randbytes(count)  # noqa: S311  # not for secrets
