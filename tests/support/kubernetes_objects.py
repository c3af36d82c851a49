"""Kubernetes objects as an API server sends them, checked against the published OpenAPI shapes.

The shapes are those that lightkube-models generates from Kubernetes' OpenAPI document. An object with a field
that its kind does not have, without one that it must have, or with a value of another type, is refused.
"""

from __future__ import annotations

import time
import uuid
from datetime import UTC, datetime
from typing import Any

import msgspec
from lightkube.resources.apps_v1 import Deployment, ReplicaSet
from lightkube.resources.batch_v1 import CronJob, Job
from lightkube.resources.core_v1 import Pod, Service

__all__ = [
    "KINDS",
    "Json",
    "check",
    "epoch_ns",
    "job",
    "moment",
    "now",
    "owned_by",
    "pod",
    "replica_set",
    "service",
]

Json = dict[str, Any]

KINDS: dict[str, Any] = {each.__name__: each for each in (Pod, Service, ReplicaSet, Job, Deployment, CronJob)}
"""Kinds that can be checked -> their type."""

_EPOCH_S = 1_700_000_000


def moment(seconds: int) -> str:
    """Return a time as Kubernetes writes it, so many seconds after a fixed one."""
    return datetime.fromtimestamp(_EPOCH_S + seconds, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def now() -> int:
    """Return the seconds from that moment until now."""
    return int(time.time()) - _EPOCH_S


def epoch_ns(seconds: int) -> int:
    """Return the same time as Unix time in ns."""
    return (_EPOCH_S + seconds) * 1_000_000_000


def check(item: Json) -> None:
    """Refuse an object that is not of its kind's shape.

    Raises:
        msgspec.ValidationError: something is missing or of a wrong type.
        AssertionError: something is there that the shape does not have.
    """
    read = msgspec.to_builtins(msgspec.convert(item, KINDS[item["kind"]]))
    lost = _lost(item, read)
    assert not lost, f"not in a {item['kind']}: {lost}"


def _lost(given: object, read: object, path: str = "") -> list[str]:
    """Return the paths of what is given and was not read."""
    if isinstance(given, dict) and isinstance(read, dict):
        return [
            each
            for key in given
            for each in (_lost(given[key], read[key], f"{path}.{key}") if key in read else [f"{path}.{key}"])
        ]
    if isinstance(given, list) and isinstance(read, list):
        pairs = zip(given, read, strict=True)
        return [each for place, pair in enumerate(pairs) for each in _lost(*pair, f"{path}[{place}]")]
    return [] if given == read else [path]


def _meta(name: str, namespace: str, labels: dict[str, str] | None, owner: Json | None) -> Json:
    meta: Json = {
        "name": name,
        "namespace": namespace,
        "uid": str(uuid.uuid4()),
        "creationTimestamp": moment(0),
    }
    if labels:
        meta["labels"] = labels
    if owner:
        meta["ownerReferences"] = [owned_by(owner)]
    return meta


def owned_by(owner: Json) -> Json:
    """Return the reference to an owner that manages what has it."""
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def pod(  # noqa: PLR0913  # what pods differ in
    name: str,
    *ips: str,
    namespace: str = "default",
    node: str = "n1",
    start: int = 0,
    containers: dict[str, str] | None = None,
    labels: dict[str, str] | None = None,
    owner: Json | None = None,
    host_network: bool = False,
) -> Json:
    """Return a pod that runs since `start`, with its containers name -> id."""
    named = {"main": uuid.uuid4().hex * 2} if containers is None else containers
    spec: Json = {"containers": [{"name": each, "image": "busybox"} for each in named or {"main": ""}]}
    if node:
        spec["nodeName"] = node
    if host_network:
        spec["hostNetwork"] = True
    status: Json = {"phase": "Running" if ips else "Pending"}
    if node:
        status["startTime"] = moment(start)
    if ips:
        status |= {"podIP": ips[0], "podIPs": [{"ip": each} for each in ips], "hostIP": "192.168.0.1"}
        status["containerStatuses"] = [_container(each, id_, start) for each, id_ in named.items()]
    meta = _meta(name, namespace, labels, owner)
    return {"apiVersion": "v1", "kind": "Pod", "metadata": meta, "spec": spec, "status": status}


def _container(name: str, id_: str, start: int) -> Json:
    return {
        "name": name,
        "image": "busybox",
        "imageID": "",
        "ready": True,
        "restartCount": 0,
        "containerID": f"containerd://{id_}",
        "state": {"running": {"startedAt": moment(start)}},
    }


def service(
    name: str, *ips: str, namespace: str = "default", ports: list[Json] | None = None, start: int = 0
) -> Json:
    """Return a Service with cluster IPs, the first of them the main one."""
    spec: Json = {"ports": ports or [{"port": 80, "protocol": "TCP"}], "clusterIP": ips[0] if ips else "None"}
    if ips:
        spec["clusterIPs"] = list(ips)
    meta = _meta(name, namespace, None, None) | {"creationTimestamp": moment(start)}
    return {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": spec, "status": {}}


def replica_set(name: str, namespace: str = "default", deployment: str = "") -> Json:
    """Return a ReplicaSet, of a Deployment if it is named."""
    owner = _owner("apps/v1", "Deployment", deployment) if deployment else None
    meta = _meta(name, namespace, None, owner)
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": meta,
        "spec": {"selector": {"matchLabels": {"app": name}}},
    }


def job(name: str, namespace: str = "default", cron_job: str = "") -> Json:
    """Return a Job, of a CronJob if it is named."""
    owner = _owner("batch/v1", "CronJob", cron_job) if cron_job else None
    template = {"spec": {"containers": [{"name": "main", "image": "busybox"}]}}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": _meta(name, namespace, None, owner),
        "spec": {"template": template},
    }


def _owner(version: str, kind: str, name: str) -> Json:
    return {"apiVersion": version, "kind": kind, "metadata": {"name": name, "uid": str(uuid.uuid4())}}
