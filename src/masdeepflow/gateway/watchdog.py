"""Sees redirected sockets that have stalled: bytes are queued, their reader waits, and nothing moves.

That cannot happen on a kernel that passed the self-test; if it does, the gateway makes no new pairs.
"""

from __future__ import annotations

import contextlib
import os
import platform
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from masdeepflow.gateway.pairs import SIDES, STATES, address_text

if TYPE_CHECKING:
    from collections.abc import Iterator

    from masdeepflow.gateway.pairs import Pairs

__all__ = ["Stall", "Watchdog", "waits_for"]

PATIENCE_NS = 2 * 10**9
_MEMBERS = [STATES.index("redirected"), STATES.index("leaving")]
_PROC = Path("/proc")
_EPOLLIN = 1
_POLLFD = struct.Struct("ihh")
_MOST_POLLFDS = 4096
# System calls that wait for a socket: read, readv, recvfrom, recvmsg, recvmmsg; poll, ppoll; epoll.
_CALLS = {
    "x86_64": ({0, 19, 45, 47, 299}, {7, 271}, {232, 281, 441}),
    "aarch64": ({63, 65, 207, 212, 243}, {73}, {22, 441}),
}
_READS, _POLLS, _EPOLLS = _CALLS.get(platform.machine(), (set(), set(), set()))


class Stall(NamedTuple):
    """A socket that does not wake its reader."""

    side: str
    client: str
    server: str
    queued: int
    pid: int

    def __str__(self) -> str:
        """Tell it in one line."""
        return (
            f"{self.client} -> {self.server} stalls: {self.queued} bytes are queued for the {self.side}, "
            f"PID {self.pid}, which waits for them"
        )


class Watchdog:
    """Looks at a gateway's pairs: who makes no progress is suspected, and then looked at closely.

    patience_ns: how long bytes have to be queued, with none of them read, for that.
    """

    def __init__(self, pairs: Pairs, patience_ns: int = PATIENCE_NS) -> None:
        self._pairs = pairs
        self._patience_ns = patience_ns
        self._suspects: dict[tuple[int, int], tuple[int, int]] = {}

    def look(self) -> list[Stall]:
        """Return the sockets that have stalled."""
        now = time.monotonic_ns()
        used = self._pairs.used()
        rows = self._pairs.rows[used]
        queued = self._pairs.queued(rows)
        members = np.isin(rows["state"], _MEMBERS)[:, None] & (rows["ends"]["closed"] == 0)
        before, self._suspects = self._suspects, {}
        stalls = []
        for row, side in np.argwhere(members & (queued > 0)):
            end = rows[row]["ends"][side]
            key, state = (int(end["cookie"]), int(side)), int(end["received"])
            known = before.get(key)
            since = known[1] if known is not None and known[0] == state else now
            self._suspects[key] = (state, since)
            if now - since >= self._patience_ns and (
                stall := _examine(rows[row], int(side), int(queued[row, side]))
            ):
                stalls.append(stall)
        return stalls


def _examine(row: np.void, side: int, queued: int) -> Stall | None:
    client, server = (
        (address_text(bytes(row[f"{name}_address"])), int(row[f"{name}_port"])) for name in SIDES
    )
    local, remote = (client, server) if side == 0 else (server, client)
    read_by = int(row["ends"][side]["tgid"])
    inode = _socket_inode(read_by or os.getpid(), local[1], remote[1])
    if inode is None:
        return None
    # Nobody has read from it yet: whoever holds it may be the one that waits.
    for pid in [read_by] if read_by else _processes():
        if waits_for(pid, inode):
            return Stall(SIDES[side], _text(client), _text(server), queued, pid)
    return None


def _text(endpoint: tuple[str, int]) -> str:
    address, port = endpoint
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _processes() -> list[int]:
    return [int(entry.name) for entry in _PROC.iterdir() if entry.name.isdigit()]


def _socket_inode(pid: int, local_port: int, remote_port: int) -> int | None:
    """Return the inode of a connected socket in the process's network namespace. Source: proc_pid_net(5)."""
    for table in ("tcp", "tcp6"):
        with contextlib.suppress(OSError):
            for line in (_PROC / str(pid) / "net" / table).read_text().splitlines()[1:]:
                columns = line.split()
                ports = tuple(int(address.rsplit(":", 1)[1], 16) for address in columns[1:3])
                if ports == (local_port, remote_port):
                    return int(columns[9])
    return None


def waits_for(pid: int, inode: int) -> bool:
    """Return whether a thread of the process is in a system call that bytes of this socket have to end."""
    descriptors = _descriptors_of(pid, inode)
    if not descriptors:
        return False
    return any(_thread_waits(pid, number, arguments, descriptors) for number, arguments in _system_calls(pid))


def _descriptors_of(pid: int, inode: int) -> set[int]:
    found = set()
    with contextlib.suppress(OSError):
        for entry in (_PROC / str(pid) / "fd").iterdir():
            with contextlib.suppress(OSError):
                if str(entry.readlink()) == f"socket:[{inode}]":
                    found.add(int(entry.name))
    return found


def _system_calls(pid: int) -> Iterator[tuple[int, list[int]]]:
    """Give the number and arguments of the call that each thread sleeps in. Source: proc_pid_syscall(5)."""
    with contextlib.suppress(OSError):
        for task in (_PROC / str(pid) / "task").iterdir():
            with contextlib.suppress(OSError, ValueError):
                number, *arguments = (task / "syscall").read_text().split()
                yield int(number), [int(argument, 16) for argument in arguments]


def _thread_waits(pid: int, number: int, arguments: list[int], descriptors: set[int]) -> bool:
    if number in _READS:
        return arguments[0] in descriptors
    if number in _POLLS:
        return _polls(pid, arguments[0], arguments[1], descriptors)
    return number in _EPOLLS and _epolls(pid, arguments[0], descriptors)


def _polls(pid: int, address: int, count: int, descriptors: set[int]) -> bool:
    try:
        with (_PROC / str(pid) / "mem").open("rb", buffering=0) as memory:
            memory.seek(address)
            data = memory.read(min(count, _MOST_POLLFDS) * _POLLFD.size)
    except (OSError, ValueError, OverflowError):
        return False
    whole = data[: len(data) // _POLLFD.size * _POLLFD.size]
    return any(fd in descriptors and events & _EPOLLIN for fd, events, _ in _POLLFD.iter_unpack(whole))


def _epolls(pid: int, epoll: int, descriptors: set[int]) -> bool:
    """Whether this epoll instance watches one of them for input. Source: proc_pid_fdinfo(5)."""
    try:
        lines = (_PROC / str(pid) / "fdinfo" / str(epoll)).read_text().splitlines()
    except OSError:
        return False
    for line in lines:
        match line.split():
            case ["tfd:", fd, "events:", events, *_] if int(fd) in descriptors and int(events, 16) & _EPOLLIN:
                return True
    return False
