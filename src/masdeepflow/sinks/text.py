"""The text log: one line per event, for people and for grep.

A request that is never answered has a line in its response's place, at the time at which it ended:
`HTTP Response: none (connection closed by client), {pod}, Waited: 1501ms`; `unfinished`
for `none` where it had begun.
"""

from __future__ import annotations

import errno
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from masdeepflow.escape import escape
from masdeepflow.schema import CLOSED_BY, ERROR_TYPE, WAITED, Kind
from masdeepflow.sinks.line_log import LineLog
from masdeepflow.sinks.per_endpoint import PerEndpoint
from masdeepflow.sinks.stamps import latencies, micros
from masdeepflow.table import Encoded
from masdeepflow.unanswered import ANSWERED_ELSEWHERE, CLOSED, RESET, RETRIED, TIMEOUT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from masdeepflow.endpoint import Endpoint
    from masdeepflow.sinks.line_writer import LineWriter
    from masdeepflow.summary import Summary
    from masdeepflow.table import Events, Output, Table

__all__ = ["TextLog"]

_UNRECOGNISED = "tcp"
_NAME_LIMIT = 256  # bytes of a name or an address: a Unix path has 108, a Kubernetes name 253
_REASONS = {
    TIMEOUT: "timed out",
    CLOSED: "connection closed",
    RESET: "connection reset",
    RETRIED: "retried",
    ANSWERED_ELSEWHERE: "another server answered",
    "ECONNREFUSED": "ECONNREFUSED: nothing listens there",
    "EHOSTUNREACH": "EHOSTUNREACH: no such host, or a firewall rejects it",
    "ENETUNREACH": "ENETUNREACH: no route there",
    "EADDRNOTAVAIL": "EADDRNOTAVAIL: no address to send from",
    "EPERM": "EPERM: not sent, a firewall of this host forbids it",
    "EACCES": "EACCES: not sent, this host forbids it",
    "ENETDOWN": "ENETDOWN: the network interface is down",
}
_CONNECTS = {
    errno.ECANCELED: "ECANCELED: given up before an answer came",
    errno.EADDRNOTAVAIL: "EADDRNOTAVAIL: no local port was left",
}
_LONG_NS = 10_000_000  # a connect that fails later has waited for something
_TYPES = {Kind.CONNECT: "CONNECT", Kind.CONNECT_FAILED: "CONNECT", Kind.ACCEPT: "ACCEPT", Kind.CLOSE: "CLOSE"}


class _Fragments(NamedTuple):
    """What an endpoint puts around a request, a response, one that never came, and by event kind."""

    request: tuple[str, str]
    response: tuple[str, str]
    unanswered: tuple[str, str]
    event: dict[int, str]


class _Silent(NamedTuple):
    """Requests of a table that were never answered.

    rows: intp (k,). Of all its rows (m,): reasons: why; closers: which end closed the connection; waited_ns:
    int64, for how long they waited.
    """

    rows: NDArray[np.intp]
    reasons: Encoded
    closers: Encoded
    waited_ns: NDArray[np.int64]


class TextLog(LineLog):
    """Two lines a transaction, the request and its response or why none came, and one a connection event."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__(writer)
        self._fragments = PerEndpoint(_fragments)

    def _hold(self, output: Output) -> None:
        events = output.events
        closing = events.kind == Kind.CLOSE
        self._hold_events(events, np.flatnonzero(~closing))
        for table in output.tables:
            rows = np.flatnonzero(_requests(table))
            self._add(table.start_ns[rows], rows, partial(self._request_lines, table))
            rows = np.flatnonzero(_responses(table))
            self._add(table.end_ns[rows], rows, partial(self._response_lines, table))
            silent = _silent(table)
            if silent is not None:
                rows = silent.rows
                self._add(table.end_ns[rows], rows, partial(self._unanswered_lines, table, silent))
        self._hold_events(events, np.flatnonzero(closing))

    def _hold_events(self, events: Events, rows: NDArray[np.intp]) -> None:
        self._add(events.time_ns[rows], rows, partial(self._event_lines, events))

    def _request_lines(self, table: Table, rows: NDArray[np.intp]) -> list[str]:
        fragments = self._fragments.of(table.endpoint[rows], table.endpoints)
        ends = {index: fragment.request for index, fragment in fragments.items()}
        texts, codes = _texts(table.request_text, rows)
        columns = (micros(table.start_ns[rows]), map(ends.__getitem__, table.endpoint[rows].tolist()), codes)
        return [
            f"{stamp}{head}{texts[code]}{tail}" for stamp, (head, tail), code in zip(*columns, strict=True)
        ]

    def _response_lines(self, table: Table, rows: NDArray[np.intp]) -> list[str]:
        fragments = self._fragments.of(table.endpoint[rows], table.endpoints)
        ends = {index: fragment.response for index, fragment in fragments.items()}
        texts, codes = _texts(table.response_text, rows)
        columns = (
            micros(table.end_ns[rows]),
            map(ends.__getitem__, table.endpoint[rows].tolist()),
            codes,
            latencies(table.duration_ns[rows]),
        )
        return [
            f"{stamp}{head}{texts[code]}{tail}{latency}"
            for stamp, (head, tail), code, latency in zip(*columns, strict=True)
        ]

    def _unanswered_lines(self, table: Table, silent: _Silent, rows: NDArray[np.intp]) -> list[str]:
        fragments = self._fragments.of(table.endpoint[rows], table.endpoints)
        columns = (
            micros(table.end_ns[rows]),
            [fragments[index].unanswered for index in table.endpoint[rows].tolist()],
            [_label(text) or table.protocol for text in table.request_text.take(rows).to_list()],
            ["unfinished" if size else "none" for size in table.response_bytes[rows].tolist()],
            map(_why, silent.reasons.take(rows).to_list(), silent.closers.take(rows).to_list()),
            latencies(silent.waited_ns[rows]),
        )
        return [
            f"{stamp}{head}{label} Response: {what} ({why}){tail}{waited}"
            for stamp, (head, tail), label, what, why, waited in zip(*columns, strict=True)
        ]

    def _event_lines(self, events: Events, rows: NDArray[np.intp]) -> list[str]:
        fragments = self._fragments.of(events.endpoint[rows], events.endpoints)
        columns = (micros(events.time_ns[rows]), events.endpoint[rows].tolist(), events.kind[rows].tolist())
        lines = [f"{stamp}{fragments[end].event[kind]}" for stamp, end, kind in zip(*columns, strict=True)]
        for place in np.flatnonzero(events.kind[rows] == Kind.CONNECT_FAILED).tolist():
            lines[place] += _connect_failed(events, rows[place])
        for place in np.flatnonzero((events.kind[rows] == Kind.CLOSE) & (events.error[rows] > 0)).tolist():
            lines[place] += f", Connection broken: {_reason(int(events.error[rows[place]]))}"
        return lines

    def _finish(self, summary: Summary) -> None:  # noqa: ARG002  # the text log ends with its last event
        self._writer.close()


def _requests(table: Table) -> NDArray[np.bool_]:
    """Return which rows (m,) give a request line."""
    return (table.request_text.codes >= 0) & ~table.shown & (table.protocol != _UNRECOGNISED)


def _responses(table: Table) -> NDArray[np.bool_]:
    """Return which rows (m,) give a response line."""
    return (table.response_text.codes >= 0) & ~table.still_open & (table.protocol != _UNRECOGNISED)


def _silent(table: Table) -> _Silent | None:
    """Return what was shown and is over without a response, as far as a reason is known."""
    reasons, waited = table.attributes.get(ERROR_TYPE), table.attributes.get(WAITED)
    if not isinstance(reasons, Encoded) or not isinstance(waited, np.ndarray):
        return None
    rows = (reasons.codes >= 0) & (table.response_text.codes < 0) & (table.request_text.codes >= 0)
    rows &= ~table.still_open & (table.protocol != _UNRECOGNISED)
    closers = table.attributes.get(CLOSED_BY)
    if not isinstance(closers, Encoded):
        closers = Encoded.absent(len(rows))
    return _Silent(np.flatnonzero(rows), reasons, closers, waited)


def _label(request_text: str | None) -> str:
    """Return the protocol as its lines name it: `MySQL` of `MySQL Process Kill: 7`."""
    return escape((request_text or "").partition(": ")[0].partition(" ")[0])


def _why(reason: str | None, closer: str | None) -> str:
    why = _REASONS.get(reason or "") or escape(reason or "")
    return f"{why} by {closer}" if closer else why


def _texts(column: Encoded, rows: NDArray[np.intp]) -> tuple[dict[int, str], list[int]]:
    """Return the escaped texts by code, and the code of each row."""
    codes = column.codes[rows].tolist()
    return {code: escape(column.values[code]) for code in set(codes)}, codes


def _fragments(endpoint: Endpoint) -> _Fragments:
    request, response = ("RX", "TX") if endpoint.role == "server" else ("TX", "RX")
    pod, container = _name(endpoint.pod), _name(endpoint.container)
    return _Fragments(
        request=(f"{_head(endpoint, request)}, ", f", {pod}, {container}"),
        response=(f"{_head(endpoint, response)}, ", f", {pod}, Latency: "),
        unanswered=(f"{_head(endpoint, response)}, ", f", {pod}, Waited: "),
        event={kind: _head(endpoint, name) for kind, name in _TYPES.items()},
    )


def _head(endpoint: Endpoint, event: str) -> str:
    return (
        f" [INFO] [{endpoint.transport.upper()}] Type: {event}, PID: {endpoint.pid}, "
        f"Comm: {_name(endpoint.comm)}, {_name(endpoint.local)} -> {_name(endpoint.remote)}"
    )


def _name(text: str) -> str:
    return escape(text, _NAME_LIMIT)


def _connect_failed(events: Events, row: np.intp) -> str:
    error = int(events.error[row])
    duration = events.duration_ns[row : row + 1]
    waited = f", Waited: {latencies(duration)[0]}" if duration[0] >= _LONG_NS else ""
    return f", Connect failed: {_CONNECTS.get(error) or _reason(error)}{waited}"


def _reason(error: int) -> str:
    return errno.errorcode.get(error, f"errno {error}") if error else "closed before it completed"
