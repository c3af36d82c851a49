"""What is learnt of processes, containers and the cluster: plain values that cross threads and are recorded.

Whoever looks things up (a runtime's socket, the API server) hands facts over; the thread that reads the ring
takes them between two batches. So a replay that gets the same facts at the same batches prints the same
names.
"""

from __future__ import annotations

import msgspec

__all__ = ["ContainerFact", "Fact", "PodFact", "ProcessFact", "ServiceFact", "ServicePort", "UsersFact"]


class ProcessFact(msgspec.Struct, frozen=True, tag="process"):
    """A process that was there before its exec could be seen, from /proc.

    executable: base name of the executable. arguments: argv, cut. user: user ID. service: its
    OTEL_SERVICE_NAME. cgroup: text of /proc/PID/cgroup, cut. None or empty where unknown.
    """

    pid: int
    comm: str
    executable: str | None = None
    arguments: tuple[str, ...] = ()
    user: int | None = None
    service: str = ""
    cgroup: str = ""


class UsersFact(msgspec.Struct, frozen=True, tag="users"):
    """Names of the host's users. names: user ID -> name."""

    names: dict[int, str]


class ContainerFact(msgspec.Struct, frozen=True, tag="container"):
    """A container as its runtime describes it.

    id: full, as in the cgroup path. name: without a leading slash; of a Kubernetes container, its name in the
    pod. runtime: `docker`, `containerd`, `cri-o` or `podman`. image: reference as the runtime shows it.
    labels: those kept, bounded in number and length. pod_uid, pod_name, pod_namespace: from the CRI, or from
    the labels that Kubernetes' runtimes set; empty where unknown.
    """

    id: str
    name: str = ""
    runtime: str = ""
    image: str = ""
    labels: dict[str, str] = {}
    pod_uid: str = ""
    pod_name: str = ""
    pod_namespace: str = ""


class PodFact(msgspec.Struct, frozen=True, tag="pod"):
    """A pod as the API server or the kubelet describes it; a later fact with the same uid replaces it.

    owners: (kind, name) from the pod outwards: (("ReplicaSet", "web-5d9"), ("Deployment", "web")).
    containers: container id without its `containerd://` -> container name.
    host_ports: (node's address, port, `tcp` or `udp`) that lead to it alone.
    from_ns: Unix time since which the addresses are its own. gone_ns: Unix time when it ended, 0 while it is
    there.
    """

    uid: str
    name: str
    namespace: str
    node: str = ""
    addresses: tuple[str, ...] = ()
    host_network: bool = False
    labels: dict[str, str] = {}
    owners: tuple[tuple[str, str], ...] = ()
    containers: dict[str, str] = {}
    from_ns: int = 0
    gone_ns: int = 0
    host_ports: tuple[tuple[str, int, str], ...] = ()


class ServicePort(msgspec.Struct, frozen=True):
    """One port of a Service. transport: `tcp` or `udp`. node_port: 0 where there is none."""

    port: int
    transport: str = "tcp"
    node_port: int = 0


class ServiceFact(msgspec.Struct, frozen=True, tag="service"):
    """A Kubernetes Service. gone_ns: Unix time of its deletion, 0 while it is there."""

    uid: str
    name: str
    namespace: str
    addresses: tuple[str, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    from_ns: int = 0
    gone_ns: int = 0


Fact = ProcessFact | UsersFact | ContainerFact | PodFact | ServiceFact
"""Any of them."""
