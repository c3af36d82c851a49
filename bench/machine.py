"""The machine and the versions that figures belong to."""

from __future__ import annotations

import os
import platform
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

from masdeepflow import __version__

__all__ = ["describe"]


def describe() -> dict[str, str]:
    """Return what there is to know, as name -> text."""
    return {
        "measured": datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC"),
        "masdeepflow": f"{__version__}, commit {_output('git', 'describe', '--always', '--dirty')}",
        "system": f"{_system()}, kernel {platform.release()} {platform.machine()}",
        "CPU": f"{_processor()}, {os.cpu_count()} cores{', a virtual machine' if _is_virtual() else ''}",
        "memory": f"{os.sysconf('SC_PHYS_PAGES') * os.sysconf('SC_PAGE_SIZE') >> 20} MiB",
        "load before": ", ".join(f"{load:.2f}" for load in os.getloadavg()),
        "Python": f"{platform.python_version()}, NumPy {_numpy()}",
        "nginx": _version("nginx", "-v"),
        "wrk": _version("wrk", "-v"),
    }


def _output(*command: str) -> str:
    try:
        done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=10)
    except FileNotFoundError:
        return "not there"
    return (done.stdout + done.stderr).strip()


def _version(*command: str) -> str:
    found = re.search(r"\d+\.\d+(\.\d+)?", _output(*command))
    return found[0] if found else "unknown"


def _numpy() -> str:
    return sys.modules["numpy"].__version__ if "numpy" in sys.modules else "not loaded"


def _system() -> str:
    return platform.freedesktop_os_release().get("PRETTY_NAME", "Linux")


def _cpu_facts() -> dict[str, str]:
    lines = Path("/proc/cpuinfo").read_text().partition("\n\n")[0].splitlines()
    return {name.strip(): value.strip() for name, _, value in (line.partition(":") for line in lines)}


def _processor() -> str:
    return _cpu_facts().get("model name", platform.machine())


def _is_virtual() -> bool:
    return "hypervisor" in _cpu_facts().get("flags", "").split()
