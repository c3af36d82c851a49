"""System calls that Python's library does not offer, or only bare: messages, vectors with flags, splices."""

from __future__ import annotations

import ctypes as c
import os
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import socket
    from collections.abc import Sequence

__all__ = ["Messages", "preadv2", "pwritev2", "splice_in", "splice_out"]

_libc = c.CDLL(None, use_errno=True)
_libc.preadv2.argtypes = _libc.pwritev2.argtypes = (c.c_int, c.c_void_p, c.c_int, c.c_long, c.c_int)
_libc.preadv2.restype = _libc.pwritev2.restype = c.c_ssize_t
_NO_OFFSET = -1


class _IoVec(c.Structure):
    _fields_ = (("base", c.c_void_p), ("length", c.c_size_t))


class _MsgHdr(c.Structure):
    _fields_ = (
        ("name", c.c_void_p),
        ("name_length", c.c_uint32),
        ("vector", c.POINTER(_IoVec)),
        ("vector_length", c.c_size_t),
        ("control", c.c_void_p),
        ("control_length", c.c_size_t),
        ("flags", c.c_int),
    )


class _MMsgHdr(c.Structure):
    _fields_ = (("header", _MsgHdr), ("length", c.c_uint))


class _TimeSpec(c.Structure):
    _fields_ = (("seconds", c.c_long), ("nanoseconds", c.c_long))


def _check(result: int) -> int:
    if result < 0:
        raise OSError(c.get_errno(), os.strerror(c.get_errno()))
    return result


def _vector(buffers: Sequence[c.Array[c.c_char]]) -> c.Array[_IoVec]:
    return (_IoVec * len(buffers))(*(_IoVec(c.addressof(buffer), len(buffer)) for buffer in buffers))


class Messages:
    """A vector of messages for sendmmsg and recvmmsg, each with its buffers; may be used again and again."""

    def __init__(self, sizes: Sequence[Sequence[int]]) -> None:
        self._buffers = [[c.create_string_buffer(size) for size in message] for message in sizes]
        self._vectors = [_vector(message) for message in self._buffers]
        self._headers = (_MMsgHdr * len(sizes))()
        self._names: list[c.Array[c.c_char]] = []
        for header, vector in zip(self._headers, self._vectors, strict=True):
            header.header.vector, header.header.vector_length = vector, len(vector)

    @classmethod
    def of(cls, *messages: Sequence[bytes]) -> Messages:
        """Return messages of the given bytes."""
        made = cls([[len(buffer) for buffer in message] for message in messages])
        for number, message in enumerate(messages):
            made.fill(number, *message)
        return made

    def fill(self, number: int, *data: bytes) -> None:
        """Put bytes in the buffers of one message."""
        for buffer, part in zip(self._buffers[number], data, strict=True):
            c.memmove(buffer, part, len(part))

    def address(self, number: int, name: bytes) -> None:
        """Say where one message goes: a struct sockaddr."""
        self._names.append(c.create_string_buffer(name, len(name)))
        header = self._headers[number].header
        header.name, header.name_length = c.addressof(self._names[-1]), len(name)

    def send(self, descriptor: int, count: int | None = None, flags: int = 0) -> int:
        """Send the first `count` messages; return how many went."""
        return _check(_libc.sendmmsg(descriptor, self._headers, count or len(self._headers), flags))

    def receive(
        self, descriptor: int, count: int | None = None, flags: int = 0, timeout_s: float | None = None
    ) -> list[int]:
        """Receive up to `count` messages; return their lengths."""
        limit = None if timeout_s is None else c.byref(_TimeSpec(0, int(timeout_s * 1e9)))
        got = _check(_libc.recvmmsg(descriptor, self._headers, count or len(self._headers), flags, limit))
        return [int(header.length) for header in self._headers[:got]]


def pwritev2(descriptor: int, *data: bytes) -> int:
    """Write buffers with pwritev2, which takes sockets when there is no offset."""
    buffers = [c.create_string_buffer(part, len(part)) for part in data]
    return _check(_libc.pwritev2(descriptor, _vector(buffers), len(buffers), _NO_OFFSET, 0))


def preadv2(descriptor: int, *sizes: int) -> bytes:
    """Read into buffers of these sizes with preadv2; return the bytes read."""
    buffers = [c.create_string_buffer(size) for size in sizes]
    got = _check(_libc.preadv2(descriptor, _vector(buffers), len(buffers), _NO_OFFSET, 0))
    return b"".join(buffer.raw for buffer in buffers)[:got]


def splice_in(sock: socket.socket, data: bytes) -> None:
    """Send by way of a pipe."""
    reading, writing = os.pipe()
    os.write(writing, data)
    assert os.splice(reading, sock.fileno(), len(data)) == len(data)
    os.close(reading)
    os.close(writing)


def splice_out(sock: socket.socket, size: int) -> bytes:
    """Receive by way of a pipe, once."""
    reading, writing = os.pipe()
    data = os.read(reading, os.splice(sock.fileno(), writing, size))
    os.close(reading)
    os.close(writing)
    return data
