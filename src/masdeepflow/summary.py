"""What the whole run amounts to: printed at the end, on SIGUSR1, and as the JSON log's last line."""

from __future__ import annotations

from dataclasses import dataclass, field

from masdeepflow.escape import escape

__all__ = ["Coverage", "ServiceSummary", "Summary", "render"]

_NAME_LIMIT = 64
_HEADINGS = ("service", "protocol", "role", "requests", "errors", "p50", "p95", "p99")
_NAMES = 3  # columns of text, to the left; figures stand to the right
_MISSED = 5  # services named of which not all bytes were understood
_ENDS = 5  # services and reasons named whose connections failed
_SHORT_MS = 10  # shown with two decimals below


@dataclass(frozen=True, slots=True)
class ServiceSummary:
    """Golden signals of one service, protocol and role; lost turns are counted in `requests`.

    p50_ms, p95_ms, p99_ms: latency in milliseconds, None where no request was answered.
    """

    service: str
    protocol: str
    role: str
    requests: int
    errors: int
    p50_ms: float | None
    p95_ms: float | None
    p99_ms: float | None


@dataclass(frozen=True, slots=True)
class Coverage:
    """Bytes of turns that a protocol was recognised in, against all that a service's sockets moved."""

    service: str
    parsed_bytes: int
    moved_bytes: int

    @property
    def ratio(self) -> float:
        """From 0 to 1; 1 where nothing moved."""
        return min(self.parsed_bytes / self.moved_bytes, 1.0) if self.moved_bytes > 0 else 1.0


@dataclass(frozen=True, slots=True)
class Summary:
    """records: slots read. lost: reason -> count, also of what never happened. services: busiest first.

    coverage: one of each service that has moved bytes. failures: protocol -> how often its parser failed.
    forgotten: table or protocol -> how much had to go before its time, to stay within bounds.
    failed_connects, broken_connections: (service, errno's name) -> how many TCP connections.
    """

    records: int
    lost: dict[str, int] = field(default_factory=dict)
    services: list[ServiceSummary] = field(default_factory=list)
    coverage: list[Coverage] = field(default_factory=list)
    failures: dict[str, int] = field(default_factory=dict)
    forgotten: dict[str, int] = field(default_factory=dict)
    failed_connects: dict[tuple[str, str], int] = field(default_factory=dict)
    broken_connections: dict[tuple[str, str], int] = field(default_factory=dict)


def render(summary: Summary) -> str:
    """Return the summary for a terminal: what was seen, lost and why, understood, and a table of services."""
    lines = [f"seen  {summary.records} records", f"lost  {_counted(summary.lost)}"]
    if summary.coverage:
        lines.append(f"read  {_covered(summary.coverage)}")
    if summary.failed_connects:
        lines.append(f"failed  {_ended(summary.failed_connects, 'connect')}")
    if summary.broken_connections:
        lines.append(f"broken  {_ended(summary.broken_connections, 'connection')}")
    if summary.failures:
        named = ", ".join(f"{escape(name)} {count}" for name, count in summary.failures.items())
        count = sum(summary.failures.values())
        lines.append(f"parsers failed at {count} batch{'es' * (count > 1)} ({named})")
    if any(summary.forgotten.values()):
        lines.append(
            f"forgot {_counted(summary.forgotten)}: later records may lack a name, a statement or an end"
        )
    if summary.services:
        rows = [_HEADINGS, *map(_row, summary.services)]
        widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
        lines += ["", *(_aligned(row, widths) for row in rows)]
    return "\n".join(lines) + "\n"


def _counted(counts: dict[str, int]) -> str:
    named = [f"{escape(name)} {count}" for name, count in counts.items() if count]
    return f"{sum(counts.values())} ({', '.join(named)})" if named else "0"


def _ended(counts: dict[tuple[str, str], int], what: str) -> str:
    """Return how many connections ended badly, and whose and why, those with the most first."""
    total = sum(counts.values())
    most = sorted(counts.items(), key=lambda one: -one[1])
    named = [f"{escape(service, _NAME_LIMIT)} {why} {count}" for (service, why), count in most[:_ENDS]]
    if len(most) > _ENDS:
        named.append(f"{len(most) - _ENDS} more")
    return f"{total} {what}{'s' * (total != 1)} ({', '.join(named)})"


def _covered(coverage: list[Coverage]) -> str:
    """Return the whole host's coverage, and the services that most of the rest belongs to."""
    whole = Coverage("", sum(c.parsed_bytes for c in coverage), sum(c.moved_bytes for c in coverage))
    missed = [c for c in coverage if _percent(c) != _percent(Coverage("", 1, 1))]
    missed.sort(key=lambda c: c.parsed_bytes - c.moved_bytes)
    named = ", ".join(f"{escape(c.service, _NAME_LIMIT)} {_percent(c)}" for c in missed[:_MISSED])
    more = f", {len(missed) - _MISSED} more" if len(missed) > _MISSED else ""
    return f"{_percent(whole)} of the bytes moved" + (f" ({named}{more})" if missed else "")


def _percent(coverage: Coverage) -> str:
    # Cut, not rounded: 100 % means all.
    return f"{int(1000 * coverage.ratio) / 10}%".replace("100.0%", "100%")


def _row(service: ServiceSummary) -> tuple[str, ...]:
    return (
        escape(service.service, _NAME_LIMIT),
        escape(service.protocol),
        escape(service.role) or "-",
        str(service.requests),
        str(service.errors),
        *map(_latency, (service.p50_ms, service.p95_ms, service.p99_ms)),
    )


def _latency(milliseconds: float | None) -> str:
    if milliseconds is None:
        return "-"
    short = f"{milliseconds:.2f}ms"
    return short if float(short[:-2]) < _SHORT_MS else f"{milliseconds:.0f}ms"


def _aligned(row: tuple[str, ...], widths: list[int]) -> str:
    names = [text.ljust(width) for text, width in zip(row[:_NAMES], widths, strict=False)]
    figures = [text.rjust(width) for text, width in zip(row[_NAMES:], widths[_NAMES:], strict=True)]
    return "  ".join(names + figures)
