"""A network and a mount namespace for a daemon: what it makes there ends with them."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Self

from tests.support.programs import Program, run, until

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["PRIVATE", "Cgroups", "Namespaces"]

Cgroups = Literal["host", "v1", "v2"]
"""Which hierarchies of cgroups a daemon sees."""

_CGROUPS = "/sys/fs/cgroup"
_SHOW: dict[Cgroups, tuple[tuple[str, ...], ...]] = {
    "host": (),
    "v1": (("umount", f"{_CGROUPS}/unified"),),
    "v2": (("umount", "--recursive", _CGROUPS), ("mount", "-t", "cgroup2", "cgroup2", _CGROUPS)),
}
PRIVATE = Path("/run/containerd")
"""A file system in memory, of these namespaces only."""


class Namespaces:
    """Namespaces held by a sleeping process, so that a daemon can be ended and started again in them.

    cgroups: `v1` and `v2` show a daemon only these hierarchies of a hybrid host, which it then takes for all
    that there are; `host` shows it what the host has.
    """

    def __init__(self, directory: Path, cgroups: Cgroups = "host") -> None:
        self._holder = Program(directory, "unshare", "--net", "--mount", "sleep", "infinity")
        comm = Path(f"/proc/{self._holder.pid}/comm")
        until(lambda: comm.read_text(encoding="ascii") == "sleep\n", lambda: self._holder.errors)
        self._mounts = _mount_namespace(self._holder.pid)
        self._run("ip", "link", "set", "lo", "up")
        # Sockets of shims and state of runc are there whatever a daemon is told: names would clash.
        PRIVATE.mkdir(exist_ok=True)
        self._run("mount", "-t", "tmpfs", "tmpfs", PRIVATE)
        for command in _SHOW[cgroups]:
            self._run(*command)

    def _run(self, *command: object) -> None:
        done = run(*self.enter, *command)
        assert done.code == 0, done.stderr

    @property
    def enter(self) -> tuple[str, ...]:
        """The start of a command line that runs the rest of it in these namespaces."""
        return ("nsenter", "--target", str(self._holder.pid), "--net", "--mount", "--")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._end_all()
        self._holder.kill()

    def _end_all(self) -> None:
        """End whatever a daemon that did not end well has left: shims, and the containers below them."""
        for pid in [
            pid for pid in _processes() if _mount_namespace(pid) == self._mounts and pid != self._holder.pid
        ]:
            for doomed in [*_descendants(pid), pid]:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(doomed, signal.SIGKILL)
        until(lambda: not [pid for pid in _processes() if _mount_namespace(pid) == self._mounts][1:])


def _processes() -> list[int]:
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def _mount_namespace(pid: int) -> str:
    try:
        return str(Path(f"/proc/{pid}/ns/mnt").readlink())
    except OSError:  # it is gone, or a zombie
        return ""


def _descendants(pid: int) -> list[int]:
    try:
        children = Path(f"/proc/{pid}/task/{pid}/children").read_text(encoding="ascii").split()
    except OSError:
        return []
    return [found for child in map(int, children) for found in (*_descendants(child), child)]
