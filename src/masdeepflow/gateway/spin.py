"""A program that keeps CPUs from halting: a thread for each, of idle priority, that does nothing.

    python -I -S spin.py PARENT CPU...

It dies with its parent. SIGSTOP lets the CPUs sleep, SIGCONT goes on.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading

__all__ = ["main"]

_PR_SET_PDEATHSIG = 1


def _spin(cpu: int, libc: ctypes.CDLL) -> None:
    """Wait for a lock that nobody gives back: without the interpreter, and with the CPU's own pause."""
    os.sched_setaffinity(0, {cpu})
    lock = ctypes.c_int()
    libc.pthread_spin_init(ctypes.byref(lock), 0)
    while True:
        libc.pthread_spin_lock(ctypes.byref(lock))


def main(parent: int, cpus: list[int]) -> None:
    """Spin on these CPUs for as long as the parent lives."""
    libc = ctypes.CDLL(None)
    libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        return
    os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))
    threads = [threading.Thread(target=_spin, args=(cpu, libc)) for cpu in cpus]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()


if __name__ == "__main__":
    main(int(sys.argv[1]), [int(cpu) for cpu in sys.argv[2:]])
