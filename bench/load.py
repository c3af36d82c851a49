"""The load: wrk, at full speed or with a think time."""

from __future__ import annotations

import re
import resource
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bench.servers import renamed

if TYPE_CHECKING:
    from bench.servers import Nginx

__all__ = ["Load", "thinking_wrk", "wrk"]

_THINK = Path(__file__).with_name("think.lua")
_GRACE_S = 20


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk says: requests answered, and how many a second. cpu_ns: its own CPU time."""

    requests: int
    rate: float
    cpu_ns: int


def wrk(server: Nginx, directory: Path, seconds: int, path: str = "/") -> Load:
    """Run wrk at full speed: one thread, 16 connections."""
    return _run(server, directory, seconds, ["-c16", server.url(path)])


def thinking_wrk(server: Nginx, directory: Path, seconds: int, connections: int, think_ms: int) -> Load:
    """Run wrk with one thread over connections that wait for `think_ms` between two requests."""
    arguments = [f"-c{connections}", "-s", str(_THINK), server.url(), "--", str(think_ms)]
    return _run(server, directory, seconds, arguments)


def _run(server: Nginx, directory: Path, seconds: int, arguments: list[str]) -> Load:
    command = [str(renamed("wrk", directory, server.port)), "-t1", f"-d{seconds}", *arguments]
    before = _children_ns()
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds + _GRACE_S)
    spent, text = _children_ns() - before, done.stdout
    assert "Socket errors" not in text, text
    assert "Non-2xx" not in text, text
    requests, rate = _figure(r"(\d+) requests in", text), _figure(r"Requests/sec: +([\d.]+)", text)
    return Load(int(requests), rate, spent)


def _children_ns() -> int:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return round((usage.ru_utime + usage.ru_stime) * 1e9)


def _figure(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    if found is None:
        raise SystemExit(f"wrk's answer is not understood:\n{text}")
    return float(found[1])
