"""MongoDB: OP_MSG, and the messages before it (https://www.mongodb.com/docs/manual/reference/mongodb-wire-protocol/).

Shown are the command, its collection and its database, and of the reply whether it is an error, with its
code. Documents, filters and credentials are not. What is compressed is told as that. Commands that wait for
something to happen (`hello` that awaits a change, `getMore` of change streams and tailable cursors) carry
`masdeepflow.db.blocking`.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np

from masdeepflow.columns import prefix
from masdeepflow.ordered import Exchange, Message, Ordered, Turn, merge
from masdeepflow.pipelined import Messages, Pairs, pair
from masdeepflow.protocols.base import CERTAIN, LIKELY
from masdeepflow.protocols.mongodb.replies import HIDDEN_REPLY, NO_REPLY, Reply, opened_cursors, read_replies
from masdeepflow.protocols.mongodb.requests import HIDDEN, Request, RequestReader
from masdeepflow.protocols.mongodb.wire import REQUESTS, Frames, frames
from masdeepflow.schema import Kind
from masdeepflow.table import Encoded, Parsed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from masdeepflow.protocols.mongodb.replies import Replies
    from masdeepflow.protocols.mongodb.requests import Requests

__all__ = ["PROTOCOL", "MongoDb"]

_HEADER = 16
_CURSORS = 4096
"""Cursors that are known to wait; all are forgotten when there are more."""
_NOTHING = Request()


class _Session:
    """Follows `masdeepflow.ordered.Session`: nothing has to be remembered of a connection."""

    kept = followed = False

    @staticmethod
    def expects(request: Request) -> bool:
        return not request.silent

    @staticmethod
    def answers(reply: Reply, request: Request | None) -> bool:
        del reply, request
        return True


def _session(turn: Turn[Request, Reply]) -> _Session:
    del turn
    return _Session()


def _matches(reply: Reply, request: Request) -> bool:
    return None in {reply.answers, request.number} or reply.answers == request.number


def _failed(exchange: Exchange[Request, Reply, _Session]) -> bool:
    """Return whether a reply is missing: clients leave while they wait for what may never happen."""
    return exchange.unanswered and not (exchange.request and exchange.request.blocking)


class MongoDb:
    """The protocol (see `masdeepflow.protocols.base.Protocol`)."""

    name = "mongodb"

    def __init__(self) -> None:
        """Start with no connections."""
        self._reader = RequestReader()
        self._cursors, self._forgotten = np.zeros(0, np.int64), 0
        self._ordered: Ordered[Request, Reply, _Session] = Ordered(
            self._read_request, _session, (HIDDEN, HIDDEN_REPLY), _matches
        )

    @property
    def evicted(self) -> int:
        """Connections, requests that waited, and cursors, that had to be forgotten before their time."""
        return self._ordered.evicted + self._forgotten

    def recognise(self, slots: np.ndarray) -> NDArray[np.uint8]:
        """Return a score (n,), uint8: `CERTAIN` for requests that fit in all respects, with a command.

        `LIKELY`: with a command that is not known, or compressed. A reply has to name the request's id.
        """
        score = np.zeros(len(slots), np.uint8)
        opcode = prefix(slots["request"][:, 12:], 4)
        fits = (slots["request_length"] >= _HEADER) & np.isin(opcode, list(REQUESTS))
        fits &= prefix(slots["request"][:, 8:], 4) == 0
        rows = np.flatnonzero(fits)
        if len(rows):
            score[rows] = self._scores(slots[rows])
        return score

    def parse(self, slots: np.ndarray) -> Parsed:
        """Return the transactions of turns of MongoDB connections."""
        requests, replies = self._read(slots)
        self._learn_cursors(slots, requests, replies)
        asked, answered = self._messages(requests), _replies(replies)
        alone, build = pair(slots, asked, answered, (HIDDEN, HIDDEN_REPLY), NO_REPLY)
        alone &= _plain(slots, requests, replies)
        chosen, others = self._ordered.choose(slots, alone)
        exchanges: list[Exchange[Request, Reply, _Session]] = []
        if len(others):
            sub = slots[others]
            again = self._read(sub)
            named = (_named_requests(self._messages(again[0]), again[0].frames), _named_replies(again[1]))
            exchanges, left = self._ordered.follow(sub, others, alone[others], named)
            chosen[list(left)] = True
        pairs, base, places = merge(slots, build(chosen), exchanges, (_NOTHING, NO_REPLY))
        parsed = _parsed(pairs, base)
        parsed.error[places] |= np.array([_failed(exchange) for exchange in exchanges], bool)
        return parsed

    def waiting(self, cookies: Sequence[int]) -> list[int]:
        """Return those of these connections on which a request waits for its reply."""
        return self._ordered.waiting(cookies)

    def forget(self, cookies: Sequence[int]) -> None:
        """Drop what is kept for these closed connections."""
        self._ordered.forget(cookies)

    def _read(self, slots: np.ndarray) -> tuple[Requests, Replies]:
        return (
            self._reader.read(frames(slots["request"], slots["request_length"], requests=True)),
            read_replies(frames(slots["response"], slots["response_length"], requests=False)),
        )

    def _read_request(self, data: bytes, at: int) -> Message[Request] | None:
        """Return the request at `at`: for turns that begin with the end of another."""
        rest = np.zeros((1, (len(data) - at + 7) // 8 * 8 + _HEADER), np.uint8)
        rest[0, : len(data) - at] = np.frombuffer(data[at:], np.uint8)
        found = self._reader.read(frames(rest, np.array([len(data) - at]), requests=True))
        if not len(found.codes):
            return None
        messages = _named_requests(self._messages(found), found.frames)
        end = int(messages.end[0])
        return Message(at, end if end < 0 else at + end, messages.values[messages.code[0]])

    def _learn_cursors(self, slots: np.ndarray, requests: Requests, replies: Replies) -> None:
        """Note the cursors of which a getMore waits until there is more."""
        opens = np.array([request.opens for request in requests.values], bool)
        if not opens.any():
            return
        rows = requests.frames.row[opens[requests.codes] & (requests.frames.start == 0)]
        fresh = opened_cursors(replies.frames, rows[slots["kind"][rows] == Kind.TURN])
        known = np.union1d(self._cursors, fresh[fresh != 0])
        kept = known if len(known) <= _CURSORS else fresh[fresh != 0][:_CURSORS]
        self._forgotten += len(known) - len(kept)
        self._cursors = kept

    def _messages(self, requests: Requests) -> Messages[Request]:
        """Return the requests, those marked that ask a cursor which waits."""
        found, codes, values = requests.frames, requests.codes, requests.values
        more = np.array([request.operation == "getMore" and not request.blocking for request in values], bool)
        if len(self._cursors) and more.any():
            rows = np.flatnonzero(more[codes] & np.isin(requests.cursor, self._cursors))
            codes = codes.copy()
            codes[rows] += len(values)
            values = [*values, *(request._replace(blocking=True) for request in values)]
        silent = np.array([request.silent for request in values], bool)[codes]
        return Messages(found.row, found.start, found.end, codes, values, found.ended, found.good, silent)

    def _scores(self, slots: np.ndarray) -> NDArray[np.uint8]:
        requests, replies = self._read(slots)
        asked, first = requests.frames, requests.frames.start == 0
        sound = np.array([request.sound for request in requests.values], bool)[requests.codes] & first
        known = np.array([request.operation is not None for request in requests.values], bool)[requests.codes]
        score = np.zeros(len(slots), np.uint8)
        score[asked.row[sound]] = LIKELY
        score[asked.row[sound & known]] = CERTAIN
        score[~asked.good] = 0
        score[(slots["response_length"] > 0) & ~_answered(requests, replies, len(slots))] = 0
        return score


def _replies(replies: Replies) -> Messages[Reply]:
    found = replies.frames
    return Messages(found.row, found.start, found.end, replies.codes, replies.values, found.ended, found.good)


def _named_requests(messages: Messages[Request], found: Frames) -> Messages[Request]:
    """Return requests of which each has its own id."""
    known = zip(messages.code.tolist(), found.number.tolist(), found.opcode.tolist(), strict=True)
    values = [
        messages.values[code]._replace(number=number if opcode else None) for code, number, opcode in known
    ]
    return messages._replace(code=np.arange(len(values), dtype=np.int32), values=values)


def _named_replies(replies: Replies) -> Messages[Reply]:
    found = replies.frames
    known = zip(replies.codes.tolist(), found.answers.tolist(), found.opcode.tolist(), strict=True)
    values = [
        replies.values[code]._replace(answers=number if opcode else None) for code, number, opcode in known
    ]
    return _replies(replies)._replace(code=np.arange(len(values), dtype=np.int32), values=values)


def _spoken(requests: Requests) -> NDArray[np.intp]:
    """Return the places of requests that a reply will come to."""
    silent = np.array([request.silent for request in requests.values], bool)
    return np.flatnonzero(~silent[requests.codes])


def _plain(slots: np.ndarray, requests: Requests, replies: Replies) -> NDArray[np.bool_]:
    """Return which turns (n,) show all their requests, one of them with a reply, which is its own."""
    asked, answered, count = requests.frames, replies.frames, len(slots)
    spoken = _spoken(requests)
    expected, seen = (
        np.bincount(asked.row[spoken], minlength=count),
        np.bincount(answered.row, minlength=count),
    )
    wanted, told = np.zeros(count, np.int64), np.zeros(count, np.int64)
    wanted[asked.row[spoken]], told[answered.row] = asked.number[spoken], answered.answers
    cut = np.zeros(count, bool)
    cut[asked.row[asked.opcode == 0]] = cut[answered.row[answered.opcode == 0]] = True
    whole = asked.ended >= slots["request_bytes"]
    plain: NDArray[np.bool_] = (expected == 1) & (seen == 1) & (wanted == told) & whole & ~cut
    return plain


def _answered(requests: Requests, replies: Replies, count: int) -> NDArray[np.bool_]:
    """Return which turns (n,) have a reply to their first request that expects one, if one is seen."""
    asked, answered = requests.frames, replies.frames
    spoken = _spoken(requests)[::-1]
    wanted, told = np.full(count, -1), np.full(count, -1)
    seen = np.zeros(count, bool)
    wanted[asked.row[spoken]], seen[asked.row[spoken]] = asked.number[spoken], True
    first = (answered.start == 0) & (answered.opcode > 0)
    told[answered.row[first]] = answered.answers[first]
    replied = np.zeros(count, bool)
    replied[answered.row[first]] = True
    fits: NDArray[np.bool_] = answered.good & replied & (~seen | (wanted == told))
    return fits


def _parsed(pairs: Pairs[Request, Reply], base: dict[str, NDArray[np.int64]]) -> Parsed:
    return Parsed(
        pairs.rows,
        pairs.asked(attrgetter("text")),
        pairs.told(attrgetter("text")),
        pairs.either(lambda _: False, attrgetter("error")),
        pairs.truncated[pairs.which] | pairs.either(attrgetter("truncated"), attrgetter("truncated")),
        {
            "db.system.name": Encoded(np.zeros(len(pairs.rows), np.int32), ["mongodb"]),
            "db.query.summary": pairs.asked(_summary),
            "db.operation.name": pairs.asked(attrgetter("operation")),
            "db.collection.name": pairs.asked(attrgetter("collection")),
            "db.namespace": pairs.asked(attrgetter("namespace")),
            "db.response.status_code": pairs.told(attrgetter("code")),
            "masdeepflow.db.blocking": pairs.asked(lambda request: "true" if request.blocking else None),
        },
        base,
    )


def _summary(request: Request) -> str | None:
    """Return operation and target, as OpenTelemetry has them."""
    if request.operation is None:
        return None
    return f"{request.operation} {request.collection}" if request.collection else request.operation


PROTOCOL = MongoDb
"""What the registry loads."""
