"""What the host offers: each finding with its remedy, on hosts that the tests make up."""

from __future__ import annotations

import errno
import os
import platform
import socket
from typing import TYPE_CHECKING

import pytest

from masdeepflow.enrich.containers import sockets
from masdeepflow.kernel import host, privileges
from masdeepflow.kernel.libbpf import BpfError

if TYPE_CHECKING:
    from pathlib import Path

ALL = (1 << 41) - 1


class _Attached:
    """Probes that load and attach."""

    def __init__(self, **_options: object) -> None:
        pass

    def __enter__(self) -> None:
        pass

    def __exit__(self, *_error: object) -> None:
        pass


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Make up a host that can do everything; its BTF is the file returned."""
    btf = tmp_path / "vmlinux"
    btf.write_bytes(b"\0btf_trace_sock_send_length\0")
    monkeypatch.setattr(platform, "system", lambda: "Linux")
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.setattr(host, "_BTF", btf)
    monkeypatch.setattr(host, "object_path", lambda _size: btf)
    monkeypatch.setattr(host, "Probes", _Attached)
    monkeypatch.setattr(privileges, "effective", lambda: ALL)
    monkeypatch.setattr(privileges, "bpf_is_filtered", lambda: False)
    monkeypatch.setattr(privileges, "place", lambda: "host")
    return btf


def _findings() -> dict[str, host.Finding]:
    return {finding.name: finding for finding in host.examine()}


def test_able_host_misses_nothing(able: Path) -> None:
    """Where everything is there, no finding stops `run`, and each has something to say."""
    findings = _findings()
    assert able.exists()
    assert {finding.state for finding in findings.values()} <= {"ok", "limited"}
    assert findings["hook set"].detail.startswith("socket")
    assert all(finding.detail for finding in findings.values())


def test_findings_are_those_of_the_interface(able: Path) -> None:
    """Kernel, BTF, hook set, capabilities, cgroup version, TLS and acceleration are all reported."""
    del able
    assert {"kernel", "BTF", "capabilities", "hook set", "cgroup", "TLS", "acceleration"} <= set(_findings())


def test_a_kernel_without_btf_is_named_with_the_option_it_needs(able: Path) -> None:
    """The remedy is a build option, and the hook set is not even tried."""
    able.unlink()
    findings = _findings()
    assert findings["BTF"].state == "missing"
    assert "CONFIG_DEBUG_INFO_BTF" in findings["BTF"].remedy
    assert findings["hook set"].state == "missing"
    assert "BTF" in findings["hook set"].detail


def test_missing_capabilities_are_named(able: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each capability by its name, with how to get it."""
    del able
    monkeypatch.setattr(privileges, "effective", lambda: 0)
    finding = _findings()["capabilities"]
    assert (finding.state, finding.detail) == ("missing", "CAP_BPF and CAP_PERFMON missing")
    assert "sudo" in finding.remedy


def test_objects_that_were_never_compiled_are_missed(able: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The remedy is the command that compiles them."""
    monkeypatch.setattr(host, "object_path", lambda _size: able / "gone.o")
    finding = _findings()["BPF objects"]
    assert finding.state == "missing"
    assert "run.sh" in finding.remedy


@pytest.mark.parametrize(("system", "machine"), [("Linux", "riscv64"), ("Darwin", "x86_64")])
def test_other_machines_are_refused(
    able: Path, monkeypatch: pytest.MonkeyPatch, system: str, machine: str
) -> None:
    """The objects are for two machines, and for Linux."""
    del able
    monkeypatch.setattr(platform, "system", lambda: system)
    monkeypatch.setattr(platform, "machine", lambda: machine)
    assert _findings()["kernel"].state == "missing"


def test_refusal_of_the_kernel_is_a_finding(able: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Hooks are tried, not guessed from a version; what the kernel says is shown as it is."""

    def refuse(**_options: object) -> None:
        raise BpfError(errno.EPERM, "the kernel refused the BPF programs")

    del able
    monkeypatch.setattr(host, "Probes", refuse)
    finding = _findings()["hook set"]
    assert (finding.state, finding.detail) == (
        "missing",
        "the kernel refused the BPF programs: Operation not permitted",
    )
    assert "root" in finding.remedy


@pytest.mark.parametrize(
    ("code", "remedy"),
    [
        (errno.EPERM, "run as root"),
        (errno.EACCES, "verifier"),
        (errno.EINVAL, "verifier"),
        (errno.E2BIG, "--ring-mib"),
        (errno.E2BIG, "verifier"),
        (errno.ENOMEM, "--ring-mib"),
        (errno.ELIBACC, "libbpf1"),
        (errno.ENOEXEC, "make -C bpf"),
        (errno.EIO, "dmesg"),
    ],
)
def test_every_refusal_has_a_remedy_of_its_own(code: int, remedy: str) -> None:
    """A missing library or a stale object is not the kernel's fault, and must not be told as if it were."""
    assert remedy in host.why_not(BpfError(code, "loading"))


def test_a_kernel_without_the_tracepoints_is_told_so_whatever_the_errno(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the kernel answers for a tracepoint that it does not have differs; its BTF does not."""
    btf = tmp_path / "vmlinux"
    btf.write_bytes(b"\0btf_trace_sk_data_ready\0")
    monkeypatch.setattr(host, "_BTF", btf)
    for code in (errno.ESRCH, errno.EINVAL, errno.ENOENT):
        told = host.why_not(BpfError(code, "loading"))
        assert "Linux 6.3" in told
        assert "newer kernel" in told
        assert os.strerror(code) not in told


def test_what_a_lesser_capability_is_for_is_told_where_it_is_missing(
    able: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`run` works without it, and knows less."""
    del able
    monkeypatch.setattr(privileges, "effective", lambda: 1 << 38 | 1 << 39)
    findings = _findings()
    assert findings["capabilities"].state == "ok"
    assert findings["CAP_SYS_PTRACE"].state == "limited"
    assert "executables" in findings["CAP_SYS_PTRACE"].detail
    assert host.missing_capabilities() == []


def test_a_filter_on_bpf_is_told_from_a_missing_capability(
    able: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A seccomp profile that forbids the call is the finding, and nothing is tried against it."""
    del able
    monkeypatch.setattr(privileges, "bpf_is_filtered", lambda: True)
    monkeypatch.setattr(privileges, "place", lambda: "podman")
    findings = _findings()
    assert findings["bpf()"].state == "missing"
    assert "--security-opt seccomp=unconfined" in findings["bpf()"].remedy
    assert findings["hook set"].detail == "not tried: bpf()"
    monkeypatch.setattr(privileges, "effective", lambda: 0)
    assert "bpf()" not in _findings()


def test_a_container_is_told_its_own_spelling(able: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Namespaces, mounts and profiles as options of `docker run`, or as fields of the pod."""
    able.unlink()
    monkeypatch.setattr(privileges, "has_host_pids", lambda: False)
    monkeypatch.setattr(privileges, "apparmor_profile", lambda: "docker-default")
    spelled = {}
    for place in ("docker", "kubernetes"):
        monkeypatch.setattr(privileges, "place", lambda place=place: place)
        findings = _findings()
        names = ("BTF", "PID namespace", "AppArmor")
        spelled[place] = " ".join(findings[name].remedy for name in names)
    for option in ("-v /sys/kernel/btf", "--pid host", "apparmor=unconfined"):
        assert option in spelled["docker"]
    for field in ("/sys/kernel/btf", "hostPID: true", "appArmorProfile"):
        assert field in spelled["kubernetes"]


@pytest.mark.parametrize(
    ("files", "detail"),
    [
        (["cgroup.controllers"], "version 2"),
        (["unified/cgroup.controllers", "systemd/cgroup.procs"], "hybrid"),
        (["systemd/cgroup.procs"], "version 1"),
        ([], "no hierarchy"),
    ],
)
def test_cgroup_version_is_told_by_what_is_mounted(
    able: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, files: list[str], detail: str
) -> None:
    """Each by its name, on a host and in a container alike; nothing there is a limit, as in a chroot."""
    del able
    for name in files:
        path = tmp_path / "cgroup" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    monkeypatch.setattr(host, "_CGROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(privileges, "has_host_cgroups", lambda: False)
    finding = _findings()["cgroup"]
    assert detail in finding.detail
    assert finding.state == ("ok" if files else "limited")
    assert ("namespace of its own" in finding.detail) == bool(files)


def test_runtimes_are_those_whose_sockets_answer(
    able: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A socket that nobody listens at is told; none at all is a lack in a container only."""
    del able
    path = tmp_path / "docker.sock"
    monkeypatch.setattr(sockets, "_DEFAULTS", (("docker", "docker", str(path)),))
    assert _findings()["container runtimes"].state == "ok"
    monkeypatch.setattr(privileges, "place", lambda: "docker")
    assert "docker.sock" in _findings()["container runtimes"].remedy
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        assert _findings()["container runtimes"].state == "limited"
        listener.listen()
        finding = _findings()["container runtimes"]
    assert (finding.state, finding.detail) == ("ok", f"docker at {path}")


def test_this_host_is_examined_without_an_error() -> None:
    """Whatever this host lacks is a finding, not an exception."""
    assert len(_findings()) >= 7
