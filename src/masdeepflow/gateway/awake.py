"""Keeps CPUs from halting while bytes are redirected: to wake one takes longer than a round trip past TCP.

By the kernel's own means where it has an idle driver; else, as in most virtual machines, by a process of idle
priority that spins. Both end with this process, however it ends.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import struct
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from masdeepflow.gateway import spin

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

    from masdeepflow.gateway.kernel import Gateway

__all__ = ["CannotError", "Keeper", "PowerQos", "Spinners", "Wakefulness", "find"]

QUIET_S = 0.05
"""CPUs may halt after so long without redirected bytes, at most twice that."""
_TELL_S = 0.5
_DEVICE = Path("/dev/cpu_dma_latency")
_CPUS = Path("/sys/devices/system/cpu")
_UNBOUNDED_US = 2_000_000_000
_PREFIX = "masdeepflow-awake-"
_CGROUP_MOUNTS = Path("/proc/self/mountinfo")


class CannotError(Exception):
    """CPUs can't be kept awake here in this way; the text says why."""


class Keeper(Protocol):
    """Keeps CPUs awake between `hold` and `let_go`. cpus: how many."""

    cpus: int

    def hold(self) -> None:
        """Keep them awake from now on."""

    def let_go(self) -> None:
        """Let them halt."""

    def spent_ns(self) -> int:
        """Return the CPU time that it has taken so far, of all CPUs together."""

    def close(self) -> None:
        """Let them halt for good."""


class PowerQos:
    """Asks the idle driver for a wake-up latency of 0, which is its polling state: cpuidle's power QoS.

    Of all CPUs of the host, as it knows no other. Source: Documentation/power/pm_qos_interface.rst. Raises
    CannotError.
    """

    def __init__(self) -> None:
        self._polls = [
            path.parent / "time" for path in _CPUS.glob("cpu[0-9]*/cpuidle/state*/name") if _polls(path)
        ]
        if not self._polls:
            raise CannotError("there is no idle driver with a polling state")
        self.cpus = len(self._polls)
        try:
            self._device = os.open(_DEVICE, os.O_WRONLY | os.O_CLOEXEC)
        except OSError as error:
            raise CannotError(f"{_DEVICE}: {error.strerror}") from error
        self._before: int | None = None
        self._spent = 0

    def _polled_ns(self) -> int:
        return sum(int(path.read_text()) for path in self._polls) * 1000

    def _ask(self, latency_us: int) -> None:
        os.write(self._device, struct.pack("i", latency_us))

    def hold(self) -> None:
        """Keep them awake from now on."""
        self._before = self._polled_ns()
        self._ask(0)

    def let_go(self) -> None:
        """Let them halt."""
        self._ask(_UNBOUNDED_US)
        self._spent, self._before = self.spent_ns(), None

    def spent_ns(self) -> int:
        """Return the CPU time in which they polled while they were kept awake."""
        return self._spent + (self._polled_ns() - self._before if self._before is not None else 0)

    def close(self) -> None:
        """Let them halt for good: the request ends with the descriptor."""
        os.close(self._device)


def _polls(name: Path) -> bool:
    try:
        return name.read_text().strip() == "POLL"
    except OSError:
        return False


class Spinners:
    """Runs `spin.py` on every CPU that this process may use. Raises CannotError.

    In a cgroup of idle weight: without one its weight would be that of our cgroup or session, not that of
    its threads. The thread that holds first has to live as long as this: the process dies with it.
    """

    def __init__(self) -> None:
        cpus = sorted(os.sched_getaffinity(0))
        self.cpus = len(cpus)
        self._command = [sys.executable, "-I", "-S", spin.__file__, str(os.getpid()), *map(str, cpus)]
        self._process: subprocess.Popen[bytes] | None = None
        self._cgroup = _idle_cgroup()

    def hold(self) -> None:
        """Keep them awake from now on."""
        if self._process is not None:
            self._process.send_signal(signal.SIGCONT)
            return
        self._process = subprocess.Popen(self._command)  # noqa: S603  # our own file
        (self._cgroup / "cgroup.procs").write_text(str(self._process.pid))

    def let_go(self) -> None:
        """Let them halt."""
        if self._process is not None:
            self._process.send_signal(signal.SIGSTOP)

    def spent_ns(self) -> int:
        """Return the CPU time of the process."""
        if self._process is None or self._process.returncode is not None:
            return 0
        # The clock of another process's CPU time. Source: clock_getcpuclockid(3).
        return time.clock_gettime_ns(~self._process.pid << 3 | 2)

    def close(self) -> None:
        """End it."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
        with contextlib.suppress(OSError):
            self._cgroup.rmdir()


def _cpu_cgroups() -> Path | None:
    """Return the top of the tree of cgroups that share out CPU time, of either version."""
    for line in _CGROUP_MOUNTS.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        mount, _, system = line.partition(" - ")
        kind, _, options = system.split()[:3]
        path = Path(mount.split()[4].encode().decode("unicode_escape"))
        if kind == "cgroup" and "cpu" in options.split(","):
            return path
        with contextlib.suppress(OSError):
            if kind == "cgroup2" and "cpu" in (path / "cgroup.subtree_control").read_text().split():
                return path
    return None


def _idle_cgroup() -> Path:
    """Make a cgroup that gets CPU time which nobody else wants. Raises CannotError."""
    top = _cpu_cgroups()
    if top is None:
        raise CannotError("no cgroup with the cpu controller is mounted")
    for left in top.glob(f"{_PREFIX}*"):  # by processes that were killed
        with contextlib.suppress(OSError):
            left.rmdir()
    made = top / f"{_PREFIX}{os.getpid()}"
    try:
        made.mkdir(exist_ok=True)
        (made / "cpu.idle").write_text("1")
    except OSError as error:
        with contextlib.suppress(OSError):
            made.rmdir()
        raise CannotError(f"no cgroup of idle weight at {made}: {error.strerror}") from error
    return made


def find(makers: Collection[Callable[[], Keeper]] = (PowerQos, Spinners)) -> Keeper:
    """Return the first that works here. Raises CannotError with the reasons of all."""
    reasons = []
    for make in makers:
        try:
            return make()
        except CannotError as error:
            reasons.append(str(error))
    raise CannotError("; ".join(reasons))


class Wakefulness:
    """Holds a keeper while bytes are redirected by this gateway, and lets it go `QUIET_S` after the last."""

    def __init__(self, gateway: Gateway, keeper: Keeper) -> None:
        self._gateway = gateway
        self._keeper = keeper
        self._since: float | None = None
        self._held_s = 0.0
        self._look, self._told = 0.0, -math.inf
        gateway.tell_of_flow()

    def tend(self) -> float:
        """Hold or let go; return the seconds until this is to be called again, unless bytes flow before."""
        now = time.monotonic()
        if now < self._look:
            return self._look - now
        if self._gateway.flowed():
            self._hold(now)
        elif self._since is not None:
            # In this order: bytes that come in between are either told of or found by the next look.
            self._gateway.tell_of_flow()
            self._let_go(now)
            return 0
        self._tell(now)
        return math.inf if self._since is None else QUIET_S

    def _hold(self, now: float) -> None:
        self._look = now + QUIET_S
        if self._since is None:
            self._keeper.hold()
            self._since, self._told = now, -math.inf

    def _let_go(self, now: float) -> None:
        if self._since is None:
            return
        self._keeper.let_go()
        self._held_s += now - self._since
        self._since, self._told = None, -math.inf

    def _tell(self, now: float) -> None:
        if now - self._told < _TELL_S:
            return
        self._told = now
        held = self._held_s + (now - self._since if self._since is not None else 0)
        cpus = self._keeper.cpus if self._since is not None else 0
        self._gateway.note_awake(cpus, int(held * 1e9), self._keeper.spent_ns())

    def close(self) -> None:
        """Let go for good."""
        now = time.monotonic()
        self._let_go(now)
        self._tell(now)
        self._keeper.close()
