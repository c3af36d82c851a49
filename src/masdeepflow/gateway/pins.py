"""Where the kernel side of a gateway is kept, so that it outlives its process: in a BPF file system."""

from __future__ import annotations

import contextlib
import os
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

from masdeepflow.kernel import libbpf

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["ROOT", "cgroup_root", "directories", "keep", "remove", "writable"]

ROOT = Path("/sys/fs/bpf")
"""Where the BPF file system is mounted, by convention."""
_PREFIX = "masdeepflow-gateway-"
_MOUNTS = Path("/proc/self/mountinfo")


def _mounts(kind: str) -> list[Path]:
    """Return the mount points of file systems of a kind. Source: proc_pid_mountinfo(5)."""
    found = []
    for line in _MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        mount, _, system = line.partition(" - ")
        if system.split()[:1] == [kind]:
            found.append(Path(mount.split()[4].encode().decode("unicode_escape")))
    return found


def cgroup_root() -> Path | None:
    """Return the top of the cgroup v2 tree that this process sees, None without one."""
    return next(iter(_mounts("cgroup2")), None)


def writable() -> bool:
    """Return whether there is a BPF file system, after trying to mount it."""
    if ROOT not in _mounts("bpf"):
        with contextlib.suppress(OSError, subprocess.SubprocessError):
            subprocess.run(["mount", "-t", "bpf", "bpf", str(ROOT)], check=False, capture_output=True)  # noqa: S603, S607
    return ROOT in _mounts("bpf") and os.access(ROOT, os.W_OK)


def keep(descriptors: Mapping[str, int]) -> Path:
    """Pin maps and links under this process's directory; return it. Raises libbpf.BpfError or OSError."""
    directory = ROOT / f"{_PREFIX}{os.getpid()}"
    remove(directory)  # of an earlier process with our number
    directory.mkdir(mode=0o700)
    for name, descriptor in descriptors.items():
        libbpf.pin(descriptor, directory / name)
    return directory


def directories() -> list[Path]:
    """Return the directories of all gateways, those that are gone included."""
    try:
        return sorted(ROOT.glob(f"{_PREFIX}*"))
    except OSError:
        return []


def remove(directory: Path) -> None:
    """Let go of what is pinned there: links detach, maps are freed, and members of the hash with them."""
    with contextlib.suppress(FileNotFoundError):
        for path in directory.iterdir():
            path.unlink()
        directory.rmdir()
