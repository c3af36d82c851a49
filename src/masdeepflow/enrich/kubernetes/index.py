"""Pods and Services by container, address and port, at a time: a function of the facts it was given.

No clock, no I/O: the same facts in the same order give the same answers, live and in a replay.
"""

from __future__ import annotations

from collections import deque
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

from masdeepflow.enrich.facts import PodFact, ServiceFact
from masdeepflow.enrich.kubernetes.history import History

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from masdeepflow.enrich.facts import Fact, ServicePort

__all__ = ["NOTHING", "RETENTION_NS", "Changes", "Index"]

RETENTION_NS = 300 * 1_000_000_000
"""How long what is gone still answers for its own period, in the time of the facts."""

Key = TypeVar("Key")
Value = TypeVar("Value")

_GONE = 10_000  # pods and Services that are gone and still kept
_EPHEMERAL = 32768  # first of net.ipv4.ip_local_port_range
_CONTAINERS = 64  # ids kept of one pod: each restart of a container gives it a new one


class Changes(NamedTuple):
    """What has a new answer: container ids, pod uids, and addresses of pods, Services and nodes."""

    containers: tuple[str, ...] = ()
    pods: tuple[str, ...] = ()
    addresses: tuple[str, ...] = ()


NOTHING = Changes()
"""What a fact changes that says nothing new."""


class Index:
    """All that is known of the cluster.

    Bounded by what is there, plus `_GONE` objects that are not there any more, for `RETENTION_NS`.
    """

    def __init__(self) -> None:
        self._pods: dict[str, PodFact] = {}
        self._services: dict[str, ServiceFact] = {}
        self._containers: dict[str, str] = {}  # id -> pod uid
        self._ids: dict[str, tuple[str, ...]] = {}  # pod uid -> ids of all its containers, the oldest first
        self._pod_addresses: History[PodFact] = History()
        self._service_addresses: History[ServiceFact] = History()
        self._nodes: _Claims[str, str] = _Claims()  # address -> node, by pods in the host's network
        self._node_ports: _Claims[tuple[int, str], ServiceFact] = _Claims()
        self._host_ports: _Claims[tuple[str, int, str], PodFact] = _Claims()
        self._gone: deque[tuple[int, str]] = deque()

    def __len__(self) -> int:
        """Number of pods and Services kept, with those that are gone."""
        return len(self._pods) + len(self._services)

    def apply(self, fact: Fact) -> Changes:
        """Take a fact in and return what has another answer now. Facts of other kinds change nothing."""
        if isinstance(fact, PodFact):
            return self._apply_pod(fact)
        if isinstance(fact, ServiceFact):
            return self._apply_service(fact)
        return NOTHING

    def pod_of_container(self, container_id: str) -> PodFact | None:
        """Return the pod that a container (full id, without runtime) is or was of."""
        return self._pods.get(self._containers.get(container_id, ""))

    def pod_by_uid(self, uid: str) -> PodFact | None:
        """Return a pod, also for a while when it is gone."""
        return self._pods.get(uid)

    def pod_at(self, address: str, time_ns: int) -> PodFact | None:
        """Return the pod that had an address of its own at a Unix time in ns.

        Pods in the host's network are not told apart by address: for them see `node_at`. Of two pods that
        claim the address it is the one that got it later. Outside of all periods the nearest pod answers, if
        no more than `history.SKEW_NS` away.
        """
        return next(self._pod_addresses.at(address, time_ns), None)

    def service_at(self, address: str, port: int, transport: str, time_ns: int) -> ServiceFact | None:
        """Return the Service at a cluster, external, load balancer's or node's address, at a Unix time in ns.

        Several may share an external address: the one with the port answers. Where there is but one, it
        answers for every port: who connects to a wrong port of a Service still means the Service. At a node's
        address, that of the node port answers.
        """
        found = list(self._service_addresses.at(address, time_ns))
        for service in found:
            if any(_is(each, port, transport) for each in service.ports):
                return service
        if found:
            return found[0] if len(found) == 1 else None
        return self.node_port(port, transport) if self.node_at(address) else None

    def node_port(self, port: int, transport: str) -> ServiceFact | None:
        """Return the Service that all nodes serve at a port. transport: `tcp` or `udp`."""
        return self._node_ports.last((port, transport))

    def host_port(self, address: str, port: int, transport: str) -> PodFact | None:
        """Return the pod that alone is reached at a port of a node's address, as far as pods declare theirs.

        Ports that clients are given theirs from (32768 and up) are nobody's: what comes from there may be any
        process of the node.
        """
        return self._host_ports.last((address, port, transport)) if port < _EPHEMERAL else None

    def node_at(self, address: str) -> str | None:
        """Return the name of the node with an address, learnt from the pods in its network."""
        return self._nodes.last(address)

    def _apply_pod(self, fact: PodFact) -> Changes:
        old = self._pods.get(fact.uid)
        if old == fact:
            return NOTHING
        self._pods[fact.uid] = fact
        before = old.addresses if old else ()
        there = () if fact.gone_ns else fact.addresses
        if fact.host_network:
            self._nodes.claim(fact.uid, fact.node, before, there if fact.node else ())
        else:
            self._pod_addresses.keep(fact, before)
        ports = self._keep_host_ports(fact, old)
        containers = self._keep_containers(fact)
        if fact.gone_ns:
            self._retire(fact)
        return Changes(containers, (fact.uid,), _union(before, (*fact.addresses, *ports)))

    def _keep_host_ports(self, fact: PodFact, old: PodFact | None) -> list[str]:
        before = old.host_ports if old else ()
        after = () if fact.gone_ns else fact.host_ports
        self._host_ports.claim(fact.uid, fact, before, after)
        return [address for address, _, _ in (*before, *after)]

    def _apply_service(self, fact: ServiceFact) -> Changes:
        old = self._services.get(fact.uid)
        if old == fact:
            return NOTHING
        self._services[fact.uid] = fact
        before = old.addresses if old else ()
        self._service_addresses.keep(fact, before)
        ports_before = _node_ports(old) if old else ()
        ports = () if fact.gone_ns else _node_ports(fact)
        self._node_ports.claim(fact.uid, fact, ports_before, ports)
        if fact.gone_ns:
            self._retire(fact)
        nodes = self._nodes if ports_before != ports else ()
        return Changes(addresses=_union(before, (*fact.addresses, *nodes)))

    def _keep_containers(self, fact: PodFact) -> tuple[str, ...]:
        """Add the ids of a fact to those of its pod; a restarted container's old id answers on."""
        ids = _union(self._ids.get(fact.uid, ()), fact.containers)
        for dropped in ids[:-_CONTAINERS]:
            self._containers.pop(dropped, None)
        kept = ids[-_CONTAINERS:]
        if kept:
            self._ids[fact.uid] = kept
            self._containers.update(dict.fromkeys(kept, fact.uid))
        return ids

    def _retire(self, fact: PodFact | ServiceFact) -> None:
        """Note that an object is gone, and forget those that have been for long."""
        self._gone.append((fact.gone_ns, fact.uid))
        while len(self._gone) > _GONE or self._gone[0][0] < fact.gone_ns - RETENTION_NS:
            self._forget(*self._gone.popleft())

    def _forget(self, gone_ns: int, uid: str) -> None:
        """Drop an object, unless it came back or went again since."""
        pod, service = self._pods.get(uid), self._services.get(uid)
        if pod and pod.gone_ns == gone_ns:
            del self._pods[uid]
            self._pod_addresses.drop(pod)
            for container in self._ids.pop(uid, ()):
                self._containers.pop(container, None)
        if service and service.gone_ns == gone_ns:
            del self._services[uid]
            self._service_addresses.drop(service)


class _Claims(Generic[Key, Value]):
    """Who claims a key now, each with a value; the last of them has it."""

    def __init__(self) -> None:
        self._claims: dict[Key, dict[str, Value]] = {}  # -> uid -> value

    def __iter__(self) -> Iterator[Key]:
        return iter(self._claims)

    def __len__(self) -> int:
        return len(self._claims)

    def claim(self, uid: str, value: Value, before: Iterable[Key], after: Iterable[Key]) -> None:
        """Let `uid` claim other keys than before."""
        for key in before:
            claims = self._claims.get(key, {})
            claims.pop(uid, None)
            if not claims:
                self._claims.pop(key, None)
        for key in after:
            self._claims.setdefault(key, {})[uid] = value

    def last(self, key: Key) -> Value | None:
        """Return the value of who claimed a key last."""
        claims = self._claims.get(key)
        return next(reversed(claims.values())) if claims else None


def _union(before: Iterable[Key], after: Iterable[Key]) -> tuple[Key, ...]:
    """Return the distinct values of both, in order."""
    return tuple(dict.fromkeys((*before, *after)))


def _is(each: ServicePort, port: int, transport: str) -> bool:
    return each.port == port and each.transport == transport


def _node_ports(service: ServiceFact) -> tuple[tuple[int, str], ...]:
    return tuple((each.node_port, each.transport) for each in service.ports if each.node_port)
