"""What the agent may do on this host, what it would need, and how that is asked for where it runs.

Tests hold the docs, run-in-docker.sh and the Helm chart to `CAPABILITIES`.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = [
    "CAPABILITIES",
    "Capability",
    "Place",
    "apparmor_profile",
    "bpf_is_filtered",
    "effective",
    "has_host_cgroups",
    "has_host_pids",
    "how_to_ask",
    "how_to_get",
    "missing",
    "place",
]

Place = Literal["host", "docker", "podman", "kubernetes"]
"""Where the agent runs, as far as it decides how something is asked for."""


@dataclass(frozen=True, slots=True)
class Capability:
    """One of capabilities(7). bit: its number. required: `run` fails without. lost: what is missed then."""

    name: str
    bit: int
    required: bool
    lost: str


CAPABILITIES = (
    Capability("CAP_BPF", 39, required=True, lost="programs and maps can't be loaded"),
    Capability("CAP_PERFMON", 38, required=True, lost="programs can't be attached to tracepoints"),
    Capability(
        "CAP_SYS_PTRACE",
        19,
        required=False,
        lost="executables, network namespaces and libraries of other processes stay unknown",
    ),
    Capability(
        "CAP_DAC_READ_SEARCH",
        2,
        required=False,
        lost="service names that other users' processes have in their environment stay unknown",
    ),
    Capability(
        "CAP_SYS_NICE", 23, required=False, lost="a busy host may run others first, and the ring may overflow"
    ),
)
"""What the agent asks for, what it can't do without first."""

_SYS_ADMIN = 1 << 21  # stands for CAP_BPF and CAP_PERFMON, capabilities(7)
_PROC_PID_INIT_INO, _PROC_CGROUP_INIT_INO = 0xEFFFFFFC, 0xEFFFFFFB  # include/linux/proc_ns.h
_STATUS = Path("/proc/self/status")
_PID_NAMESPACE = Path("/proc/self/ns/pid")
_CGROUP_NAMESPACE = Path("/proc/self/ns/cgroup")
_APPARMOR = (Path("/proc/self/attr/apparmor/current"), Path("/proc/self/attr/current"))
_DOCKER = Path("/.dockerenv")
_MOUNTS = Path("/proc/self/mountinfo")
_OWN_NAME = " /etc/hostname "
_SYS_BPF = {"x86_64": 321, "aarch64": 280}
_NO_SUCH_COMMAND = 0x7FFF

_ASKED_FOR = {
    "host PIDs": ("--pid host", "set `hostPID: true` in the pod's spec"),
    "bpf()": (
        "--security-opt seccomp=unconfined",
        "set securityContext.seccompProfile.type to Unconfined",
    ),
    "AppArmor": (
        "--security-opt apparmor=unconfined",
        "set securityContext.appArmorProfile.type to Unconfined (Kubernetes 1.30)",
    ),
    "BTF": (
        "-v /sys/kernel/btf:/sys/kernel/btf:ro",
        "mount the node's /sys/kernel/btf with a hostPath volume, read-only",
    ),
    "runtime socket": (
        "-v /run/docker.sock:/run/docker.sock:ro",
        "mount the runtime's socket with a hostPath volume (the chart's `runtimeSocket`)",
    ),
}
"""What a container may lack -> how it is asked for: options of `docker run`, and a change of the pod."""


def place() -> Place:
    """Return where this process runs; `host` also for containers of runtimes that leave no sign."""
    if "KUBERNETES_SERVICE_HOST" in os.environ:
        return "kubernetes"
    # Its file, /run/.containerenv, is not there beside --read-only.
    if os.environ.get("container") == "podman":  # noqa: SIM112  # systemd's convention, which Podman keeps
        return "podman"
    # A virtual machine made from an image has the file too, but nothing mounted over the names of its host.
    return "docker" if _DOCKER.exists() and _OWN_NAME in _MOUNTS.read_text() else "host"


def effective() -> int:
    """Return the effective capabilities of this process, a bit each."""
    return _set("CapEff:")


def _set(field: str) -> int:
    status = _STATUS.read_text(encoding="ascii", errors="replace")
    return int(next((line.split()[1] for line in status.splitlines() if line.startswith(field)), "0"), 16)


def missing(held: int) -> list[Capability]:
    """Return those of `CAPABILITIES` that a process with the effective set `held` lacks."""
    if held & _SYS_ADMIN:
        held |= sum(1 << capability.bit for capability in CAPABILITIES if capability.required)
    return [capability for capability in CAPABILITIES if not held >> capability.bit & 1]


def how_to_get(capabilities: Sequence[Capability]) -> str:
    """Return what to do to run with these capabilities."""
    here = place()
    if here == "host":
        return "run as root, for example with sudo"
    bounding = _set("CapBnd:")
    if all(bounding >> capability.bit & 1 for capability in capabilities):
        return "run as user 0 in the container"  # it may have them, only this user of it may not
    names = [capability.name.removeprefix("CAP_") for capability in capabilities]
    if here == "kubernetes":
        return f"add {', '.join(names)} to securityContext.capabilities.add"
    return f"start the container with `{' '.join(f'--cap-add {name}' for name in names)}`"


def how_to_ask(lack: str) -> str:
    """Return how a container gets what it lacks, a key of `_ASKED_FOR`; empty on a host."""
    here = place()
    options, change = _ASKED_FOR[lack]
    if here == "host":
        return ""
    return change if here == "kubernetes" else f"start the container with `{options}`"


def has_host_pids() -> bool:
    """Return whether this process is in the first PID namespace, where PIDs are the kernel's."""
    return _is(_PID_NAMESPACE, _PROC_PID_INIT_INO)


def has_host_cgroups() -> bool:
    """Return whether this process is in the first cgroup namespace, where paths of cgroups are whole."""
    return _is(_CGROUP_NAMESPACE, _PROC_CGROUP_INIT_INO)


def _is(namespace: Path, number: int) -> bool:
    try:
        return namespace.stat().st_ino == number
    except OSError:
        return False


def bpf_is_filtered() -> bool:
    """Return whether bpf(2) is kept from this process by something that is no capability, such as seccomp.

    A command that does not exist is EINVAL to whoever has CAP_BPF, and EPERM to whoever is filtered.
    """
    number = _SYS_BPF.get(platform.machine())
    if number is None:
        return False
    attributes = ctypes.create_string_buffer(8)
    libc = ctypes.CDLL(None, use_errno=True)
    libc.syscall(ctypes.c_long(number), ctypes.c_int(_NO_SUCH_COMMAND), attributes, ctypes.c_uint(8))
    return ctypes.get_errno() in {errno.EPERM, errno.EACCES, errno.ENOSYS}


def apparmor_profile() -> str | None:
    """Return the AppArmor profile that confines this process, None if there is none."""
    for path in _APPARMOR:
        try:
            profile = path.read_text(encoding="ascii", errors="replace").strip("\0\n ")
        except OSError:
            continue
        if profile.endswith("(enforce)"):
            return profile.removesuffix("(enforce)").strip()
    return None
