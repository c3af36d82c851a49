"""Runs benchmarks, prints their figures as a table, keeps them as JSON, and writes docs/benchmarks.md."""

from __future__ import annotations

import argparse
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path
from string import Template
from typing import TYPE_CHECKING, NamedTuple

from bench import (
    acceleration,
    agent_cpu,
    agreement,
    bpf,
    bypass,
    cluster,
    dns,
    footprint,
    full_speed,
    kept,
    key_value,
    loss,
    machine,
    mongodb,
    mysql,
    naming,
    postgresql,
    recognition,
    soak,
    stages,
)
from bench.plan import FULL, QUICK
from bench.report import Outcome, Run, joined

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.plan import Plan

__all__ = ["main"]

_ROOT = Path(__file__).resolve().parent.parent
_OUT = _ROOT / "bench" / "out"
_TEMPLATE = _ROOT / "bench" / "benchmarks.md.in"
_PAGE = _ROOT / "docs" / "benchmarks.md"


class _Benchmark(NamedTuple):
    measure: Callable[[Plan], Outcome]
    live: bool = True
    """Whether it starts the agent, which takes root."""
    when_asked: bool = False
    """Whether it runs with --only alone: it looks for faults, for long."""


_BENCHMARKS = {
    "kept": _Benchmark(kept.measure),
    "bpf": _Benchmark(bpf.measure),
    "queue_time": _Benchmark(kept.measure_queue_time),
    "agent_cpu": _Benchmark(agent_cpu.measure),
    "loss": _Benchmark(loss.measure),
    "memory": _Benchmark(footprint.measure_memory),
    "start": _Benchmark(footprint.measure_start),
    "idle": _Benchmark(footprint.measure_idle),
    "full_speed": _Benchmark(full_speed.measure),
    "agreement": _Benchmark(agreement.measure),
    "acceleration": _Benchmark(acceleration.measure),
    "awake": _Benchmark(acceleration.measure_awake, when_asked=True),
    "bypass": _Benchmark(bypass.measure, when_asked=True),
    "soak": _Benchmark(soak.measure, when_asked=True),
    "recognition": _Benchmark(recognition.measure, live=False, when_asked=True),
    "stages": _Benchmark(stages.measure, live=False),
    "naming": _Benchmark(naming.measure, live=False),
    "postgresql": _Benchmark(postgresql.measure, live=False),
    "mysql": _Benchmark(mysql.measure, live=False),
    "key_value": _Benchmark(key_value.measure, live=False),
    "dns": _Benchmark(dns.measure, live=False),
    "mongodb": _Benchmark(mongodb.measure, live=False),
    "cluster": _Benchmark(cluster.measure, live=False),
}


def main() -> None:
    """Parse the command line and run what it asks for."""
    arguments = _parse()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that what runs is ended
    partial = arguments.only or arguments.quick or arguments.workload
    if arguments.write_docs and partial:
        raise SystemExit(
            "docs/benchmarks.md is written from whole runs only: leave out --only, --quick and --workload"
        )
    run = (
        joined([Run.load(path) for path in arguments.load])
        if arguments.load
        else _measure(
            arguments.only or [name for name, each in _BENCHMARKS.items() if not each.when_asked],
            replace(QUICK if arguments.quick else FULL, workloads=tuple(arguments.workload)),
        )
    )
    if not (partial or arguments.load):
        run.save(_OUT / "run.json")
    print(f"{run.described()}\n\n{run.figures()}\n\n{run.details()}")
    if arguments.write_docs:
        _write_docs(run)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/run.sh", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs, to see that all works")
    only = f"one of {', '.join(_BENCHMARKS)}; repeatable"
    parser.add_argument("--only", action="append", choices=_BENCHMARKS, metavar="NAME", help=only)
    parser.add_argument("--write-docs", action="store_true", help="write docs/benchmarks.md from this run")
    part = (
        "of acceleration, awake, bypass, full_speed and soak: workloads whose name has this in it; repeatable"
    )
    parser.add_argument("--workload", action="append", default=[], metavar="TEXT", help=part)
    load = "measure nothing: show (or write the docs from) files such as bench/out/run.json, or its parts"
    parser.add_argument("--load", type=Path, nargs="+", metavar="FILE", help=load)
    return parser.parse_args()


def _measure(names: list[str], plan: Plan) -> Run:
    if os.geteuid() and any(_BENCHMARKS[name].live for name in names):
        raise SystemExit("the agent loads eBPF programs: run this as root, for example with sudo")
    _OUT.mkdir(exist_ok=True)
    quick = replace(plan, workloads=()) == QUICK
    total = Run(machine.describe(), quick, Outcome())
    for name in names:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        outcome = _BENCHMARKS[name].measure(plan)
        Run(total.machine, quick, outcome).save(_OUT / f"{name}.json")
        total.outcome.rows.extend(outcome.rows)
        total.outcome.details.extend(outcome.details)
    return total


def _write_docs(run: Run) -> None:
    if run.quick:
        raise SystemExit("docs/benchmarks.md is written from whole runs only, and this one was quick")
    measured = {row.benchmark for row in run.outcome.rows}
    missing = [name for name, each in _BENCHMARKS.items() if not each.when_asked and name not in measured]
    if missing:
        raise SystemExit(
            f"docs/benchmarks.md is written from whole runs only: {', '.join(missing)} is missing"
        )
    template = Template(_TEMPLATE.read_text())
    page = template.substitute(machine=run.described(), figures=run.figures(), details=run.details())
    _PAGE.write_text(page)
    print(f"wrote {_PAGE}", file=sys.stderr)
