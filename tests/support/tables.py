"""Tables, events and endpoints for tests, of which only what matters is spelled out."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from masdeepflow.endpoint import Endpoint
from masdeepflow.schema import ATTRIBUTES, Kind
from masdeepflow.table import ABSENT, Encoded, Events, Output, Table

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from masdeepflow.table import Attribute

START = 1_767_323_045_678_901_234
"""2026-01-02T03:04:05.678901234Z, when the first row starts."""
MILLISECOND = 1_000_000
SECOND = 1000 * MILLISECOND

CLIENT = Endpoint(
    cookie=1,
    pid=4242,
    comm="curl",
    transport="tcp",
    role="client",
    local="127.0.0.1:50000",
    remote="127.0.0.1:80",
    client_address="127.0.0.1",
    client_port=50000,
    server_address="127.0.0.1",
    server_port=80,
    executable="curl",
    command="/usr/bin/curl",
    service="curl",
)
SERVER = replace(
    CLIENT,
    cookie=2,
    pid=80,
    comm="nginx",
    role="server",
    local="127.0.0.1:80",
    remote="127.0.0.1:50000",
    executable="nginx",
    command="nginx: worker process",
    service="nginx",
)


def make_table(*rows: dict[str, Any], protocol: str = "http") -> Table:
    """Return one row for each dict: `GET /` answered `200 OK` in 12 ms by default, 1 s after the row before.

    Keys are the columns of `Table`, `end` (the row's Endpoint), and attributes by their OpenTelemetry name.
    """
    filled = [_filled(number, row) for number, row in enumerate(rows)]
    names = sorted({name for row in rows for name in row if name in ATTRIBUTES})
    ends = list(dict.fromkeys(row["end"] for row in filled))

    def column(name: str, dtype: type) -> NDArray[Any]:
        return np.array([row[name] for row in filled], dtype)

    def text(name: str) -> Encoded:
        return Encoded.from_list([row[name] for row in filled])

    integers = ("start_ns", "end_ns", "duration_ns", "ttfb_ns", "queue_ns", "request_bytes", "response_bytes")
    flags = ("error", "truncated", "still_open", "shown")
    return Table(
        protocol=protocol,
        **{name: column(name, np.int64) for name in integers},
        **{name: column(name, np.bool_) for name in flags},
        endpoint=np.array([ends.index(row["end"]) for row in filled], np.int32),
        endpoints=ends,
        request_text=text("request_text"),
        response_text=text("response_text"),
        attributes={name: _attribute(name, [row.get(name) for row in rows]) for name in names},
    )


def _filled(number: int, row: dict[str, Any]) -> dict[str, Any]:
    start = row.get("start_ns", START + number * SECOND)
    duration = row.get("duration_ns", 12 * MILLISECOND)
    defaults = {
        "start_ns": start,
        "duration_ns": duration,
        "end_ns": start + max(duration, 0),
        "ttfb_ns": duration // 2 if duration >= 0 else ABSENT,
        "queue_ns": ABSENT,
        "request_bytes": 100,
        "response_bytes": 1000,
        "error": False,
        "truncated": False,
        "still_open": False,
        "shown": False,
        "request_text": "HTTP Request: GET / HTTP/1.1",
        "response_text": "HTTP Response: HTTP/1.1 200 OK",
        "end": CLIENT,
    }
    return {**defaults, **row}


def _attribute(name: str, values: list[Any]) -> Attribute:
    if ATTRIBUTES[name].type == "string":
        return Encoded.from_list(values)
    return np.array([ABSENT if value is None else value for value in values], np.int64)


def make_events(*rows: dict[str, Any]) -> Events:
    """Return one connection event for each dict: CONNECT of `CLIENT` by default, 1 s after the one before.

    Keys are the columns of `Events`, and `end` (the row's Endpoint).
    """
    defaults: dict[str, Any] = {
        "kind": Kind.CONNECT,
        "duration_ns": ABSENT,
        "error": 0,
        "request_bytes": ABSENT,
        "response_bytes": ABSENT,
        "srtt_us": ABSENT,
        "retransmits": ABSENT,
        "end": CLIENT,
    }
    filled = [{**defaults, "time_ns": START + number * SECOND, **row} for number, row in enumerate(rows)]
    ends = list(dict.fromkeys(row["end"] for row in filled))

    def column(name: str, dtype: type) -> NDArray[Any]:
        return np.array([row[name] for row in filled], dtype)

    integers = ("time_ns", "duration_ns", "request_bytes", "response_bytes", "srtt_us", "retransmits")
    return Events(
        kind=column("kind", np.uint8),
        error=column("error", np.int32),
        **{name: column(name, np.int64) for name in integers},
        endpoint=np.array([ends.index(row["end"]) for row in filled], np.int32),
        endpoints=ends,
    )


def make_output(
    *tables: Table, events: Events | None = None, watermark_ns: int = 2 * START, records: int = 0
) -> Output:
    """Return a batch whose lines are all due unless the watermark says otherwise."""
    return Output(list(tables), events or make_events(), watermark_ns, records)


def endpoints(count: int, roles: Sequence[str] = ("client", "server")) -> list[Endpoint]:
    """Return `count` endpoints on ports of their own, roles taking turns."""
    return [
        replace(
            SERVER if (role := roles[number % len(roles)]) == "server" else CLIENT,
            cookie=number,
            role=role,
            client_port=50000 + number,
            local=f"127.0.0.1:{80 if role == 'server' else 50000 + number}",
            remote=f"127.0.0.1:{50000 + number if role == 'server' else 80}",
        )
        for number in range(count)
    ]
