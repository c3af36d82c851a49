"""Pods as the API server or the kubelet describes them -> facts, where they say something new."""

from __future__ import annotations

import sys
import time
from ipaddress import ip_address
from itertools import chain
from typing import TYPE_CHECKING, ClassVar

import msgspec

from masdeepflow.enrich.facts import PodFact
from masdeepflow.enrich.kubernetes.limits import addresses
from masdeepflow.enrich.kubernetes.objects import TRANSPORTS, ContainerStatus, Pod, unix_ns

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator

    from masdeepflow.enrich.kubernetes.limits import Limits
    from masdeepflow.enrich.kubernetes.owners import Owners

__all__ = ["Pods"]

_SECOND_NS = 1_000_000_000  # what Kubernetes' times are cut to
_MOST = 50_000  # 130 MiB, with what the index keeps of them
_ADDRESSES = 8
_CONTAINERS = 64
_PORTS = 64
_ALL = ("", "0.0.0.0", "::")  # noqa: S104  # as pods declare it
_ENDED = ("Succeeded", "Failed")


class Pods:
    """The pods of one watch, each with its last fact.

    offer: takes a fact that is new. labels: keys of those kept. containers: whether to keep these too.
    """

    model: ClassVar[type] = Pod

    def __init__(  # noqa: PLR0913  # what a pod's fact is made of
        self,
        offer: Callable[[PodFact], None],
        owners: Owners,
        limits: Limits,
        *,
        labels: Collection[str] = (),
        containers: bool = False,
        clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self._offer = offer
        self._owners = owners
        self._limits = limits
        self._labels = frozenset(labels)
        self._containers = containers
        self._clock = clock
        self._known: dict[str, PodFact] = {}

    def __len__(self) -> int:
        return len(self._known)

    def seen(self, pod: Pod) -> None:
        """Take a pod as it is now."""
        if pod.spec.node_name and pod.metadata.uid:
            self._put(self._settled(pod, self._fact(pod)))

    def deleted(self, pod: Pod) -> None:
        """Take a pod as it was in the end."""
        fact = self._known.pop(pod.metadata.uid, None)
        self._owners.forget(pod.metadata.uid)
        if fact and not fact.gone_ns:
            self._end(fact, _end(pod) or self._clock())

    def synced(self, uids: Collection[str]) -> None:
        """Let all go that are not among those there."""
        for uid in [uid for uid in self._known if uid not in uids]:
            fact = self._known.pop(uid)
            self._owners.forget(uid)
            if not fact.gone_ns:
                self._end(fact, self._clock())

    def _end(self, fact: PodFact, time_ns: int) -> None:
        # Another host's clock gave the begin: however far it is ahead, the end is not before.
        self._offer(msgspec.structs.replace(fact, gone_ns=max(time_ns, fact.from_ns)))

    def _put(self, fact: PodFact) -> None:
        known = self._known.get(fact.uid)
        if known != fact and (known or not self._limits.full(len(self._known), _MOST)):
            self._known[fact.uid] = fact
            self._offer(fact)

    def _fact(self, pod: Pod) -> PodFact:
        text = self._limits.text
        meta, status = pod.metadata, pod.status
        ips = [each.ip for each in status.pod_ips or ()] or [status.pod_ip]
        return PodFact(
            uid=text(meta.uid),
            name=text(meta.name),
            namespace=sys.intern(text(meta.namespace)),
            node=sys.intern(text(pod.spec.node_name)),
            addresses=tuple(self._limits.first(addresses(ips), _ADDRESSES)),
            host_network=bool(pod.spec.host_network),
            labels={key: text(value) for key, value in (meta.labels or {}).items() if key in self._labels},
            owners=self._owners.chain(meta, self._owned),
            containers=self._names(pod) if self._containers else {},
            host_ports=tuple(self._limits.first(_host_ports(pod), _PORTS)),
            from_ns=_begin(pod),
            gone_ns=(_end(pod) or self._clock()) if status.phase in _ENDED else 0,
        )

    def _settled(self, pod: Pod, fact: PodFact) -> PodFact:
        """Make times agree with what was known: an end stays, and a new address has been there since now."""
        known = self._known.get(fact.uid)
        if known is None:
            return fact
        if known.owners[:1] == fact.owners:  # all that is known now, when it was more before
            fact = msgspec.structs.replace(fact, owners=known.owners)
        if known.gone_ns and fact.gone_ns:
            return msgspec.structs.replace(fact, gone_ns=known.gone_ns)
        moved = known.addresses and fact.addresses and known.addresses != fact.addresses
        if moved and fact.from_ns <= known.from_ns:
            return msgspec.structs.replace(fact, from_ns=self._clock())
        estimated = known.from_ns in {0, unix_ns(pod.status.start_time)}
        if not (moved or estimated or _sandboxed(pod)):
            # It began with the first container, and the statuses tell only of the latest two of each.
            return msgspec.structs.replace(fact, from_ns=min(known.from_ns, fact.from_ns))
        return fact

    def _names(self, pod: Pod) -> dict[str, str]:
        named = ((each.container_id.rpartition("://")[2], each.name) for each in _statuses(pod))
        made = self._limits.first(((id_, name) for id_, name in named if id_), _CONTAINERS)
        return {self._limits.text(id_): sys.intern(self._limits.text(name)) for id_, name in made}

    def _owned(self, uid: str, owner: tuple[str, str]) -> None:
        """Learn whose a pod is in the end."""
        fact = self._known.get(uid)
        if fact:
            self._put(msgspec.structs.replace(fact, owners=(*fact.owners[:1], owner)))


def _statuses(pod: Pod) -> Iterator[ContainerStatus]:
    status = pod.status
    return chain(
        status.container_statuses or (),
        status.init_container_statuses or (),
        status.ephemeral_container_statuses or (),
    )


def _host_ports(pod: Pod) -> Iterator[tuple[str, int, str]]:
    """Yield the node's address, port and transport of each port that leads to the pod alone."""
    for container in pod.spec.containers or ():
        for each in container.ports or ():
            transport = TRANSPORTS.get(each.protocol)
            ip = each.host_ip if each.host_ip not in _ALL else pod.status.host_ip
            if transport and each.host_port:
                # A loopback address is another one on every node.
                for address in addresses([ip]):
                    if not ip_address(address).is_loopback:
                        yield address, each.host_port, transport


def _sandboxed(pod: Pod) -> int:
    """Return since when the pod has its network, 0 where that is not told (before Kubernetes 1.29)."""
    for each in pod.status.conditions or ():
        if each.type == "PodReadyToStartContainers" and each.status == "True":
            return unix_ns(each.last_transition_time)
    return 0


def _begin(pod: Pod) -> int:
    """Return since when a pod may have used its addresses: its first container's start, if need be."""
    starts = [
        unix_ns(each.started_at)
        for status in _statuses(pod)
        for state in (status.state, status.last_state)
        if state
        for each in (state.running, state.terminated)
        if each and each.started_at
    ]
    taken = pod.status.start_time or pod.metadata.creation_timestamp
    return _sandboxed(pod) or min(starts, default=0) or unix_ns(taken)


def _end(pod: Pod) -> int:
    """Return when the last container ended, 0 if one has not or none is told of."""
    states = [status.state for status in _statuses(pod)]
    ended = [state.terminated for state in states if state and state.terminated]
    if len(ended) < len(states):
        return 0
    last = max((unix_ns(each.finished_at) for each in ended), default=0)
    return last + _SECOND_NS if last else 0
