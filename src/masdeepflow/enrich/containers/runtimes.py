"""All container runtimes of a host, asked in the background."""

from __future__ import annotations

import functools
import threading
import time
from collections import deque
from pathlib import Path
from typing import TYPE_CHECKING

from masdeepflow.enrich.containers.client import Unavailable
from masdeepflow.enrich.containers.sockets import default_sockets
from masdeepflow.enrich.containers.worker import Counts, Pace, Worker

if TYPE_CHECKING:
    from collections.abc import Iterable

    from masdeepflow.enrich.containers.client import Client
    from masdeepflow.enrich.containers.sockets import Socket
    from masdeepflow.enrich.facts import ContainerFact

__all__ = ["Runtimes"]

_FACTS_MOST = 1024
_PENDING_MOST = 8192
_CLOSE_S = 2.0


class Runtimes:
    """Looks containers up, from `start` to `close`. `ask` and `take` never wait; one thread calls them.

    sockets: to be asked beside the usual ones of this host. root: where the host's root directory is, for an
    agent in a container. usual: whether the usual ones are asked at all. What runs at the start is told
    without being asked for, and what Docker starts or renames later.
    """

    def __init__(
        self,
        sockets: Iterable[Socket] = (),
        *,
        root: Path = Path("/"),
        usual: bool = True,
        pace: Pace | None = None,
    ) -> None:
        self._pace = pace or Pace()
        self._sockets = [*sockets, *(default_sockets(root) if usual else ())]
        self._workers: dict[Path, Worker] = {}
        self._facts: deque[ContainerFact] = deque()
        self._again: dict[str, float] = {}
        self._room = threading.Lock()
        self._closing = threading.Event()
        self._watch = threading.Thread(target=self._look, name="container-runtimes", daemon=True)

    def start(self) -> None:
        """Start to ask those runtimes whose sockets are there, and to look for the others."""
        self._start_workers()
        self._watch.start()

    def close(self) -> None:
        """Stop asking. What was learnt can still be taken."""
        self._closing.set()
        workers = list(self._workers.values())
        for worker in workers:
            worker.stop()
        end = time.monotonic() + _CLOSE_S
        if self._watch.ident is not None:  # it was started
            self._watch.join(_CLOSE_S)
        for worker in workers:
            worker.join(max(0.0, end - time.monotonic()))

    def ask(self, container_id: str, runtime: str) -> None:
        """Have a container looked up, if it was not asked for a short while ago.

        runtime: as `Membership` has it, empty if unknown: then all are asked.
        """
        now = time.monotonic()
        if self._again.get(container_id, 0.0) > now:
            return
        if len(self._again) >= _PENDING_MOST:
            self._forget(now)
        self._again[container_id] = now + self._pace.again
        for worker in list(self._workers.values()):
            if worker.serves(runtime):
                worker.ask(container_id)

    def _forget(self, now: float) -> None:
        """Make room: drop what may be asked for again, else the older half."""
        kept = [item for item in self._again.items() if item[1] > now]
        self._again = dict(kept[-_PENDING_MOST // 2 :])

    def take(self) -> list[ContainerFact]:
        """Return what was learnt since the last call; the later of two facts about a container counts."""
        taken = []
        for _ in range(len(self._facts)):
            taken.append(self._facts.popleft())
            self._again.pop(taken[-1].id, None)
        return taken

    def problems(self) -> dict[str, str]:
        """Return socket -> one sentence, for each that should answer and does not.

        That is one which was asked for by name, has answered before, or was asked something. Docker brings a
        containerd along, and who has no pods need not hear that the package to ask it is missing.
        """
        found = {}
        for socket in self._sockets:
            worker = self._workers.get(socket.path)
            if worker is None:
                if socket.expected:
                    found[str(socket.path)] = f"{socket.runtime}: {socket.path} is not there"
            elif worker.problem and (socket.expected or worker.runtime or worker.counts.asked):
                found[str(socket.path)] = worker.problem
        return found

    @property
    def counters(self) -> dict[str, int]:
        """Counts over all runtimes, by the names of `Counts`."""
        total = Counts()
        for worker in self._workers.copy().values():
            total.add(worker.counts)
        return {name: getattr(total, name) for name in Counts.__slots__}

    def _look(self) -> None:
        while not self._closing.wait(self._pace.look):
            self._start_workers()

    def _start_workers(self) -> None:
        for socket in self._sockets:
            if socket.path not in self._workers and socket.is_there() and not self._closing.is_set():
                connect = functools.partial(self._connect, socket)
                worker = Worker(socket, connect, self._deliver, self._pace)
                self._workers[socket.path] = worker
                worker.start()

    def _deliver(self, fact: ContainerFact) -> bool:
        with self._room:
            if len(self._facts) >= _FACTS_MOST:
                return False
            self._facts.append(fact)
            return True

    def _connect(self, socket: Socket) -> Client:
        """Return a client of the socket; what it needs is imported only where there is one."""
        if socket.kind == "docker":
            from masdeepflow.enrich.containers.docker import DockerClient  # noqa: PLC0415  # when used

            return DockerClient(socket.path, self._pace.answer)
        try:
            from masdeepflow.enrich.containers.cri import CriClient  # noqa: PLC0415  # an extra
        except ImportError as error:
            raise Unavailable(
                f"cannot be asked without the package {error.name}: pip install masdeepflow[cri]"
            ) from error
        return CriClient(socket.path, self._pace.answer)
