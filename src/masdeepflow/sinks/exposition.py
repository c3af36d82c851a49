"""The metrics as Prometheus gets them; names and labels follow OpenTelemetry's, dots as underscores."""

from __future__ import annotations

import os
import platform
import time
from pathlib import Path
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from masdeepflow import __version__
from masdeepflow.sinks.latency import BOUNDS_S
from masdeepflow.sinks.metrics import FAMILIES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from prometheus_client.core import Metric

    from masdeepflow.sinks.metrics import Metrics, Resource, Series, Snapshot

__all__ = ["Exposition", "registry"]

_RESOURCE_LABELS = ("k8s_namespace_name", "k8s_pod_name", "container_name")
_REQUEST_LABELS = ("service_name", "network_protocol_name")
_PEER_LABELS = ("service_name", "role")
_BOUNDS = [*map(floatToGoString, BOUNDS_S), "+Inf"]
_STATM = Path("/proc/self/statm")

_NAMES = {
    ("http", "server"): ("http_server_request_duration_seconds", "Duration of HTTP requests answered here"),
    ("http", "client"): ("http_client_request_duration_seconds", "Duration of HTTP requests sent from here"),
    ("db", "server"): (
        "db_server_operation_duration_seconds",
        "Duration of database operations answered here",
    ),
    ("db", "client"): (
        "db_client_operation_duration_seconds",
        "Duration of database operations sent from here",
    ),
    ("messaging", "server"): (
        "messaging_server_operation_duration_seconds",
        "Duration of messaging operations answered here",
    ),
    ("messaging", "client"): (
        "messaging_client_operation_duration_seconds",
        "Duration of messaging operations sent from here",
    ),
    ("dns", "server"): ("dns_lookup_duration_seconds", "Duration of DNS lookups"),
    ("dns", "client"): ("dns_lookup_duration_seconds", "Duration of DNS lookups"),
}
_OTHER_NAME = ("network_request_duration_seconds", "Duration of requests of all other protocols")
_LOOKUP_COUNTERS = {
    "asked": "Names that were asked for",
    "answered": "Names that were found",
    "unknown": "Names that nobody there knew",
    "failed": "Names that could not be asked for, or were not told",
    "events": "Objects received",
    "reconnects": "Connections made again because the one before failed",
    "relists": "Lists read again because what was known was too old",
    "dropped": "What could not be read, or had no room",
    "cut": "Names and lists that were cut because they were too long",
}
_SPLIT_BY_ROLE = {"dns_lookup_duration_seconds", "network_request_duration_seconds"}
"""Metrics whose name does not tell the role: they carry it as a label."""


class _Places:
    """The labels that tell where services run, as far as any has them: for Prometheus, empty is absent."""

    def __init__(self, snapshot: Snapshot) -> None:
        resources = {service.resource for service in snapshot.services}
        resources |= {peer.resource for peer in snapshot.peers}
        resources |= {failure.resource for failure in snapshot.failures_by}
        resources |= {broken.resource for broken in snapshot.broken_by}
        fields = range(len(_RESOURCE_LABELS))
        self._used = [field for field in fields if any(resource[field] for resource in resources)]
        self.labels = tuple(_RESOURCE_LABELS[field] for field in self._used)

    def of(self, resource: Resource) -> tuple[str, ...]:
        """Return the values of `labels`."""
        return tuple(resource[field] for field in self._used)


def _no_counts() -> dict[str, int]:
    return {}


def _no_lookups() -> dict[str, Mapping[str, int]]:
    return {}


class Exposition(Collector):
    """Renders a snapshot of `metrics` for each scrape, on the scraping thread.

    lost: reason -> count; failures: protocol -> batches that its parser failed at; evictions: protocol -> how
    much it had to forget before its time; forgotten: table -> the same of all else. They never decrease.
    lookups: who is asked for names -> why that is in vain, empty where it is not. lookup_counts: source ->
    counter -> count, those of `_LOOKUP_COUNTERS` are shown.
    """

    def __init__(  # noqa: PLR0913, PLR0917  # what the agent tells of itself, a source each
        self,
        metrics: Metrics,
        lost: Callable[[], Mapping[str, int]] = _no_counts,
        failures: Callable[[], Mapping[str, int]] = _no_counts,
        evictions: Callable[[], Mapping[str, int]] = _no_counts,
        forgotten: Callable[[], Mapping[str, int]] = _no_counts,
        lookups: Callable[[], Mapping[str, str]] = dict,
        lookup_counts: Callable[[], Mapping[str, Mapping[str, int]]] = _no_lookups,
    ) -> None:
        self._metrics = metrics
        self._lost = lost
        self._failures = failures
        self._evictions = evictions
        self._forgotten = forgotten
        self._lookups = lookups
        self._lookup_counts = lookup_counts

    def collect(self) -> Iterator[Metric]:
        """Yield every metric."""
        snapshot = self._metrics.snapshot()
        places = _Places(snapshot)
        yield from _durations(snapshot, places)
        yield from _requests(snapshot, places)
        yield from _connections(snapshot, places)
        yield _by_label(
            CounterMetricFamily(
                "masdeepflow_events", "Transactions and connection events reported", labels=["type"]
            ),
            snapshot.events,
        )
        yield _by_label(
            CounterMetricFamily(
                "masdeepflow_lost_events", "What was not reported, by reason", labels=["reason"]
            ),
            self._lost(),
        )
        yield _by_label(
            CounterMetricFamily(
                "masdeepflow_parser_errors", "Batches that a parser failed at: a defect", labels=["protocol"]
            ),
            self._failures(),
        )
        yield _by_label(
            CounterMetricFamily(
                "masdeepflow_parser_evictions",
                "Connections, statements and what waited for an answer, forgotten to stay within bounds",
                labels=["protocol"],
            ),
            self._evictions(),
        )
        yield _by_label(
            CounterMetricFamily(
                "masdeepflow_evictions",
                "Connections, names and what was shown, forgotten to stay within bounds",
                labels=["table"],
            ),
            self._forgotten(),
        )
        yield _by_label(
            GaugeMetricFamily(
                "masdeepflow_lookup_up", "Whether who is asked for names answers", labels=["source"]
            ),
            {source: not problem for source, problem in self._lookups().items()},
        )
        yield from _lookup_counters(self._lookup_counts())
        yield from _coverage(snapshot)
        yield from _agent()


def registry(exposition: Exposition) -> CollectorRegistry:
    """Return a registry of its own that holds nothing but the exposition."""
    own = CollectorRegistry()
    own.register(exposition)
    return own


def _name(series: Series) -> tuple[str, str]:
    return _NAMES.get((series.family, series.service.role), _OTHER_NAME)


def _durations(snapshot: Snapshot, places: _Places) -> Iterator[Metric]:
    families: dict[str, HistogramMetricFamily] = {}
    for series, (total_ns, *counts) in zip(snapshot.series, snapshot.durations.tolist(), strict=True):
        name, documentation = _name(series)
        role = ("role",) if name in _SPLIT_BY_ROLE else ()
        if name not in families:
            attributes = [label.replace(".", "_") for label in FAMILIES[series.family]]
            labels = (*_REQUEST_LABELS, *places.labels, *role, *attributes)
            families[name] = HistogramMetricFamily(name, documentation, labels=labels)
        service = series.service
        own = (service.name, service.protocol, *places.of(service.resource))
        values = (*own, *((service.role,) if role else ()), *series.labels)
        families[name].add_metric(values, _cumulative(counts), total_ns / 1e9)
    yield from families.values()


def _requests(snapshot: Snapshot, places: _Places) -> Iterator[Metric]:
    labels = (*_REQUEST_LABELS, *places.labels, "role")
    requests = CounterMetricFamily(
        "masdeepflow_requests", "Requests, answered or not, lost ones included", labels=labels
    )
    errors = CounterMetricFamily(
        "masdeepflow_request_errors", "Requests that were answered with an error, or never", labels=labels
    )
    for service, (total, failed) in zip(snapshot.services, snapshot.signals.tolist(), strict=True):
        values = (service.name, service.protocol, *places.of(service.resource), service.role)
        requests.add_metric(values, total)
        errors.add_metric(values, failed)
    yield from (requests, errors)


def _connections(snapshot: Snapshot, places: _Places) -> Iterator[Metric]:
    peers = (*_PEER_LABELS, *places.labels)
    opened = CounterMetricFamily("tcp_connections_opened", "Connections made or accepted", labels=peers)
    closed = CounterMetricFamily("tcp_connections_closed", "Connections closed", labels=peers)
    retransmits = CounterMetricFamily(
        "tcp_retransmits", "Segments sent again on closed connections", labels=peers
    )
    moved = CounterMetricFamily(
        "tcp_bytes", "Bytes moved by closed connections", labels=(*peers, "direction")
    )
    rtt = HistogramMetricFamily(
        "tcp_rtt_seconds", "Smoothed round-trip time of closed connections", labels=peers
    )
    failures = CounterMetricFamily(
        "tcp_connect_failures", "Failed connects", labels=("service_name", "error_type", *places.labels)
    )
    broken = CounterMetricFamily(
        "tcp_connections_broken",
        "Connections that were reset by the other end, or given up by the kernel",
        labels=(*peers, "error_type"),
    )
    for peer, row in zip(snapshot.peers, snapshot.connections.tolist(), strict=True):
        opens, closes, again, sent, received, rtt_ns, *counts = row
        labels = (peer.service, peer.role, *places.of(peer.resource))
        opened.add_metric(labels, opens)
        closed.add_metric(labels, closes)
        retransmits.add_metric(labels, again)
        moved.add_metric((*labels, "sent"), sent)
        moved.add_metric((*labels, "received"), received)
        rtt.add_metric(labels, _cumulative(counts), rtt_ns / 1e9)
    for failure, (count,) in zip(snapshot.failures_by, snapshot.failures.tolist(), strict=True):
        failures.add_metric((failure.service, failure.error, *places.of(failure.resource)), count)
    for why, (count,) in zip(snapshot.broken_by, snapshot.broken.tolist(), strict=True):
        broken.add_metric((why.service, why.role, *places.of(why.resource), why.error), count)
    yield from (opened, closed, retransmits, moved, rtt, failures, broken)


def _lookup_counters(counts: Mapping[str, Mapping[str, int]]) -> Iterator[Metric]:
    for name, documentation in _LOOKUP_COUNTERS.items():
        values = {source: own[name] for source, own in counts.items() if name in own}
        family = CounterMetricFamily(f"masdeepflow_lookup_{name}", documentation, labels=["source"])
        yield _by_label(family, values)


def _coverage(snapshot: Snapshot) -> Iterator[Metric]:
    labels = ("service_name",)
    parsed = CounterMetricFamily(
        "masdeepflow_parsed_bytes", "Bytes of turns that a protocol was recognised in", labels=labels
    )
    moved = CounterMetricFamily(
        "masdeepflow_moved_bytes", "Bytes that the service's sockets moved in finished turns", labels=labels
    )
    ratio = GaugeMetricFamily(
        "masdeepflow_coverage_ratio", "Bytes parsed over bytes moved since the start", labels=labels
    )
    for covered in snapshot.coverage:
        parsed.add_metric([covered.service], covered.parsed_bytes)
        moved.add_metric([covered.service], covered.moved_bytes)
        ratio.add_metric([covered.service], covered.ratio)
    yield from (parsed, moved, ratio)


def _cumulative(counts: list[int]) -> list[tuple[str, float]]:
    total = 0
    return [(bound, total := total + count) for bound, count in zip(_BOUNDS, counts, strict=True)]


def _by_label(family: CounterMetricFamily | GaugeMetricFamily, values: Mapping[str, float]) -> Metric:
    for label, value in values.items():
        family.add_metric([label], value)
    return family


def _agent() -> Iterator[Metric]:
    pages = int(_STATM.read_text().split()[1])
    yield CounterMetricFamily(
        "masdeepflow_cpu_seconds", "Processor time of the agent", value=time.process_time()
    )
    yield GaugeMetricFamily(
        "masdeepflow_resident_bytes", "Resident memory of the agent", value=pages * os.sysconf("SC_PAGE_SIZE")
    )
    build = {"version": __version__, "python": platform.python_version()}
    yield InfoMetricFamily("masdeepflow_build", "What the agent is built from", value=build)
