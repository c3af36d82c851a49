"""What every started process needs: an end, and a clock."""

from __future__ import annotations

import subprocess
import time

__all__ = ["cpu_ns", "stop"]

_PATIENCE_S = 10
_PROCESS_CLOCK = 2  # CPUCLOCK_SCHED: see clock_getcpuclockid(3)


def cpu_ns(pid: int) -> int:
    """Return the CPU time of all threads of a process so far, by its CPU clock."""
    return time.clock_gettime_ns(~pid << 3 | _PROCESS_CLOCK)


def stop(process: subprocess.Popen[str]) -> None:
    """End a process and wait for it."""
    process.terminate()
    try:
        process.wait(_PATIENCE_S)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
