"""All that looks things up beside the ring, as one: processes, containers, the cluster."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple, Protocol

from masdeepflow.enrich import proc
from masdeepflow.kernel import privileges

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from masdeepflow.enrich.directory import Wanted
    from masdeepflow.enrich.facts import ContainerFact, Fact

__all__ = ["Cluster", "Lookups", "Runtimes", "State"]

_AGAIN_S = 2.0
_PATIENCE_S = 300.0
_UNANSWERED_LIMIT = 1024


class Runtimes(Protocol):
    """Container runtimes. Nothing here waits but `start` and `close`."""

    def start(self) -> None:
        """Begin to look."""

    def ask(self, container_id: str, runtime: str) -> None:
        """Want a container described."""

    def take(self) -> Sequence[ContainerFact]:
        """Return what has been found out since the last call."""

    def problems(self) -> dict[str, str]:
        """Return who does not answer, and why."""

    @property
    def counters(self) -> Mapping[str, int]:
        """What was asked, answered and cut, never decreasing."""

    def close(self) -> None:
        """Stop looking."""


class State(Protocol):
    """How it stands with a cluster."""

    @property
    def connected(self) -> bool:
        """Whether all that is watched is up to date."""

    @property
    def sentence(self) -> str:
        """What is, for people."""

    @property
    def counters(self) -> Mapping[str, int]:
        """What was received, lost and cut, never decreasing."""


class Cluster(Protocol):
    """A Kubernetes cluster. Nothing here waits but `start` and `close`."""

    def start(self) -> None:
        """Begin to watch."""

    def take(self) -> Sequence[Fact]:
        """Return what has been found out since the last call."""

    def state(self) -> State:
        """Return how it stands."""

    def close(self) -> None:
        """Stop watching."""


class _Question(NamedTuple):
    runtime: str
    until_s: float


class Lookups:
    """What the agent asks and takes from between two polls; each lookup works on a thread of its own."""

    def __init__(self, runtimes: Runtimes | None = None, cluster: Cluster | None = None) -> None:
        self._processes = proc.ProcReader()
        self._runtimes = runtimes
        self._cluster = cluster
        # Elsewhere PIDs are others than the kernel's, and users are not the host's.
        self._host_pids = privileges.has_host_pids()
        self._first: list[Fact] = []
        self._unanswered: dict[str, _Question] = {}
        self._next_s = 0.0

    def start(self) -> None:
        """Read the processes that there are, and start the threads."""
        if self._host_pids:
            self._first = [proc.read_users(), *proc.scan()]
            self._processes.start()
        for other in (self._runtimes, self._cluster):
            if other is not None:
                other.start()

    def take(self) -> list[Fact]:
        """Return what has been found out since the last call."""
        facts, self._first = self._first, []
        facts += self._processes.take()
        if self._runtimes is not None:
            described = self._runtimes.take()
            for fact in described:
                self._unanswered.pop(fact.id, None)
            facts += described
            self._ask_again()
        if self._cluster is not None:
            facts += self._cluster.take()
        return facts

    def _ask_again(self) -> None:
        """Ask for containers that nobody knew: a runtime may have been away, or not ready to tell."""
        now = time.monotonic()
        if self._runtimes is None or now < self._next_s:
            return
        self._next_s = now + _AGAIN_S
        for container_id, question in list(self._unanswered.items()):
            if now > question.until_s:
                del self._unanswered[container_id]
            else:
                self._runtimes.ask(container_id, question.runtime)

    def ask(self, wanted: Wanted) -> None:
        """Want things looked up; what is found out comes out of `take`."""
        for pid in wanted.pids if self._host_pids else ():
            self._processes.ask(pid)
        if self._runtimes is not None:
            until_s = time.monotonic() + _PATIENCE_S
            for container_id, runtime in wanted.containers:
                if len(self._unanswered) < _UNANSWERED_LIMIT:
                    self._unanswered[container_id] = _Question(runtime, until_s)
                self._runtimes.ask(container_id, runtime)

    def problems(self) -> dict[str, str]:
        """Return who is asked -> why in vain, empty where it is not: for `/healthz` and the metrics."""
        found = {} if self._runtimes is None else self._runtimes.problems()
        if self._cluster is not None:
            state = self._cluster.state()
            found["kubernetes"] = "" if state.connected else state.sentence
        return found

    def counters(self) -> dict[str, Mapping[str, int]]:
        """Return source -> name -> count, never decreasing, for the metrics."""
        found: dict[str, Mapping[str, int]] = {"processes": self._processes.counters}
        if self._runtimes is not None:
            found["containers"] = self._runtimes.counters
        if self._cluster is not None:
            found["kubernetes"] = self._cluster.state().counters
        return found

    def close(self) -> None:
        """Stop all threads."""
        for other in (self._processes, self._runtimes, self._cluster):
            if other is not None:
                other.close()
