"""What a kubelet does with the pod of a DaemonSet, as far as the chart's pod asks for it."""

from __future__ import annotations

import contextlib
import shutil
from typing import TYPE_CHECKING, Any

from tests.support.containers import kubelet_pb2, pod_container, pod_sandbox

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from tests.support.containers import Container, Cri

__all__ = ["run_pod"]

Document = dict[str, Any]
_ACCOUNT = "/var/run/secrets/kubernetes.io/serviceaccount"
_AUTHORITIES = "/etc/ssl/certs/ca-certificates.crt"
_NO_SERVER = {"KUBERNETES_SERVICE_HOST": "127.0.0.1", "KUBERNETES_SERVICE_PORT": "1"}
"""An API server that is away: nobody listens there."""
_PROFILES = {"RuntimeDefault": kubelet_pb2.RuntimeDefault, "Unconfined": kubelet_pb2.Unconfined}


@contextlib.contextmanager
def run_pod(
    cri: Cri,
    documents: list[Document],
    directory: Path,
    image: str,
    secrets: Mapping[tuple[str, str], str],
) -> Iterator[Container]:
    """Run the only container of the only DaemonSet among `documents` while the block lasts.

    directory: for its volumes. image: in place of the one it names. secrets: (Secret, key) -> value.
    """
    (daemonset,) = [document for document in documents if document["kind"] == "DaemonSet"]
    maps = {
        document["metadata"]["name"]: document["data"]
        for document in documents
        if document["kind"] == "ConfigMap"
    }
    spec = daemonset["spec"]["template"]["spec"]
    (container,) = spec["containers"]
    volumes = {volume["name"]: _volume(volume, directory, maps) for volume in spec["volumes"]}
    mounts = list(container["volumeMounts"])
    environment = {each["name"]: _value(each, secrets) for each in container["env"]}
    if spec["automountServiceAccountToken"]:
        volumes["account"] = _account(directory)
        mounts.append({"name": "account", "mountPath": _ACCOUNT, "readOnly": True})
        environment |= _NO_SERVER
    config = kubelet_pb2.ContainerConfig(
        args=container["args"],
        envs=[kubelet_pb2.KeyValue(key=name, value=value) for name, value in environment.items()],
        mounts=[
            kubelet_pb2.Mount(
                host_path=str(volumes[mount["name"]]),
                container_path=mount["mountPath"],
                readonly=mount.get("readOnly", False),
            )
            for mount in mounts
        ],
        linux=kubelet_pb2.LinuxContainerConfig(security_context=_security(container, spec)),
    )
    with (
        pod_sandbox(cri, daemonset["metadata"]["name"], host_pids=spec["hostPID"]) as pod,
        pod_container(cri, pod, container["name"], image=image, config=config) as started,
    ):
        yield started


def _account(directory: Path) -> Path:
    path = directory / "account"
    path.mkdir()
    (path / "token").write_text("none")
    (path / "namespace").write_text("masdeepflow")
    shutil.copy(_AUTHORITIES, path / "ca.crt")
    return path


def _volume(volume: Document, directory: Path, maps: Mapping[str, Mapping[str, str]]) -> Path:
    path = directory / str(volume["name"])
    path.mkdir()
    if "configMap" in volume:
        for name, text in maps[volume["configMap"]["name"]].items():
            (path / name).write_text(text)
    return path


def _value(entry: Document, secrets: Mapping[tuple[str, str], str]) -> str:
    if "value" in entry:
        return str(entry["value"])
    source = entry["valueFrom"]
    if "secretKeyRef" in source:
        return secrets[source["secretKeyRef"]["name"], source["secretKeyRef"]["key"]]
    assert source == {"fieldRef": {"fieldPath": "spec.nodeName"}}
    return "node-1"


def _security(container: Document, spec: Document) -> kubelet_pb2.LinuxContainerSecurityContext:
    asked = container["securityContext"]
    pids = kubelet_pb2.NODE if spec["hostPID"] else kubelet_pb2.CONTAINER
    return kubelet_pb2.LinuxContainerSecurityContext(
        capabilities=kubelet_pb2.Capability(
            add_capabilities=asked["capabilities"]["add"], drop_capabilities=asked["capabilities"]["drop"]
        ),
        privileged=asked["privileged"],
        namespace_options=kubelet_pb2.NamespaceOption(network=kubelet_pb2.POD, pid=pids),
        run_as_user=kubelet_pb2.Int64Value(value=asked["runAsUser"]),
        readonly_rootfs=asked["readOnlyRootFilesystem"],
        no_new_privs=not asked["allowPrivilegeEscalation"],
        seccomp=kubelet_pb2.SecurityProfile(profile_type=_PROFILES[asked["seccompProfile"]["type"]]),
        apparmor=kubelet_pb2.SecurityProfile(profile_type=_PROFILES[asked["appArmorProfile"]["type"]]),
    )
