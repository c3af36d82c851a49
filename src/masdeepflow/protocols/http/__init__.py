"""HTTP/1.0 and HTTP/1.1 (RFC 9110, RFC 9112).

Nearly every turn is one transaction: those are parsed as columns, each distinct head once. The rest
(pipelining, interim responses, bodies that go on in later turns) is paired turn by turn, by `pairing`.

- A transaction is reported with the turn that holds its final status line. Response bytes that follow in
  slots with `Flag.CONTINUED` are dropped: they matter only to requests that wait for a final response.
- A request waits for its final response. It is dropped, unreported, if none can be told any more: slots
  between were lost, or the connection ended and no slot of the request's own said so.
- The rest of a body in a later turn is skipped by its Content-Length. Where that is not known (chunked beyond
  the prefix, or a head that was cut) it is told from a request by not starting like one.
- A response whose request is not visible is a transaction without a request.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from masdeepflow.coded import Coded
from masdeepflow.columns import Memo, find_byte, prefix
from masdeepflow.direct_mapped import DirectMapped
from masdeepflow.protocols.base import CERTAIN, POSSIBLE
from masdeepflow.protocols.http.glances import Requests, glance
from masdeepflow.protocols.http.heads import (
    FIRST_FINAL,
    UNKNOWN,
    VERSIONS,
    Request,
    Response,
    read_request,
    read_response,
)
from masdeepflow.protocols.http.pairing import Exchange, Pairing, read_turns
from masdeepflow.recall import Recall
from masdeepflow.schema import Flag, Kind, Role
from masdeepflow.table import ABSENT, Attribute, Encoded, Parsed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from masdeepflow.protocols.http.glances import Unread

__all__ = ["PROTOCOL", "Http"]

_FEW = 64  # more are looked at sooner as columns
_LINE_FEED = 0x0A
_RESPONSE_START = b"HTTP/1."
_START_WORD = np.uint64(int.from_bytes(_RESPONSE_START, "little"))
_FIRST_BYTES = np.array([(1 << 8 * n) - 1 for n in range(len(_RESPONSE_START) + 1)], np.uint64)
_CLIENT_ERROR, _SERVER_ERROR = 400, 500
# A member of an enum would have NumPy cast the whole column to int64 first.
_TURN, _CLIENT = int(Kind.TURN), int(Role.CLIENT)
_CONTINUED, _CLOSED = int(Flag.CONTINUED), int(Flag.CLOSED)


class _Transactions(NamedTuple):
    """m transactions. rows: intp (m,), turns. unanswered, truncated: bool (m,), as in `Exchange`."""

    rows: NDArray[np.intp]
    requests: Requests
    responses: Coded[Response]
    unanswered: NDArray[np.bool_]
    truncated: NDArray[np.bool_]


class Http:
    """The protocol (see `masdeepflow.protocols.base.Protocol`)."""

    name = "http"

    def __init__(self, few: int = _FEW) -> None:
        """Start with no connections. few: new requests at a time that are read one by one."""
        self._few = few
        self._requests = Memo(read_request)
        self._responses = Memo(read_response)
        self._known_requests: Recall[Request] = Recall(keeps=_is_read)
        self._met = DirectMapped()
        self._known_responses: Recall[Response] = Recall()
        self._pairing = Pairing()

    @property
    def evicted(self) -> int:
        """Connections that had to be forgotten with the requests that waited on them."""
        return self._pairing.evicted

    def recognise(self, slots: np.ndarray) -> NDArray[np.uint8]:
        """Return a score (n,), uint8; 0 wherever a response is visible that does not start like HTTP/1's.

        `CERTAIN`: a whole request line; a cut one with the start of a response; or a status line with no
        request visible. `POSSIBLE`: a cut request line alone, or a status line after bytes that are no
        request (the rest of a body, or something else sent to an HTTP server).
        """
        score = np.zeros(len(slots), np.uint8)
        started, fits = _response_starts(slots)
        rows = slice(None) if fits.all() else np.flatnonzero(fits)
        score[rows] = self._scores(slots[rows], started[rows])
        return score

    def parse(self, slots: np.ndarray) -> Parsed:
        """Return the transactions of turns of HTTP connections."""
        requests, responses = self._read_requests(slots, meet=True), self._read_responses(slots)
        alone = self._alone(slots, requests, responses)
        transactions = _single(slots, np.flatnonzero(alone), requests, responses)
        if len(transactions.rows) == len(slots):
            return _parsed(slots, transactions, {}, [])
        exchanges, opaque = self._pairing.follow(read_turns(slots, np.flatnonzero(~alone)))
        base = {}
        if exchanges:
            transactions, places = _merge(transactions, exchanges)
            base = _base(slots, transactions.rows, exchanges, places)
        return _parsed(slots, transactions, base, opaque)

    def waiting(self, cookies: Sequence[int]) -> list[int]:
        """Return those of these connections on which a request waits for its response."""
        return self._pairing.waiting(cookies)

    def forget(self, cookies: Sequence[int]) -> None:
        """Drop what is kept for these closed connections."""
        self._pairing.forget(cookies)

    def _read_requests(self, slots: np.ndarray, *, meet: bool = False) -> Requests:
        """Return the requests of slots (n,). Of payloads that come for the first time most are not read.

        meet: they count as met from now on: if they come again, they are read, and known.
        """
        hashes = slots["request_hash"]
        found: list[tuple[NDArray[np.intp], Unread]] = []

        def read(rows: NDArray[np.intp]) -> tuple[NDArray[np.int32], list[Request]]:
            new = self._met.find(hashes[rows])[1]
            if new is None or np.count_nonzero(new) < self._few:
                return self._requests.encode(*_payload(slots, "request", rows))
            if meet:
                self._met.keep(hashes[rows], np.zeros(len(rows), np.int32))
            fits, told, unread = glance(*_payload(slots, "request", rows[new]))
            new[new] = fits
            found.append((rows[new], unread))
            others = self._requests.encode(*_payload(slots, "request", rows[~new]))
            codes = np.empty(len(rows), np.int32)
            codes[new] = told.codes
            codes[~new] = others[0] + np.int32(len(told.values))
            return codes, told.values + others[1]

        coded = Coded(*self._known_requests.encode(hashes, read))
        if not found:
            return Requests(coded, None, None)
        rows, unread = found[0]
        own = np.full(len(slots), ABSENT, np.int32)
        own[rows] = np.arange(len(rows), dtype=np.int32)
        return Requests(coded, own, unread)

    def _read_responses(self, slots: np.ndarray) -> Coded[Response]:
        def read(rows: NDArray[np.intp]) -> tuple[NDArray[np.int32], list[Response]]:
            payload, lengths = _payload(slots, "response", rows)
            line_end = find_byte(payload, lengths, _LINE_FEED)
            return self._responses.encode(payload, np.where(line_end < 0, lengths, line_end + 1))

        return Coded(*self._known_responses.encode(slots["response_hash"], read))

    def _scores(self, slots: np.ndarray, started: NDArray[np.bool_]) -> NDArray[np.uint8]:
        requests, responses = self._read_requests(slots), self._read_responses(slots)
        visible = requests.coded.strings(attrgetter("method")).codes != ABSENT
        cut = requests.coded.integers(attrgetter("cut")) > 0
        answered = responses.integers(attrgetter("status")) != ABSENT
        certain = visible & (~cut | started)
        certain |= answered & (slots["request_length"] == 0)
        return np.select([certain, visible | answered], [CERTAIN, POSSIBLE], 0).astype(np.uint8)

    def _alone(self, slots: np.ndarray, requests: Requests, responses: Coded[Response]) -> NDArray[np.bool_]:
        """Return which turns (n,) are one transaction whatever comes before and behind them."""
        ends = requests.coded.integers(attrgetter("end"))
        statuses = responses.integers(attrgetter("status"))
        alone: NDArray[np.bool_] = (ends == UNKNOWN) | (ends == slots["request_bytes"].astype(np.int64))
        alone &= (statuses == ABSENT) | (statuses >= FIRST_FINAL)
        alone &= (slots["flags"] & _CONTINUED) == 0
        cookies = slots["cookie"]
        if self._pairing.cookies:
            alone &= ~np.isin(cookies, np.array(self._pairing.cookies, np.uint64))
        if not alone.all():
            alone &= ~np.isin(cookies, cookies[~alone])
        return alone


def _is_read(request: Request) -> bool:
    """Whether this is all that there is to tell, not only what a glance does."""
    return request.text is not None or request.method is None


def _choose(slots: np.ndarray, rows: NDArray[np.intp]) -> NDArray[np.intp] | slice:
    """Return an index of `rows` that copies nothing if they are all there are."""
    return slice(None) if len(rows) == len(slots) else rows


def _payload(
    slots: np.ndarray, side: str, rows: NDArray[np.intp]
) -> tuple[NDArray[np.uint8], NDArray[np.uint16]]:
    """Return the payload prefixes of `rows` (k,), ascending and distinct, and their valid lengths."""
    chosen = _choose(slots, rows)
    return slots[side][chosen], slots[f"{side}_length"][chosen]


def _response_starts(slots: np.ndarray) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """Return whether each response (n,) starts with `HTTP/1.`, and whether it does as far as it goes."""
    length = np.minimum(slots["response_length"], len(_RESPONSE_START))
    mask = _FIRST_BYTES[length]
    fits = (prefix(slots["response"], 8) & mask) == (_START_WORD & mask)
    return fits & (length == len(_RESPONSE_START)), fits


def _single(
    slots: np.ndarray, rows: NDArray[np.intp], requests: Requests, responses: Coded[Response]
) -> _Transactions:
    """Return the turns `rows` (m,) as one transaction each."""
    chosen = _choose(slots, rows)
    requests, responses = requests.take(chosen), responses.take(chosen)
    answered = slots["response_bytes"][chosen] > 0
    truncated = answered & (responses.integers(attrgetter("status")) == ABSENT)
    if truncated.any():
        truncated[truncated] = _is_cut(slots[rows[truncated]])
    over = (slots["kind"][chosen] == _TURN) & ((slots["flags"][chosen] & _CLOSED) > 0)
    return _Transactions(
        rows,
        requests,
        responses,
        unanswered=over & ~answered,
        truncated=truncated,
    )


def _is_cut(slots: np.ndarray) -> NDArray[np.bool_]:
    """Return whether the first line of each response (n,) goes on behind its prefix."""
    line_end = find_byte(slots["response"], slots["response_length"], _LINE_FEED)
    return (slots["response_length"] < slots["response_bytes"]) & (line_end < 0)


def _merge(single: _Transactions, exchanges: list[Exchange]) -> tuple[_Transactions, NDArray[np.intp]]:
    """Return all transactions (m,) in the order of their turns, and where the exchanges are among them."""
    rows = np.concatenate([single.rows, np.array([exchange.row for exchange in exchanges], np.intp)])
    order = np.argsort(rows, kind="stable")
    places = np.argsort(order, kind="stable")[len(single.rows) :]
    unanswered = np.array([exchange.unanswered for exchange in exchanges])
    truncated = np.array([exchange.truncated for exchange in exchanges])
    merged = _Transactions(
        rows[order],
        single.requests.joined([exchange.request for exchange in exchanges], order),
        single.responses.joined([exchange.response for exchange in exchanges], order),
        np.concatenate([single.unanswered, unanswered])[order],
        np.concatenate([single.truncated, truncated])[order],
    )
    return merged, places


def _base(
    slots: np.ndarray, rows: NDArray[np.intp], exchanges: list[Exchange], places: NDArray[np.intp]
) -> dict[str, NDArray[np.int64]]:
    """Return the base columns (m,) that exchanges replace, with the turn's own values elsewhere."""
    base = {}
    for name in ("request_first_ns", "queue_ns", "request_bytes", "response_bytes"):
        base[name] = slots[name][rows].astype(np.int64)
        base[name][places] = [getattr(exchange, name) for exchange in exchanges]
    waiting = places[[not exchange.answered for exchange in exchanges]]
    for name in ("response_first_ns", "response_last_ns"):
        base[name] = slots[name][rows].astype(np.int64)
        base[name][waiting] = 0
    return base


def _parsed(
    slots: np.ndarray, transactions: _Transactions, base: dict[str, NDArray[np.int64]], opaque: list[int]
) -> Parsed:
    rows, requests, responses, unanswered, truncated = transactions
    status = responses.integers(attrgetter("status"))
    cut = requests.coded.integers(attrgetter("cut")) + responses.integers(attrgetter("cut"))
    first_error = np.where(slots["role"][rows] == _CLIENT, _CLIENT_ERROR, _SERVER_ERROR)
    return Parsed(
        rows=rows,
        request_text=requests.strings(attrgetter("text")),
        response_text=responses.strings(attrgetter("text")),
        error=unanswered | (status >= first_error),
        truncated=truncated | (cut > 0),
        attributes=_attributes(requests, responses, status),
        base=base,
        opaque=opaque,
    )


def _attributes(
    requests: Requests, responses: Coded[Response], status: NDArray[np.int64]
) -> dict[str, Attribute]:
    """Source: OpenTelemetry semantic conventions for HTTP; names and order as in `schema.ATTRIBUTES`."""
    asked = requests.coded.integers(attrgetter("version"))
    given = responses.integers(attrgetter("version"))
    version = np.where(asked == ABSENT, given, asked).astype(np.int32)
    return {
        "http.request.method": requests.coded.strings(attrgetter("method")),
        "url.path": requests.strings(attrgetter("path")),
        "url.query": requests.strings(attrgetter("query")),
        "http.response.status_code": status,
        "network.protocol.version": Encoded(version, list(VERSIONS)),
        "server.name": requests.strings(attrgetter("host")),
        "user_agent.original": requests.strings(attrgetter("agent")),
    }


PROTOCOL = Http
"""What the registry loads."""
