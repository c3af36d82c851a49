"""The cluster as its API server tells it: pods, Services, and the owners that pods are not told of.

A pod of this node is known in full, all others by address, name, namespace, uid and owners.
"""

from __future__ import annotations

import asyncio
import re
from typing import TYPE_CHECKING, ClassVar

from masdeepflow.enrich.kubernetes.connection import (
    SERVICE_ACCOUNT,
    ConfigurationError,
    Server,
    configuration,
)
from masdeepflow.enrich.kubernetes.feed import Feed
from masdeepflow.enrich.kubernetes.limits import Limits
from masdeepflow.enrich.kubernetes.objects import Metadata
from masdeepflow.enrich.kubernetes.owners import INTERMEDIATE, Owners
from masdeepflow.enrich.kubernetes.pods import Pods
from masdeepflow.enrich.kubernetes.reflector import Pace, Reflector, Source
from masdeepflow.enrich.kubernetes.services import Services
from masdeepflow.enrich.kubernetes.state import Counters, describe

if TYPE_CHECKING:
    from collections.abc import Collection

    from masdeepflow.enrich.facts import PodFact, ServiceFact
    from masdeepflow.enrich.kubernetes.reflector import Keeper
    from masdeepflow.enrich.kubernetes.state import ClusterState

__all__ = ["Cluster"]

_NODE = re.compile(r"[a-z0-9.-]{0,253}")
_PODS = "/api/v1/pods"
# A pod that ended keeps its address in the API, while another may have it: it leaves this selection instead.
_ELSEWHERE = "spec.nodeName!={},spec.nodeName!=,status.phase!=Succeeded,status.phase!=Failed"


class Cluster:
    """Watches the API server from a thread of its own.

    node: name of the Node that this host is; without it all pods are watched in full. kubeconfig: path of a
    file, else the Pod's service account is used. labels: keys of pod labels to keep. others: whether pods of
    other nodes are watched too. service_account: see `connection.SERVICE_ACCOUNT`.

    Raises:
        ConfigurationError: there is no readable configuration, or `node` is no name; nothing was started.
    """

    def __init__(  # noqa: PLR0913  # options of the command line
        self,
        node: str,
        *,
        kubeconfig: str = "",
        labels: Collection[str] = (),
        others: bool = True,
        pace: Pace | None = None,
        service_account: str = SERVICE_ACCOUNT,
    ) -> None:
        if not _NODE.fullmatch(node):
            raise ConfigurationError(f"{node!r} is not the name of a Node: see kubectl get nodes")
        self._server = Server(configuration(kubeconfig, service_account), "the Kubernetes API server")
        self._pace = pace or Pace()
        self._counters = Counters()
        self._limits = Limits(self._counters)
        self._feed = Feed("kubernetes", self._watch, self._counters)
        self._owners = Owners(self._limits, self._want)
        self._pods = Pods(self._feed.offer, self._owners, self._limits, labels=labels, containers=True)
        self._others = Pods(self._feed.offer, self._owners, self._limits, labels=labels)
        self._services = Services(self._feed.offer, self._limits)
        self._reflectors = self._first(node, others=others)
        self._tasks: asyncio.TaskGroup | None = None

    def start(self) -> None:
        """Begin to watch."""
        self._feed.start()

    def take(self) -> list[PodFact | ServiceFact]:
        """Return what was learnt since the last call, some hundred facts at most. Never waits."""
        return self._feed.take()

    def close(self) -> None:
        """End all watches."""
        self._feed.close()

    def state(self) -> ClusterState:
        """Return how it stands, from any thread."""
        links = [each.link for each in list(self._reflectors)]
        pods = len(self._pods) + len(self._others)
        return describe(links, self._server.where, self._counters, pods, len(self._services))

    def _first(self, node: str, *, others: bool) -> list[Reflector]:
        """Return what is watched from the start: an owner kind is only once a pod needs it."""
        own = Source("pods of this node", _PODS, f"spec.nodeName={node}") if node else Source("pods", _PODS)
        reflectors = [self._reflector(own, self._pods)]
        if node and others:
            elsewhere = Source("pods of other nodes", _PODS, _ELSEWHERE.format(node))
            reflectors.append(self._reflector(elsewhere, self._others))
        reflectors.append(self._reflector(Source("Services", "/api/v1/services"), self._services))
        return reflectors

    def _reflector(self, source: Source, keeper: Keeper) -> Reflector:
        return Reflector(source, keeper, self._counters, self._pace, self._server)

    def _want(self, kind: str) -> None:
        """Watch the metadata of a kind of owners from now on. Called in the thread, by a keeper."""
        source = Source(f"{kind}s", f"/apis/{INTERMEDIATE[kind]}/v1/{kind.lower()}s", metadata=True)
        reflector = self._reflector(source, _Owned(self._owners))
        reflector.link.found()  # what is known is right, only less than it could be
        self._reflectors.append(reflector)
        if self._tasks:
            self._tasks.create_task(reflector.run())

    async def _watch(self) -> None:
        async with asyncio.TaskGroup() as self._tasks:
            for reflector in self._reflectors:
                self._tasks.create_task(reflector.run())


class _Owned:
    """ReplicaSets or Jobs: only whose they are counts, and for long enough after they are gone."""

    model: ClassVar[type] = Metadata

    def __init__(self, owners: Owners) -> None:
        self._owners = owners

    def seen(self, owned: Metadata) -> None:
        self._owners.learn(owned.metadata)

    def deleted(self, _: Metadata) -> None:
        """Keep what is known: its pods may outlive it."""

    def synced(self, _: Collection[str]) -> None:
        """Keep what is known."""
