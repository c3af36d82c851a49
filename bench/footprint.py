"""What the agent costs by being there: `memory`, `start` and `idle`, which has modest loads too.

The ring counts as resident, although its pages belong to the kernel: they are mapped into the agent.
"""

from __future__ import annotations

import re
import time
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

from bench.agent import agent
from bench.load import wrk
from bench.report import Goal, Outcome, Row, row_of
from bench.servers import nginx
from bench.tools import fill, pgbench
from tests.support import servers

if TYPE_CHECKING:
    from bench.agent import Agent
    from bench.plan import Plan
    from tests.support.servers import PostgreSql

__all__ = ["measure_idle", "measure_memory", "measure_start"]

_RESIDENT = Goal(64)
_START = Goal(1.5)
_KIB_A_MIB = 1024
_RATES, _CLIENTS = (100, 1000, 10_000), 8


def measure_memory(plan: Plan) -> Outcome:
    """Measure resident memory idle and under load."""
    seconds = plan.steady_seconds
    with nginx() as (server, directory), agent("--log", "off") as running, ThreadPoolExecutor() as pool:
        time.sleep(1)
        rows = [_resident("idle", running)]
        load = pool.submit(wrk, server, directory, seconds)
        time.sleep(seconds - 0.5)
        rows.append(_resident(f"after {seconds} s under wrk", running))
        load.result()
        rows.append(Row("memory", "most at any time", _status(running, "VmHWM"), "MiB", _RESIDENT))
    return Outcome(rows)


def _resident(name: str, running: Agent) -> Row:
    parts = ", ".join(f"{what} {_status(running, field):.1f}" for what, field in _PARTS.items())
    remark = f"of it the ring {_ring_mib(running):.1f}; {parts}"
    return Row("memory", name, _status(running, "VmRSS"), "MiB", _RESIDENT, remark=remark)


_PARTS = {"anonymous": "RssAnon", "files and the ring": "RssFile", "shared": "RssShmem"}


def _status(running: Agent, field: str) -> float:
    """Return a figure of /proc/PID/status, in MiB."""
    found = re.search(rf"^{field}:\s+(\d+) kB$", (running.proc / "status").read_text(), re.MULTILINE)
    return int(found[1]) / _KIB_A_MIB if found else 0.0


def _ring_mib(running: Agent) -> float:
    """Return what of the BPF maps that are mapped is resident."""
    areas = re.split(r"^(?=[0-9a-f]+-[0-9a-f]+ )", (running.proc / "smaps").read_text(), flags=re.MULTILINE)
    maps = [re.search(r"^Rss: +(\d+) kB", area, re.MULTILINE) for area in areas if "bpf-map" in area]
    return sum(int(found[1]) for found in maps if found) / _KIB_A_MIB


def measure_start(plan: Plan) -> Outcome:
    """Measure from exec to `ready`, with everything in the page cache."""
    seconds = []
    for _ in range(plan.starts + 1):
        with agent("--log", "off") as running:
            seconds.append(running.start_s)
    return Outcome([row_of("start", "exec to `ready`, warm", seconds[1:], "s", _START)])


def measure_idle(plan: Plan) -> Outcome:
    """Measure the CPU time of an agent with nothing to do."""
    with agent("--log", "off") as running:
        time.sleep(1)
        before, start = running.cpu_ns(), time.monotonic_ns()
        time.sleep(plan.steady_seconds)
        share = (running.cpu_ns() - before) / (time.monotonic_ns() - start)
        seen = running.stop().seen
    remark = f"{seen:,} records came meanwhile"
    rows = [Row("idle", "CPU of the idle agent", 100 * share, "% of a core", remark=remark)]
    with servers.postgresql() as server:
        fill(server)
        rows += [
            _modest(server, rate, log, plan.seconds) for log in ("off", "text", "json") for rate in _RATES
        ]
    return Outcome(rows)


def _modest(server: PostgreSql, rate: int, log: str, seconds: int) -> Row:
    """Measure the agent's CPU time under a load that keeps a pace, as most services do all day."""
    with agent("--log", log) as running:
        time.sleep(1)
        before, start = running.cpu_ns(), time.monotonic_ns()
        pgbench(server, None, _CLIENTS, ["--select-only", f"--rate={rate}", f"--time={seconds}"])
        share = (running.cpu_ns() - before) / (time.monotonic_ns() - start)
        found = running.stop()
    what = f"CPU at {rate:,} requests/s, both ends, `--log {log}`"
    remark = f"{found.seen:,} records, {sum(found.lost.values()):,} lost"
    return Row("idle", what, 100 * share, "% of a core", remark=remark)
