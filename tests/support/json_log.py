"""What lines of the JSON log may hold, and how they are ordered."""

from __future__ import annotations

import datetime as dt
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["EVENT_KEYS", "TRANSACTION_KEYS", "check_line", "check_order", "nanoseconds", "summary"]

_WORKLOADS = ("deployment", "replicaset", "statefulset", "daemonset", "job", "cronjob")
_ENDPOINT_KEYS = {
    "network.transport",
    "client.address",
    "client.port",
    "server.address",
    "server.port",
    "process.pid",
    "process.executable.name",
    "process.command",
    "process.command_line",
    "process.owner",
    "service.name",
    "container.id",
    "container.name",
    "container.runtime",
    "container.image.name",
    "k8s.pod.name",
    "k8s.pod.uid",
    "k8s.namespace.name",
    "k8s.node.name",
    "k8s.container.name",
    *(f"k8s.{kind}.name" for kind in _WORKLOADS),
    *(
        f"peer.{name}"
        for name in (
            "service.name",
            "process.pid",
            "process.executable.name",
            "container.id",
            "container.name",
            "container.runtime",
            "k8s.pod.name",
            "k8s.pod.uid",
            "k8s.namespace.name",
            "k8s.node.name",
            "k8s.container.name",
            "k8s.service.name",
            "dns.name",
            *(f"k8s.{kind}.name" for kind in _WORKLOADS),
        )
    ),
}
_ALWAYS = {
    "timestamp",
    "protocol",
    "role",
    "request_bytes",
    "response_bytes",
    "error",
    "truncated",
    "network.transport",
    "process.pid",
    "process.executable.name",
}
TRANSACTION_KEYS = (
    _ENDPOINT_KEYS
    | _ALWAYS
    | {
        "duration_ns",
        "ttfb_ns",
        "queue_ns",
        "http.request.method",
        "url.path",
        "url.query",
        "http.route",
        "http.response.status_code",
        "network.protocol.version",
        "server.name",
        "user_agent.original",
        "db.system.name",
        "db.query.text",
        "db.query.summary",
        "db.operation.name",
        "db.collection.name",
        "db.namespace",
        "db.response.status_code",
        "db.response.message",
        "masdeepflow.db.blocking",
        "dns.question.name",
        "dns.question.type",
        "dns.response_code",
        "dns.answer_count",
        "dns.extended_error",
        "messaging.system",
        "messaging.operation.name",
        "messaging.destination.template",
        "error.type",
        "masdeepflow.waited_ns",
        "masdeepflow.closed_by",
        "trace_id",
        "span_id",
        "parent_span_id",
    }
)
"""Every key that a transaction may have."""
EVENT_KEYS = _ENDPOINT_KEYS | {
    "timestamp",
    "event",
    "role",
    "duration_ns",
    "request_bytes",
    "response_bytes",
    "error.type",
    "tcp.srtt_us",
    "tcp.retransmits",
}
"""Every key that a connection event may have."""

_EVENTS = {"connect", "accept", "close", "connect_failed"}
_LATE_NS = 100_000_000
"""How long after its end a transaction may be given out."""


def check_line(found: dict[str, Any]) -> None:
    """Hold that a line, no summary, has documented keys only and those that are always there."""
    if "event" in found:
        assert found["event"] in _EVENTS, found
        assert found.keys() <= EVENT_KEYS, found.keys() - EVENT_KEYS
        return
    assert found.keys() <= TRANSACTION_KEYS, found.keys() - TRANSACTION_KEYS
    assert found.keys() >= _ALWAYS, _ALWAYS - found.keys()


def nanoseconds(found: dict[str, Any]) -> int:
    """Return the timestamp of a line as Unix time."""
    seconds, fraction = found["timestamp"].removesuffix("Z").split(".")
    assert len(fraction) == 9, found["timestamp"]
    whole = dt.datetime.fromisoformat(seconds).replace(tzinfo=dt.UTC)
    return int(whole.timestamp()) * 1_000_000_000 + int(fraction)


def check_order(objects: Iterable[dict[str, Any]]) -> None:
    """Hold that no line comes later than lines that began well after its end."""
    latest = 0
    for found in objects:
        start = nanoseconds(found)
        # A connection event is stamped at its end already.
        duration = 0 if "event" in found else found.get("duration_ns", 0)
        assert latest <= start + duration + _LATE_NS, found
        latest = max(latest, start)


def summary(lines: list[str]) -> dict[str, Any]:
    """Return the summary of a finished JSON log: its last line, and only that."""
    *others, last = lines
    assert not any(line.startswith('{"event": "summary"') for line in others)
    found: dict[str, Any] = json.loads(last)
    assert found["event"] == "summary"
    return found
