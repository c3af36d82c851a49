"""Rules of what Prometheus gets."""

from __future__ import annotations

import errno
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest
from prometheus_client import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from masdeepflow import __version__
from masdeepflow.schema import Kind
from masdeepflow.sinks.exposition import _NAMES, Exposition, registry
from masdeepflow.sinks.latency import KERNEL_BUCKETS
from masdeepflow.sinks.metrics import FAMILIES, Metrics, Service
from tests.support.tables import CLIENT, MILLISECOND, SERVER, make_events, make_output, make_table

if TYPE_CHECKING:
    from prometheus_client import CollectorRegistry

Samples = dict[tuple[str, frozenset[tuple[str, str]]], float]


def _full() -> CollectorRegistry:
    """Return a registry over some of everything, with names that have to be escaped."""
    evil = replace(SERVER, service='a"b\\c\nd\u00e9')
    metrics = Metrics()
    metrics.write(
        make_output(
            make_table(
                {"end": SERVER, "http.request.method": "GET", "http.response.status_code": 200},
                {
                    "end": SERVER,
                    "http.request.method": "GET",
                    "http.response.status_code": 500,
                    "error": True,
                },
                {"http.request.method": "GET", "duration_ns": 20 * MILLISECOND},
                {"end": evil, "http.request.method": "GET"},
            ),
            make_table({"db.system.name": "mysql", "db.operation.name": "SELECT"}, protocol="mysql"),
            make_table({"db.system.name": "mysql", "end": SERVER}, protocol="mysql"),
            make_table({}, {"end": replace(CLIENT, role="")}, protocol="tcp"),
            events=make_events(
                {"kind": Kind.CONNECT},
                {"kind": Kind.CONNECT_FAILED, "error": errno.ECONNREFUSED},
                {
                    "kind": Kind.CLOSE,
                    "error": errno.ECONNRESET,
                    "request_bytes": 7,
                    "response_bytes": 9,
                    "srtt_us": 50,
                    "retransmits": 1,
                },
            ),
        )
    )
    metrics.add_lost(Service("nginx", "http", "server"), 5, np.zeros(KERNEL_BUCKETS, np.int64))
    metrics.add_bytes("nginx", 992, 1000)
    return registry(
        Exposition(
            metrics,
            lambda: {"ring_full": 5, "log": 0},
            lambda: {"http": 0, "mysql": 2},
            lambda: {"mysql": 3},
            lambda: {"connections": 4, "names": 0},
            lookup_counts=lambda: {
                "containers": {"asked": 7, "cut": 1},
                "kubernetes": {"cut": 2, "events": 5, "pods": 9},
            },
        )
    )


@pytest.fixture(params=["text", "openmetrics"])
def samples(request: pytest.FixtureRequest) -> Samples:
    """Return what a parser reads from the exposition, in either format."""
    if request.param == "text":
        families = list(parse_text(generate_latest(_full()).decode()))
    else:
        text = generate_openmetrics(_full()).decode()  # type: ignore[no-untyped-call]
        families = list(parse_openmetrics(text))  # type: ignore[no-untyped-call]
    found = [
        ((sample.name, frozenset(sample.labels.items())), sample.value)
        for family in families
        for sample in family.samples
    ]
    assert len(dict(found)) == len(found)
    return dict(found)


def _value(samples: Samples, name: str, **labels: str) -> float:
    return samples[name, frozenset(labels.items())]


def test_duration_of_http_requests(samples: Samples) -> None:
    """Named and labelled as OpenTelemetry does, by method and status, with its advised bounds in it."""
    labels = {
        "service_name": "nginx",
        "network_protocol_name": "http",
        "http_request_method": "GET",
        "http_response_status_code": "200",
    }
    name = "http_server_request_duration_seconds"
    assert _value(samples, f"{name}_count", **labels) == 1
    assert _value(samples, f"{name}_sum", **labels) == pytest.approx(0.012)
    counts = {
        bound: _value(samples, f"{name}_bucket", le=bound, **labels) for bound in ("0.0001", "0.01", "0.025")
    }
    assert counts == {"0.0001": 0, "0.01": 0, "0.025": 1}
    assert _value(samples, f"{name}_bucket", le="+Inf", **labels) == 1


def test_lookups_count_by_source_what_they_were_asked_and_lost(samples: Samples) -> None:
    """Each source has those that it knows; what may shrink is no counter."""
    assert _value(samples, "masdeepflow_lookup_cut_total", source="containers") == 1
    assert _value(samples, "masdeepflow_lookup_cut_total", source="kubernetes") == 2
    assert _value(samples, "masdeepflow_lookup_asked_total", source="containers") == 7
    counted = {name for name, _ in samples if name.startswith("masdeepflow_lookup_")}
    assert counted == {f"masdeepflow_lookup_{name}_total" for name in ("asked", "cut", "events")}


def test_every_kind_and_role_has_its_metric(samples: Samples) -> None:
    """Names tell kind and role; what has no kind is a network request, with the role as a label."""
    counts = {name for name, _ in samples if name.endswith("_duration_seconds_count")}
    assert counts == {
        "http_server_request_duration_seconds_count",
        "http_client_request_duration_seconds_count",
        "db_server_operation_duration_seconds_count",
        "db_client_operation_duration_seconds_count",
        "network_request_duration_seconds_count",
    }
    for role in ("client", ""):
        labels = {"service_name": "curl", "network_protocol_name": "tcp", "role": role}
        assert _value(samples, "network_request_duration_seconds_count", **labels) == 1


def test_no_kind_of_request_is_left_without_a_name() -> None:
    """A kind that `metrics` tells apart has a metric for either role."""
    assert {(kind, role) for kind in FAMILIES if kind for role in ("client", "server")} == set(_NAMES)


def test_requests_and_errors(samples: Samples) -> None:
    """Totals by service count what was lost and what was not answered, too."""
    labels = {"service_name": "nginx", "network_protocol_name": "http", "role": "server"}
    assert _value(samples, "masdeepflow_requests_total", **labels) == 7
    assert _value(samples, "masdeepflow_request_errors_total", **labels) == 1


def test_names_are_escaped(samples: Samples) -> None:
    """A process may call itself anything: scrapers read back that very name."""
    labels = {"service_name": 'a"b\\c\nd\u00e9', "network_protocol_name": "http", "role": "server"}
    assert _value(samples, "masdeepflow_requests_total", **labels) == 1


def test_connections(samples: Samples) -> None:
    """What connections tell is under tcp_*."""
    labels = {"service_name": "curl", "role": "client"}
    assert _value(samples, "tcp_connections_opened_total", **labels) == 1
    assert _value(samples, "tcp_connections_closed_total", **labels) == 1
    assert _value(samples, "tcp_retransmits_total", **labels) == 1
    assert _value(samples, "tcp_bytes_total", direction="sent", **labels) == 7
    assert _value(samples, "tcp_bytes_total", direction="received", **labels) == 9
    assert _value(samples, "tcp_rtt_seconds_bucket", le="0.0001", **labels) == 1
    assert _value(samples, "tcp_rtt_seconds_sum", **labels) == pytest.approx(0.00005)
    assert _value(samples, "tcp_connect_failures_total", service_name="curl", error_type="ECONNREFUSED") == 1
    assert _value(samples, "tcp_connections_broken_total", error_type="ECONNRESET", **labels) == 1


def test_the_agent_tells_about_itself(samples: Samples) -> None:
    """Events, losses by reason, coverage, processor time, memory and version."""
    assert _value(samples, "masdeepflow_events_total", type="transaction") == 8
    assert _value(samples, "masdeepflow_events_total", type="close") == 1
    assert _value(samples, "masdeepflow_lost_events_total", reason="ring_full") == 5
    assert _value(samples, "masdeepflow_lost_events_total", reason="log") == 0
    assert _value(samples, "masdeepflow_parser_errors_total", protocol="mysql") == 2
    assert _value(samples, "masdeepflow_parser_errors_total", protocol="http") == 0
    assert _value(samples, "masdeepflow_parser_evictions_total", protocol="mysql") == 3
    assert _value(samples, "masdeepflow_evictions_total", table="connections") == 4
    assert _value(samples, "masdeepflow_evictions_total", table="names") == 0
    assert _value(samples, "masdeepflow_coverage_ratio", service_name="nginx") == 0.992
    assert _value(samples, "masdeepflow_parsed_bytes_total", service_name="nginx") == 992
    assert _value(samples, "masdeepflow_moved_bytes_total", service_name="nginx") == 1000
    assert _value(samples, "masdeepflow_cpu_seconds_total") > 0
    assert _value(samples, "masdeepflow_resident_bytes") > 1_000_000
    assert any(
        name == "masdeepflow_build_info" and ("version", __version__) in labels for name, labels in samples
    )


def test_nothing_seen_yet() -> None:
    """A scrape right after the start works."""
    text = generate_latest(registry(Exposition(Metrics()))).decode()
    assert "masdeepflow_resident_bytes" in {family.name for family in parse_text(text)}
