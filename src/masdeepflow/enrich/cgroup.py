r"""What the path of a process's cgroup tells: its container, its pod, its systemd unit.

Every runtime puts the container's id into the path; which form depends on the runtime and on who makes the
cgroup, systemd or the runtime itself (cgroupfs):

    runtime          systemd                                cgroupfs
    Docker           system.slice/docker-ID.scope           docker/ID
    containerd, CRI  kubepods-...-podUID.slice/             kubepods/QUALITY/podUID/ID
                       cri-containerd-ID.scope
    containerd       nerdctl-ID.scope                       NAMESPACE/ID
    CRI-O            kubepods-...-podUID.slice/             kubepods/QUALITY/podUID/crio-ID
                       crio-ID.scope
    Podman           machine.slice/libpod-ID.scope          libpod_parent/libpod-ID

`...` is besteffort, burstable or nothing (guaranteed), and UID has `_` for `-` in a slice's name. A runtime
told of a systemd path while it makes cgroups itself leaves `SLICE:cri-containerd:ID` as one component.

A path is only as trustworthy as who may make cgroups: root, and users in the subtree delegated to them.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["NONE", "Membership", "parse", "parse_proc"]


@dataclass(frozen=True, slots=True)
class Membership:
    """What a process belongs to; empty where unknown.

    container_id: as the runtime has it, mostly 64 hexadecimal digits. runtime: `docker`, `containerd`,
    `cri-o` or `podman`, empty where several make this form. pod_uid: with dashes; of a static pod, which has
    none, the hash of its manifest (32 digits), as its runtime shows it too. unit: the systemd `.service` that
    it runs under, in its container if it has one; never a session, a scope or a user's manager.
    """

    container_id: str = ""
    runtime: str = ""
    pod_uid: str = ""
    unit: str = ""


NONE = Membership()
"""Of a process that belongs to nothing known."""

_PATH_MOST = 4096  # PATH_MAX of linux/limits.h
_TEXT_MOST = 64 * 1024
_FIELDS = 3
_UNIT_MOST = 255  # UNIT_NAME_MAX of systemd

_ID = r"(?P<id>[0-9a-f]{64}|[0-9a-f]{32}-[0-9]{10})"  # the second as AWS Fargate makes them
_CONTAINER = re.compile(rf"(?:(?P<by>[a-z][a-z0-9_-]*)-)?{_ID}(?:\.scope)?")
_COLONS = re.compile(rf"(?P<slice>[^:]*):(?P<by>[^:]*):{_ID}")
_RUNTIMES = {
    "docker": "docker",
    "cri-containerd": "containerd",
    "nerdctl": "containerd",
    "crio": "cri-o",
    "libpod": "podman",
    "libpod-payload": "podman",
}
_RUNTIME_OF_PARENT = {"docker": "docker", "default": "containerd", "k8s.io": "containerd"}
"""Of containers whose cgroup is named by the id alone; the last two are namespaces of containerd."""

_POD = re.compile(
    r"(?:.*-)?pod(?P<uid>[0-9a-f]{8}([-_])[0-9a-f]{4}\2[0-9a-f]{4}\2[0-9a-f]{4}\2[0-9a-f]{12}|[0-9a-f]{32})"
    r"(?:\.slice)?"
)
_UNIT = re.compile(r"[A-Za-z0-9:_.\\@-]+\.service")
_ESCAPED = re.compile(r"\\x([0-9a-f]{2})")
_USER_MANAGER = re.compile(r"user@[0-9]+\.service")


def parse(path: str) -> Membership:
    """Return what a cgroup path tells; its last components are enough. Never raises.

    Of containers in containers (kind, Docker in Docker) the innermost counts: the process has that one's
    files and name, and what is further out is the machine that it believes to run on. Processes that only
    watch over a container (conmon) are in none, and neither are those of LXC and systemd-nspawn, which have
    no ids.
    """
    if len(path) > _PATH_MOST or not path.isprintable():
        return NONE
    parts = path.strip("/").split("/")
    for at in range(len(parts) - 1, -1, -1):
        part = parts[at]
        if found := _CONTAINER.fullmatch(part) or _COLONS.fullmatch(part):
            by = found["by"] or ""
            if "conmon" in by:
                return NONE
            runtime = _RUNTIMES.get(by, "") if by else _RUNTIME_OF_PARENT.get(parts[at - 1] if at else "", "")
            unit = _unit(parts[at - 1 : at] if by == "libpod-payload" else parts[at + 1 :])
            above = [*parts[:at], found["slice"]] if ":" in part else parts[:at]
            return Membership(found["id"], runtime, _pod_uid(above), unit)
    return Membership(pod_uid=_pod_uid(parts), unit=_unit(parts))


def parse_proc(text: str) -> Membership:
    """Return what the content of /proc/PID/cgroup tells, cgroups(7): its most telling line. Never raises.

    On a host with v1 hierarchies a runtime may have joined some only: all are looked at, systemd's and v2's
    first.
    """
    lines = [line.split(":", 2) for line in text[:_TEXT_MOST].splitlines()]
    hierarchies = [line for line in lines if len(line) == _FIELDS]
    hierarchies.sort(key=lambda line: line[1] not in {"", "name=systemd"})
    paths = dict.fromkeys(path for _, _, path in hierarchies)
    return max(map(parse, paths), key=_telling, default=NONE)


def _telling(found: Membership) -> tuple[bool, ...]:
    return (bool(found.container_id), bool(found.pod_uid), bool(found.runtime), bool(found.unit))


def _pod_uid(parts: Sequence[str]) -> str:
    for part in reversed(parts):
        if found := _POD.fullmatch(part):
            return found["uid"].replace("_", "-")
    return ""


def _unit(parts: Sequence[str]) -> str:
    for part in reversed(parts):
        if part.endswith(".scope"):
            return ""
        if part.endswith(".service"):
            return _unit_name(part)
    return ""


def _unit_name(part: str) -> str:
    # systemd puts _ before names that would be those of cgroup files (cg_escape in its source).
    name = part.removeprefix("_")
    if len(name) > _UNIT_MOST or not _UNIT.fullmatch(name) or _USER_MANAGER.fullmatch(name):
        return ""
    plain = _ESCAPED.sub(lambda found: chr(int(found[1], 16)), name)
    return plain if plain.isprintable() and "/" not in plain else name
