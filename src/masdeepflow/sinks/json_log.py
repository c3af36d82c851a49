"""The JSON log: one object per transaction and connection event, then a summary, in OpenTelemetry names.

Beside the transactions' keys, connection events carry `duration_ns` (connect latency, or the life of a closed
connection), a closed one `request_bytes`, `response_bytes`, `tcp.srtt_us` and `tcp.retransmits`, a failed one
`error.type`: the errno's name, or `closed` when it was closed before it completed. A transaction that was
never answered has no `duration_ns`, but `error.type` and `masdeepflow.waited_ns` (`schema.ATTRIBUTES`).
"""

from __future__ import annotations

import errno
import json
from dataclasses import asdict
from functools import partial
from itertools import repeat
from typing import TYPE_CHECKING

import numpy as np

from masdeepflow.escape import json_string
from masdeepflow.schema import ATTRIBUTES, Kind
from masdeepflow.sinks.grouping import codes_of, distinct
from masdeepflow.sinks.line_log import LineLog
from masdeepflow.sinks.per_endpoint import PerEndpoint
from masdeepflow.sinks.stamps import nanos
from masdeepflow.table import Encoded

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from masdeepflow.endpoint import Endpoint
    from masdeepflow.sinks.line_writer import LineWriter
    from masdeepflow.summary import Summary
    from masdeepflow.table import Attribute, Events, Output, Table

__all__ = ["JsonLog"]

_EVENTS = {
    Kind.CONNECT: "connect",
    Kind.CONNECT_FAILED: "connect_failed",
    Kind.ACCEPT: "accept",
    Kind.CLOSE: "close",
}
_FLAGS = [
    f',"error":{error},"truncated":{truncated}'
    for error in ("false", "true")
    for truncated in ("false", "true")
]
_BOOLEANS = ("false", "true")
_PERCENTILE_DIGITS = 6


class JsonLog(LineLog):
    """One line a finished transaction and connection event; the last line is the summary."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__(writer)
        self._fragments = PerEndpoint(_fragments)

    def _hold(self, output: Output) -> None:
        events = output.events
        closing = events.kind == Kind.CLOSE
        self._hold_events(events, np.flatnonzero(~closing))
        for table in output.tables:
            rows = np.flatnonzero(~table.still_open)
            self._add(table.start_ns[rows], rows, partial(self._transactions, table))
        self._hold_events(events, np.flatnonzero(closing))

    def _hold_events(self, events: Events, rows: NDArray[np.intp]) -> None:
        self._add(events.time_ns[rows], rows, partial(self._connections, events))

    def _transactions(self, table: Table, rows: NDArray[np.intp]) -> list[str]:
        fragments = self._fragments.of(table.endpoint[rows], table.endpoints)
        protocol = f',"protocol":{json_string(table.protocol)}'
        columns = (
            nanos(table.start_ns[rows]),
            _optional("duration_ns", table.duration_ns[rows]),
            _optional("ttfb_ns", table.ttfb_ns[rows]),
            _optional("queue_ns", table.queue_ns[rows]),
            map(fragments.__getitem__, table.endpoint[rows].tolist()),
            table.request_bytes[rows].tolist(),
            table.response_bytes[rows].tolist(),
            (2 * table.error[rows] + table.truncated[rows]).tolist(),
            _attributes(table.attributes, rows),
        )
        return [
            f'{{"timestamp":"{stamp}"{duration}{ttfb}{queue}{protocol}{role},"request_bytes":{sent}'
            f',"response_bytes":{received}{_FLAGS[flags]}{endpoint}{attributes}}}'
            for stamp, duration, ttfb, queue, (role, endpoint), sent, received, flags, attributes in zip(
                *columns, strict=False
            )
        ]

    def _connections(self, events: Events, rows: NDArray[np.intp]) -> list[str]:
        fragments = self._fragments.of(events.endpoint[rows], events.endpoints)
        columns = (
            nanos(events.time_ns[rows]),
            events.kind[rows].tolist(),
            _optional("duration_ns", events.duration_ns[rows]),
            map(fragments.__getitem__, events.endpoint[rows].tolist()),
            _optional("request_bytes", events.request_bytes[rows]),
            _optional("response_bytes", events.response_bytes[rows]),
            _optional("tcp.srtt_us", events.srtt_us[rows]),
            _optional("tcp.retransmits", events.retransmits[rows]),
            _error_types(events, rows),
        )
        return [
            f'{{"timestamp":"{stamp}","event":"{_EVENTS[kind]}"{duration}{role}{sent}{received}{rtt}{again}{error}'
            f"{endpoint}}}"
            for stamp, kind, duration, (role, endpoint), sent, received, rtt, again, error in zip(
                *columns, strict=False
            )
        ]

    def _finish(self, summary: Summary) -> None:
        self._writer.close(lambda lost: _summary_line(summary, lost))


def _optional(name: str, column: NDArray[np.int64]) -> Iterable[str]:
    """Return `,"name":value` for each value (n,), empty where it is absent."""
    if (column < 0).all():
        return repeat("")
    start = f',"{name}":'
    return [f"{start}{value}" if value >= 0 else "" for value in column.tolist()]


def _attributes(attributes: dict[str, Attribute], rows: NDArray[np.intp]) -> Iterable[str]:
    """Return the attributes of each row as JSON members, rendered once for each distinct combination."""
    columns = {name: attributes[name] for name in ATTRIBUTES if name in attributes}
    if not columns or not len(rows):
        return repeat("")
    codes = [codes_of(column)[rows] for column in columns.values()]
    examples, groups = distinct(codes, len(rows))
    members = [
        _members(name, column, code[examples].tolist())
        for (name, column), code in zip(columns.items(), codes, strict=True)
    ]
    rendered = list(map("".join, zip(*members, strict=True)))
    return map(rendered.__getitem__, groups.tolist())


def _members(name: str, column: Attribute, codes: list[int]) -> list[str]:
    known = {code: _member(name, column, code) for code in set(codes)}
    return [known[code] for code in codes]


def _member(name: str, column: Attribute, code: int) -> str:
    if code < 0:
        return ""
    if isinstance(column, Encoded):
        return f',"{name}":{json_string(column.values[code])}'
    return f',"{name}":{_BOOLEANS[code] if ATTRIBUTES[name].type == "bool" else code}'


def _error_types(events: Events, rows: NDArray[np.intp]) -> Iterable[str]:
    kinds = events.kind[rows]
    failed = (kinds == Kind.CONNECT_FAILED) | ((kinds == Kind.CLOSE) & (events.error[rows] > 0))
    if not failed.any():
        return repeat("")
    columns = (failed.tolist(), events.error[rows].tolist())
    return [
        f',"error.type":"{_error_type(error)}"' if bad else "" for bad, error in zip(*columns, strict=True)
    ]


def _error_type(error: int) -> str:
    return errno.errorcode.get(error, str(error)) if error else "closed"


def _fragments(endpoint: Endpoint) -> tuple[str, str]:
    """Return the endpoint's role and the rest of it, as JSON members."""
    text = {
        "network.transport": endpoint.transport,
        "client.address": endpoint.client_address,
        "client.port": endpoint.client_port,
        "server.address": endpoint.server_address,
        "server.port": endpoint.server_port,
        "process.pid": endpoint.pid,
        "process.executable.name": endpoint.executable or endpoint.comm,
        "process.command": endpoint.command,
        **dict(endpoint.attributes),
        **dict(endpoint.peer),
    }
    role = f',"role":"{endpoint.role}"' if endpoint.role else ""
    members = [f",{json_string(name)}:{_scalar(value)}" for name, value in text.items() if value is not None]
    return role, "".join(members)


def _scalar(value: str | int) -> str:
    return str(value) if isinstance(value, int) else json_string(value)


def _summary_line(summary: Summary, lost: int) -> str:
    services = [
        {
            key: round(value, _PERCENTILE_DIGITS) if isinstance(value, float) else value
            for key, value in asdict(service).items()
        }
        for service in summary.services
    ]
    forgotten = {name: count for name, count in summary.forgotten.items() if count}
    return json.dumps(
        {
            "event": "summary",
            "records": summary.records,
            "lost": {**summary.lost, "log": lost},
            **({"forgotten": forgotten} if forgotten else {}),
            "services": services,
        }
    )
