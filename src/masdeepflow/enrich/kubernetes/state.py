"""How it stands with the server that pods and Services are learnt from."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["ClusterState", "Counters", "Link", "describe"]


class ClusterState(NamedTuple):
    """What `/healthz` and the metrics tell.

    connected: whether all that is watched is, or is being brought, up to date. since: Unix time in s of the
    last change of `connected`. sentence: for people. events: objects received. reconnects: after a watch or
    list failed. relists: because a version was too old. dropped: what could not be read or kept, or was not
    taken in time. cut: names and lists beyond their limits. pods, services: known now.
    """

    connected: bool
    since: float
    sentence: str
    events: int = 0
    reconnects: int = 0
    relists: int = 0
    dropped: int = 0
    cut: int = 0
    pods: int = 0
    services: int = 0

    @property
    def counters(self) -> dict[str, int]:
        """What only grows."""
        return {name: getattr(self, name) for name in Counters.__slots__}


@dataclass(slots=True)
class Counters:
    """What all requests together saw, as in `ClusterState`."""

    events: int = 0
    reconnects: int = 0
    relists: int = 0
    dropped: int = 0
    cut: int = 0


@dataclass(slots=True)
class Link:
    """Whether something is in step with a server. away: why it is not, None while it is. since: Unix time."""

    away: str | None
    since: float = field(default_factory=time.time)

    def lost(self, why: str) -> None:
        """Take note that it is not in step."""
        if self.away is None:
            self.since = time.time()
        self.away = why

    def found(self) -> None:
        """Take note that it is."""
        if self.away is not None:
            self.since = time.time()
        self.away = None


def describe(links: Sequence[Link], where: str, counters: Counters, pods: int, services: int) -> ClusterState:
    """Return the state of all links together. where: the server, for the sentence."""
    lost = [link for link in links if link.away]
    since = min(link.since for link in lost) if lost else max(link.since for link in links)
    well = f"{where} tells of {pods:,} pods" + (f" and {services:,} Services" if services else "")
    return ClusterState(
        not lost,
        since,
        lost[0].away or well if lost else well,
        counters.events,
        counters.reconnects,
        counters.relists,
        counters.dropped,
        counters.cut,
        pods,
        services,
    )
