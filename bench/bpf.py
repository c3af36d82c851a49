"""`bpf`: time in the BPF programs for each request, as the kernel counts it (kernel.bpf_stats_enabled).

The counting itself costs up to 70 ns a run, which the figures include. It is switched on by
bpf(BPF_ENABLE_STATS), which ends with its descriptor: nothing has to be restored, however this ends.

A request is two records, one of each end, counted by the agent: what others send meanwhile is in both.
"""

from __future__ import annotations

import ctypes
import json
import os
import re
import subprocess
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from bench.agent import agent
from bench.load import wrk
from bench.report import Detail, Goal, Outcome, Row
from bench.servers import nginx

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.agent import Agent
    from bench.plan import Plan

__all__ = ["measure"]

_RUN_TIME = 0  # BPF_STATS_RUN_TIME
_GOAL = Goal(2.0, 1.2)
_CASES = {"both ends": (), "both ends, `--no-queue-time`": ("--no-queue-time",)}


class _Cost(NamedTuple):
    """Of one program since it was loaded."""

    ns: int
    runs: int


@contextmanager
def _counting() -> Iterator[None]:
    """Have the kernel count the time in BPF programs."""
    descriptor = ctypes.CDLL("libbpf.so.1").bpf_enable_stats(_RUN_TIME)
    if descriptor < 0:
        raise SystemExit(f"bpf(BPF_ENABLE_STATS) is refused: {os.strerror(-descriptor)}")
    try:
        yield
    finally:
        os.close(descriptor)


def _costs(running: Agent) -> dict[int, _Cost]:
    """Return program id -> cost, of the programs that the agent holds descriptors of."""
    costs = {}
    for entry in (running.proc / "fdinfo").iterdir():
        facts = dict(re.findall(r"^(prog_id|run_time_ns|run_cnt):\s*(\d+)$", entry.read_text(), re.MULTILINE))
        if "run_cnt" in facts:
            costs[int(facts["prog_id"])] = _Cost(int(facts["run_time_ns"]), int(facts["run_cnt"]))
    return costs


def _names() -> dict[int, str]:
    command = ["bpftool", "--json", "prog", "show"]
    listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return {program["id"]: program.get("name", str(program["id"])) for program in json.loads(listing)}


def measure(plan: Plan) -> Outcome:
    """Measure one run, with the queue-time hook and without."""
    outcome = Outcome()
    with nginx() as (server, directory), _counting():
        wrk(server, directory, 1)
        for name, options in _CASES.items():
            with agent("--log", "off", *options) as running:
                names, before = _names(), _costs(running)
                wrk(server, directory, plan.seconds)
                after = _costs(running)
                requests = running.stop().turns / 2
            spent = {
                names[number]: _Cost(cost.ns - before[number].ns, cost.runs - before[number].runs)
                for number, cost in after.items()
            }
            total = sum(cost.ns for cost in spent.values()) / requests / 1e3
            outcome.rows.append(Row("bpf", name, total, "µs/request", None if options else _GOAL))
            outcome.details.append(_detail(f"bpf: {name}", spent, requests))
    return outcome


def _detail(title: str, spent: dict[str, _Cost], requests: float) -> Detail:
    rows = [
        (name, [cost.ns / cost.runs, cost.runs / requests, cost.ns / requests])
        for name, cost in sorted(spent.items(), key=lambda item: -item[1].ns)
        if cost.runs
    ]
    return Detail(title, ["ns a run", "runs a request", "ns a request"], rows)
