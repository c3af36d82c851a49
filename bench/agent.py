"""The agent as a user starts it: `masdeepflow run`, and what can be read of it from outside."""

from __future__ import annotations

import re
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from bench.process import cpu_ns, stop

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import IO

__all__ = ["QUIET", "Agent", "Summary", "agent"]

QUIET = ("--store", "off", "--listen", "off")
"""Options that leave the ring, the pipeline, the metrics and the log."""
_COLUMNS = re.compile(r" {2,}")
_REQUESTS, _ERRORS = 3, 4


@dataclass(frozen=True, slots=True)
class Summary:
    """The summary that the agent printed at its end.

    seen: records read. lost: reason -> count. requests, errors: (service, role) -> count, lost ones included.
    """

    seen: int
    lost: dict[str, int]
    requests: dict[tuple[str, str], int] = field(default_factory=dict)
    errors: dict[tuple[str, str], int] = field(default_factory=dict)

    @property
    def turns(self) -> int:
        """Records seen, and those that the ring had no room for."""
        return self.seen + self.lost.get("ring_full", 0)


class Agent:
    """A running agent. start_s: from exec to `ready`. log: where its lines go, else nowhere."""

    def __init__(self, options: tuple[str, ...], log: IO[bytes] | None = None) -> None:
        program = Path(sys.executable).with_name("masdeepflow")
        command = [str(program), "run", *options, *QUIET]
        started = time.monotonic()
        self._process = subprocess.Popen(
            command,
            text=True,
            stdout=log or subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
        )
        assert self._process.stderr is not None
        self._errors = self._process.stderr
        first = self._errors.readline()
        self.start_s = time.monotonic() - started
        if not first.startswith("ready"):
            stop(self._process)
            raise SystemExit(f"the agent did not start: {first}{self._errors.read()}")

    @property
    def proc(self) -> Path:
        """Its directory in /proc."""
        return Path("/proc") / str(self._process.pid)

    def cpu_ns(self) -> int:
        """Return the CPU time of all its threads so far."""
        return cpu_ns(self._process.pid)

    def stop(self) -> Summary:
        """End it; return its summary."""
        if self._process.poll() is None:
            stop(self._process)
        return _summary(self._errors.read())

    def end(self) -> None:
        """End it if it still runs."""
        if self._process.poll() is None:
            stop(self._process)
        self._errors.close()


@contextmanager
def agent(*options: str, log: IO[bytes] | None = None) -> Iterator[Agent]:
    """Run the agent, ready when the block starts, ended behind it. log: where its lines go, else nowhere."""
    running = Agent(options, log)
    try:
        yield running
    finally:
        running.end()


def _summary(text: str) -> Summary:
    """Read what `masdeepflow.summary.render` printed."""
    seen = re.search(r"^seen +(\d+) records", text, re.MULTILINE)
    lost = re.search(r"^lost +(\d+)(?: \((.*)\))?$", text, re.MULTILINE)
    if seen is None or lost is None:
        raise SystemExit(f"the agent gave no summary:\n{text}")
    reasons = dict(reason.rsplit(" ", 1) for reason in (lost[2] or "").split(", ") if reason)
    summary = Summary(int(seen[1]), {reason: int(count) for reason, count in reasons.items()})
    for line in text.partition("\nservice ")[2].strip().splitlines()[1:]:
        cells = _COLUMNS.split(line.strip())
        key = (cells[0], cells[2])
        summary.requests[key] = summary.requests.get(key, 0) + int(cells[_REQUESTS])
        summary.errors[key] = summary.errors.get(key, 0) + int(cells[_ERRORS])
    return summary
