"""API objects, as far as they are read: what is not declared here is skipped while decoding.

Shapes: https://kubernetes.io/docs/reference/kubernetes-api/, `v1` of core and meta.k8s.io. A field that Go
leaves out or writes as null is None.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import msgspec

__all__ = [
    "INITIAL_EVENTS_END",
    "TRANSPORTS",
    "Bookmark",
    "ContainerPort",
    "ContainerState",
    "ContainerStatus",
    "ListMeta",
    "LoadBalancer",
    "Metadata",
    "ObjectMeta",
    "OwnerReference",
    "Page",
    "Pod",
    "PodSpec",
    "PodStatus",
    "Port",
    "Service",
    "ServiceSpec",
    "ServiceStatus",
    "Status",
    "WatchEvent",
    "unix_ns",
]

INITIAL_EVENTS_END = "k8s.io/initial-events-end"
"""Annotation of the bookmark behind the last object that was there when a watch began."""

TRANSPORTS = {"TCP": "tcp", "UDP": "udp"}
"""Kubernetes' protocols -> `network.transport`. SCTP is not watched."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)


class _Object(msgspec.Struct, rename="camel"):
    """Field names are Kubernetes', in snake case here."""


class OwnerReference(_Object):
    """Who an object belongs to. controller: whether the owner also manages it; at most one owner does."""

    kind: str = ""
    name: str = ""
    uid: str = ""
    api_version: str = ""
    controller: bool | None = None


class ObjectMeta(_Object):
    """What all objects have."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resource_version: str = ""
    creation_timestamp: datetime | None = None
    labels: dict[str, str] | None = None
    owner_references: list[OwnerReference] | None = None


class Metadata(_Object):
    """`PartialObjectMetadata` of meta.k8s.io: an object without spec and status."""

    metadata: ObjectMeta


class _Started(_Object):
    started_at: datetime | None = None


class _Terminated(_Object):
    started_at: datetime | None = None
    finished_at: datetime | None = None


class ContainerState(_Object):
    """At most one is set; a container that waits has neither."""

    running: _Started | None = None
    terminated: _Terminated | None = None


class ContainerStatus(_Object):
    """container_id: `containerd://<id>`, empty before it was made. last_state: of the one before it."""

    name: str = ""
    container_id: str = msgspec.field(name="containerID", default="")
    state: ContainerState | None = None
    last_state: ContainerState | None = None


class _Condition(_Object):
    type: str = ""
    status: str = ""
    last_transition_time: datetime | None = None


class _Ip(_Object):
    ip: str = ""


class ContainerPort(_Object):
    """host_port: of the node, the container's own in the host's network; 0 for none. host_ip: "" for all."""

    host_port: int = 0
    host_ip: str = msgspec.field(name="hostIP", default="")
    protocol: str = "TCP"


class _Container(_Object):
    ports: list[ContainerPort] | None = None


class PodSpec(_Object):
    """node_name: empty before the pod is scheduled."""

    containers: list[_Container] | None = None

    node_name: str = ""
    host_network: bool | None = None


class PodStatus(_Object):
    """start_time: when the kubelet took the pod on, before its images were pulled."""

    phase: str = ""
    start_time: datetime | None = None
    host_ip: str = msgspec.field(name="hostIP", default="")
    pod_ip: str = msgspec.field(name="podIP", default="")
    pod_ips: list[_Ip] | None = msgspec.field(name="podIPs", default=None)
    conditions: list[_Condition] | None = None
    container_statuses: list[ContainerStatus] | None = None
    init_container_statuses: list[ContainerStatus] | None = None
    ephemeral_container_statuses: list[ContainerStatus] | None = None


class Pod(_Object):
    """v1 Pod."""

    metadata: ObjectMeta
    spec: PodSpec = msgspec.field(default_factory=PodSpec)
    status: PodStatus = msgspec.field(default_factory=PodStatus)


class Port(_Object):
    """protocol: `TCP`, `UDP` or `SCTP`. node_port: 0 where there is none."""

    port: int = 0
    protocol: str = "TCP"
    node_port: int = 0


class ServiceSpec(_Object):
    """cluster_ip: `None` of a headless Service, empty of an ExternalName."""

    cluster_ip: str = msgspec.field(name="clusterIP", default="")
    cluster_ips: list[str] | None = msgspec.field(name="clusterIPs", default=None)
    external_ips: list[str] | None = msgspec.field(name="externalIPs", default=None)
    ports: list[Port] | None = None


class LoadBalancer(_Object):
    """ingress: addresses that a load balancer answers on for the Service."""

    ingress: list[_Ip] | None = None


class ServiceStatus(_Object):
    """Where a load balancer was made."""

    load_balancer: LoadBalancer | None = None


class Service(_Object):
    """v1 Service."""

    metadata: ObjectMeta
    spec: ServiceSpec = msgspec.field(default_factory=ServiceSpec)
    status: ServiceStatus = msgspec.field(default_factory=ServiceStatus)


class Status(_Object):
    """What the server says instead of what was asked for."""

    code: int = 0
    reason: str = ""
    message: str = ""


class ListMeta(_Object):
    """continue_: where the next page begins, None or empty at the end."""

    resource_version: str = ""
    continue_: str | None = msgspec.field(name="continue", default=None)


class Page(_Object):
    """Part of a list. items: null where a list is empty, for some servers."""

    items: list[msgspec.Raw] | None = None
    metadata: ListMeta = msgspec.field(default_factory=ListMeta)


class _BookmarkMeta(_Object):
    resource_version: str = ""
    annotations: dict[str, str] | None = None


class Bookmark(_Object):
    """The object of a BOOKMARK: everything up to its version was sent."""

    metadata: _BookmarkMeta


class WatchEvent(msgspec.Struct):
    """One line of a watch. type: ADDED, MODIFIED, DELETED, BOOKMARK or ERROR (then a `Status`)."""

    type: str
    object: msgspec.Raw


def unix_ns(time: datetime | None) -> int:
    """Return a time as Unix time in ns, 0 for None."""
    if time is None:
        return 0
    aware = time if time.tzinfo else time.replace(tzinfo=UTC)
    return (aware - _EPOCH) // _MICROSECOND * 1000
