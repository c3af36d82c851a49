"""Requests paired with responses turn by turn, for connections where one turn is not one transaction.

Responses come in the order of the requests (RFC 9112 section 9.3.2): what waits on a connection is a queue.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, NamedTuple

from masdeepflow.protocols.http.heads import (
    FIRST_FINAL,
    NO_REQUEST,
    NO_RESPONSE,
    SWITCHING_PROTOCOLS,
    UNKNOWN,
    Request,
    Response,
    leaves_http,
    message_end,
    read_request,
    read_response,
)
from masdeepflow.schema import Flag, Kind
from masdeepflow.table import ABSENT

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Exchange", "Pairing", "Turn", "read_turns"]

_CONNECTIONS = 4096
"""Connections kept, the one that was idle longest dropped first."""
_WAITING = 64
"""Requests that may wait on one connection."""
# Operators of enum members run in Python, ten times slower.
_CONTINUED, _CLOSED, _OPEN = int(Flag.CONTINUED), int(Flag.CLOSED), int(Kind.OPEN)


class Turn(NamedTuple):
    """One slot. row: its index. request, response: the valid bytes. The rest as in bpf/wire.h."""

    row: int
    request: bytes
    response: bytes
    cookie: int
    turn: int
    kind: int
    flags: int
    request_bytes: int
    response_bytes: int
    request_first_ns: int
    queue_ns: int


@dataclass(slots=True)
class Exchange:
    """One request and its response: `NO_REQUEST` or `NO_RESPONSE` where it is not visible.

    row: the turn that ended it. request_bytes, response_bytes: its share of its turns' bytes; what can't be
    told apart is counted with the last request or response that is visible.
    answered: a final response came, visible or not. unanswered: the connection was closed before one did.
    truncated: what belongs here is beyond the prefix, whole or in part: its head, its status line, or
        requests behind it. A line that is visible whole and is none is not truncated.
    """

    row: int
    request: Request
    request_first_ns: int
    queue_ns: int
    request_bytes: int
    response_bytes: int = 0
    response: Response = NO_RESPONSE
    answered: bool = False
    unanswered: bool = False
    truncated: bool = False


@dataclass(slots=True)
class _Connection:
    """turn: number of the last one seen. waiting: requests without a final response, oldest first.

    request_left, response_left: bytes still to come of a body whose length is known.
    """

    turn: int
    request_left: int = 0
    response_left: int = 0
    waiting: list[Exchange] = field(default_factory=list)


def read_turns(slots: np.ndarray, rows: NDArray[np.intp]) -> Iterator[Turn]:
    """Yield the turns of `rows` (m,), indices into `slots` (n,)."""
    chosen = slots[rows]
    sides = []
    for side in ("request", "response"):
        data, width = chosen[side].tobytes(), chosen[side].shape[1]
        lengths = chosen[f"{side}_length"].tolist()
        sides.append(
            [data[at * width : at * width + min(length, width)] for at, length in enumerate(lengths)]
        )
    columns = [chosen[name].tolist() for name in Turn._fields[3:]]
    return map(Turn._make, zip(rows.tolist(), *sides, *columns, strict=True))


class Pairing:
    """What waits on each connection, between turns and between batches.

    evicted: connections that were forgotten with what waited on them.
    """

    def __init__(self) -> None:
        """Start with no connections."""
        self._connections: dict[int, _Connection] = {}
        self.evicted = 0

    @property
    def cookies(self) -> list[int]:
        """Connections whose next turn is not to be understood without what is kept of them."""
        return list(self._connections)

    def waiting(self, cookies: Iterable[int]) -> list[int]:
        """Return those of these connections on which a request waits for its response."""
        return [cookie for cookie in self._connections.keys() & cookies if self._connections[cookie].waiting]

    def forget(self, cookies: Iterable[int]) -> None:
        """Drop what is kept of these connections."""
        for cookie in self._connections.keys() & cookies:
            del self._connections[cookie]

    def follow(self, turns: Iterable[Turn]) -> tuple[list[Exchange], list[int]]:
        """Return the exchanges that `turns` end, or show while in flight, and the cookies that left HTTP."""
        ended: list[Exchange] = []
        left: dict[int, None] = {}
        for turn in turns:
            if turn.cookie not in left:
                ended += self._follow(turn, left)
        return ended, list(left)

    def _follow(self, turn: Turn, left: dict[int, None]) -> list[Exchange]:
        connection = self._connection(turn)
        if connection is None:
            return []
        if not turn.flags & _CONTINUED:
            _take_requests(connection, turn)
        ended = _take_responses(connection, turn)
        if turn.kind == _OPEN:
            ended += connection.waiting
        elif _left_http(ended):
            left[turn.cookie] = None
            self.forget([turn.cookie])
        else:
            ended += _take_unanswered(connection, turn)
            self._keep(connection, turn)
        for exchange in ended:
            exchange.row = turn.row
        return ended

    def _connection(self, turn: Turn) -> _Connection | None:
        """Return the connection as the turn finds it; a copy for a turn in flight, which comes again.

        A gap in the turns' numbers means that turns were lost, and with them the end of what waited.
        """
        continued = bool(turn.flags & _CONTINUED)
        known = self._connections.get(turn.cookie)
        if known is None or known.turn + (not continued) != turn.turn:
            return None if continued else _Connection(turn.turn)
        if turn.kind == _OPEN:
            known = copy.deepcopy(known)
        known.turn = turn.turn
        return known

    def _keep(self, connection: _Connection, turn: Turn) -> None:
        self._connections.pop(turn.cookie, None)
        if not turn.flags & _CLOSED and (connection.waiting or connection.request_left):
            self._connections[turn.cookie] = connection
        if len(self._connections) > _CONNECTIONS:
            del self._connections[next(iter(self._connections))]
            self.evicted += 1


def _take_requests(connection: _Connection, turn: Turn) -> None:
    """Queue the turn's requests; one of which nothing is seen if only its response can be."""
    waiting, skipped = connection.waiting, connection.request_left
    heads, end = _read_requests(turn.request, skipped)
    starts = [start for start, _ in heads] + [turn.request_bytes]
    if waiting:
        waiting[-1].request_bytes += min(starts[0], turn.request_bytes)
    for (start, request), stop in zip(heads, starts[1:], strict=True):
        waiting.append(_exchange(turn, request, stop - start))
    if waiting and UNKNOWN < end < turn.request_bytes:
        waiting[-1].truncated |= _is_cut(turn.request, end, turn.request_bytes)
    if not waiting and not 0 < turn.request_bytes <= skipped:
        waiting.append(_exchange(turn, NO_REQUEST, turn.request_bytes))
        waiting[-1].truncated = _is_cut(turn.request, skipped, turn.request_bytes)
    connection.request_left = max(end - turn.request_bytes, 0)


def _exchange(turn: Turn, request: Request, request_bytes: int) -> Exchange:
    return Exchange(turn.row, request, turn.request_first_ns, turn.queue_ns, request_bytes)


def _read_requests(data: bytes, skipped: int) -> tuple[list[tuple[int, Request]], int]:
    """Return the start and the head of each request behind `skipped` bytes, and the end of the last body.

    The end is `UNKNOWN` too where the very first bytes are no request: they continue something unseen.
    """
    heads: list[tuple[int, Request]] = []
    end = skipped
    while UNKNOWN < end < len(data):
        request = read_request(data[end:])
        if request.method is None:
            break
        heads.append((end, request))
        end = UNKNOWN if request.end < 0 else end + request.end
    return heads, end if heads or skipped else UNKNOWN


def _is_cut(data: bytes, start: int, total: int) -> bool:
    """Whether the line at `start` goes on behind `data`, the first of `total` bytes.

    Empty lines before it do not count (RFC 9112 section 2.2).
    """
    return len(data) < total and b"\n" not in data[start:].lstrip(b"\r\n")


def _take_responses(connection: _Connection, turn: Turn) -> list[Exchange]:
    """Give the turn's final responses to the requests that wait, and return those that no longer do."""
    waiting, total = connection.waiting, turn.response_bytes
    ended: list[Exchange] = []
    start = end = connection.response_left
    cut = len(turn.response) < total
    while waiting and UNKNOWN < end < len(turn.response):
        exchange, rest = waiting[0], turn.response[end:]
        response = read_response(rest)
        cut &= response.status != ABSENT or b"\n" not in rest
        length = message_end(rest, exchange.request.method, response.status)
        end = UNKNOWN if length == UNKNOWN else end + length
        if not _is_final(response.status):
            continue
        exchange.response, exchange.answered = response, True
        ended.append(waiting.pop(0))
        stop = min(end, total) if waiting and end != UNKNOWN else total
        exchange.response_bytes += max(stop - start, 0)
        start = stop
    connection.response_left = max(end - total, 0)
    if _left_http(ended) or (waiting and waiting[0].request.method is None):
        waiting.clear()
    if waiting:
        waiting[0].response_bytes += max(total - start, 0)
    return ended + (_take_hidden(waiting, cut=cut) if end < total else [])


def _take_hidden(waiting: list[Exchange], *, cut: bool) -> list[Exchange]:
    """Return what still waits though bytes came that may answer it; cut: they are beyond the prefix."""
    for exchange in waiting:
        exchange.answered = True
        exchange.truncated |= cut
    return _take_all(waiting)


def _take_unanswered(connection: _Connection, turn: Turn) -> list[Exchange]:
    """Return what need not wait any longer: no response will come, or too many wait."""
    waiting, closed = connection.waiting, bool(turn.flags & _CLOSED)
    if turn.response_bytes and not closed and len(waiting) <= _WAITING:
        return []
    for exchange in waiting:
        exchange.unanswered = closed
    return _take_all(waiting)


def _take_all(waiting: list[Exchange]) -> list[Exchange]:
    taken = waiting.copy()
    waiting.clear()
    return taken


def _is_final(status: int) -> bool:
    """Whether it answers the request: the other 1xx only announce (RFC 9110 section 15.2)."""
    return status >= FIRST_FINAL or status == SWITCHING_PROTOCOLS


def _left_http(ended: list[Exchange]) -> bool:
    return bool(ended) and leaves_http(ended[-1].request.method, ended[-1].response.status)
