r"""Paths as runtimes make them, and paths that nobody makes."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masdeepflow.enrich.cgroup import NONE, Membership, parse, parse_proc

A = "9036e2af1551a4b968b7bf63c0aa7c5e5131e714ca335e27986a6efd9d9e042b"
B = "cdda5813de471f583ee8d078d31ca9c4a5ddde625bc6c7391aaa08a6f259d845"
UID = "44656529-b9e7-479f-9c8e-6ea39d02f433"
LOW = UID.replace("-", "_")
STATIC = "0c3a2f5e8d7b4a69f1e2d3c4b5a69788"
FARGATE = "2dbbd1b1a2b94a3c8f2e1a0b9c8d7e6f-2531612879"
USER = "user.slice/user-1000.slice/user@1000.service"

DOCKER = {
    f"/docker/{A}": Membership(A, "docker"),
    f"docker/{A}": Membership(A, "docker"),
    f"/system.slice/docker-{A}.scope": Membership(A, "docker"),
    f"docker-{A}.scope": Membership(A, "docker"),
    f"/{USER}/user.slice/docker-{A}.scope": Membership(A, "docker"),
    f"/docker/{A}/init.scope": Membership(A, "docker"),
    f"/docker/{A}/system.slice/ssh.service": Membership(A, "docker", unit="ssh.service"),
    f"/system.slice/docker.service/docker/{A}": Membership(A, "docker"),
    f"/actions_job/{A}": Membership(A),
    f"/ecs/7f5c1a9e-0b7c-4d8e-9a6f-1c2b3d4e5f60/{A}": Membership(A),
    f"/ecs/2dbbd1b1a2b94a3c8f2e1a0b9c8d7e6f/{FARGATE}": Membership(FARGATE),
}
CONTAINERD = {
    f"/kubepods/besteffort/pod{UID}/{A}": Membership(A, "", UID),
    f"/kubepods/burstable/pod{UID}/{A}": Membership(A, "", UID),
    f"/kubepods/pod{UID}/{A}": Membership(A, "", UID),
    f"/kubepods/burstable/pod{STATIC}/{A}": Membership(A, "", STATIC),
    f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{LOW}.slice/cri-containerd-{A}.scope": (
        Membership(A, "containerd", UID)
    ),
    f"/kubepods.slice/kubepods-pod{LOW}.slice/cri-containerd-{A}.scope": Membership(A, "containerd", UID),
    f"kubepods-besteffort-pod{LOW}.slice/cri-containerd-{A}.scope": Membership(A, "containerd", UID),
    f"kubepods-burstable-pod{STATIC}.slice/cri-containerd-{A}.scope": Membership(A, "containerd", STATIC),
    f"/system.slice/containerd.service/kubepods-burstable-pod{LOW}.slice:cri-containerd:{A}": (
        Membership(A, "containerd", UID)
    ),
    f"/k8s.io/{A}": Membership(A, "containerd"),
    f"/default/{A}": Membership(A, "containerd"),
    f"/system.slice/nerdctl-{A}.scope": Membership(A, "containerd"),
    "/default/web": NONE,
}
CRI_O = {
    f"/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{LOW}.slice/crio-{A}.scope": (
        Membership(A, "cri-o", UID)
    ),
    f"kubepods-pod{LOW}.slice/crio-{A}.scope/container": Membership(A, "cri-o", UID),
    f"/kubepods/besteffort/pod{UID}/crio-{A}": Membership(A, "cri-o", UID),
    f"/kubepods.slice/kubepods-burstable-pod{LOW}.slice/crio-conmon-{A}.scope": NONE,
    f"/kubepods/besteffort/pod{UID}/crio-conmon-{A}": NONE,
    f"/system.slice/crio-conmon-{A}.scope": NONE,
}
PODMAN = {
    f"/machine.slice/libpod-{A}.scope": Membership(A, "podman"),
    f"/machine.slice/libpod-{A}.scope/container": Membership(A, "podman"),
    f"/machine.slice/machine-libpod_pod_{B}.slice/libpod-{A}.scope": Membership(A, "podman"),
    f"/{USER}/user.slice/libpod-{A}.scope/container": Membership(A, "podman"),
    f"/libpod_parent/libpod-{A}": Membership(A, "podman"),
    f"/libpod_parent/{B}/libpod-{A}": Membership(A, "podman"),
    f"/system.slice/web.service/libpod-payload-{A}": Membership(A, "podman", unit="web.service"),
    "/system.slice/web.service/supervisor": Membership(unit="web.service"),
    f"/machine.slice/libpod-conmon-{A}.scope": NONE,
    "/libpod_parent/conmon": NONE,
}
NESTED = {
    f"/docker/{B}/docker/{A}": Membership(A, "docker"),
    f"/system.slice/docker-{B}.scope/docker/{A}": Membership(A, "docker"),
    f"/docker/{B}/kubelet/kubepods/burstable/pod{UID}/{A}": Membership(A, "", UID),
    (
        f"/docker/{B}/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-besteffort.slice/"
        f"kubelet-kubepods-besteffort-pod{LOW}.slice/cri-containerd-{A}.scope"
    ): Membership(A, "containerd", UID),
    f"/docker/{B}/system.slice/containerd.service": Membership(B, "docker", unit="containerd.service"),
    f"/kubepods/burstable/pod{UID}/{B}/docker/{A}": Membership(A, "docker", UID),
    f"/../../kubepods-burstable-pod{LOW}.slice/cri-containerd-{A}.scope": Membership(A, "containerd", UID),
}
SYSTEMD = {
    "/system.slice/nginx.service": Membership(unit="nginx.service"),
    "/system.slice/postgresql.service/worker": Membership(unit="postgresql.service"),
    "/system.slice/system-postgresql.slice/postgresql@15-main.service": (
        Membership(unit="postgresql@15-main.service")
    ),
    f"/{USER}/app.slice/syncthing.service": Membership(unit="syncthing.service"),
    r"/system.slice/system-backup.slice/backup@srv-my\x2ddata.service": (
        Membership(unit="backup@srv-my-data.service")
    ),
    r"/system.slice/mail@a\x2fb.service": Membership(unit=r"mail@a\x2fb.service"),
    r"/system.slice/mail@a\x0ab.service": Membership(unit=r"mail@a\x0ab.service"),
    "/system.slice/_cpu.service": Membership(unit="cpu.service"),
    f"/{USER}/init.scope": NONE,
    f"/{USER}/app.slice/app-org.gnome.Terminal.slice/vte-spawn-{UID}.scope": NONE,
    "/user.slice/user-1000.slice/session-3.scope": NONE,
    "/init.scope": NONE,
    "/": NONE,
    "": NONE,
}
OTHERS = {
    "/lxc/web": NONE,
    "/lxc.payload.web/init.scope": NONE,
    "/lxc.payload.web/system.slice/nginx.service": Membership(unit="nginx.service"),
    "/lxc.monitor.web": NONE,
    "/machine.slice/systemd-nspawn@web.service/payload/system.slice/nginx.service": (
        Membership(unit="nginx.service")
    ),
    r"/machine.slice/machine-qemu\x2d1\x2dvm.scope/libvirt/emulator": NONE,
    f"/kubepods/burstable/pod{UID}": Membership(pod_uid=UID),
}
HOSTILE = {
    f"/docker/{A.upper()}": NONE,
    f"/docker/{A[:-1]}": NONE,
    f"/docker/{A}0": NONE,
    f"/docker/{A}\n": NONE,
    f"/do\x1b[31mcker/{A}": NONE,
    f"/kubepods/pod{LOW[:-1]}-/x": NONE,
    f"/system.slice/{'a' * 300}.service": NONE,
    "/system.slice/a b.service": NONE,
    "/system.slice/.service": NONE,
    f"/{'a/' * 5000}docker/{A}": NONE,
    "/" * 4096: NONE,
    f"{'docker-' * 570}{A}": Membership(A),
    ":" * 4000: NONE,
}
ALL = {**DOCKER, **CONTAINERD, **CRI_O, **PODMAN, **NESTED, **SYSTEMD, **OTHERS, **HOSTILE}


@pytest.mark.parametrize("path", ALL, ids=lambda path: path[:80])
def test_a_path_tells_container_pod_and_unit(path: str) -> None:
    """Each runtime with each driver, what is nested, what is none, and what somebody made up."""
    assert parse(path) == ALL[path]


V1 = f"""12:pids:/docker/{A}
11:memory:/docker/{A}
2:cpu,cpuacct:/docker/{A}
1:name=systemd:/docker/{A}
"""
HYBRID = f"""12:memory:/system.slice/docker-{A}.scope
1:name=systemd:/system.slice/docker-{A}.scope
0::/system.slice/docker-{A}.scope
"""
PARTLY_JOINED = f"""5:memory:/kubepods/burstable/pod{UID}/{A}
4:cpuset:/
1:name=systemd:/system.slice/containerd.service
0::/system.slice/containerd.service
"""
V1_NAMED = "9:name=systemd:/system.slice/nginx.service\n8:pids:/\n0::/\n"
UNITS_DIFFER = "3:memory:/system.slice/old.service\n0::/system.slice/new.service\n"


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"0::/system.slice/docker-{A}.scope\n", Membership(A, "docker")),
        (V1, Membership(A, "docker")),
        (HYBRID, Membership(A, "docker")),
        (PARTLY_JOINED, Membership(A, "", UID)),
        (V1_NAMED, Membership(unit="nginx.service")),
        (UNITS_DIFFER, Membership(unit="new.service")),
        (f"0::/docker/{A}:with:colons\n", NONE),
        ("0::/\n", NONE),
        ("", NONE),
        ("no such process", NONE),
        ("::::\n\0\n", NONE),
    ],
    ids=["v2", "v1", "hybrid", "partly", "unit", "systemd first", "colons", "root", "empty", "text", "bytes"],
)
def test_the_most_telling_hierarchy_counts(text: str, expected: Membership) -> None:
    """A container over a unit, systemd's own hierarchy and v2 over the other controllers."""
    assert parse_proc(text) == expected


@given(
    st.text(max_size=200), st.lists(st.sampled_from([*ALL, A, B, ":", "-", ".scope", ".service", "pod", "/"]))
)
def test_any_text_is_parsed(text: str, parts: list[str]) -> None:
    """Whatever it is, it gives a membership, and nothing unprintable gets out."""
    for path in (text, "/".join(parts), text.join(parts)):
        for found in (parse(path), parse_proc(path), parse_proc(f"0::{path}")):
            assert f"{found.container_id}{found.runtime}{found.pod_uid}{found.unit}".isprintable()


@pytest.mark.parametrize("part", ["a-", "pod", "a", "-pod", "0" * 63 + "-", "docker-" + "0" * 63 + "/", ":"])
def test_a_path_as_long_as_the_kernel_allows_is_parsed(part: str) -> None:
    """Nothing is tried over and over: it would not end before the test is stopped."""
    assert parse((part * 4096)[:4096]) == NONE
    assert not parse((part * 4096)[:4087] + ".service").container_id
