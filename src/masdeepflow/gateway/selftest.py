"""The self-test: what the conformance table says of this kernel, found out on pairs of this process's own."""

from __future__ import annotations

import socket
import threading
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from masdeepflow.gateway import pins
from masdeepflow.gateway.conformance import BEHAVIOURS, Behaviour, observe
from masdeepflow.gateway.kernel import Gateway

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from types import TracebackType

__all__ = ["Result", "Track", "run"]

_POLL_S = 0.05
_BUSY_S = 0.001


@dataclass(frozen=True, slots=True)
class Result:
    """One behaviour. redirected: whether the accelerated pair was in fact redirected when it began."""

    name: str
    plain: object
    accelerated: object
    redirected: bool

    @property
    def conforms(self) -> bool:
        """Whether both pairs were seen to do the same, and one of them was redirected."""
        return self.redirected and self.plain == self.accelerated


class Track:
    """Listeners for plain and accelerated pairs of one address family, and a gateway on the latter's port."""

    def __init__(self, cgroup: Path, family: socket.AddressFamily = socket.AF_INET) -> None:
        self._plain, self._accelerated = (_listener(family) for _ in range(2))
        try:
            self.gateway = Gateway([self._accelerated.getsockname()[1]], cgroup, kept=False)
        except BaseException:
            self._close_listeners()
            raise
        self._stop = False
        self._thread = threading.Thread(target=self._serve, name="gateway", daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while not self._stop:
            self.gateway.beat()
            if self.gateway.wait(_POLL_S):
                while self.gateway.evict() and not self._stop:
                    time.sleep(_BUSY_S)

    def connect(self, *, accelerated: bool) -> tuple[socket.socket, socket.socket]:
        """Return a connected pair: client, server."""
        listener = self._accelerated if accelerated else self._plain
        client = socket.socket(listener.family)
        client.connect(listener.getsockname()[:2])
        return client, listener.accept()[0]

    def try_out(self, behaviour: Behaviour) -> Result:
        """Return what a behaviour sees on a plain and on an accelerated pair."""
        plain = _observed(behaviour, self.connect(accelerated=False))
        self.gateway.trust(self._accelerated.getsockname()[1])
        before = self.gateway.pairs.totals().pairs
        sockets = self.connect(accelerated=True)
        redirected = self.gateway.pairs.totals().pairs == before + 1
        return Result(behaviour.name, plain, _observed(behaviour, sockets), redirected)

    def close(self) -> None:
        """Detach and close all."""
        self._stop = True
        self._thread.join()
        self.gateway.stop()
        self.gateway.close()
        self._close_listeners()

    def _close_listeners(self) -> None:
        self._plain.close()
        self._accelerated.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _listener(family: socket.AddressFamily) -> socket.socket:
    listener = socket.socket(family)
    listener.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
    listener.listen(1024)
    return listener


def _observed(behaviour: Behaviour, sockets: tuple[socket.socket, socket.socket]) -> object:
    with sockets[0], sockets[1]:
        return observe(behaviour, *sockets)


def run(behaviours: Iterable[Behaviour] | None = None, cgroup: Path | None = None) -> list[Result]:
    """Return the results, by default those of the dangerous behaviours.

    Raises libbpf.BpfError when the kernel refuses, OSError without cgroup v2.
    """
    chosen = [b for b in BEHAVIOURS if b.dangerous] if behaviours is None else behaviours
    where = cgroup or pins.cgroup_root()
    if where is None:
        raise OSError("no cgroup v2 hierarchy is mounted: mount -t cgroup2 none /sys/fs/cgroup")
    with Track(where) as track:
        return [track.try_out(behaviour) for behaviour in chosen]
