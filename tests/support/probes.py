"""A kernel side in which nothing runs: what the agent reads is what a test puts there."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Self

import numpy as np

from masdeepflow.kernel.layout import Layout, committed
from tests.support.slots import make_slots

if TYPE_CHECKING:
    from collections.abc import Callable

    from masdeepflow.kernel.probes import ServiceSignals


class FakeRing:
    """A ring of slots; what was given back is overwritten at once, as the kernel might."""

    def __init__(self, capacity: int = 100_000) -> None:
        self.capacity = capacity
        self.slots = make_slots()
        self.reads: list[int] = []
        self.ever = 0

    def add(self, *turns: dict[str, object]) -> None:
        """Write slots."""
        self.slots = np.concatenate((self.slots, make_slots(*turns)))
        self.ever += len(turns)

    def written(self) -> int:
        """Return how many slots were ever written."""
        return self.ever

    def pending(self) -> int:
        """Return how many slots wait."""
        return len(self.slots)

    def read(self, limit: int) -> np.ndarray:
        """Return up to `limit` slots."""
        self.reads.append(limit)
        return self.slots[:limit]

    def release(self, count: int) -> None:
        """Give slots back."""
        self.slots[:count].view(np.uint8)[:] = 0xFF
        self.slots = self.slots[count:]


@dataclass
class FakeProbes:
    """A kernel side in which nothing runs. `signals` are the services, the last that of the overflow."""

    ring: FakeRing = field(default_factory=FakeRing)
    swept: bool = False
    lost: int = 0
    signals: list[ServiceSignals] = field(default_factory=list)
    pid: int = field(default_factory=os.getpid)
    forgotten: list[bytes] = field(default_factory=list)
    followed: list[int] = field(default_factory=list)
    left: list[int] = field(default_factory=list)
    on_sweep: Callable[[], None] = lambda: None
    layout: Layout = field(default_factory=committed)
    closed: bool = False

    def sweep(self) -> bool:
        """Do what the test wants to happen meanwhile."""
        self.on_sweep()
        return self.swept

    def counters(self) -> dict[str, int]:
        """Return what the ring lost."""
        return {"lost_ring_full": self.lost, "lost_event_ring_full": 2, "lost_no_memory": 1}

    def services(self) -> list[ServiceSignals]:
        """Return the golden signals."""
        return self.signals

    def service_keys(self) -> list[bytes]:
        """Return the keys of those that are not the overflow."""
        return [service.key for service in self.signals if service.key]

    def own_pid(self) -> int:
        """Return the agent's PID."""
        return self.pid

    def follow_datagrams(self, port: int) -> None:
        """Note which port."""
        self.followed.append(port)

    def leave_datagrams(self, cookie: int) -> None:
        """Note which socket."""
        self.left.append(cookie)

    def forget_service(self, key: bytes) -> int | None:
        """Note what is forgotten."""
        self.forgotten.append(key)
        self.signals = [service for service in self.signals if service.key != key]
        return 1

    def __enter__(self) -> Self:
        """Attach nothing."""
        return self

    def __exit__(self, *_error: object) -> None:
        """Detach nothing."""
        self.closed = True
