"""What this host offers, found out by trying, never by comparing version numbers."""

from __future__ import annotations

import errno
import platform
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from masdeepflow.kernel import libbpf
from masdeepflow.kernel.probes import Probes, object_path

__all__ = ["Finding", "examine", "has_btf", "missing_capabilities", "why_not"]

_BTF = Path("/sys/kernel/btf/vmlinux")
_CAPABILITIES = {"CAP_BPF": 39, "CAP_PERFMON": 38}
_CAP_SYS_ADMIN = 21
_PROC_PID_INIT_INO = 0xEFFFFFFC
_REMEDIES = {
    **dict.fromkeys(
        (errno.EPERM, errno.EACCES),
        "the kernel forbids BPF here: run as root, and see kernel.unprivileged_bpf_disabled and lockdown",
    ),
    errno.EINVAL: "this kernel's verifier refuses the programs, a defect: report it with `masdeepflow check`",
    **dict.fromkeys((errno.ENOMEM, errno.E2BIG), "free some memory, or ask for a smaller --ring-mib"),
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
    status = Path("/proc/self/status").read_text(encoding="ascii", errors="replace")
    effective = int(next(line.split()[1] for line in status.splitlines() if line.startswith("CapEff:")), 16)
    if effective >> _CAP_SYS_ADMIN & 1:
        return []
    return [name for name, bit in _CAPABILITIES.items() if not effective >> bit & 1]


def _kernel() -> Finding:
    detail = f"Linux {platform.release()} on {platform.machine()}"
    if platform.system() != "Linux" or platform.machine() not in ("x86_64", "aarch64"):
        return Finding("kernel", "missing", detail, "run on Linux, x86_64 or aarch64")
    return Finding("kernel", "ok", detail)


def _btf() -> Finding:
    if has_btf():
        return Finding("BTF", "ok", str(_BTF))
    return Finding(
        "BTF", "missing", f"{_BTF} is not there", "use a kernel built with CONFIG_DEBUG_INFO_BTF=y"
    )


def _capabilities() -> Finding:
    missing = missing_capabilities()
    if not missing:
        return Finding("capabilities", "ok", "all that is needed")
    return Finding(
        "capabilities", "missing", f"{' and '.join(missing)} missing", "run as root, with sudo, or grant them"
    )


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
    root = Path("/sys/fs/cgroup")
    if (root / "cgroup.controllers").exists():
        return Finding("cgroup", "ok", "version 2")
    hybrid = (root / "unified" / "cgroup.controllers").exists()
    return Finding(
        "cgroup", "ok", "hybrid: version 1 controllers, version 2 beside them" if hybrid else "version 1"
    )


def examine() -> list[Finding]:
    """Return all findings, those that others need first."""
    findings = [_kernel(), _btf(), _capabilities(), _objects()]
    findings.append(_hooks([finding.name for finding in findings if finding.state == "missing"]))
    findings.append(_cgroup())
    findings.append(Finding("TLS", "limited", "not decrypted by this version: such connections show as tcp"))
    findings.append(Finding("acceleration", "limited", "not in this version"))
    findings.append(_pid_namespace())
    return findings


def _pid_namespace() -> Finding:
    try:
        host = Path("/proc/self/ns/pid").stat().st_ino == _PROC_PID_INIT_INO
    except OSError:
        host = False
    if host:
        return Finding("PID namespace", "ok", "the host's")
    return Finding(
        "PID namespace",
        "limited",
        "a container's: executables of other processes stay unnamed",
        "use the host's PID namespace",
    )
