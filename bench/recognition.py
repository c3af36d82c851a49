"""`recognition`: how often turns that are nobody's, or another protocol's, are recognised by mistake.

Ten million turns, made of golden captures by chance (`tests.support.noise`), through the registry as it is
used. A mistake is any recognition of noise, and one of changed real turns as what they were not. Mistakes
that decide the whole connection are told beside those that decide one turn.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import numpy as np

from bench.plan import QUICK
from bench.report import Goal, Outcome, Row
from masdeepflow.protocols import registry
from masdeepflow.protocols.registry import Registry
from tests.support.noise import KINDS, mistakes, real_turns

if TYPE_CHECKING:
    from bench.plan import Plan

__all__ = ["measure"]

_TURNS, _QUICK_TURNS = 10_000_000, 200_000
_CHUNK = 20_000
_SEED = 5
_MILLION = 1e6
_GOAL = Goal(10)  # 1 in 100,000


def measure(plan: Plan) -> Outcome:
    """Count over all kinds, the same number of each."""
    total = (_QUICK_TURNS if plan.rounds <= QUICK.rounds else _TURNS) // len(KINDS)
    real, random = real_turns(), np.random.default_rng(_SEED)
    known = Registry(registry.load())
    rows = []
    every, deciding, turns = 0, 0, 0
    for name, make in KINDS.items():
        counted: Counter[str] = Counter()
        decided = 0
        for _ in range(-(-total // _CHUNK)):
            some, more = mistakes(known, real, make(real, _CHUNK, random))
            counted += some
            decided += more
            turns += _CHUNK
        every, deciding = every + counted.total(), deciding + decided
        remark = ", ".join(f"{protocol} {count}" for protocol, count in counted.most_common())
        rows.append(_row(name, counted.total(), -(-total // _CHUNK) * _CHUNK, remark))
    rows.append(_row("all", every, turns, f"{every} of {turns:,}", _GOAL))
    rows.append(_row("all: that decide a connection", deciding, turns, f"{deciding} of {turns:,}", _GOAL))
    return Outcome(rows, [])


def _row(name: str, count: int, turns: int, remark: str, goal: Goal | None = None) -> Row:
    return Row("recognition", name, count / turns * _MILLION, "mistakes/million", goal, remark=remark)
