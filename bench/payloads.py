"""Payloads that servers are given and asked for again, beside what loads them: none may come back changed.

Sizes are log-uniform from 1 byte to 1 MiB, contents random, from a seed.
"""

from __future__ import annotations

import http.client
import threading
import time
from contextlib import closing, contextmanager
from itertools import count
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

import psycopg
import pymysql
import redis

from tests.support.exchange import message
from tests.support.ports import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from contextlib import AbstractContextManager

__all__ = [
    "STALL_S",
    "Checker",
    "Conversation",
    "Seen",
    "maria_echo",
    "postgres_echo",
    "redis_set_get",
    "web_put_get",
]

STALL_S = 0.2
"""A call that takes longer is a stall."""
_PATIENCE_S = 30

Conversation: TypeAlias = "Callable[[int], AbstractContextManager[Callable[[bytes], bytes]]]"
"""Port -> a connection, as a call that gives the server a payload and returns what it gives back."""


class Seen(NamedTuple):
    """payloads: how many were exchanged. wrong: that came back changed. stalls: calls above `STALL_S`."""

    payloads: int
    wrong: int
    stalls: int
    slowest_s: float


class Checker:
    """Exchanges payloads with a server in a thread of its own, until it is asked what it saw."""

    def __init__(self, conversation: Conversation, port: int) -> None:
        self._conversation, self._port = conversation, port
        self._took: list[float] = []
        self._wrong = 0
        self._failure: Exception | None = None
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            with self._conversation(self._port) as exchange:
                for number in count():
                    if self._stop.is_set():
                        return
                    self._check(exchange, bytes(message(number)))
        except Exception as error:  # noqa: BLE001  # whatever the server's client raises: `seen` raises it
            self._failure = error

    def _check(self, exchange: Callable[[bytes], bytes], payload: bytes) -> None:
        start = time.monotonic()
        self._wrong += exchange(payload) != payload
        self._took.append(time.monotonic() - start)

    def seen(self) -> Seen:
        """End it and return what it saw. Raises what the server's client raised."""
        self._stop.set()
        self._thread.join(_PATIENCE_S)
        if self._failure is not None:
            raise self._failure
        stalls = sum(took > STALL_S for took in self._took)
        return Seen(len(self._took), self._wrong, stalls, max(self._took, default=0.0))


@contextmanager
def web_put_get(port: int) -> Iterator[Callable[[bytes], bytes]]:
    """Put a file and get it again, over one connection."""
    with closing(http.client.HTTPConnection(LOOPBACK, port, timeout=_PATIENCE_S)) as connection:

        def exchange(payload: bytes) -> bytes:
            connection.request("PUT", "/files/payload.bin", payload)
            connection.getresponse().read()
            connection.request("GET", "/files/payload.bin")
            return connection.getresponse().read()

        yield exchange


@contextmanager
def redis_set_get(port: int) -> Iterator[Callable[[bytes], bytes]]:
    """Set a key and get it again."""
    with redis.Redis(LOOPBACK, port, socket_timeout=_PATIENCE_S) as connection:

        def exchange(payload: bytes) -> bytes:
            connection.set("payload", payload)
            return bytes(connection.get("payload") or b"")

        yield exchange


@contextmanager
def postgres_echo(port: int) -> Iterator[Callable[[bytes], bytes]]:
    """Select a parameter."""
    where = f"postgresql://postgres@{LOOPBACK}:{port}/shop?sslmode=disable"
    with psycopg.connect(where, autocommit=True) as connection:

        def exchange(payload: bytes) -> bytes:
            row = connection.execute("SELECT %b::bytea", [payload], binary=True).fetchone()
            return bytes(row[0]) if row else b""

        yield exchange


@contextmanager
def maria_echo(port: int) -> Iterator[Callable[[bytes], bytes]]:
    """Select a literal."""
    opened = pymysql.connect(host=LOOPBACK, port=port, user="root", read_timeout=_PATIENCE_S)
    with closing(opened) as connection, connection.cursor() as cursor:

        def exchange(payload: bytes) -> bytes:
            cursor.execute("SELECT %s", (payload,))
            row = cursor.fetchone()
            return bytes(row[0]) if row else b""

        yield exchange
