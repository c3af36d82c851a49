"""Rules of the JSON log."""

from __future__ import annotations

import errno
import json
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from masdeepflow.schema import ATTRIBUTES, Kind
from masdeepflow.sinks.json_log import JsonLog
from masdeepflow.sinks.line_writer import LineWriter
from masdeepflow.summary import ServiceSummary, Summary
from tests.support.tables import (
    CLIENT,
    MILLISECOND,
    SECOND,
    SERVER,
    START,
    endpoints,
    make_events,
    make_output,
    make_table,
)

if TYPE_CHECKING:
    from masdeepflow.table import Output
    from tests.unit.sinks.conftest import Logged, Pipe

TEXT = st.none() | st.text(st.characters(exclude_categories=["Cs"]))
FULL: dict[str, Any] = {
    "queue_ns": 7000,
    "error": True,
    "truncated": True,
    "end": replace(
        SERVER,
        attributes=(("container.name", "nginx"), ("k8s.pod.name", "web-0")),
        peer=(("peer.process.pid", 7), ("peer.service.name", 'a "b"')),
    ),
    "http.request.method": "GET",
    "url.path": "/path",
    "url.query": "a=b",
    "http.response.status_code": 500,
    "network.protocol.version": "1.1",
    "server.name": "example.org",
    "user_agent.original": 'curl/8 "quoted"',
}


def _objects(logged: Logged, *outputs: Output) -> list[dict[str, Any]]:
    """Return what the lines before the summary say."""
    return [json.loads(line) for line in logged(JsonLog, *outputs)[:-1]]


def test_transaction_is_one_object_with_all_that_is_known(logged: Logged) -> None:
    """Keys and their order are the interface's."""
    line = logged(JsonLog, make_output(make_table(FULL)))[0]
    assert line == (
        '{"timestamp":"2026-01-02T03:04:05.678901234Z","duration_ns":12000000,"ttfb_ns":6000000,"queue_ns":7000,'
        '"protocol":"http","role":"server","request_bytes":100,"response_bytes":1000,"error":true,'
        '"truncated":true,"network.transport":"tcp","client.address":"127.0.0.1","client.port":50000,'
        '"server.address":"127.0.0.1","server.port":80,"process.pid":80,"process.executable.name":"nginx",'
        '"process.command":"nginx: worker process","container.name":"nginx","k8s.pod.name":"web-0",'
        '"peer.process.pid":7,"peer.service.name":"a \\"b\\"",'
        '"http.request.method":"GET","url.path":"/path","url.query":"a=b","http.response.status_code":500,'
        '"network.protocol.version":"1.1","server.name":"example.org",'
        '"user_agent.original":"curl/8 \\"quoted\\""}'
    )


def test_unknown_keys_are_left_out(logged: Logged) -> None:
    """What is not known has no key; the process's short name stands in for its executable."""
    end = replace(
        CLIENT,
        transport="unix",
        role="",
        client_address=None,
        client_port=None,
        server_address=None,
        server_port=None,
        executable=None,
        command=None,
    )
    table = make_table(
        {"end": end, "duration_ns": -1, "queue_ns": -1, "url.path": None, "http.response.status_code": None}
    )
    assert _objects(logged, make_output(table)) == [
        {
            "timestamp": "2026-01-02T03:04:05.678901234Z",
            "protocol": "http",
            "request_bytes": 100,
            "response_bytes": 1000,
            "error": False,
            "truncated": False,
            "network.transport": "unix",
            "process.pid": 4242,
            "process.executable.name": "curl",
        }
    ]


def test_rows_differ_in_what_is_known(logged: Logged) -> None:
    """A key is left out where its row lacks it, and only there."""
    table = make_table(
        {"queue_ns": 5, "url.path": "/a", "http.response.status_code": 200},
        {"duration_ns": -1, "url.path": None, "http.response.status_code": 404},
        {"queue_ns": 0, "url.path": "/a"},
    )
    keys = ("duration_ns", "queue_ns", "url.path", "http.response.status_code")
    assert [[row.get(key) for key in keys] for row in _objects(logged, make_output(table))] == [
        [12 * MILLISECOND, 5, "/a", 200],
        [None, None, None, 404],
        [12 * MILLISECOND, 0, "/a", None],
    ]


def test_waiting_requests_are_reported_when_they_end(logged: Logged) -> None:
    """A row that is still open gives nothing; the row that ends it gives the object, though shown before."""
    waiting = make_output(make_table({"still_open": True}))
    ended = make_output(make_table({"shown": True}))
    assert len(_objects(logged, waiting, ended)) == 1


def test_unrecognised_protocols_are_reported(logged: Logged) -> None:
    """What is not parsed has its times and bytes all the same."""
    table = make_table({"request_text": None, "response_text": None}, protocol="tcp")
    assert [row["protocol"] for row in _objects(logged, make_output(table))] == ["tcp"]


def test_connection_events(logged: Logged) -> None:
    """Events carry what belongs to them: latency, totals of the connection, the error's name."""
    events = make_events(
        {"kind": Kind.CONNECT, "duration_ns": 99},
        {"kind": Kind.ACCEPT, "end": SERVER},
        {"kind": Kind.CONNECT_FAILED, "error": errno.ECONNREFUSED},
        {"kind": Kind.CONNECT_FAILED},
        {
            "kind": Kind.CLOSE,
            "duration_ns": SECOND,
            "request_bytes": 1,
            "response_bytes": 2,
            "srtt_us": 30,
            "retransmits": 0,
        },
        {"kind": Kind.CLOSE, "error": errno.ECONNRESET},
        {"kind": Kind.ACCEPT, "end": SERVER, "error": errno.ECONNRESET},
    )
    rows = _objects(logged, make_output(events=events))
    common = {
        "role": "client",
        "network.transport": "tcp",
        "client.address": "127.0.0.1",
        "client.port": 50000,
        "server.address": "127.0.0.1",
        "server.port": 80,
        "process.pid": 4242,
        "process.executable.name": "curl",
        "process.command": "/usr/bin/curl",
    }
    assert rows[0] == {
        "timestamp": "2026-01-02T03:04:05.678901234Z",
        "event": "connect",
        "duration_ns": 99,
        **common,
    }
    assert (rows[1]["event"], rows[1]["role"], "duration_ns" in rows[1]) == ("accept", "server", False)
    assert [(row["event"], row["error.type"]) for row in rows[2:4]] == [
        ("connect_failed", "ECONNREFUSED"),
        ("connect_failed", "closed"),
    ]
    totals = {"request_bytes": 1, "response_bytes": 2, "tcp.srtt_us": 30, "tcp.retransmits": 0}
    assert rows[4] == {
        "timestamp": "2026-01-02T03:04:09.678901234Z",
        "event": "close",
        "duration_ns": SECOND,
        **totals,
        **common,
    }
    assert (rows[5]["event"], rows[5]["error.type"]) == ("close", "ECONNRESET")
    assert "error.type" not in rows[6], "who accepts a connection that is broken by then has not failed"


def test_objects_are_ordered_by_timestamp(logged: Logged) -> None:
    """All tables and events together come by time, once the watermark has passed them."""
    first = make_output(make_table({"start_ns": START + 3}, {"start_ns": START + 1}), watermark_ns=START)
    second = make_output(make_table({"start_ns": START + 2}, protocol="mysql"), watermark_ns=START + 10)
    stamps = [row["timestamp"][-4:] for row in _objects(logged, first, second)]
    assert stamps == ["235Z", "236Z", "237Z"]


def test_each_row_has_its_own_endpoint_and_attributes(logged: Logged) -> None:
    """Fragments are rendered once for many rows, and never mixed up."""
    ends = endpoints(40)
    rows = [
        {
            "end": ends[number % 40],
            "url.path": f"/{number % 7}",
            "http.response.status_code": 200 + number % 3,
            "request_bytes": number,
        }
        for number in range(500)
    ]
    keys = ("client.port", "role", "url.path", "http.response.status_code", "request_bytes")
    shown = [tuple(row[key] for key in keys) for row in _objects(logged, make_output(make_table(*rows)))]
    expected = [(ends[number % 40], f"/{number % 7}", 200 + number % 3, number) for number in range(500)]
    assert shown == [(end.client_port, end.role, *rest) for end, *rest in expected]


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(st.lists(st.fixed_dictionaries({"url.path": TEXT, "db.query.text": TEXT}), min_size=1))
def test_any_text_comes_back(logged: Logged, rows: list[dict[str, str | None]]) -> None:
    """A line is one printable JSON object, from which the very text is read back."""
    lines = logged(JsonLog, make_output(make_table(*rows)))
    assert all(line.isprintable() for line in lines)
    parsed = [json.loads(line) for line in lines[-1 - len(rows) : -1]]
    assert [{name: row.get(name) for name in rows[0]} for row in parsed] == rows


def test_attributes_are_those_of_the_schema(logged: Logged) -> None:
    """Every attribute of the schema appears, in the schema's order."""
    kinds = {"string": "v", "int": 1, "bool": 1}
    values = {name: kinds[column.type] for name, column in ATTRIBUTES.items()}
    (row,) = _objects(logged, make_output(make_table(values)))
    assert list(row)[-len(ATTRIBUTES) :] == list(ATTRIBUTES)
    assert {name: row[name] for name in ATTRIBUTES} == values


def test_last_line_is_the_summary(logged: Logged) -> None:
    """The summary gives records, losses by reason, lines lost among them, and the services."""
    services = [
        ServiceSummary("nginx", "http", "server", 3, 1, 0.1234567891, 2.0, 3.5),
        ServiceSummary("x", "tcp", "", 1, 0, None, None, None),
    ]
    lines = logged(JsonLog, make_output(), summary=Summary(9, {"ring_full": 4}, services))
    assert json.loads(lines[-1]) == {
        "event": "summary",
        "records": 9,
        "lost": {"ring_full": 4, "log": 0},
        "services": [
            {
                "service": "nginx",
                "protocol": "http",
                "role": "server",
                "requests": 3,
                "errors": 1,
                "p50_ms": 0.123457,
                "p95_ms": 2.0,
                "p99_ms": 3.5,
            },
            {
                "service": "x",
                "protocol": "tcp",
                "role": "",
                "requests": 1,
                "errors": 0,
                "p50_ms": None,
                "p95_ms": None,
                "p99_ms": None,
            },
        ],
    }


def test_summary_tells_what_was_forgotten(logged: Logged) -> None:
    """By table and protocol; nothing is said of those that had room."""
    summary = Summary(1, {}, forgotten={"connections": 7, "names": 0, "mysql": 2})
    lines = logged(JsonLog, make_output(), summary=summary)
    assert json.loads(lines[-1])["forgotten"] == {"connections": 7, "mysql": 2}


def test_summary_counts_the_lines_that_a_slow_reader_cost(pipe: Pipe) -> None:
    """Rows are either lines or counted in `lost.log`, also those that were never formatted."""
    writer = LineWriter(pipe.into, limit=100_000)
    log = JsonLog(writer)
    table = make_table(*[{} for _ in range(1000)])
    rows = 0
    while not writer.full():
        log.write(make_output(table))
        rows += len(table)
    log.write(make_output(make_table({}), watermark_ns=0))
    pipe.reader.start()
    log.close(Summary(0, {"ring_full": 2}))
    *lines, last = [json.loads(line) for line in pipe.lines()]
    assert last["lost"] == {"ring_full": 2, "log": writer.lost}
    assert len(lines) + writer.lost == rows + 1
