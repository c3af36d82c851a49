"""What the whole run amounts to: printed at the end, on SIGUSR1, and as the JSON log's last line."""

from __future__ import annotations

from dataclasses import dataclass, field

__all__ = ["ServiceSummary", "Summary"]


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
class Summary:
    """records: slots read. lost: reason -> count, reasons that never happened included. services: busiest first."""

    records: int
    lost: dict[str, int] = field(default_factory=dict)
    services: list[ServiceSummary] = field(default_factory=list)
