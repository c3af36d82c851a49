"""All that looks things up beside the ring, as one: processes, containers, the cluster."""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from masdeepflow.enrich import proc

if TYPE_CHECKING:
    from collections.abc import Sequence

    from masdeepflow.enrich.directory import Wanted
    from masdeepflow.enrich.facts import Fact

__all__ = ["Cluster", "Lookups", "Runtimes"]


class Runtimes(Protocol):
    """Container runtimes. Nothing here waits but `start` and `close`."""

    def start(self) -> None:
        """Begin to look."""

    def ask(self, container_id: str, runtime: str) -> None:
        """Want a container described."""

    def take(self) -> Sequence[Fact]:
        """Return what has been found out since the last call."""

    def problems(self) -> dict[str, str]:
        """Return who does not answer, and why."""

    def close(self) -> None:
        """Stop looking."""


class Cluster(Protocol):
    """A Kubernetes cluster. Nothing here waits but `start` and `close`."""

    def start(self) -> None:
        """Begin to watch."""

    def take(self) -> Sequence[Fact]:
        """Return what has been found out since the last call."""

    def problems(self) -> dict[str, str]:
        """Return who does not answer, and why."""

    def close(self) -> None:
        """Stop watching."""


class Lookups:
    """What the agent asks and takes from between two polls; each lookup works on a thread of its own."""

    def __init__(self, runtimes: Runtimes | None = None, cluster: Cluster | None = None) -> None:
        self._processes = proc.ProcReader()
        self._runtimes = runtimes
        self._cluster = cluster
        self._first: list[Fact] = []

    def start(self) -> None:
        """Read the processes that there are, and start the threads."""
        self._first = [proc.read_users(), *proc.scan()]
        self._processes.start()
        for other in (self._runtimes, self._cluster):
            if other is not None:
                other.start()

    def take(self) -> list[Fact]:
        """Return what has been found out since the last call."""
        facts, self._first = self._first, []
        facts += self._processes.take()
        for other in (self._runtimes, self._cluster):
            if other is not None:
                facts += other.take()
        return facts

    def ask(self, wanted: Wanted) -> None:
        """Want things looked up; what is found out comes out of `take`."""
        for pid in wanted.pids:
            self._processes.ask(pid)
        if self._runtimes is not None:
            for container_id, runtime in wanted.containers:
                self._runtimes.ask(container_id, runtime)

    def problems(self) -> dict[str, str]:
        """Return who does not answer, and why: for `/healthz`."""
        return {
            name: sentence
            for other in (self._runtimes, self._cluster)
            if other is not None
            for name, sentence in other.problems().items()
        }

    def close(self) -> None:
        """Stop all threads."""
        for other in (self._processes, self._runtimes, self._cluster):
            if other is not None:
                other.close()
