"""A gateway from the self-test to the last connection: what `accelerate run` and `run --accelerate` share."""

from __future__ import annotations

import contextlib
import os
import threading
import time
from typing import TYPE_CHECKING, Self

from masdeepflow.gateway import awake, kept, pins, selftest
from masdeepflow.gateway.kernel import Gateway, object_path
from masdeepflow.gateway.pairs import layout_of
from masdeepflow.gateway.watchdog import Watchdog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path
    from types import TracebackType

    from masdeepflow.gateway.pairs import Totals

__all__ = ["RefusedError", "Service"]

_WAIT_S = 0.5
_BUSY_S = 0.001
_IDLE_S = 0.02
_QUICK_ROUNDS = 100
_LOOK_S = 1.0
_NICE = -10


class RefusedError(Exception):
    """Nothing is accelerated; the text says why, and what to do."""


class Service:
    """Accelerates new connections to ports of this host, in a thread of its own, until it is closed.

    tell: is called with what the user has to know. prove: run the self-test first, unless it has just passed.
    keep_awake: while bytes are redirected no CPU halts; where that can't be had, it is told and done without.
    Raises RefusedError, libbpf.BpfError or OSError.
    """

    def __init__(
        self,
        ports: Iterable[int],
        tell: Callable[[str], None],
        cgroup: Path | None = None,
        *,
        prove: bool = True,
        keep_awake: bool = False,
    ) -> None:
        self._tell = tell
        where = cgroup or pins.cgroup_root()
        if where is None:
            raise RefusedError("no cgroup v2 hierarchy is mounted: mount -t cgroup2 none /sys/fs/cgroup")
        if not pins.writable():
            raise RefusedError(f"no BPF file system at {pins.ROOT}: mount -t bpf bpf {pins.ROOT}")
        self._clear()
        why_not = selftest.refusal(selftest.run()) if prove else None
        if why_not:
            raise RefusedError(f"{why_not}; connections stay plain TCP")
        self.gateway = Gateway(ports, where)
        self._watchdog = Watchdog(self.gateway.pairs)
        self._wakefulness = self._keep_awake() if keep_awake else None
        self._told: set[int] = set()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="gateway", daemon=True)
        self._thread.start()

    def _clear(self) -> None:
        alive, remaining = kept.clear(layout_of(object_path()))
        if alive:
            raise RefusedError(
                "another gateway runs on this host, see `masdeepflow accelerate status`: stop it first"
            )
        if remaining:
            self._tell(
                f"{remaining} sockets of a gateway that was killed stay redirected: they have unread bytes"
            )

    def _keep_awake(self) -> awake.Wakefulness | None:
        try:
            return awake.Wakefulness(self.gateway, awake.find())
        except awake.CannotError as error:
            self._tell(f"CPUs are not kept awake: {error}")
            return None

    def _tend(self) -> float:
        """Keep CPUs awake, or let them sleep; return how long nothing else has to be done."""
        if self._wakefulness is None:
            return _WAIT_S
        try:
            return min(self._wakefulness.tend(), _WAIT_S)
        except OSError as error:
            self._wakefulness.close()
            self._wakefulness = None
            self._tell(f"CPUs are kept awake no more: {error.strerror or error}")
            return _WAIT_S

    def _run(self) -> None:
        # Of this thread only, on Linux: a writer whose bytes are held back waits for it.
        with contextlib.suppress(OSError):
            os.setpriority(os.PRIO_PROCESS, 0, _NICE)
        looked = time.monotonic()
        rounds = 0
        while not self._stop.is_set():
            self.gateway.beat()
            next_s = self._tend()
            if self.gateway.wait(0 if rounds else next_s):
                rounds = _QUICK_ROUNDS
            if rounds or time.monotonic() - looked > _LOOK_S:
                unfinished = self.gateway.evict()
                rounds = max(rounds - 1, 1) if unfinished else 0
                # What has not left by now has a reader that does not read: no hurry.
                time.sleep(_BUSY_S if rounds > 1 else _IDLE_S if rounds else 0)
            if time.monotonic() - looked > _LOOK_S:
                looked = time.monotonic()
                self._look()

    def _look(self) -> None:
        for port, reason in self.gateway.distrusted().items():
            if port not in self._told:
                self._told.add(port)
                self._tell(
                    f"port {port} is accelerated no more: its server uses {reason}, which only TCP serves"
                )
        if self.gateway.accepting and (stalls := self._watchdog.look()):
            self.gateway.refuse_new()
            self._tell(f"no new connections are accelerated: {stalls[0]}")

    def totals(self) -> Totals:
        """Return what it has done so far."""
        return self.gateway.totals()

    def close(self) -> Totals:
        """Bring all connections back to TCP, which cuts none off; return what was done."""
        self._stop.set()
        self._thread.join()
        if self._wakefulness is not None:
            self._wakefulness.close()
        remaining = self.gateway.stop()
        if remaining:
            self._tell(
                f"{remaining} sockets stay redirected until they close: "
                "their applications have not read all that was sent to them"
            )
        totals = self.totals()
        self.gateway.close()
        return totals

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
