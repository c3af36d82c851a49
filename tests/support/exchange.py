"""Random messages both ways over a connection, with a half-close or a reset at its end, from a seed.

What each side received depends on the seed alone: plain and accelerated connections have to agree. With odd
seeds both sides take turns, with even ones both send all they can at once.
"""

from __future__ import annotations

import hashlib
import random
import socket
import struct
import threading
from dataclasses import dataclass

__all__ = ["LARGEST", "Received", "exchange", "message", "plan"]

LARGEST = 1 << 20
"""Bytes of the largest message."""
_BLOCK = random.Random(0).randbytes(2 * LARGEST)  # noqa: S311  # not for secrets
_PATIENCE_S = 60.0
_DONE = b"!"
_RESET = struct.pack("ii", 1, 0)


@dataclass(frozen=True, slots=True)
class Received:
    """What one side received: bytes, their digest, and how the stream ended."""

    count: int
    digest: str
    end: str


def plan(seed: int, messages: int) -> list[tuple[int, int]]:
    """Return the messages of a seed: offset in the block and size, log-uniform from 1 byte to 1 MiB."""
    made = random.Random(seed)  # noqa: S311  # not for secrets
    sizes = [int(LARGEST ** made.random()) for _ in range(messages)]
    return [(made.randrange(LARGEST), size) for size in sizes]


def message(seed: int) -> memoryview:
    """Return the only message of a seed."""
    [(offset, size)] = plan(seed, 1)
    return memoryview(_BLOCK)[offset : offset + size]


def _send(sock: socket.socket, messages: list[tuple[int, int]]) -> None:
    view = memoryview(_BLOCK)
    for offset, size in messages:
        sock.sendall(view[offset : offset + size])


def _receive(sock: socket.socket, count: int, buffer: bytearray, digest: hashlib._Hash) -> int:
    got, view = 0, memoryview(buffer)
    while got < count and (more := sock.recv_into(view[: min(len(view), count - got)])):
        digest.update(view[:more])
        got += more
    return got


def _end(sock: socket.socket) -> str:
    try:
        return "end of file" if not sock.recv(1) else "more bytes"
    except ConnectionResetError:
        return "reset"
    except TimeoutError:
        return "timeout"


def _move(sock: socket.socket, seed: int, messages: int, *, first: bool) -> tuple[int, str]:
    """Send one side's messages and receive the other's: in turns, one of each, or both at full speed."""
    sent, expected = plan(seed if first else ~seed, messages), plan(~seed if first else seed, messages)
    buffer = bytearray(1 << (12 + seed % 7))
    if seed % 2:
        return _in_turns(sock, sent, expected, buffer, first=first)
    sender = threading.Thread(target=_send, args=(sock, sent))
    sender.start()
    digest = hashlib.sha256()
    count = _receive(sock, sum(size for _, size in expected), buffer, digest)
    sender.join()
    return count, digest.hexdigest()


def _in_turns(
    sock: socket.socket,
    sent: list[tuple[int, int]],
    expected: list[tuple[int, int]],
    buffer: bytearray,
    *,
    first: bool,
) -> tuple[int, str]:
    digest, count = hashlib.sha256(), 0
    for message_out, (_, size) in zip(sent, expected, strict=True):
        if first:
            _send(sock, [message_out])
        count += _receive(sock, size, buffer, digest)
        if not first:
            _send(sock, [message_out])
    return count, digest.hexdigest()


def _client(sock: socket.socket, seed: int, messages: int, results: list[Received]) -> None:
    """Exchange, half-close, and read to the end; or, when both have all, reset the connection."""
    reset = seed % 3 == 0
    received = _move(sock, seed, messages, first=True)
    if reset:
        sock.sendall(_DONE)
        sock.recv(1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        end = ""
    else:
        sock.shutdown(socket.SHUT_WR)
        end = _end(sock)
    sock.close()
    results.append(Received(*received, end))


def _server(sock: socket.socket, seed: int, messages: int, results: list[Received]) -> None:
    reset = seed % 3 == 0
    received = _move(sock, seed, messages, first=False)
    if reset:
        sock.recv(1)
        sock.sendall(_DONE)
    end = _end(sock)
    sock.close()
    results.append(Received(*received, end))


def exchange(
    client: socket.socket, server: socket.socket, seed: int, messages: int
) -> tuple[Received | None, Received | None]:
    """Exchange so many messages each way over a pair, and close it; return what client and server got.

    None stands for a side that failed.
    """
    at_client: list[Received] = []
    at_server: list[Received] = []
    for sock in (client, server):
        sock.settimeout(_PATIENCE_S)
    beside = threading.Thread(target=_server, args=(server, seed, messages, at_server))
    beside.start()
    try:
        _client(client, seed, messages, at_client)
    finally:
        beside.join()
    return next(iter(at_client), None), next(iter(at_server), None)
