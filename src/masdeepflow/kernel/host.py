"""What this host offers, found out by trying, never by comparing version numbers."""

from __future__ import annotations

import errno
import platform
import socket
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from masdeepflow.kernel import libbpf, privileges
from masdeepflow.kernel.probes import Probes, object_path

__all__ = ["Finding", "capability_remedy", "examine", "has_btf", "missing_capabilities", "why_not"]

_BTF = Path("/sys/kernel/btf/vmlinux")
_CGROUPS = Path("/sys/fs/cgroup")
_CONNECT_S = 0.5
_DEFECT = "a defect: report it with `masdeepflow check`"
_REFUSED = f"this kernel's verifier refuses the programs, {_DEFECT}"
_REMEDIES = {
    errno.EPERM: "the kernel forbids BPF here: run as root, and see kernel.unprivileged_bpf_disabled and "
    "lockdown",
    # The verifier's usual word, and that of a security module.
    errno.EACCES: f"{_REFUSED}; or SELinux forbids BPF here, which its audit log tells",
    errno.EINVAL: _REFUSED,
    errno.ENOMEM: "free some memory, or ask for a smaller --ring-mib",
    errno.E2BIG: "ask for a smaller --ring-mib; if that is no help, this kernel's verifier finds the "
    f"programs too long, {_DEFECT}",
    errno.ELIBACC: "install the distribution's libbpf, Debian's package libbpf1 or libbpf0",
    errno.ENOEXEC: "compile the BPF objects again with ./run.sh or make -C bpf",
}


_HOOK = b"btf_trace_sock_send_length\0"
_NO_HOOK = (
    "this kernel lacks the socket hook set (tracepoints sock_send_length and sock_recv_length, Linux 6.3)"
)
_NEWER = "use a newer kernel, such as the distribution's backports or HWE kernel"


@dataclass(frozen=True, slots=True)
class Finding:
    """One row of `check`. state: `missing` stops `run`, `limited` does not. remedy: may be empty."""

    name: str
    state: Literal["ok", "limited", "missing"]
    detail: str
    remedy: str = ""


def has_btf() -> bool:
    """Return whether the kernel describes its types, which CO-RE needs."""
    return _BTF.exists()


def missing_capabilities() -> list[str]:
    """Return the capabilities that loading and attaching need and this process has not."""
    return [capability.name for capability in _missing() if capability.required]


def capability_remedy() -> str:
    """Return how to get what `missing_capabilities` names."""
    return privileges.how_to_get([capability for capability in _missing() if capability.required])


def _missing() -> list[privileges.Capability]:
    return privileges.missing(privileges.effective())


def _kernel() -> Finding:
    detail = f"Linux {platform.release()} on {platform.machine()}"
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "aarch64"):
        return Finding("kernel", "missing", detail, "run on Linux, x86_64 or aarch64")
    return Finding("kernel", "ok", detail)


def _btf() -> Finding:
    if has_btf():
        return Finding("BTF", "ok", str(_BTF))
    remedies = ["use a kernel built with CONFIG_DEBUG_INFO_BTF=y", privileges.how_to_ask("BTF")]
    return Finding("BTF", "missing", f"{_BTF} is not there", ", and ".join(filter(None, remedies)))


def _capabilities() -> Finding:
    missing = missing_capabilities()
    if not missing:
        return Finding("capabilities", "ok", "all that is needed")
    return Finding("capabilities", "missing", f"{' and '.join(missing)} missing", capability_remedy())


def _lesser_capabilities() -> list[Finding]:
    return [
        Finding(
            capability.name, "limited", f"missing: {capability.lost}", privileges.how_to_get([capability])
        )
        for capability in _missing()
        if not capability.required
    ]


def _bpf_call() -> list[Finding]:
    """Tell of a filter on bpf(2), which only shows where the capabilities are there."""
    if missing_capabilities() or not privileges.bpf_is_filtered():
        return []
    detail = "forbidden by a seccomp profile or a security module, whatever the capabilities"
    return [Finding("bpf()", "missing", detail, privileges.how_to_ask("bpf()"))]


def _confinement() -> list[Finding]:
    profile = privileges.apparmor_profile()
    if profile is None:
        return []
    detail = f"the profile {profile} may hide other processes, which then stay unnamed"
    return [Finding("AppArmor", "limited", detail, privileges.how_to_ask("AppArmor"))]


def _objects() -> Finding:
    path = object_path(512)
    if path.exists():
        return Finding("BPF objects", "ok", str(path.parent))
    return Finding(
        "BPF objects", "missing", f"{path} is not there", "compile them with ./run.sh or make -C bpf"
    )


def _has_socket_hooks() -> bool:
    """Return whether the kernel's BTF names the tracepoints; errno tells that from other refusals badly."""
    try:
        return _HOOK in _BTF.read_bytes()
    except OSError:
        return True


def _reason(error: libbpf.BpfError) -> tuple[str, str]:
    if not _has_socket_hooks():
        return _NO_HOOK, _NEWER
    return error.strerror or "", _REMEDIES.get(error.errno or 0, "the kernel's log (dmesg) may tell more")


def why_not(error: libbpf.BpfError) -> str:
    """Return what failed in loading or attaching, and what to do."""
    return "; ".join(_reason(error))


def _hooks(blockers: list[str]) -> Finding:
    if blockers:
        return Finding("hook set", "missing", f"not tried: {', '.join(blockers)}", "mend the above first")
    try:
        with Probes(ring_bytes=1 << 20):
            return Finding("hook set", "ok", "socket: its programs load and attach here")
    except libbpf.BpfError as error:
        return Finding("hook set", "missing", *_reason(error))


def _cgroup() -> Finding:
    version = _cgroup_version()
    if version is None:
        return Finding("cgroup", "limited", f"no hierarchy at {_CGROUPS}")
    # Paths still end with the ids of container and pod: nothing is lost but what is above them.
    seen = "" if privileges.has_host_cgroups() else ", seen from a namespace of its own"
    return Finding("cgroup", "ok", version + seen)


def _cgroup_version() -> str | None:
    if (_CGROUPS / "cgroup.controllers").exists():
        return "version 2"
    if (_CGROUPS / "unified" / "cgroup.controllers").exists():
        return "hybrid: version 1 controllers, version 2 beside them"
    return "version 1" if any(_CGROUPS.glob("*/cgroup.procs")) else None


def _acceleration(blockers: list[str]) -> Finding:
    """Return what `accelerate` could do here: nothing that `run` needs."""
    if blockers:
        return Finding("acceleration", "limited", f"not tried: {', '.join(blockers)}", "mend the above first")
    from masdeepflow.gateway import selftest  # noqa: PLC0415  # it needs what is examined here

    try:
        results = selftest.run()
    except OSError as error:
        return Finding("acceleration", "limited", f"can't be tried: {error.strerror or error}")
    if why_not := selftest.refusal(results):
        return Finding("acceleration", "limited", why_not)
    excluded = [result.name for result in results if result.verdict == "excluded"]
    apart = f", but for programs that use {'; '.join(excluded)}" if excluded else ""
    return Finding("acceleration", "ok", f"redirected sockets behave like TCP{apart}")


def _pid_namespace() -> Finding:
    if privileges.has_host_pids():
        return Finding("PID namespace", "ok", "the host's")
    return Finding(
        "PID namespace",
        "limited",
        "a container's: other processes stay unnamed, and so do connections older than the agent",
        privileges.how_to_ask("host PIDs") or "use the host's PID namespace",
    )


def _runtimes() -> Finding:
    from masdeepflow.enrich.containers.sockets import default_sockets  # noqa: PLC0415  # not for `run`

    there = [each for each in default_sockets(Path("/")) if each.is_there()]
    deaf = [str(each.path) for each in there if not _answers(each.path)]
    if deaf:
        detail = f"nobody answers at {', '.join(deaf)}: its containers are known by id only"
        return Finding(
            "container runtimes", "limited", detail, "start the runtime, or mount its socket again"
        )
    if there:
        return Finding(
            "container runtimes", "ok", ", ".join(f"{each.runtime} at {each.path}" for each in there)
        )
    if privileges.place() == "kubernetes":
        return Finding("container runtimes", "ok", "no socket is given: Kubernetes names containers")
    remedy = privileges.how_to_ask("runtime socket")
    if not remedy:
        return Finding("container runtimes", "ok", "none here")
    return Finding("container runtimes", "limited", "no socket: containers are known by id only", remedy)


def _answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(_CONNECT_S)
        try:
            connection.connect(str(path))
        except OSError:
            return False
    return True


def examine() -> list[Finding]:
    """Return all findings, those that others need first."""
    findings = [_kernel(), _btf(), _capabilities(), *_bpf_call(), _objects()]
    findings.append(_hooks([finding.name for finding in findings if finding.state == "missing"]))
    findings += [*_lesser_capabilities(), _pid_namespace(), _cgroup(), _runtimes(), *_confinement()]
    findings.append(Finding("TLS", "limited", "not decrypted by this version: such connections show as tcp"))
    findings.append(_acceleration([finding.name for finding in findings if finding.state == "missing"]))
    return findings
