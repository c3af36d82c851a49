"""Rules of the golden signals."""

from __future__ import annotations

import errno
import subprocess
import sys
import threading
from collections import Counter
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masdeepflow.schema import Kind
from masdeepflow.sinks.latency import KERNEL_BUCKETS
from masdeepflow.sinks.metrics import OTHER, Broken, Failure, Metrics, Peer, Series, Service
from masdeepflow.summary import ServiceSummary, Summary
from tests.support.tables import CLIENT, MILLISECOND, SECOND, SERVER, make_events, make_output, make_table

_Row = tuple[int, str | None, int | None, bool, int]

NGINX = Service("nginx", "http", "server")


def _services(metrics: Metrics) -> dict[tuple[str, str, str], ServiceSummary]:
    return {(one.service, one.protocol, one.role): one for one in metrics.services()}


def _durations(metrics: Metrics) -> dict[Series, tuple[int, int]]:
    """Return each series' count and sum in ns."""
    snapshot = metrics.snapshot()
    rows = zip(snapshot.series, snapshot.durations.tolist(), strict=True)
    return {series: (sum(buckets), total) for series, (total, *buckets) in rows}


def _written(*rows: dict[str, Any], protocol: str = "http") -> Metrics:
    metrics = Metrics()
    metrics.write(make_output(make_table(*rows, protocol=protocol)))
    return metrics


def test_requests_errors_and_percentiles_of_a_service() -> None:
    """Transactions are counted by service, protocol and role."""
    rows = [{"end": SERVER, "duration_ns": ms * MILLISECOND, "error": ms > 98} for ms in range(1, 101)]
    (summary,) = _written(*rows).services()
    assert (summary.service, summary.protocol, summary.role) == NGINX[:3]
    assert (summary.requests, summary.errors) == (100, 2)
    assert [summary.p50_ms, summary.p95_ms, summary.p99_ms] == pytest.approx([50, 95, 99], rel=0.02)


def test_what_waits_by_design_is_in_no_percentile() -> None:
    """A BLPOP of 10 s is a request, but tells nothing of how fast the server is."""
    blocking = {"masdeepflow.db.blocking": "true", "db.operation.name": "BLPOP"}
    rows = [{"duration_ns": MILLISECOND} for _ in range(9)] + [{"duration_ns": 10 * SECOND, **blocking}]
    metrics = _written(*rows, protocol="redis")
    (summary,) = metrics.services()
    assert summary.requests == 10
    assert summary.p99_ms == pytest.approx(1, rel=0.02)
    assert sorted(_durations(metrics).values()) == [(1, 10 * SECOND), (9, 9 * MILLISECOND)]


def test_a_service_is_counted_by_the_pod_it_runs_in() -> None:
    """Metrics tell replicas apart, the summary adds them up."""
    places = [("shop", "web-0", "nginx"), ("shop", "web-1", "nginx"), ("", "", "")]
    ends = [replace(SERVER, namespace=space, pod=pod, container=name) for space, pod, name in places]
    metrics = _written(*({"end": end, "duration_ns": MILLISECOND} for end in ends))
    assert [service.resource for service in metrics.snapshot().services] == places
    assert [summary.requests for summary in metrics.services()] == [3]


def test_waiting_requests_count_when_they_end() -> None:
    """A request that is still open is no transaction yet; shown before or not, it counts once it ended."""
    metrics = _written({"still_open": True})
    assert metrics.services() == []
    metrics.write(make_output(make_table({"shown": True})))
    assert [summary.requests for summary in metrics.services()] == [1]
    assert metrics.snapshot().events["transaction"] == 1


def test_batches_with_the_same_endpoints_count_whom_they_name() -> None:
    """What was found for endpoints is used again only for them, and names nobody without requests."""
    metrics = Metrics()
    table = make_table({"end": SERVER}, {"end": CLIENT, "still_open": True})
    metrics.write(make_output(table))
    assert list(_services(metrics)) == [NGINX[:3]]
    metrics.write(make_output(replace(table, still_open=np.zeros(2, bool))))
    other = make_table({"end": replace(SERVER, service="other")}, {"end": CLIENT})
    metrics.write(make_output(other))
    counts = {name: one.requests for (name, _, _), one in _services(metrics).items()}
    assert counts == {"nginx": 2, CLIENT.service: 2, "other": 1}


def test_requests_without_an_answer_have_no_latency() -> None:
    """They count as requests and errors, and in no histogram."""
    metrics = _written({"duration_ns": -1, "error": True})
    (summary,) = metrics.services()
    assert (summary.requests, summary.errors, summary.p50_ms) == (1, 1, None)
    assert _durations(metrics) == {}


def test_services_come_busiest_first() -> None:
    """The summary's table begins with what matters most."""
    metrics = _written({}, {"end": SERVER}, {"end": SERVER})
    assert [summary.service for summary in metrics.services()] == ["nginx", "curl"]


def test_series_are_split_by_the_metric_labels_of_their_kind() -> None:
    """HTTP by method and status, whatever other attributes there are; absent ones are empty."""
    metrics = _written(
        {"end": SERVER, "http.request.method": "GET", "http.response.status_code": 200, "url.path": "/a"},
        {"end": SERVER, "http.request.method": "GET", "http.response.status_code": 200, "url.path": "/b"},
        {"end": SERVER, "http.request.method": "POST", "duration_ns": SECOND},
    )
    assert _durations(metrics) == {
        Series("http", NGINX, ("GET", "200")): (2, 24 * MILLISECOND),
        Series("http", NGINX, ("POST", "")): (1, SECOND),
    }


def test_kind_follows_attributes_not_the_protocol_name() -> None:
    """Any protocol with db attributes is a database; one with none is of no kind, nor one without a role."""
    metrics = _written({"db.system.name": "x", "db.operation.name": "SELECT"}, protocol="new")
    metrics.write(make_output(make_table({}, protocol="tcp")))
    metrics.write(make_output(make_table({"end": replace(CLIENT, role=""), "http.request.method": "GET"})))
    assert list(_durations(metrics)) == [
        Series("db", Service("curl", "new", "client"), ("x", "SELECT", "")),
        Series("", Service("curl", "tcp", "client"), ()),
        Series("", Service("curl", "http", ""), ()),
    ]


def test_series_are_capped() -> None:
    """Beyond the limit series are counted together by protocol and role: no count is lost."""
    metrics = Metrics(series_limit=10)
    for number in range(100):
        status = {"http.request.method": "GET", "http.response.status_code": 200 + number}
        metrics.write(make_output(make_table({"end": SERVER, **status}, status)))
    durations = _durations(metrics)
    assert len(durations) == 12
    assert sum(count for count, _ in durations.values()) == 200
    assert durations[Series("http", Service(OTHER, "http", "server"), ("", ""))][0] == 95


def test_made_up_methods_share_a_series() -> None:
    """A client can send any token as a method: as labels, they would use up the series."""
    metrics = _written(*({"end": SERVER, "http.request.method": f"M{number}"} for number in range(100)))
    assert list(_durations(metrics)) == [Series("http", NGINX, ("_OTHER", ""))]


def test_services_are_capped() -> None:
    """Beyond the limit services are counted together by protocol and role."""
    metrics = Metrics(service_limit=10)
    for number in range(50):
        end = replace(SERVER, service=f"s{number}")
        metrics.write(make_output(make_table({"end": end}), events=make_events({"end": end})))
    services = _services(metrics)
    assert len(services) == 11
    assert services[OTHER, "http", "server"].requests == 40
    assert len(metrics.snapshot().peers) == 11


@settings(deadline=None)
@given(
    st.lists(
        st.tuples(
            st.integers(0, 4),
            st.sampled_from(["GET", "POST", None]),
            st.sampled_from([200, 404, None]),
            st.booleans(),
            st.integers(-1, 10**11),
        ),
        min_size=1,
    )
)
def test_whole_batches_are_counted_as_one_by_one(rows: list[_Row]) -> None:
    """Counting columns gives what counting rows would."""
    ends = [
        replace(SERVER, service=f"s{number % 3}", role=("server", "client")[number % 2])
        for number in range(5)
    ]
    metrics = _written(
        *(
            {
                "end": ends[end],
                "http.request.method": method,
                "http.response.status_code": status,
                "error": error,
                "duration_ns": duration,
            }
            for end, method, status, error, duration in rows
        )
    )
    requests, errors = Counter[tuple[str, str, str]](), Counter[tuple[str, str, str]]()
    durations = Counter[Series]()
    for end, method, status, error, duration in rows:
        service = Service(ends[end].service, "http", ends[end].role)
        requests[service[:3]] += 1
        errors[service[:3]] += error
        labels = (method or "", str(status or ""))
        durations[Series("http", service, labels)] += duration >= 0
    services = _services(metrics)
    assert {key: one.requests for key, one in services.items()} == requests
    assert {key: one.errors for key, one in services.items()} == dict(errors)
    assert {key: count for key, (count, _) in _durations(metrics).items()} == {
        key: count for key, count in durations.items() if count
    }


def test_lost_turns_count() -> None:
    """What only the kernel counted is in requests, percentiles and the histogram of its protocol's kind."""
    metrics = _written({"end": SERVER, "http.request.method": "GET", "duration_ns": MILLISECOND})
    histogram = np.zeros(KERNEL_BUCKETS, np.uint32)
    histogram[8 * (16 - 2)] = 9  # 64 ms
    metrics.add_lost(NGINX, 10, histogram)
    (summary,) = metrics.services()
    assert summary.requests == 11
    assert summary.p50_ms == pytest.approx(67, rel=0.13)
    durations = _durations(metrics)
    assert durations[Series("http", NGINX, ("", ""))][0] == 9
    assert durations[Series("http", NGINX, ("", ""))][1] == pytest.approx(9 * 67e6, rel=0.13)


def test_lost_turns_of_an_unknown_protocol_count() -> None:
    """Turns that are lost before any of their protocol was parsed are of no kind."""
    metrics = Metrics(service_limit=1)
    metrics.add_lost(Service("a", "tcp", "server"), 3, np.zeros(KERNEL_BUCKETS, np.int64))
    metrics.add_lost(Service("b", "tcp", ""), 4, np.zeros(KERNEL_BUCKETS, np.int64))
    assert {key: one.requests for key, one in _services(metrics).items()} == {
        ("a", "tcp", "server"): 3,
        (OTHER, "tcp", ""): 4,
    }
    assert {series.family for series in _durations(metrics)} == {""}


def test_connections_are_counted_by_service_and_role() -> None:
    """Opens, closes, retransmits, bytes by direction and round-trip times of TCP connections."""
    totals = {"request_bytes": 10, "response_bytes": 1000, "srtt_us": 200, "retransmits": 2}
    metrics = Metrics()
    metrics.write(
        make_output(
            events=make_events(
                {"kind": Kind.CONNECT},
                {"kind": Kind.ACCEPT, "end": SERVER},
                {"kind": Kind.CLOSE, **totals},
                {"kind": Kind.CLOSE, "end": SERVER, **totals},
                {"kind": Kind.CLOSE, "end": SERVER, "srtt_us": 0},
                {"kind": Kind.CONNECT, "end": replace(CLIENT, transport="unix", service="dockerd")},
            )
        )
    )
    snapshot = metrics.snapshot()
    shown = {
        peer: (row[:6], sum(row[6:]))
        for peer, row in zip(snapshot.peers, snapshot.connections.tolist(), strict=True)
    }
    assert shown == {
        Peer("curl", "client"): ([1, 1, 2, 10, 1000, 200_000], 1),
        Peer("nginx", "server"): ([1, 2, 2, 1000, 10, 200_000], 1),
    }
    assert snapshot.events == {"transaction": 0, "connect": 2, "connect_failed": 0, "accept": 1, "close": 3}


def test_failed_connects_are_counted_by_error() -> None:
    """The errno's name tells why, for each service."""
    failed = {"kind": Kind.CONNECT_FAILED, "error": errno.ECONNREFUSED}
    metrics = Metrics()
    metrics.write(make_output(events=make_events(failed, failed, {"kind": Kind.CONNECT_FAILED})))
    snapshot = metrics.snapshot()
    assert snapshot.failures_by == [Failure("curl", "ECONNREFUSED"), Failure("curl", "closed")]
    assert snapshot.failures.tolist() == [[2], [1]]


def test_broken_connections_are_counted_by_error_at_each_end() -> None:
    """Resets and what the kernel gave up on; not closes, nor connects that failed."""
    reset = {"kind": Kind.CLOSE, "error": errno.ECONNRESET}
    rows = (
        *(reset, {**reset, "end": SERVER}, reset, {"kind": Kind.CLOSE}),
        *({**reset, "error": errno.ETIMEDOUT}, {"kind": Kind.CONNECT_FAILED, "error": errno.ECONNREFUSED}),
    )
    metrics = Metrics()
    for _ in range(2):
        metrics.write(make_output(events=make_events(*rows)))
    snapshot = metrics.snapshot()
    assert dict(zip(snapshot.broken_by, snapshot.broken[:, 0].tolist(), strict=True)) == {
        Broken("curl", "client", "ECONNRESET"): 4,
        Broken("curl", "client", "ETIMEDOUT"): 2,
        Broken("nginx", "server", "ECONNRESET"): 2,
    }
    elsewhere = {**reset, "end": replace(CLIENT, pod="web-1")}
    metrics.write(make_output(events=make_events(elsewhere)))
    assert metrics.broken_connections() == {
        ("curl", "ECONNRESET"): 5,
        ("curl", "ETIMEDOUT"): 2,
        ("nginx", "ECONNRESET"): 2,
    }
    assert metrics.failed_connects() == {("curl", "ECONNREFUSED"): 2}


def test_snapshots_never_go_backwards_and_are_whole() -> None:
    """Read at any moment, no counter shrinks, and a batch is either counted or not."""
    metrics = Metrics()
    done = threading.Event()
    output = make_output(make_table({"end": SERVER}, {"end": SERVER, "error": True}))

    def write() -> None:
        for number in range(300):
            metrics.write(output)
            metrics.write(make_output(make_table({"end": replace(SERVER, service=f"s{number}")})))
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    last = 0
    while not done.is_set():
        snapshot = metrics.snapshot()
        if snapshot.services:
            requests, errors = snapshot.signals[0].tolist()
            assert requests == 2 * errors
            assert snapshot.durations[0, 1:].sum() == requests
            assert requests >= last
            last = requests
    writer.join()
    metrics.close(Summary(0))
    assert metrics.snapshot().signals[0].tolist() == [600, 300]


def test_counting_needs_no_prometheus_library() -> None:
    """An agent that does not listen does not carry the library's memory."""
    check = "import masdeepflow.sinks.metrics, sys; sys.exit('prometheus_client' in sys.modules)"
    subprocess.run([sys.executable, "-c", check], check=True)
