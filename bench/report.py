"""What benchmarks give, and how it is printed: figures against goals, and tables of detail."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, replace
from itertools import starmap
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

__all__ = ["Detail", "Goal", "Outcome", "Row", "Run", "joined", "row_of"]

_MANY = 5
_HEADINGS = ("benchmark", "what", "measured", "range", "goal", "verdict", "remark")


@dataclass(frozen=True, slots=True)
class Goal:
    """limit: what must be reached. aim: what should be. least: whether more is better."""

    limit: float
    aim: float | None = None
    least: bool = False

    def met(self, value: float) -> bool:
        """Return whether `value` reaches the limit."""
        return value >= self.limit if self.least else value <= self.limit

    def text(self) -> str:
        """Return the goal for a table."""
        sign = "≥" if self.least else "≤"
        return f"{sign} {number(self.limit)}" + ("" if self.aim is None else f", aim {number(self.aim)}")


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. spread: of the samples that it is the median of, if there are several (see `row_of`)."""

    benchmark: str
    name: str
    value: float
    unit: str = ""
    goal: Goal | None = None
    spread: tuple[float, float] | None = None
    remark: str = ""

    def with_remark(self, remark: str) -> Row:
        """Return the row with another remark."""
        return replace(self, remark=remark)

    def verdict(self) -> str:
        """Return whether the goal, if any, is met; `unclear` where the samples contradict each other."""
        if self.goal is None:
            return ""
        answers = {self.goal.met(value) for value in (self.spread or (self.value,))}
        if len(answers) > 1:
            return "unclear"
        return "met" if answers == {True} else "**short**"

    def cells(self) -> tuple[str, ...]:
        """Return the row's cells under `_HEADINGS`."""
        spread = "" if self.spread is None else f"{number(self.spread[0])} to {number(self.spread[1])}"
        goal = "" if self.goal is None else self.goal.text()
        measured = f"{number(self.value)} {self.unit}".rstrip()
        return (self.benchmark, self.name, measured, spread, goal, self.verdict(), self.remark)


@dataclass(frozen=True, slots=True)
class Detail:
    """A table of figures behind a row. rows: a name and a value for each column."""

    title: str
    columns: list[str]
    rows: list[tuple[str, list[float]]]

    def markdown(self) -> str:
        """Return title and table."""
        body = [(name, *map(number, values)) for name, values in self.rows]
        return f"{self.title}\n\n{_table(('', *self.columns), body)}"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What one benchmark gives."""

    rows: list[Row] = field(default_factory=list)
    details: list[Detail] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Run:
    """A run of some benchmarks. machine: what it ran on, name -> text. quick: whether it was only a trial."""

    machine: dict[str, str]
    quick: bool
    outcome: Outcome

    def save(self, path: Path) -> None:
        """Write the run as JSON."""
        path.write_text(json.dumps(asdict(self), indent=1, ensure_ascii=False) + "\n")

    @classmethod
    def load(cls, path: Path) -> Run:
        """Read what `save` wrote."""
        read = json.loads(path.read_text())
        rows, details = read["outcome"]["rows"], read["outcome"]["details"]
        for row in rows:
            row["goal"] = row["goal"] and Goal(**row["goal"])
        return cls(
            read["machine"],
            read["quick"],
            Outcome([Row(**row) for row in rows], [Detail(**each) for each in details]),
        )

    def described(self) -> str:
        """Return the machine as a list."""
        return "\n".join(f"- {name}: {text}" for name, text in self.machine.items())

    def figures(self) -> str:
        """Return the table of all rows."""
        return _table(_HEADINGS, [row.cells() for row in self.outcome.rows])

    def details(self) -> str:
        """Return all tables of detail."""
        return "\n\n".join(detail.markdown() for detail in self.outcome.details)


def joined(runs: Sequence[Run]) -> Run:
    """Return runs as one: what differs of the machine, such as the time, is told of each, in order."""
    names = dict.fromkeys(name for run in runs for name in run.machine)
    machine = {
        name: "; ".join(dict.fromkeys(run.machine[name] for run in runs if name in run.machine))
        for name in names
    }
    rows = [row for run in runs for row in run.outcome.rows]
    details = [detail for run in runs for detail in run.outcome.details]
    return Run(machine, any(run.quick for run in runs), Outcome(rows, details))


def row_of(
    benchmark: str, name: str, samples: Sequence[float], unit: str = "", goal: Goal | None = None
) -> Row:
    """Return the row of the samples' median.

    The spread is from the lowest to the highest, of many samples without the most extreme at either end.
    """
    ordered = sorted(samples)
    inner = ordered[1:-1] if len(ordered) >= _MANY else ordered
    return Row(benchmark, name, median(ordered), unit, goal, (inner[0], inner[-1]))


def number(value: float) -> str:
    """Return a figure with three significant digits, thousands apart; whole above 1,000."""
    if abs(value) >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return f"{float(f'{value:.3g}'):g}"


def _table(headings: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *body]
    return "\n".join(starmap("| {} |".format, [(" | ".join(line),) for line in lines]))
