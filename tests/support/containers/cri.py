"""containerd with its CRI plugin, and what a kubelet does with it: pod sandboxes and their containers."""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import shutil
import signal
import uuid
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from tests.support.containers.docker import Container
from tests.support.containers.images import BUSYBOX, PAUSE, busybox_image
from tests.support.containers.namespaces import Namespaces
from tests.support.programs import Finished, Program, run, until

# Other tests fork without an exec, and what its fork handlers wait for may never come.
os.environ.setdefault("GRPC_ENABLE_FORK_SUPPORT", "false")

import grpc

from tests.support.containers import kubelet_pb2 as kubelet

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from google.protobuf.message import Message

__all__ = ["Cri", "Pod", "containerd_cri", "plain_container", "pod_container", "pod_sandbox"]

Answer = TypeVar("Answer", bound="Message")

_START_S = 60.0
_CALL_S = 60.0
_CONFIG = """
version = 2
root = "{directory}/root"
state = "{directory}/state"
[grpc]
  address = "{directory}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = "{pause}"
  disable_apparmor = true
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
[plugins."io.containerd.grpc.v1.cri".containerd]
  snapshotter = "{snapshotter}"
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = "{plugins}"
  conf_dir = "{directory}/cni"
[plugins."io.containerd.internal.v1.opt"]
  path = "{directory}/opt"
"""
_PLUGINS = ("/usr/lib/cni", "/opt/cni/bin")
_BRIDGE = {
    "cniVersion": "0.4.0",
    "name": "pods",
    "type": "bridge",
    "bridge": "cni0",
    "isGateway": True,
}
_ADDRESSES = {
    "type": "host-local",
    "ranges": [[{"subnet": "10.244.0.0/16"}]],
    "routes": [{"dst": "0.0.0.0/0"}],
}
_CGROUPS = Path("/sys/fs/cgroup")


@dataclasses.dataclass(frozen=True, slots=True)
class Pod:
    """A pod sandbox. address: IPv4, empty on the host's network. config: its containers are made with it."""

    id: str
    name: str
    namespace: str
    uid: str
    address: str
    config: kubelet.PodSandboxConfig


class Cri:
    """A containerd in `namespaces`, started by `start`. socket: where its gRPC interfaces are."""

    def __init__(self, directory: Path, namespaces: Namespaces) -> None:
        self.directory = directory
        self.socket = directory / "containerd.sock"
        self.namespaces = namespaces
        self._daemon: Program | None = None
        network = directory / "cni" / "10-bridge.conf"
        network.parent.mkdir()
        addresses = {**_ADDRESSES, "dataDir": str(directory / "addresses")}
        network.write_text(json.dumps({**_BRIDGE, "ipam": addresses}))
        (directory / "containerd.toml").write_text(
            _CONFIG.format(
                directory=directory,
                pause=PAUSE,
                snapshotter=self._snapshotter(),
                plugins=next(path for path in _PLUGINS if Path(path, "bridge").exists()),
            )
        )

    def _snapshotter(self) -> str:
        places = [self.directory / name for name in ("lower", "upper", "work", "merged")]
        for place in places:
            place.mkdir()
        lower, upper, work, merged = places
        options = f"lowerdir={lower},upperdir={upper},workdir={work}"
        mounted = run(*self.namespaces.enter, "mount", "-t", "overlay", "-o", options, "overlay", merged)
        run(*self.namespaces.enter, "umount", merged)
        return "overlayfs" if mounted.code == 0 else "native"

    def start(self) -> None:
        """Start the daemon, again after `stop` or `crash`, and wait until it would start pods."""
        command = (*self.namespaces.enter, "containerd", "--config", self.directory / "containerd.toml")
        self._daemon = Program(self.directory, *command)
        until(self._ready, lambda: self.errors[-2000:], _START_S)

    def _ready(self) -> bool:
        assert self._daemon is not None
        assert self._daemon.process.poll() is None, self.errors[-2000:]
        try:
            conditions = self.call(
                "Status", kubelet.StatusRequest(), kubelet.StatusResponse
            ).status.conditions
        except grpc.RpcError:
            return False
        return bool(conditions) and all(condition.status for condition in conditions)

    @property
    def errors(self) -> str:
        """What the daemon has logged since its last start."""
        return self._daemon.errors if self._daemon else ""

    def stop(self) -> None:
        """End the daemon; its pods run on, as they do when a node's containerd is upgraded."""
        self._end(signal.SIGTERM)

    def crash(self) -> None:
        """Kill the daemon; its pods run on."""
        self._end(signal.SIGKILL)

    def _end(self, number: int) -> None:
        if self._daemon is not None:
            self._daemon.stop(number)
            self._daemon = None

    def call(self, method: str, request: Message, answer: type[Answer]) -> Answer:
        """Call a method of the RuntimeService.

        Raises:
            grpc.RpcError: it failed.

        """
        with grpc.insecure_channel(f"unix:{self.socket}") as channel:
            stub: Callable[..., Answer] = channel.unary_unary(
                f"/runtime.v1.RuntimeService/{method}",
                request_serializer=lambda message: message.SerializeToString(),
                response_deserializer=answer.FromString,
            )
            return stub(request, timeout=_CALL_S)

    def command(self, *words: object, namespace: str = "k8s.io") -> Finished:
        """Run a command of ctr, containerd's own client, in one of containerd's namespaces."""
        client = ("ctr", "--address", self.socket, "--namespace", namespace)
        return run(*self.namespaces.enter, *client, *words)

    def load(self, archive: Path, namespace: str = "k8s.io") -> None:
        """Load an archive made by `image`."""
        loaded = self.command("images", "import", archive, namespace=namespace)
        assert loaded.code == 0, loaded.stderr

    def execute(self, container: Container, *command: object) -> Finished:
        """Run a command in a container to its end."""
        request = kubelet.ExecSyncRequest(container_id=container.id, cmd=[str(word) for word in command])
        done = self.call("ExecSync", request, kubelet.ExecSyncResponse)
        return Finished(done.exit_code, done.stdout.decode(), done.stderr.decode())


@contextlib.contextmanager
def containerd_cri(directory: Path) -> Iterator[Cri]:
    """Run a containerd that has the image `BUSYBOX` and a network for pods; all of it ends with the block."""
    with Namespaces(directory) as namespaces:
        daemon = Cri(directory, namespaces)
        daemon.start()
        try:
            daemon.load(busybox_image(directory))
            yield daemon
        finally:
            daemon.stop()
    # pytest keeps directories of past runs, and the layers are large.
    shutil.rmtree(directory / "root", ignore_errors=True)


@contextlib.contextmanager
def pod_sandbox(  # noqa: PLR0913  # a pod has that many names
    cri: Cri,
    name: str,
    namespace: str = "default",
    uid: str = "",
    labels: Mapping[str, str] | None = None,
    *,
    host_network: bool = False,
    host_pids: bool = False,
    quality: str = "burstable",
) -> Iterator[Pod]:
    """Run a pod's sandbox, labelled as a kubelet labels it, while the block lasts; no container of it yet.

    uid: a new one if empty. quality: the class that is a part of its cgroup's path, empty for guaranteed.
    """
    uid = uid or str(uuid.uuid4())
    parent = Path("/kubepods", quality, f"pod{uid}")
    network = kubelet.NODE if host_network else kubelet.POD
    pids = kubelet.NODE if host_pids else kubelet.CONTAINER
    config = kubelet.PodSandboxConfig(
        metadata=kubelet.PodSandboxMetadata(name=name, uid=uid, namespace=namespace),
        hostname="" if host_network else name,
        log_directory=str(cri.directory / "logs"),
        labels={**(labels or {}), **_pod_labels(name, namespace, uid)},
        linux=kubelet.LinuxPodSandboxConfig(
            cgroup_parent=str(parent),
            security_context=kubelet.LinuxSandboxSecurityContext(
                namespace_options=kubelet.NamespaceOption(network=network, pid=pids)
            ),
        ),
    )
    try:
        made = cri.call("RunPodSandbox", kubelet.RunPodSandboxRequest(config=config), kubelet.PodSandboxId)
        try:
            status = cri.call("PodSandboxStatus", made, kubelet.PodSandboxStatusResponse).status
            yield Pod(made.pod_sandbox_id, name, namespace, uid, status.network.ip, config)
        finally:
            cri.call("StopPodSandbox", made, kubelet.Empty)
            cri.call("RemovePodSandbox", made, kubelet.Empty)
    finally:
        _remove_cgroups(parent)


def _pod_labels(name: str, namespace: str, uid: str) -> dict[str, str]:
    return {
        "io.kubernetes.pod.name": name,
        "io.kubernetes.pod.namespace": namespace,
        "io.kubernetes.pod.uid": uid,
    }


def _remove_cgroups(parent: Path) -> None:
    """Remove a pod's cgroup from all hierarchies, as a kubelet does: the runtime removes only those below."""
    hierarchies = [_CGROUPS, *(path for path in _CGROUPS.iterdir() if path.is_dir())]
    for hierarchy in hierarchies:
        with contextlib.suppress(OSError):
            hierarchy.joinpath(*parent.parts[1:]).rmdir()


@contextlib.contextmanager
def pod_container(  # noqa: PLR0913  # and so has a container
    cri: Cri,
    pod: Pod,
    name: str,
    *command: object,
    image: str = BUSYBOX,
    labels: Mapping[str, str] | None = None,
    mounts: Mapping[str, str] | None = None,
    config: kubelet.ContainerConfig | None = None,
) -> Iterator[Container]:
    """Run a container in a pod while the block lasts; without a command that of its image.

    labels: beside those that a kubelet sets. mounts: path here -> path in the container. config: what else it
    is to have.
    """
    own = {**_pod_labels(pod.name, pod.namespace, pod.uid), "io.kubernetes.container.name": name}
    whole = kubelet.ContainerConfig(
        metadata=kubelet.ContainerMetadata(name=name),
        image=kubelet.ImageSpec(image=image),
        command=[str(word) for word in command],
        mounts=[
            kubelet.Mount(host_path=here, container_path=there) for here, there in (mounts or {}).items()
        ],
        labels={**(labels or {}), **own},
        log_path=f"{name}.log",
    )
    if config is not None:
        whole.MergeFrom(config)
    request = kubelet.CreateContainerRequest(pod_sandbox_id=pod.id, config=whole, sandbox_config=pod.config)
    made = cri.call("CreateContainer", request, kubelet.ContainerId)
    try:
        cri.call("StartContainer", made, kubelet.Empty)
        asked = kubelet.ContainerStatusRequest(container_id=made.container_id, verbose=True)
        status = cri.call("ContainerStatus", asked, kubelet.ContainerStatusResponse)
        pid: int = json.loads(status.info["info"])["pid"]
        yield Container(made.container_id, name, pid, pod.address)
    finally:
        cri.call("RemoveContainer", made, kubelet.Empty)


@contextlib.contextmanager
def plain_container(
    cri: Cri, name: str, *command: object, namespace: str = "default", options: Sequence[object] = ()
) -> Iterator[Container]:
    """Run a container that no CRI knows of, as ctr and nerdctl do, while the block lasts. Its id is its name.

    namespace: of containerd; `Cri.load` has put the image there. options: of `ctr run`.
    """
    started = cri.command("run", "--detach", *options, BUSYBOX, name, *command, namespace=namespace)
    assert started.code == 0, started.stderr
    try:
        tasks = cri.command("task", "list", namespace=namespace).stdout.splitlines()
        pid = next(int(words[1]) for line in tasks if (words := line.split())[0] == name)
        yield Container(name, name, pid, "")
    finally:
        cri.command("task", "delete", "--force", name, namespace=namespace)
        cri.command("container", "delete", name, namespace=namespace)
