"""Runs benchmarks, prints their figures as a table, keeps them as JSON, and writes docs/benchmarks.md."""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from bench import bpf, kept, machine, stages
from bench.plan import FULL, QUICK
from bench.report import Outcome, markdown

if TYPE_CHECKING:
    from collections.abc import Callable

    from bench.plan import Plan

__all__ = ["main"]

_ROOT = Path(__file__).resolve().parent.parent
_OUT = _ROOT / "bench" / "out"


class _Benchmark(NamedTuple):
    measure: Callable[[Plan], Outcome]
    live: bool = True
    """Whether it starts the agent, which takes root."""


_BENCHMARKS = {
    "kept": _Benchmark(kept.measure),
    "bpf": _Benchmark(bpf.measure),
    "queue_time": _Benchmark(kept.measure_queue_time),
    "stages": _Benchmark(stages.measure, live=False),
}


def main() -> None:
    """Parse the command line and run what it asks for."""
    arguments = _parse()
    names = arguments.only or list(_BENCHMARKS)
    if os.geteuid() and any(_BENCHMARKS[name].live for name in names):
        raise SystemExit("the agent loads eBPF programs: run this as root, for example with sudo")
    plan, facts, total = QUICK if arguments.quick else FULL, machine.describe(), Outcome()
    _OUT.mkdir(exist_ok=True)
    for name in names:
        print(f"measuring {name} ...", file=sys.stderr, flush=True)
        outcome = _BENCHMARKS[name].measure(plan)
        _keep(name, facts, outcome)
        total.rows.extend(outcome.rows)
        total.details.extend(outcome.details)
    print(_report(facts, total))


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="bench/run.sh", description=__doc__)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter runs, to see that all works")
    only = f"one of {', '.join(_BENCHMARKS)}; repeatable"
    parser.add_argument("--only", action="append", choices=_BENCHMARKS, metavar="NAME", help=only)
    return parser.parse_args()


def _keep(name: str, facts: dict[str, str], outcome: Outcome) -> None:
    text = json.dumps({"machine": facts, **asdict(outcome)}, indent=1, ensure_ascii=False)
    (_OUT / f"{name}.json").write_text(text + "\n")


def _report(facts: dict[str, str], outcome: Outcome) -> str:
    described = "\n".join(f"- {name}: {text}" for name, text in facts.items())
    details = "\n\n".join(detail.markdown() for detail in outcome.details)
    return f"{described}\n\n{markdown(outcome.rows)}\n\n{details}"
