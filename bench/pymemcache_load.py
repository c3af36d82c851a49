"""Loads by pymemcache, which measures nothing itself: a loop around its calls does."""

from __future__ import annotations

import random
import socket
import time
from functools import partial
from multiprocessing import get_context
from statistics import fmean
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pymemcache import Client  # type: ignore[import-untyped]  # it ships no types

from bench.tools import LOOPBACK, Told, figures

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["Load", "fill_cache", "pymemcache_loop", "pymemcache_processes"]

_KEYS = 1000
_OBJECTS, _MANY = 64, 10
_PATIENCE_S = 60


class _TimedSocket(socket.socket):
    """A socket that notes when the last request was sent, and when the last byte of its answer was read."""

    asked_ns: ClassVar[int] = 0
    answered_ns: ClassVar[int] = 0

    def sendall(self, *arguments: Any) -> None:  # noqa: ANN401  # handed on
        """Note when a request is sent."""
        _TimedSocket.asked_ns = time.perf_counter_ns()
        super().sendall(*arguments)

    def recv(self, *arguments: Any) -> bytes:  # noqa: ANN401  # handed on
        """Note when a part of its answer has come: the last one ends it."""
        data = super().recv(*arguments)
        _TimedSocket.answered_ns = time.perf_counter_ns()
        return data


def _client(port: int, clock: str) -> Client:
    timed = SimpleNamespace(**{**vars(socket), "socket": _TimedSocket})
    return Client(
        (LOOPBACK, port), default_noreply=False, socket_module=timed if clock == "socket" else socket
    )


def _latency_us(call: Callable[[], object], clock: str) -> float:
    before = time.perf_counter_ns()
    answer = call()
    after = time.perf_counter_ns()
    if not answer:
        raise SystemExit("what was asked for was not there: memcached has too little memory")
    if clock == "socket":
        before, after = _TimedSocket.asked_ns, _TimedSocket.answered_ns
    return (after - before) / 1e3


def pymemcache_loop(port: int, requests: int, clock: str) -> Told:
    """Get values one after the other.

    clock: what is measured: the `calls` of the client, or those of the `socket` in them.
    """
    client = _client(port, clock)
    for number in range(_KEYS):
        client.set(f"user:{number}", "a value")
    latencies = [
        _latency_us(partial(client.get, f"user:{number % _KEYS}"), clock) for number in range(requests)
    ]
    client.close()
    return Told(requests, 1e6 / fmean(latencies), figures(latencies))


class Load(NamedTuple):
    """Workers of an application, and what each chooses from at random.

    least, most: bytes of the smallest and the largest object. Each is larger than the last by the same
    factor: as many are of 1 to 10 KB as of 10 to 100 KB.
    """

    processes: int
    least: int
    most: int
    operations: tuple[str, ...]

    def sizes(self) -> list[int]:
        """Return the sizes of all objects."""
        growth = self.most / self.least
        return [round(self.least * growth ** (number / (_OBJECTS - 1))) for number in range(_OBJECTS)]


def fill_cache(port: int, load: Load) -> None:
    """Set all objects."""
    client = _client(port, "calls")
    for number, size in enumerate(load.sizes()):
        client.set(_key(number), bytes(size))
    client.close()


def pymemcache_processes(port: int, requests: int, clock: str, load: Load) -> Told:
    """Run the workers of an application, each a process with a connection: no two share a lock of Python's.

    clock: as for `pymemcache_loop`. The objects are those of `fill_cache`.
    """
    each = requests // load.processes
    work = [(port, each, clock, load, seed) for seed in range(load.processes)]
    with get_context("fork").Pool(load.processes) as pool:
        told = pool.starmap_async(_work, work, chunksize=1).get(_PATIENCE_S)
    latencies = [latency for worker in told for latency in worker]
    return Told(len(latencies), load.processes * 1e6 / fmean(latencies), figures(latencies))


def _work(port: int, requests: int, clock: str, load: Load, seed: int) -> list[float]:
    """Return how long each request of a worker took, in us."""
    chosen = random.Random(seed)  # noqa: S311  # not for secrets
    values = [bytes(size) for size in load.sizes()]
    client = _client(port, clock)
    latencies = []
    for _ in range(requests):
        numbers = chosen.sample(range(_OBJECTS), _MANY)
        keys = [_key(number) for number in numbers]
        call = {
            "get": partial(client.get, keys[0]),
            "get_many": partial(client.get_many, keys),
            "set": partial(client.set, keys[0], values[numbers[0]]),
        }[chosen.choice(load.operations)]
        latencies.append(_latency_us(call, clock))
    client.close()
    return latencies


def _key(number: int) -> str:
    return f"object:{number}"
