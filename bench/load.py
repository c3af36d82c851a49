"""The load: wrk, at full speed or with a think time."""

from __future__ import annotations

import re
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
    """What wrk says: requests answered, and how many a second."""

    requests: int
    rate: float


def wrk(server: Nginx, directory: Path, seconds: int, path: str = "/") -> Load:
    """Run wrk at full speed: one thread, 16 connections."""
    return _run(server, directory, seconds, ["-c16", server.url(path)])


def thinking_wrk(server: Nginx, directory: Path, seconds: int, connections: int, think_ms: int) -> Load:
    """Run wrk with one thread over connections that wait for `think_ms` between two requests."""
    arguments = [f"-c{connections}", "-s", str(_THINK), server.url(), "--", str(think_ms)]
    return _run(server, directory, seconds, arguments)


def _run(server: Nginx, directory: Path, seconds: int, arguments: list[str]) -> Load:
    command = [str(renamed("wrk", directory, server.port)), "-t1", f"-d{seconds}", *arguments]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=seconds + _GRACE_S)
    text = done.stdout
    assert "Socket errors" not in text, text
    assert "Non-2xx" not in text, text
    return Load(int(_figure(r"(\d+) requests in", text)), _figure(r"Requests/sec: +([\d.]+)", text))


def _figure(pattern: str, text: str) -> float:
    found = re.search(pattern, text)
    if found is None:
        raise SystemExit(f"wrk's answer is not understood:\n{text}")
    return float(found[1])
