"""`loss`: what the ring had no room for, and whether every request is counted whatever was lost.

At a pace: wrk has no rate limit, so many connections each think for 2 ms between two requests. That makes
about 50,000 requests a second, and each is four I/O events: send and receive at both ends. Then at full
speed, and again with a ring too small for that, to see that the counts hold when records are lost.

The agent's count of a service includes what the ring lost. The server's must equal nginx's own count, the
client's that of wrk, which leaves before its last responses come: the agent shows those requests as errors.
"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, NamedTuple

from bench.agent import agent
from bench.load import thinking_wrk, wrk
from bench.report import Goal, Outcome, Row
from bench.servers import nginx

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from bench.agent import Summary
    from bench.load import Load
    from bench.plan import Plan
    from bench.servers import Nginx

__all__ = ["measure"]

_NONE, _PACE = Goal(0), Goal(200_000, least=True)
_DRAIN_S = 0.3
_EVENTS = 4
_CONNECTIONS, _THINK_MS = 190, 2  # a cycle takes about 3 ms: wrk's timers tick in milliseconds


_Goals = tuple[Goal | None, Goal | None]


class _Counts(NamedTuple):
    """Of one run. served: nginx's own count."""

    load: Load
    served: int
    summary: Summary


def _paced(server: Nginx, directory: Path, seconds: int) -> Load:
    return thinking_wrk(server, directory, seconds, _CONNECTIONS, _THINK_MS)


def measure(plan: Plan) -> Outcome:
    """Measure at a pace and at full speed."""
    with nginx() as (server, directory):
        paced = _run(server, lambda: _paced(server, directory, plan.seconds))
        full = _run(server, lambda: wrk(server, directory, plan.seconds))
        small = _run(server, lambda: wrk(server, directory, plan.seconds), "--ring-mib", "1")
        return Outcome(
            [
                *_rows("paced", server, paced, (_PACE, _NONE)),
                *_rows("full speed", server, full, (None, None)),
                *_rows("full speed, ring of 1 MiB", server, small, (None, None)),
            ]
        )


def _run(server: Nginx, work: Callable[[], Load], *options: str) -> _Counts:
    before = server.requests()
    with agent("--log", "off", *options) as running:
        load = work()
        time.sleep(_DRAIN_S)
        summary = running.stop()
    return _Counts(load, server.requests() - before - 1, summary)


def _rows(name: str, server: Nginx, counts: _Counts, goals: _Goals) -> list[Row]:
    """Return the figures of one run. goals: of I/O events a second, and of records lost."""
    load, served, summary = counts
    lost = summary.lost.get("ring_full", 0)
    # Older than the agent, and with a title of its own, it goes by its executable.
    names = ((server.comm, "server"), ("nginx", "server"))
    at_server = sum(summary.requests.get(name, 0) for name in names)
    client = (f"wrk-{server.port}", "client")
    at_client = summary.requests.get(client, 0) - summary.errors.get(client, 0)
    return [
        Row("loss", f"{name}: I/O events", _EVENTS * load.rate, "/s", goals[0]),
        Row("loss", f"{name}: records lost", lost, goal=goals[1], remark=f"of {summary.turns:,}"),
        _difference(f"{name}: agent's count less nginx's", at_server, served),
        _difference(f"{name}: agent's count less wrk's", at_client, load.requests),
    ]


def _difference(name: str, counted: int, truth: int) -> Row:
    return Row("loss", name, abs(counted - truth), goal=_NONE, remark=f"{counted:,} against {truth:,}")
