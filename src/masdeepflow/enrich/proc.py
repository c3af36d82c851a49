"""Processes older than the agent, or whose exec the ring lost: read from /proc, off the ring's thread."""

from __future__ import annotations

import os
import queue
import threading
from pathlib import Path

from masdeepflow.enrich.facts import ProcessFact, UsersFact

__all__ = ["ProcReader", "read_process", "read_users", "scan"]

_ARGUMENT_BYTES = 1024
_ENVIRONMENT_BYTES = 65536
_CGROUP_BYTES = 4096
_SERVICE = b"OTEL_SERVICE_NAME="
_ASKED_LIMIT = 4096
_USERS_LIMIT = 4096
_USER_FIELDS = 7  # passwd(5)
_PROC = "/proc"
_PASSWD = (Path("/proc/1/root/etc/passwd"), Path("/etc/passwd"))  # the host's init has the host's


def read_process(pid: int) -> ProcessFact | None:
    """Return what /proc tells of a running process; None if it is gone or a kernel thread."""
    try:
        executable = os.readlink(f"{_PROC}/{pid}/exe")  # noqa: PTH115  # thousands at start: a Path costs more
        comm = _read(pid, "comm", 64).rstrip(b"\n")
        # A title shorter than what it took the place of, such as Redis's, ends in zeros.
        arguments = _read(pid, "cmdline", _ARGUMENT_BYTES).rstrip(b"\0")
        user = os.stat(f"{_PROC}/{pid}").st_uid  # noqa: PTH116  # likewise
    except OSError:
        return None
    return ProcessFact(
        pid=pid,
        comm=_decoded(comm),
        executable=_decoded(os.fsencode(executable)).removesuffix(" (deleted)").rpartition("/")[2],
        arguments=tuple(map(_decoded, arguments.split(b"\0"))) if arguments else (),
        user=user,
        service=_service(_read_any(pid, "environ", _ENVIRONMENT_BYTES)),
        cgroup=_decoded(_read_any(pid, "cgroup", _CGROUP_BYTES)),
    )


def _read(pid: int, name: str, limit: int) -> bytes:
    with open(f"{_PROC}/{pid}/{name}", "rb", buffering=0) as file:  # noqa: PTH123  # likewise
        return file.read(limit)


def _read_any(pid: int, name: str, limit: int) -> bytes:
    try:
        return _read(pid, name, limit)
    except OSError:  # it may be another user's, and this without CAP_SYS_PTRACE
        return b""


def _service(environment: bytes) -> str:
    for variable in environment.split(b"\0"):
        if variable.startswith(_SERVICE):
            return _decoded(variable.removeprefix(_SERVICE))
    return ""


def _decoded(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")


def scan() -> list[ProcessFact]:
    """Return what /proc tells of all processes there are, except the agent's own."""
    pids = (int(name) for name in os.listdir(_PROC) if name.isdecimal())  # noqa: PTH208  # likewise
    return [fact for pid in pids if pid != os.getpid() and (fact := read_process(pid)) is not None]


def read_users() -> UsersFact:
    """Return the host's user names by ID; its own passwd(5) file if that of the host's init can't be read."""
    for path in _PASSWD:
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue
        fields = [line.split(":") for line in lines[:_USERS_LIMIT]]
        names = {int(f[2]): f[0] for f in reversed(fields) if len(f) == _USER_FIELDS and f[2].isdecimal()}
        return UsersFact(names)
    return UsersFact({})


class ProcReader:
    """Reads processes on a thread of its own: `ask` and `take` never wait."""

    def __init__(self) -> None:
        self._asked: queue.Queue[int | None] = queue.Queue(_ASKED_LIMIT)
        self._read: queue.SimpleQueue[ProcessFact] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._work, name="proc", daemon=True)
        self._counts = dict.fromkeys(("asked", "answered", "unknown", "dropped"), 0)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    @property
    def counters(self) -> dict[str, int]:
        """How many were asked for, read, gone already, and not read because too many waited."""
        return dict(self._counts)

    def ask(self, pid: int) -> None:
        """Want a process read. Beyond some thousands that wait, it stays unnamed."""
        self._counts["asked"] += 1
        try:
            self._asked.put_nowait(pid)
        except queue.Full:
            self._counts["dropped"] += 1

    def take(self) -> list[ProcessFact]:
        """Return what has been read since the last call."""
        facts = []
        while not self._read.empty():
            facts.append(self._read.get())
        return facts

    def close(self) -> None:
        """Stop the thread after what it reads now."""
        try:
            self._asked.put_nowait(None)
        except queue.Full:  # a daemon thread: it ends with the process
            return
        if self._thread.is_alive():
            self._thread.join(timeout=1)

    def _work(self) -> None:
        while (pid := self._asked.get()) is not None:
            fact = read_process(pid)
            self._counts["unknown" if fact is None else "answered"] += 1
            if fact is not None:
                self._read.put(fact)
