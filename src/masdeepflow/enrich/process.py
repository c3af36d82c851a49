"""Names of processes from /proc, read once per process and kept after it is gone."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

__all__ = ["UNKNOWN", "LiveProcesses", "ProcessNames", "RecordedProcesses"]

_LIMIT = 8192
_COMMAND_BYTES = 1024


@dataclass(frozen=True, slots=True)
class ProcessNames:
    """executable: base name of the executable. command: argv[0]. None where unknown."""

    executable: str | None
    command: str | None


UNKNOWN = ProcessNames(None, None)
"""Names of a process that was gone before it was looked at, or that has none."""


def read_process(pid: int) -> ProcessNames:
    """Return the names of a running process; `UNKNOWN` if it is gone or a kernel thread."""
    proc = Path("/proc") / str(pid)
    try:
        executable = Path.readlink(proc / "exe").name.removesuffix(" (deleted)")
        with (proc / "cmdline").open("rb") as file:
            first = file.read(_COMMAND_BYTES).split(b"\0", 1)[0]
    except OSError:
        return UNKNOWN
    return ProcessNames(executable, first.decode("utf-8", "backslashreplace") or None)


class LiveProcesses:
    """Looks processes up on this host.

    keep_fresh: remember what was learnt until `take_fresh`, for recordings.
    """

    def __init__(self, *, keep_fresh: bool = False) -> None:
        self._keep_fresh = keep_fresh
        self._known: dict[tuple[int, str], ProcessNames] = {}
        self._fresh: list[tuple[int, str, ProcessNames]] = []

    def names(self, pid: int, comm: str) -> ProcessNames:
        """Return the names of `pid`; the comm tells a reused PID or an exec from the process known before."""
        key = (pid, comm)
        known = self._known.get(key)
        if known is None:
            if len(self._known) >= _LIMIT:
                self._known.clear()
            known = self._known[key] = read_process(pid)
            if self._keep_fresh:
                self._fresh.append((pid, comm, known))
        return known

    def take_fresh(self) -> list[tuple[int, str, ProcessNames]]:
        """Return what `names` read from /proc since the last call."""
        fresh, self._fresh = self._fresh, []
        return fresh


class RecordedProcesses:
    """Answers from a recording."""

    def __init__(self) -> None:
        self._known: dict[tuple[int, str], ProcessNames] = {}

    def add(self, pid: int, comm: str, names: ProcessNames) -> None:
        """Take what the live run learnt."""
        self._known[pid, comm] = names

    def names(self, pid: int, comm: str) -> ProcessNames:
        """Return the recorded names of `pid`, `UNKNOWN` if the live run had none."""
        return self._known.get((pid, comm), UNKNOWN)
