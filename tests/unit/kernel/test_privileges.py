"""What the agent may do and how it is asked for, on hosts and in containers that the tests make up."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from masdeepflow.kernel import privileges

if TYPE_CHECKING:
    from pathlib import Path

ALL = (1 << 41) - 1
BPF, PERFMON, SYS_ADMIN = 1 << 39, 1 << 38, 1 << 21


@pytest.fixture
def status(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Make up /proc/self/status; nothing tells of a container yet."""
    path = tmp_path / "status"
    path.write_text(f"Name:\tpython\nCapPrm:\t{ALL:016x}\nCapEff:\t{BPF:016x}\nCapBnd:\t{0:016x}\n")
    monkeypatch.setattr(privileges, "_STATUS", path)
    monkeypatch.setattr(privileges, "_DOCKER", tmp_path / "docker")
    monkeypatch.setattr(privileges, "_MOUNTS", tmp_path / "mountinfo")
    (tmp_path / "mountinfo").write_text(
        "23 1 8:1 / / rw - ext4 /dev/sda1 rw\n24 23 8:1 /c/hostname /etc/hostname rw - ext4 /dev/sda1 rw\n"
    )
    monkeypatch.delenv("KUBERNETES_SERVICE_HOST", raising=False)
    monkeypatch.delenv("container", raising=False)
    return path


def _names(held: int) -> list[str]:
    return [capability.name for capability in privileges.missing(held)]


def test_the_effective_set_decides(status: Path) -> None:
    """What a process may have is not what it has."""
    assert status.exists()
    assert privileges.effective() == BPF


@pytest.mark.parametrize(
    ("held", "required"),
    [
        (0, ["CAP_BPF", "CAP_PERFMON"]),
        (BPF, ["CAP_PERFMON"]),
        (PERFMON, ["CAP_BPF"]),
        (BPF | PERFMON, []),
        (SYS_ADMIN, []),
        (ALL, []),
    ],
)
def test_capabilities_that_run_fails_without(held: int, required: list[str]) -> None:
    """CAP_SYS_ADMIN stands for the two that load and attach, as before Linux 5.8."""
    found = [capability.name for capability in privileges.missing(held) if capability.required]
    assert found == required


def test_capabilities_that_run_can_do_without_are_missed_too() -> None:
    """CAP_SYS_ADMIN stands for none of them."""
    assert _names(SYS_ADMIN) == ["CAP_SYS_PTRACE", "CAP_DAC_READ_SEARCH", "CAP_SYS_NICE"]
    assert _names(ALL) == []


def test_place_is_told_by_what_its_runtime_leaves(
    status: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pod is one whatever runtime it has; without a sign it is a host."""
    del status
    assert privileges.place() == "host"
    (tmp_path / "docker").touch()
    assert privileges.place() == "docker"
    monkeypatch.setenv("container", "podman")
    assert privileges.place() == "podman"
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.96.0.1")
    assert privileges.place() == "kubernetes"


def test_a_machine_made_from_an_image_is_a_host(
    status: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It has Docker's file at its root, but no mount of what a container is called."""
    del status
    (tmp_path / "docker").touch()
    monkeypatch.setattr(privileges, "_MOUNTS", tmp_path / "plain")
    (tmp_path / "plain").write_text("23 1 8:1 / / rw - ext4 /dev/sda1 rw\n")
    assert privileges.place() == "host"


def test_capabilities_are_asked_for_in_the_words_of_the_place(
    status: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By sudo on a host, options of `docker run`, fields of a pod; a user who lacks what it has."""
    required = [capability for capability in privileges.CAPABILITIES if capability.required]
    told = {}
    for place in ("host", "docker", "kubernetes"):
        monkeypatch.setattr(privileges, "place", lambda place=place: place)
        told[place] = privileges.how_to_get(required)
    assert "sudo" in told["host"]
    assert told["docker"] == "start the container with `--cap-add BPF --cap-add PERFMON`"
    assert told["kubernetes"] == "add BPF, PERFMON to securityContext.capabilities.add"
    status.write_text(f"CapBnd:\t{BPF | PERFMON:016x}\n")
    assert "user 0" in privileges.how_to_get(required)


def test_a_host_need_not_ask(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its namespaces and mounts are the host's by nature."""
    monkeypatch.setattr(privileges, "place", lambda: "host")
    assert {privileges.how_to_ask(lack) for lack in privileges._ASKED_FOR} == {""}


@pytest.mark.parametrize(
    ("text", "profile"),
    [
        ("docker-default (enforce)\n", "docker-default"),
        ("crio-default (enforce)\0", "crio-default"),
        ("unconfined\n", None),
        ("docker-default (complain)\n", None),
        (None, None),
    ],
)
def test_only_a_profile_that_is_enforced_confines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, profile: str | None
) -> None:
    """No profile, one that only complains, and a kernel without AppArmor are all the same."""
    path = tmp_path / "current"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(privileges, "_APPARMOR", (tmp_path / "none", path))
    assert privileges.apparmor_profile() == profile


def test_namespace_of_pids_that_cannot_be_read_is_none_of_the_hosts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """/proc may be hidden."""
    monkeypatch.setattr(privileges, "_PID_NAMESPACE", tmp_path / "none")
    assert not privileges.has_host_pids()


@pytest.mark.root
def test_bpf_is_not_filtered_here() -> None:
    """Whoever runs the tests as root gets as far as the kernel's own answer."""
    assert os.geteuid() == 0
    assert not privileges.bpf_is_filtered()
