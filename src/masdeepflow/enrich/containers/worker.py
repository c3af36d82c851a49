"""A thread that asks one runtime: bounded in what it keeps and hands over, whatever is behind the socket."""

from __future__ import annotations

import os
import threading
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING

from masdeepflow.enrich.containers.bounds import bounded
from masdeepflow.enrich.containers.client import Refused, Unavailable

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from masdeepflow.enrich.containers.client import Client
    from masdeepflow.enrich.containers.sockets import Socket
    from masdeepflow.enrich.facts import ContainerFact

__all__ = ["Counts", "Pace", "Worker"]

_QUEUE_MOST = 4096
_FULL_S = 0.05
_RUNTIMES = {"docker": {"docker", "podman"}, "cri": {"containerd", "cri-o"}}


@dataclass(frozen=True, slots=True)
class Pace:
    """How patient to be, in seconds.

    answer: the most that an answer may take. first, most: between tries to connect, doubled from one to the
    other. look: between looks for sockets that are not there yet. again: until an id that nobody knew may be
    asked for again. check: of quiet until a runtime is asked whether it is still there.
    """

    answer: float = 5.0
    first: float = 0.5
    most: float = 30.0
    look: float = 5.0
    again: float = 30.0
    check: float = 30.0


@dataclass(slots=True)
class Counts:
    """What a runtime was good for.

    asked: ids that were to be looked up. answered: those it told of. unknown: those it does not have. failed:
    those it did not tell of, or there was no room for. cut: texts that were too long, and labels too many.
    """

    asked: int = 0
    answered: int = 0
    unknown: int = 0
    failed: int = 0
    cut: int = 0

    def add(self, other: Counts) -> None:
        """Add the counts of another."""
        for field in fields(self):
            setattr(self, field.name, getattr(self, field.name) + getattr(other, field.name))


class Worker:
    """Asks the runtime behind `socket` from `start` to `stop`, on a thread of its own.

    connect: makes the client, called on that thread only. deliver: takes what was learnt, returns False when
    there is no room for it now.
    """

    def __init__(
        self,
        socket: Socket,
        connect: Callable[[], Client],
        deliver: Callable[[ContainerFact], bool],
        pace: Pace,
    ) -> None:
        self.socket = socket
        self.counts = Counts()
        self.problem = ""
        self.runtime = ""
        self._connect = connect
        self._deliver = deliver
        self._pace = pace
        self._pause_s = pace.first
        self._queue: dict[str, bool] = {}
        self._turn = threading.Condition()
        self._stopping = False
        self._lost = ""
        self._client: Client | None = None
        self._thread = threading.Thread(
            target=self._run, name=f"container-runtime {socket.path}", daemon=True
        )

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def serves(self, runtime: str) -> bool:
        """Return whether a container of `runtime`, empty if unknown, may be found here."""
        if not runtime or runtime == self.runtime:
            return True
        return not self.runtime and runtime in _RUNTIMES[self.socket.kind]

    def ask(self, container_id: str) -> None:
        """Have a container looked up; costs a lock that nobody holds for long."""
        with self._turn:
            self.counts.asked += 1
            self._put(container_id, asked=True)

    def _put(self, container_id: str, *, asked: bool) -> None:
        if len(self._queue) >= _QUEUE_MOST and container_id not in self._queue:
            self.counts.failed += asked
            return
        self._queue[container_id] = asked or self._queue.get(container_id, False)
        self._turn.notify_all()

    def stop(self) -> None:
        """Let the thread end; `join` waits for it."""
        with self._turn:
            self._stopping = True
            self._turn.notify_all()
            client = self._client
        if client is not None:
            client.cancel()

    def join(self, timeout_s: float) -> None:
        """Wait until the thread has ended."""
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stopping:
            try:
                self._session()
            except (Unavailable, Refused) as trouble:
                self._say(str(trouble))
            except Exception as error:  # noqa: BLE001  # a client's fault costs names, and never the thread
                self._say(f"was answered in a way that nothing is made of: {type(error).__name__}: {error}")
            with self._turn:
                self._turn.wait_for(lambda: self._stopping, self._pause_s)
            self._pause_s = min(2 * self._pause_s, self._pace.most)

    def _say(self, trouble: str) -> None:
        self.problem = f"{self.runtime or self.socket.runtime}: {self.socket.path} {trouble}"

    def _session(self) -> None:
        if not self.socket.is_there():
            raise Unavailable("is gone")
        if not os.access(self.socket.path, os.W_OK):
            raise Unavailable(
                "is not for this user: run the agent as root, or as a member of the socket's group"
            )
        client = self._connect()
        with self._turn:
            self._client, self._lost = client, ""
        try:
            if not self._stopping:
                with client:
                    self._serve(client)
        finally:
            with self._turn:
                self._client = None

    def _serve(self, client: Client) -> None:
        self.runtime = client.runtime
        changes = client.changes()
        follower = threading.Thread(target=self._follow, args=(changes or (),), daemon=True)
        if changes is not None:
            follower.start()
        try:
            self._list(client)
            self.problem, self._pause_s = "", self._pace.first
            while (found := self._next()) is not None:
                if found:
                    self._find(client, *found)
                else:
                    client.check()
        finally:
            client.cancel()
            if changes is not None:
                follower.join(self._pace.answer)

    def _list(self, client: Client) -> None:
        try:
            for fact in client.running():
                self._hand_over(fact)
        except Refused:  # then they are asked for one by one
            self.counts.failed += 1

    def _find(self, client: Client, container_id: str, asked: bool) -> None:  # noqa: FBT001  # as it is queued
        try:
            fact = client.find(container_id)
        except Refused:
            self.counts.failed += asked
        except Unavailable:
            # Not asked for again at once: it may be what the runtime hangs on.
            self.counts.failed += asked
            raise
        else:
            if fact is not None:
                self._hand_over(fact)
            self.counts.answered += asked and fact is not None
            self.counts.unknown += asked and fact is None

    def _hand_over(self, fact: ContainerFact) -> None:
        short, cut = bounded(fact)
        self.counts.cut += cut
        while not self._deliver(short):
            with self._turn:
                if self._turn.wait_for(lambda: self._stopping, _FULL_S):
                    return

    def _next(self) -> tuple[str, bool] | tuple[()] | None:
        """Wait for an id; return it and whether it was asked for, () after a quiet time, None at the end."""
        with self._turn:
            self._turn.wait_for(lambda: self._stopping or self._lost or self._queue, self._pace.check)
            if self._stopping:
                return None
            if self._lost:
                raise Unavailable(self._lost)
            if not self._queue:
                return ()
            container_id = next(iter(self._queue))
            return container_id, self._queue.pop(container_id)

    def _follow(self, changes: Iterable[str]) -> None:
        """Have what changes looked up again."""
        why = "has ended the connection"
        try:
            for container_id in changes:
                with self._turn:
                    self._put(container_id, asked=False)
        except (Unavailable, Refused) as trouble:
            why = str(trouble)
        except Exception as error:  # noqa: BLE001  # the same as in _run
            why = f"was answered in a way that nothing is made of: {error!r}"
        with self._turn:
            self._lost = why
            self._turn.notify_all()
