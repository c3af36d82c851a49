"""How much is measured: the whole, or `--quick` to see that all works."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["FULL", "QUICK", "Plan"]


@dataclass(frozen=True, slots=True)
class Plan:
    """How often and how long.

    pairs: runs with and without the agent. seconds: of load in each. rounds: passes over made records.
    starts: of the agent. steady_seconds: for figures that need the agent to settle. workloads: parts of the
    names of those that are measured, where there are several; none stands for all.
    """

    pairs: int
    seconds: int
    rounds: int
    starts: int
    steady_seconds: int
    workloads: tuple[str, ...] = ()

    def wants(self, *names: str) -> bool:
        """Return whether a workload of any of these names is to be measured."""
        return not self.workloads or any(part in name for part in self.workloads for name in names)


FULL = Plan(pairs=7, seconds=4, rounds=7, starts=5, steady_seconds=10)
QUICK = Plan(pairs=3, seconds=2, rounds=3, starts=3, steady_seconds=3)
