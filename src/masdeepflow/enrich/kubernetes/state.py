"""How it stands with the server that pods and Services are learnt from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

__all__ = ["ClusterState", "Counters"]


class ClusterState(NamedTuple):
    """What `/healthz` and the metrics tell.

    connected: whether all that is watched is up to date. since: Unix time in s of the last change of
    `connected`. sentence: for people. events: objects received. reconnects: after a watch or list failed.
    relists: because a version was too old. dropped: what could not be read, or was not taken in time.
    cut: names and lists beyond their limits. pods, services: known now.
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


@dataclass(slots=True)
class Counters:
    """What all requests together saw, as in `ClusterState`."""

    events: int = 0
    reconnects: int = 0
    relists: int = 0
    dropped: int = 0
