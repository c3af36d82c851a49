"""Random messages both ways over a connection, with a half-close or a reset at its end, from a seed.

What each side received depends on the seed alone: plain and accelerated connections have to agree.
"""

from __future__ import annotations

import hashlib
import random
import socket
import struct
import threading
from dataclasses import dataclass

__all__ = ["LARGEST", "Received", "exchange", "plan"]

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


def _send(sock: socket.socket, messages: list[tuple[int, int]]) -> None:
    view = memoryview(_BLOCK)
    for offset, size in messages:
        sock.sendall(view[offset : offset + size])


def _receive(sock: socket.socket, count: int, buffer: bytearray) -> tuple[int, str]:
    digest, got = hashlib.blake2b(digest_size=16), 0
    view = memoryview(buffer)
    while got < count and (more := sock.recv_into(view[: min(len(view), count - got)])):
        digest.update(view[:more])
        got += more
    return got, digest.hexdigest()


def _end(sock: socket.socket) -> str:
    try:
        return "end of file" if not sock.recv(1) else "more bytes"
    except ConnectionResetError:
        return "reset"
    except TimeoutError:
        return "timeout"


def _client(sock: socket.socket, seed: int, messages: int, results: list[Received]) -> None:
    """Send, half-close, receive to the end; or, when both have all, reset the connection."""
    reset = seed % 3 == 0
    expected = sum(size for _, size in plan(~seed, messages))
    sender = threading.Thread(target=_send, args=(sock, plan(seed, messages)))
    sender.start()
    received = _receive(sock, expected, bytearray(1 << (12 + seed % 7)))
    sender.join()
    if reset:
        sock.sendall(_DONE)
        _receive(sock, 1, bytearray(1))
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        end = ""
    else:
        sock.shutdown(socket.SHUT_WR)
        end = _end(sock)
    sock.close()
    results.append(Received(*received, end))


def _server(sock: socket.socket, seed: int, messages: int, results: list[Received]) -> None:
    reset = seed % 3 == 0
    expected = sum(size for _, size in plan(seed, messages))
    sender = threading.Thread(target=_send, args=(sock, plan(~seed, messages)))
    sender.start()
    received = _receive(sock, expected, bytearray(1 << (12 + seed % 5)))
    sender.join()
    if reset:
        _receive(sock, 1, bytearray(1))
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
