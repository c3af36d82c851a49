"""A source of facts about a cluster, taken into an index as the agent does between two batches."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Protocol

from masdeepflow.enrich.kubernetes.index import Index
from tests.support.kubernetes_objects import epoch_ns

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from typing import Self

    from masdeepflow.enrich.facts import Fact, PodFact
    from masdeepflow.enrich.kubernetes.state import ClusterState

__all__ = ["Watcher"]

_PATIENCE_S = 60
_PAUSE_S = 0.005


class _FactSource(Protocol):
    def start(self) -> None: ...

    def take(self) -> Sequence[Fact]: ...

    def state(self) -> ClusterState: ...

    def close(self) -> None: ...


class Watcher:
    """Starts a source, and holds an index of what it told so far."""

    def __init__(self, source: _FactSource) -> None:
        self.source = source
        self.index = Index()
        self.taken = 0

    def __enter__(self) -> Self:
        self.source.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.source.close()

    def state(self) -> ClusterState:
        """Return how it stands."""
        return self.source.state()

    def take(self) -> None:
        """Take the facts that are there now."""
        for fact in self.source.take():
            self.index.apply(fact)
            self.taken += 1

    def until(self, condition: Callable[[], object]) -> None:
        """Take facts until something holds."""
        end = time.monotonic() + _PATIENCE_S
        while True:
            self.take()
            if condition():
                return
            assert time.monotonic() < end, f"never so: {self.state()}"
            time.sleep(_PAUSE_S)

    def until_connected(self) -> None:
        """Take facts until all that is watched is up to date."""
        self.until(lambda: self.state().connected)
        self.take()

    def pod_at(self, address: str, seconds: int = 10) -> PodFact | None:
        """Return whose an address was, so many seconds after the fixed moment of the objects."""
        return self.index.pod_at(address, epoch_ns(seconds))

    def name_at(self, address: str, seconds: int = 10) -> str:
        """Return the name of the pod that had an address, empty if there was none."""
        pod = self.pod_at(address, seconds)
        return pod.name if pod else ""
