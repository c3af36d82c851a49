"""What benchmarks give, and how it is printed: figures against goals, and tables of detail."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import starmap
from statistics import median
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["Detail", "Goal", "Outcome", "Row", "markdown", "row_of"]

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
        return f"{sign} {self.limit:g}" + ("" if self.aim is None else f", aim {self.aim:g}")


@dataclass(frozen=True, slots=True)
class Row:
    """One figure. spread: lowest and highest of the samples it is the median of, if there are several."""

    benchmark: str
    name: str
    value: float
    unit: str = ""
    goal: Goal | None = None
    spread: tuple[float, float] | None = None
    remark: str = ""

    def cells(self) -> tuple[str, ...]:
        """Return the row's cells under `_HEADINGS`."""
        spread = "" if self.spread is None else f"{number(self.spread[0])} to {number(self.spread[1])}"
        goal = "" if self.goal is None else self.goal.text()
        verdict = "" if self.goal is None else ("met" if self.goal.met(self.value) else "**short**")
        measured = f"{number(self.value)} {self.unit}".rstrip()
        return (self.benchmark, self.name, measured, spread, goal, verdict, self.remark)


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


def row_of(
    benchmark: str, name: str, samples: Sequence[float], unit: str = "", goal: Goal | None = None
) -> Row:
    """Return the row of the samples' median, with their range."""
    return Row(benchmark, name, median(samples), unit, goal, (min(samples), max(samples)))


def number(value: float) -> str:
    """Return a figure with three significant digits, thousands apart; whole above 1,000."""
    if abs(value) >= 1000 or value == int(value):
        return f"{value:,.0f}"
    return f"{float(f'{value:.3g}'):g}"


def markdown(rows: Sequence[Row]) -> str:
    """Return the table of all figures."""
    return _table(_HEADINGS, [row.cells() for row in rows])


def _table(headings: Sequence[str], body: Sequence[Sequence[str]]) -> str:
    lines = [headings, ["---"] * len(headings), *body]
    return "\n".join(starmap("| {} |".format, [(" | ".join(line),) for line in lines]))
