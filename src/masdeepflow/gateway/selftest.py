"""The self-test: what the conformance table says of this kernel, found out on pairs of this process's own."""

from __future__ import annotations

import platform
import socket
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, Self

from masdeepflow.gateway import pins
from masdeepflow.gateway.conformance import BEHAVIOURS
from masdeepflow.gateway.conformance.table import Behaviour, observe
from masdeepflow.gateway.kernel import Gateway
from masdeepflow.gateway.pairs import STATES

if TYPE_CHECKING:
    from collections.abc import Iterable
    from pathlib import Path
    from types import TracebackType

__all__ = ["Result", "Track", "refusal", "run"]

_POLL_S = 0.05
_BUSY_S = 0.001
_AT_ONCE = 6
_ROOM = 4 << 20
_REDIRECTED = STATES.index("redirected")


Verdict = Literal["same", "excluded", "differs", "not redirected"]


@dataclass(frozen=True, slots=True)
class Result:
    """One behaviour. plain, accelerated: what was seen. verdict: `excluded` and `same` allow to go on.

    excluded: this kernel's redirection does not serve the call, and the guard against its programs works.
    """

    name: str
    plain: object
    accelerated: object
    verdict: Verdict


class Track:
    """Listeners for plain and accelerated pairs of one address family, and a gateway on the latter's port."""

    def __init__(
        self, cgroup: Path, family: socket.AddressFamily = socket.AF_INET, room: int | None = None
    ) -> None:
        self._plain, self._accelerated = (_listener(family) for _ in range(2))
        try:
            self.gateway = Gateway([self._accelerated.getsockname()[1]], cgroup, kept=False, room=room)
        except BaseException:
            self._close_listeners()
            raise
        self._connecting = threading.Lock()
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
        with self._connecting:
            client.connect(listener.getsockname()[:2])
            return client, listener.accept()[0]

    def is_redirected(self, client: socket.socket) -> bool:
        """Return whether what this client sends goes past TCP."""
        rows = self.gateway.pairs.rows
        mine = rows["client_port"] == client.getsockname()[1]
        return bool((mine & (rows["state"] == _REDIRECTED)).any())

    def try_out(self, behaviour: Behaviour) -> Result:
        """Return what a behaviour sees on a plain and on an accelerated pair."""
        port = self._accelerated.getsockname()[1]
        sockets = [self.connect(accelerated=False), self.connect(accelerated=True)]
        redirected = self.is_redirected(sockets[1][0])
        with ThreadPoolExecutor(1) as beside:
            waiting = beside.submit(_observed, behaviour, sockets[0])
            accelerated = _observed(behaviour, sockets[1])
            plain = waiting.result()
        verdict: Verdict = "same" if plain == accelerated else "differs"
        if verdict == "differs" and behaviour.guarded and port in self.gateway.distrusted():
            verdict = "excluded"
        self.gateway.trust(port)
        return Result(behaviour.name, plain, accelerated, verdict if redirected else "not redirected")

    def try_all(self, behaviours: Iterable[Behaviour]) -> list[Result]:
        """Return the results in the order of the behaviours; those that mostly wait do so together."""
        chosen = list(behaviours)
        with ThreadPoolExecutor(_AT_ONCE) as workers:
            quick = list(workers.map(self.try_out, [b for b in chosen if b.dangerous and not b.guarded]))
        # The guard acts on the port, so these need it for themselves; and forks are best made alone.
        rest = [self.try_out(b) for b in chosen if b.guarded or not b.dangerous]
        found = {result.name: result for result in (*quick, *rest)}
        return [found[behaviour.name] for behaviour in chosen]

    def pause(self) -> None:
        """Leave the kernel side to itself, as a process does that was killed."""
        self._stop = True
        self._thread.join()

    def close(self) -> None:
        """Detach and close all."""
        self.pause()
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


def refusal(results: Iterable[Result]) -> str | None:
    """Return why nothing is to be accelerated on this kernel, None if nothing speaks against it."""
    seen = list(results)
    wrong = [f"{r.name} ({r.verdict})" for r in seen if r.verdict not in ("same", "excluded")]
    if not wrong:
        return None
    if all(r.verdict == "not redirected" for r in seen):
        return f"no connection could be redirected on Linux {platform.release()}"
    return f"redirected sockets do not behave like TCP on Linux {platform.release()}: {', '.join(wrong)}"


def run(behaviours: Iterable[Behaviour] | None = None, cgroup: Path | None = None) -> list[Result]:
    """Return the results, by default those of the dangerous behaviours.

    Raises libbpf.BpfError when the kernel refuses, OSError without cgroup v2.
    """
    chosen = [b for b in BEHAVIOURS if b.dangerous] if behaviours is None else behaviours
    where = cgroup or pins.cgroup_root()
    if where is None:
        raise OSError("no cgroup v2 hierarchy is mounted: mount -t cgroup2 none /sys/fs/cgroup")
    with Track(where, room=_ROOM) as track:
        return track.try_all(chosen)
