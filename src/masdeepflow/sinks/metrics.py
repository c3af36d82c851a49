"""Golden signals of every service: requests, errors, latency; and what connections tell."""

from __future__ import annotations

import errno
import threading
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from masdeepflow.endpoint import owners_of
from masdeepflow.schema import ATTRIBUTES, WAITS, Kind
from masdeepflow.sinks.counters import Counters
from masdeepflow.sinks.grouping import codes_of, distinct, used
from masdeepflow.sinks.latency import (
    BOUNDS_NS,
    FINE_SIZE,
    bucket_of,
    fine_of,
    kernel_sum_ns,
    kernel_to_buckets,
    kernel_to_fine,
    percentiles_ms,
)
from masdeepflow.summary import Coverage, ServiceSummary
from masdeepflow.table import Encoded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from masdeepflow.endpoint import Endpoint, Owner
    from masdeepflow.summary import Summary
    from masdeepflow.table import Attribute, Events, Output, Table

__all__ = [
    "FAMILIES",
    "OTHER",
    "Broken",
    "Failure",
    "Metrics",
    "Peer",
    "Resource",
    "Series",
    "Service",
    "Snapshot",
]

OTHER = "(other)"
"""The service under which everything beyond the limits is counted."""
SERIES_LIMIT = 2000
OTHER_VALUE = "_OTHER"
"""Label of values that are not among a column's `label_values`; OpenTelemetry's word."""
SERVICE_LIMIT = 500
_PERCENTILES = (50, 95, 99)
_UNKNOWN = -1
_NO_ROWS = np.zeros(0, np.intp)
_EVENTS = (Kind.CONNECT, Kind.CONNECT_FAILED, Kind.ACCEPT, Kind.CLOSE)


def _labels(prefix: str) -> tuple[str, ...]:
    return tuple(
        name for name, column in ATTRIBUTES.items() if column.metric_label and name.startswith(prefix)
    )


FAMILIES: dict[str, tuple[str, ...]] = {
    "": (),
    **{kind: _labels(f"{kind}.") for kind in ("http", "db", "dns", "messaging")},
}
"""Kind of request -> the attributes that its duration is split by. A table is of the kind that its attributes
start with, of the empty one otherwise."""


class Resource(NamedTuple):
    """Where a service runs: names, empty where unknown."""

    namespace: str = ""
    pod: str = ""
    container: str = ""


class Service(NamedTuple):
    """Whose requests are counted; role is empty where unknown."""

    name: str
    protocol: str
    role: str
    resource: Resource = Resource()


class Series(NamedTuple):
    """One duration histogram. labels: values of `FAMILIES[family]`, empty where absent."""

    family: str
    service: Service
    labels: tuple[str, ...]


class Peer(NamedTuple):
    """One end of connections."""

    service: str
    role: str
    resource: Resource = Resource()


class Failure(NamedTuple):
    """A kind of failed connect. error: the errno's name, or `closed`."""

    service: str
    error: str
    resource: Resource = Resource()


class Broken(NamedTuple):
    """Why connections ended otherwise than by a close, at one end of them. error: the errno's name."""

    service: str
    role: str
    error: str
    resource: Resource = Resource()


class _Signals:
    """Columns of a service's counters; the fine histogram follows."""

    REQUESTS, ERRORS, FINE = range(3)


class _Durations:
    """Columns of a series' counters; the buckets follow."""

    SUM_NS, BUCKETS = range(2)


class _Connections:
    """Columns of a peer's counters; the buckets of round-trip times follow."""

    OPENED, CLOSED, RETRANSMITS, SENT, RECEIVED, RTT_NS, RTT_BUCKETS = range(7)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All counters at one moment, int64; each array has a row for each key.

    signals: (n, 2), requests and errors. durations: (n, 1 + buckets), sum in ns and counts by bucket.
    connections: (n, 6 + buckets), opened, closed, retransmits, bytes sent, bytes received,
    sum of round-trip times in ns and their counts by bucket. failures: (n, 1), failed connects.
    broken: (n, 1), connections that were reset or that the kernel gave up on.
    events: connection events and transactions by type. coverage: bytes parsed and moved, by service.
    """

    services: list[Service]
    signals: NDArray[np.int64]
    series: list[Series]
    durations: NDArray[np.int64]
    peers: list[Peer]
    connections: NDArray[np.int64]
    failures_by: list[Failure]
    failures: NDArray[np.int64]
    broken_by: list[Broken]
    broken: NDArray[np.int64]
    events: dict[str, int]
    coverage: list[Coverage]


class _Bytes:
    """Columns of what a service moved."""

    PARSED, MOVED = range(2)


class Metrics:
    """Counts everything, whatever the logs show. Written by one thread, read by any.

    series_limit, service_limit: distinct series and services; the rest is counted under `OTHER`.
    """

    left_out = 0
    patience_s = 0.1  # nobody sees it; what is looked up in /proc and at container runtimes may be gone later

    def __init__(self, series_limit: int = SERIES_LIMIT, service_limit: int = SERVICE_LIMIT) -> None:
        buckets = len(BOUNDS_NS) + 1
        self._lock = threading.Lock()
        self._services: Counters[Service] = Counters(_Signals.FINE + FINE_SIZE, service_limit)
        self._series: Counters[Series] = Counters(_Durations.BUCKETS + buckets, series_limit)
        self._peers: Counters[Peer] = Counters(_Connections.RTT_BUCKETS + buckets, service_limit)
        self._failures: Counters[Failure] = Counters(1, service_limit)
        self._broken: Counters[Broken] = Counters(1, service_limit)
        self._bytes: Counters[str] = Counters(2, service_limit)
        self._family_of: dict[str, str] = {}
        # Protocol -> its endpoints seen last, which this keeps alive, and the row in `_services` of each.
        self._known: dict[str, tuple[Sequence[Endpoint], NDArray[np.intp]]] = {}
        self._transactions = 0
        self._events = np.zeros(max(_EVENTS) + 1, np.int64)

    def write(self, output: Output) -> None:
        """Count a batch."""
        for table in output.tables:
            rows = np.flatnonzero(~table.still_open) if table.still_open.any() else slice(None)
            with self._lock:
                self._add_table(table, rows)
        if len(output.events):
            with self._lock:
                self._add_events(output.events)

    def close(self, summary: Summary) -> None:
        """Nothing to write; the counters stay readable."""

    def add_lost(self, service: Service, turns: int, histogram: NDArray[np.integer]) -> None:
        """Count turns that only the kernel saw.

        histogram: (KERNEL_BUCKETS,), the durations of those that were answered, in the kernel's buckets.
        """
        with self._lock:
            number = self._service(service)
            signals = self._services.row(number)
            signals[_Signals.REQUESTS] += turns
            signals[_Signals.FINE :] += kernel_to_fine(histogram)
            family = self._family_of.get(service.protocol, "") if service.role else ""
            absent = ("",) * len(FAMILIES[family])
            durations = self._series.row(
                self._duration(Series(family, self._services.keys()[number], absent))
            )
            durations[_Durations.SUM_NS] += kernel_sum_ns(histogram)
            durations[_Durations.BUCKETS :] += kernel_to_buckets(histogram)

    def add_bytes(self, service: str, parsed: int, moved: int) -> None:
        """Count bytes of turns that a protocol was recognised in, and all that a service's sockets moved."""
        with self._lock:
            counts = self._bytes.row(self._bytes.number(service, OTHER))
            counts[_Bytes.PARSED] += parsed
            counts[_Bytes.MOVED] += moved

    def coverage(self) -> list[Coverage]:
        """Return the coverage of each service."""
        with self._lock:
            return self._coverage()

    def _coverage(self) -> list[Coverage]:
        counts = self._bytes.copy().tolist()
        return [Coverage(key, *row) for key, row in zip(self._bytes.keys(), counts, strict=True)]

    def services(self) -> list[ServiceSummary]:
        """Return the golden signals of each service wherever it runs, busiest first."""
        with self._lock:
            everywhere, each = self._services.keys(), self._services.copy()
        keys, counts = _summed([key[:3] for key in everywhere], each)
        percentiles = percentiles_ms(counts[:, _Signals.FINE :], _PERCENTILES)
        totals = counts[:, : _Signals.FINE].tolist()
        summaries = [
            ServiceSummary(*key, requests, errors, *row)
            for key, (requests, errors), row in zip(keys, totals, percentiles, strict=True)
        ]
        return sorted(summaries, key=lambda summary: -summary.requests)

    def failed_connects(self) -> dict[tuple[str, str], int]:
        """Return how many connects of each service failed, by service and errno's name."""
        with self._lock:
            keys, counts = self._failures.keys(), self._failures.copy()[:, 0].tolist()
        return _by_service([(key.service, key.error) for key in keys], counts)

    def broken_connections(self) -> dict[tuple[str, str], int]:
        """Return how many connections of each service were broken, by service and errno's name."""
        with self._lock:
            keys, counts = self._broken.keys(), self._broken.copy()[:, 0].tolist()
        return _by_service([(key.service, key.error) for key in keys], counts)

    def snapshot(self) -> Snapshot:
        """Return all counters as they are between two batches."""
        with self._lock:
            return Snapshot(
                services=self._services.keys(),
                signals=self._services.copy(slice(_Signals.FINE)),
                series=self._series.keys(),
                durations=self._series.copy(),
                peers=self._peers.keys(),
                connections=self._peers.copy(),
                failures_by=self._failures.keys(),
                failures=self._failures.copy(),
                broken_by=self._broken.keys(),
                broken=self._broken.copy(),
                events={
                    "transaction": self._transactions,
                    **{kind.name.lower(): int(self._events[kind]) for kind in _EVENTS},
                },
                coverage=self._coverage(),
            )

    def _service(self, key: Service) -> int:
        return self._services.number(key, key._replace(name=OTHER, resource=Resource()))

    def _duration(self, key: Series) -> int:
        service = key.service._replace(name=OTHER, resource=Resource())
        other = Series(key.family, service, ("",) * len(key.labels))
        return self._series.number(key, other)

    def _add_table(self, table: Table, rows: NDArray[np.intp] | slice) -> None:
        services = self._service_rows(table, table.endpoint[rows])
        self._transactions += len(services)
        self._services.count(services, _Signals.REQUESTS)
        errors = table.error[rows]
        if errors.any():
            self._services.count(services[errors], _Signals.ERRORS)
        durations = table.duration_ns[rows]
        if int(durations.min(initial=0)) < 0:
            answered = durations >= 0
            rows = np.arange(len(table))[rows][answered]
            services, durations = services[answered], durations[answered]
        if not len(durations):
            return
        prompt = _prompt(table, rows)
        self._services.add(services[prompt], _Signals.FINE + fine_of(durations[prompt]), 1)
        series = self._series_rows(table, rows, services)
        self._series.add(series, _Durations.SUM_NS, durations)
        self._series.add(series, _Durations.BUCKETS + bucket_of(durations), 1)

    def _service_rows(self, table: Table, endpoint: NDArray[np.int32]) -> NDArray[np.intp]:
        """Return the row (r,) in `_services` of each transaction; endpoint: (r,), index into the table's."""
        endpoints, rows_of = self._known.get(table.protocol, (None, _NO_ROWS))
        if endpoints is not table.endpoints:
            rows_of = np.full(len(table.endpoints), _UNKNOWN, np.intp)
            self._known[table.protocol] = table.endpoints, rows_of
        rows = rows_of[endpoint]
        if int(rows.min(initial=0)) == _UNKNOWN:
            owners, owner_of = owners_of(table.endpoints)
            wanted = used(endpoint, len(table.endpoints))
            numbers = np.full(len(owners), _UNKNOWN, np.intp)
            for owner in used(owner_of[wanted], len(owners)):
                numbers[owner] = self._service_of(owners[owner], table.protocol)
            rows_of[wanted] = numbers[owner_of[wanted]]
            rows = rows_of[endpoint]
        return rows

    def _service_of(self, owner: Owner, protocol: str) -> int:
        peer = _peer(owner)
        return self._service(Service(peer.service, protocol, peer.role, peer.resource))

    def _series_rows(
        self, table: Table, rows: NDArray[np.intp] | slice, services: NDArray[np.intp]
    ) -> NDArray[np.intp]:
        """Return the row (r,) in `_series` of each transaction."""
        family = self._family_of[table.protocol] = _family(table.attributes)
        names = FAMILIES[family]
        columns = [table.attributes.get(name) for name in names]
        codes = [codes_of(column)[rows] for column in columns if column is not None]
        examples, groups = distinct([services, *codes], len(services))
        places = examples if isinstance(rows, slice) else rows[examples]
        labels = zip(
            *[
                _known(name, _label_values(column, places))
                for name, column in zip(names, columns, strict=True)
            ],
            strict=True,
        )
        keys = self._services.keys()
        owners = [keys[number] for number in services[examples].tolist()]
        numbers = [
            # Without a role there is no metric of the kind to report it under.
            self._duration(Series(family, owner, values) if owner.role else Series("", owner, ()))
            for owner, values in zip(owners, labels if columns else [()] * len(owners), strict=True)
        ]
        return np.array(numbers, np.intp)[groups]

    def _add_events(self, events: Events) -> None:
        self._events += np.bincount(events.kind, minlength=len(self._events))[: len(self._events)]
        owners, owner_of = owners_of(events.endpoints)
        mine = owner_of[events.endpoint]
        peers = self._peer_rows(owners, mine)
        opened = (events.kind == Kind.CONNECT) | (events.kind == Kind.ACCEPT)
        self._peers.add(peers[opened & (peers >= 0)], _Connections.OPENED, 1)
        server = np.array([owner.role == "server" for owner in owners], bool)[mine]
        closes = np.flatnonzero((events.kind == Kind.CLOSE) & (peers >= 0))
        self._add_closes(events, closes, peers[closes], server[closes])
        broken = closes[events.error[closes] > 0]
        if len(broken):
            self._add_broken(owners, mine[broken], events.error[broken])
        for row in np.flatnonzero((events.kind == Kind.CONNECT_FAILED) & (peers >= 0)).tolist():
            self._add_failure(_peer(owners[mine[row]]), int(events.error[row]))

    def _peer_rows(self, owners: list[Owner], mine: NDArray[np.intp]) -> NDArray[np.intp]:
        """Return the row (n,) in `_peers` of each event, -1 for those of other transports than TCP.

        mine: (n,), which of the owners is that of each event.
        """
        numbers = np.full(len(owners), _UNKNOWN, np.intp)
        for owner in used(mine, len(owners)):
            numbers[owner] = self._peer_row(owners[owner])
        return numbers[mine]

    def _peer_row(self, owner: Owner) -> int:
        peer = _peer(owner)
        return self._peers.number(peer, Peer(OTHER, peer.role)) if owner.transport == "tcp" else -1

    def _add_closes(
        self, events: Events, rows: NDArray[np.intp], peers: NDArray[np.intp], server: NDArray[np.bool_]
    ) -> None:
        """Count closes `rows` (m,) of the events; peers, server: of each of them (m,)."""
        requests = np.maximum(events.request_bytes[rows], 0)
        responses = np.maximum(events.response_bytes[rows], 0)
        self._peers.add(peers, _Connections.CLOSED, 1)
        self._peers.add(peers, _Connections.RETRANSMITS, np.maximum(events.retransmits[rows], 0))
        self._peers.add(peers, _Connections.SENT, np.where(server, responses, requests))
        self._peers.add(peers, _Connections.RECEIVED, np.where(server, requests, responses))
        measured = events.srtt_us[rows] > 0
        rtt_ns = 1000 * events.srtt_us[rows][measured]
        self._peers.add(peers[measured], _Connections.RTT_NS, rtt_ns)
        self._peers.add(peers[measured], _Connections.RTT_BUCKETS + bucket_of(rtt_ns), 1)

    def _add_broken(self, owners: list[Owner], mine: NDArray[np.intp], errors: NDArray[np.int32]) -> None:
        """Count broken connections. mine: (m,), which of the owners is that of each; errors: (m,), errnos."""
        kinds, counts = np.unique(np.stack([mine, errors]), axis=1, return_counts=True)
        for owner, error, count in zip(*kinds.tolist(), counts.tolist(), strict=True):
            if owners[owner].transport != "tcp":
                continue
            peer, name = _peer(owners[owner]), _errno(error)
            key = Broken(peer.service, peer.role, name, peer.resource)
            self._broken.row(self._broken.number(key, Broken(OTHER, peer.role, name)))[0] += count

    def _add_failure(self, peer: Peer, error: int) -> None:
        name = _errno(error) if error else "closed"
        number = self._failures.number(Failure(peer.service, name, peer.resource), Failure(OTHER, name))
        self._failures.row(number)[0] += 1


def _by_service(keys: list[tuple[str, str]], counts: list[int]) -> dict[tuple[str, str], int]:
    """Return the sum of the counts (n,) of each distinct key, wherever the service runs."""
    sums: dict[tuple[str, str], int] = {}
    for key, count in zip(keys, counts, strict=True):
        sums[key] = sums.get(key, 0) + count
    return sums


def _errno(error: int) -> str:
    return errno.errorcode.get(error, str(error))


def _prompt(table: Table, rows: NDArray[np.intp] | slice) -> NDArray[np.bool_] | slice:
    """Return which of the rows (r,) did not wait by design: percentiles are of those alone."""
    waits = table.attributes.get(WAITS)
    if not isinstance(waits, Encoded) or not waits.values:
        return slice(None)
    return waits.codes[rows] < 0


def _peer(owner: Owner) -> Peer:
    return Peer(owner.service, owner.role, Resource(owner.namespace, owner.pod, owner.container))


def _summed(
    keys: list[tuple[str, str, str]], counts: NDArray[np.int64]
) -> tuple[list[tuple[str, str, str]], NDArray[np.int64]]:
    """Return the distinct keys, and the sums of their rows of `counts` (n, c)."""
    numbers: dict[tuple[str, str, str], int] = {}
    rows = [numbers.setdefault(key, len(numbers)) for key in keys]
    sums = np.zeros((len(numbers), counts.shape[1]), np.int64)
    np.add.at(sums, rows, counts)
    return list(numbers), sums


def _label_values(column: Attribute | None, rows: NDArray[np.intp]) -> list[str]:
    if column is None:
        return [""] * len(rows)
    if isinstance(column, Encoded):
        return ["" if code < 0 else column.values[code] for code in column.codes[rows].tolist()]
    return ["" if value < 0 else str(value) for value in column[rows].tolist()]


def _known(name: str, values: list[str]) -> list[str]:
    """Return the values with those that clients make up replaced, so that they can't fill the series."""
    allowed = ATTRIBUTES[name].label_values
    return values if allowed is None else [v if not v or v in allowed else OTHER_VALUE for v in values]


def _family(attributes: dict[str, Attribute]) -> str:
    kinds = {name.partition(".")[0] for name in attributes}
    return next((kind for kind in FAMILIES if kind in kinds), "")
