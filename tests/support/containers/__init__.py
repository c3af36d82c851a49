"""Real container runtimes, started by hand: `docker_daemon`, `containerd_cri`, `podman_service`.

What the host must offer: root; the cgroup controllers that runc asks for below /sys/fs/cgroup, as v2, v1 or
hybrid (runc joins the v1 controllers that are mounted and, on a hybrid host, /sys/fs/cgroup/unified too);
bridges, veth pairs and NAT in the kernel; the Debian packages docker.io, containerd, podman,
containernetworking-plugins, busybox-static and iptables. Where overlayfs is not to be had, Docker takes vfs
and containerd its native snapshotter.

Each daemon lives in a network and a mount namespace of its own, and in the host's PID and cgroup namespaces:
its bridges, addresses, iptables rules and mounts are nobody else's and go with it, while its processes and
their cgroups look as on any host. "The host's network" of such a container is the daemon's;
`Namespaces.enter` gives the command that runs something there. Nothing outside is reachable from it, and no
registry is asked: images are built here.
"""

from tests.support.containers.cri import Cri, Pod, containerd_cri, plain_container, pod_container, pod_sandbox
from tests.support.containers.docker import Container, Docker, docker_daemon, run_container
from tests.support.containers.images import BUSYBOX, PAUSE, busybox_image, image
from tests.support.containers.namespaces import Namespaces
from tests.support.containers.podman import podman_service

__all__ = [
    "BUSYBOX",
    "PAUSE",
    "Container",
    "Cri",
    "Docker",
    "Namespaces",
    "Pod",
    "busybox_image",
    "containerd_cri",
    "docker_daemon",
    "image",
    "plain_container",
    "pod_container",
    "pod_sandbox",
    "podman_service",
    "run_container",
]
