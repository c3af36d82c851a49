"""Redis: RESP2, RESP3 and inline commands (https://redis.io/docs/latest/develop/reference/protocol-spec/).

Of a command only its name and the pattern of its first key are shown, of a reply only whether it is an error.
Pushes (pub/sub messages, invalidations) answer nothing and are no transactions. Blocking commands carry
`masdeepflow.db.blocking`; blocking reads of streams are operations of their own, `XREAD BLOCK`.
"""

from __future__ import annotations

import re
import string
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from masdeepflow.coded import Coded
from masdeepflow.columns import Memo, cut_out
from masdeepflow.keys import mask_variable
from masdeepflow.ordered import Exchange, Message, Ordered, Turn, merge
from masdeepflow.pairing import Pairing, Reader
from masdeepflow.pipelined import Messages, Pairs
from masdeepflow.protocols.base import CERTAIN, LIKELY
from masdeepflow.protocols.redis.commands import (
    HIDDEN_COMMAND,
    HIDDEN_REPLY,
    NIL,
    OK,
    PUBSUB,
    PUSH,
    Command,
    Reply,
    are_commands,
    read_command,
    read_reply,
)
from masdeepflow.protocols.redis.outline import reply_outline, request_outline
from masdeepflow.protocols.redis.resp import Frames, read_frame, walk
from masdeepflow.recall import renumber
from masdeepflow.schema import Flag
from masdeepflow.table import ABSENT, Encoded, Parsed

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

__all__ = ["PROTOCOL", "Redis"]

_HIDDEN = (HIDDEN_COMMAND, HIDDEN_REPLY)
_NEAR = 64  # bytes that most commands take up to their key
_DATABASE, _DATABASE_MOST = re.compile(r"[0-9]{1,4}\Z"), 9999
_FIRST_DATABASE = "0"
_REQUEST_START = np.isin(np.arange(256), list(b"*" + string.ascii_letters.encode()))
_REPLY_START = np.isin(np.arange(256), list(b"+-:$*_,#!=(~%>|"))
_ERRORS = rb"ERR|WRONG[A-Z]+|NO[A-Z]+|MOVED|ASK|LOADING|BUSY[A-Z]*|READONLY|OOM|DENIED|MISCONF|[A-Z]+DOWN"
_INLINE_REPLY = re.compile(
    rb"\+(?:OK|PONG|QUEUED|RESET)\r\n|-(?:%b) [^']|:-?\d+\r\n|\$(?:-1|\d+)\r\n|[*~%%](?:-1|\d+)\r\n|_\r\n"
    % _ERRORS
)
"""What may answer an inline command: other protocols have lines of these words too."""
_SHARED_WORDS = {"AUTH", "QUIT"}
"""Commands that POP3 has too, with replies that fit."""
_NEVER_OK = {"APPEND", "DECR", "GET", "INCR", "PING", "TOUCH"}
"""Commands that NATS and Memcached have too, which Redis answers otherwise."""
_FAREWELLS = {"PUNSUBSCRIBE", "QUIT", "SUNSUBSCRIBE", "UNSUBSCRIBE"}
_REST = read_command(b"")
_NO_COMMAND, _NO_REPLY = Command(), Reply()

T = TypeVar("T")


@dataclass(slots=True)
class _Session:
    """Follows `masdeepflow.ordered.Session`.

    namespace: number of the database in use, None where unknown; first: as the connection began. queued: what
    an open transaction will change it to. subscribed: messages may come at any time. stream: what comes is
    no reply any more. silent: replies are switched off, or skipped for one command.
    """

    first: str | None
    namespace: str | None
    queued: str | None = None
    subscribed: bool = False
    stream: bool = False
    silent: bool = False
    skipped: bool = False

    @property
    def followed(self) -> bool:
        return self.subscribed or self.stream or self.silent or self.skipped or self.queued is not None

    @property
    def kept(self) -> bool:
        return self.followed or self.namespace != self.first

    def expects(self, request: Command) -> bool:
        if request.operation == "CLIENT REPLY":
            return self._switch(request.arguments[1].upper() if len(request.arguments) > 1 else b"")
        skipped, self.skipped = self.skipped, False
        empty = request.followed and not request.name
        return not (skipped or empty or self.silent or self.stream or request.name == "SHUTDOWN")

    def _switch(self, mode: bytes) -> bool:
        self.skipped = mode == b"SKIP"
        self.silent = mode == b"OFF" or (self.silent and mode != b"ON")
        return mode not in {b"SKIP", b"OFF"}

    def answers(self, reply: Reply, request: Command | None) -> bool:
        if request is None:
            # What switched replies on again was not seen.
            self.silent &= reply.push or self.subscribed or self.stream
            return not (reply.push or self.followed)
        if reply.word in PUBSUB and request.name.lower().encode() == reply.word:
            self.subscribed = True
            return True
        if reply.push or (self.subscribed and reply.word in PUBSUB):
            return False
        if not reply.error:
            self._change(request, reply)
        return True

    def _change(self, request: Command, reply: Reply) -> None:
        name = request.name
        if name == "SELECT" and request.arguments:
            database = request.arguments[0].decode("latin-1")
            if reply.status == "QUEUED":
                self.queued = database
            else:
                self.namespace = database
        elif name in {"EXEC", "DISCARD"}:
            if name == "EXEC" and reply != NIL and self.queued is not None:
                self.namespace = self.queued
            self.queued = None
        elif name == "RESET":
            self.namespace, self.subscribed, self.queued = _FIRST_DATABASE, False, None
        elif name in {"MONITOR", "PSYNC", "SYNC"} and reply.status != "QUEUED":
            self.stream = True


def _session(turn: Turn[Command, Reply]) -> _Session:
    first = None if turn.flags & int(Flag.OLD_CONNECTION) else _FIRST_DATABASE
    return _Session(first, first)


def _read_request(data: bytes, at: int) -> Message[Command] | None:
    frame = read_frame(data, at, requests=True)
    if frame is None:
        return None
    command = data[at : frame.end if frame.end > 0 else len(data)]
    return Message(frame.start, frame.end, read_command(command, complete=True))


class Redis:
    """The protocol (see `masdeepflow.protocols.base.Protocol`)."""

    name = "redis"

    def __init__(self) -> None:
        """Start with no connections."""
        self._commands = Memo(read_command)
        self._whole_commands = Memo(lambda data: read_command(data, complete=True))
        self._lines = Memo(read_reply)
        self._ordered = Ordered(_read_request, _session, _HIDDEN)
        self._pairing = Pairing(
            Reader(self._read_requests, request_outline),
            Reader(self._read_replies, reply_outline),
            _HIDDEN,
            _NO_REPLY,
            _rule_out,
        )

    @property
    def evicted(self) -> int:
        """Connections, and commands that waited, that had to be forgotten before their time."""
        return self._ordered.evicted

    def recognise(self, slots: np.ndarray) -> NDArray[np.uint8]:
        """Return a score (n,), uint8; 0 wherever a side is visible that is not RESP as far as it goes.

        `CERTAIN`: an array of strings, the first of which is a command. `LIKELY`: other arrays of strings
        with a reply, inline commands with replies, or pub/sub messages alone.
        """
        score = np.zeros(len(slots), np.uint8)
        asked, answered = slots["request"][:, 0], slots["response"][:, 0]
        no_request, no_reply = slots["request_length"] == 0, slots["response_length"] == 0
        fits = _REQUEST_START[asked] & ~no_request & (no_reply | _REPLY_START[answered])
        fits |= no_request & ~no_reply & ((answered == ord("*")) | (answered == ord(">")))
        rows = np.flatnonzero(fits)
        if len(rows):
            score[rows] = self._scores(slots[rows])
        return score

    def parse(self, slots: np.ndarray) -> Parsed:
        """Return the transactions of turns of Redis connections."""
        alone, build = self._pairing.pair(slots)
        chosen, others = self._ordered.choose(slots, alone)
        exchanges, left = self._follow(slots[others], others, alone[others])
        chosen[list(left)] = True
        pairs, base, places = merge(slots, build(chosen), exchanges, (_NO_COMMAND, _NO_REPLY))
        databases = self._databases(slots)
        databases[list(left)] = [_number(session.namespace) for session in left.values()]
        databases = databases[pairs.rows]
        databases[places] = [_number(exchange.session.namespace) for exchange in exchanges]
        unanswered = np.array([exchange.unanswered and _fails(exchange) for exchange in exchanges], bool)
        return _parsed(pairs, base, databases, unanswered, places)

    def _follow(
        self, slots: np.ndarray, rows: NDArray[np.intp], alone: NDArray[np.bool_]
    ) -> tuple[list[Exchange[Command, Reply, _Session]], dict[int, _Session]]:
        if not len(rows):
            return [], {}
        return self._ordered.follow(slots, rows, alone, self._read(slots))

    def waiting(self, cookies: Sequence[int]) -> list[int]:
        """Return those of these connections on which a request waits for its reply."""
        return self._ordered.waiting(cookies)

    def forget(self, cookies: Sequence[int]) -> None:
        """Drop what is kept for these closed connections."""
        self._ordered.forget(cookies)

    def _scores(self, slots: np.ndarray) -> NDArray[np.uint8]:
        requests, replies = self._read(slots)
        count = len(slots)
        asked, answered = (
            np.bincount(requests.row, minlength=count),
            np.bincount(replies.row, minlength=count),
        )
        known = _starts_with(requests, lambda command: bool(command.name), count) & (asked > 0)
        own = _starts_with(requests, lambda command: command.name not in _SHARED_WORDS, count)
        no_request, no_reply = slots["request_length"] == 0, slots["response_length"] == 0
        array = slots["request"][:, 0] == ord("*")
        cut = slots["request_bytes"] > slots["request_length"]
        score = np.zeros(count, np.uint8)
        score[array & (requests.ended > 0) & (answered > 0)] = LIKELY
        score[array & known] = CERTAIN
        whole = cut | (requests.ended == slots["request_bytes"])
        inline = ~array & known & own & whole & (answered > 0) & (asked >= answered)
        may_be_ok = _starts_with(requests, lambda command: command.name not in _NEVER_OK, count)
        cut_reply = slots["response_bytes"] > slots["response_length"]
        for row in np.flatnonzero(inline).tolist():
            reply = slots["response"][row].tobytes()
            inline[row] = bool(_INLINE_REPLY.match(reply)) and (
                may_be_ok[row] or not reply.startswith(b"+OK")
            )
            length = min(int(slots["request_length"][row]), slots["request"].shape[1])
            # The server's answer tells of others; it may be one that was not captured.
            told = cut_reply[row] or b"-ERR unknown command" in reply
            inline[row] &= told or are_commands(slots["request"][row, :length].tobytes())
        score[inline] = LIKELY
        score[no_request | ~requests.good | ~(replies.good | no_reply)] = 0
        words = np.array([reply.word in PUBSUB for reply in replies.values], bool)
        messages = replies.row[words[replies.code] & (replies.end >= 0)]
        score[messages[no_request[messages] & replies.good[messages]]] = LIKELY
        return score

    def _read(self, slots: np.ndarray) -> tuple[Messages[Command], Messages[Reply]]:
        """Return what both sides of turns show, with the words of replies that may be messages."""
        return (
            self._read_requests(slots["request"], slots["request_length"]),
            self._read_replies(slots["response"], slots["response_length"], words=True),
        )

    def _read_requests(self, payload: NDArray[np.uint8], lengths: NDArray[np.integer]) -> Messages[Command]:
        frames = walk(payload, lengths, requests=True)
        limit = np.minimum(lengths, payload.shape[1])[frames.row].astype(np.int64)
        stop = np.where(frames.end < 0, limit, np.minimum(frames.end, limit))
        first = np.where(frames.argument_end > 0, np.minimum(frames.argument_end, stop), stop)
        masked = np.where(frames.argument_end > 0, frames.argument, stop) - frames.start
        texts = _Texts(payload, frames.row, frames.start)
        codes, values = texts.encode(self._commands, first - frames.start, masked)
        again = np.array([not command.whole for command in values], bool)[codes] if values else codes > 0
        if again.any():
            more, whole = texts.take(again).encode(self._whole_commands, (stop - frames.start)[again], None)
            codes[again] = more + len(values)
            values = [*values, *whole]
        rest = _rests(frames, len(payload))
        if rest.any():
            codes[rest] = len(values)
            values = [*values, _REST]
        return Messages(frames.row, frames.start, frames.end, codes, values, frames.ended, frames.good)

    def _read_replies(
        self, payload: NDArray[np.uint8], lengths: NDArray[np.integer], *, words: bool = False
    ) -> Messages[Reply]:
        """Return the replies; with the `words` of arrays, which tell messages from replies."""
        frames = walk(payload, lengths, requests=False)
        limit = np.minimum(lengths, payload.shape[1])[frames.row].astype(np.int64)
        codes = _plain_replies(payload, frames)
        values = [OK, NIL, PUSH]
        lines = codes < 0
        if words:
            lines |= (frames.kind == ord("*")) | (frames.kind == ord(">"))
        if lines.any():
            stop = np.where(frames.end < 0, limit, np.minimum(frames.end, limit)) - frames.start
            texts = _Texts(payload, frames.row[lines], frames.start[lines])
            more, read = texts.encode(self._lines, stop[lines], None)
            codes[lines] = more + len(values)
            values += read
        return Messages(frames.row, frames.start, frames.end, codes, values, frames.ended, frames.good)

    def _databases(self, slots: np.ndarray) -> NDArray[np.int64]:
        """Return the database in use (n,) before turns, `ABSENT` where it is unknown."""
        databases = np.where((slots["flags"] & int(Flag.OLD_CONNECTION)) > 0, ABSENT, 0)
        known = sorted(self._ordered.known.items())
        if known:
            cookies = np.array([cookie for cookie, _ in known], np.uint64)
            numbers = np.array([_number(session.namespace) for _, session in known])
            places = np.minimum(np.searchsorted(cookies, slots["cookie"]), len(known) - 1)
            mine = cookies[places] == slots["cookie"]
            databases[mine] = numbers[places[mine]]
        return databases


class _Texts(NamedTuple):
    """Where texts (m,) begin in rows of a payload (n, w)."""

    payload: NDArray[np.uint8]
    row: NDArray[np.intp]
    start: NDArray[np.int64]

    def take(self, chosen: NDArray[np.bool_]) -> _Texts:
        return _Texts(self.payload, self.row[chosen], self.start[chosen])

    def encode(
        self, memo: Memo[T], lengths: NDArray[np.int64], masked: NDArray[np.int64] | None
    ) -> tuple[NDArray[np.int32], list[T]]:
        """Return codes (m,) and values of texts of `lengths` (m,), masked from `masked` (m,) on."""
        codes = np.zeros(len(lengths), np.int32)
        values: list[T] = []
        near = lengths <= _NEAR
        for rows in (np.flatnonzero(near), np.flatnonzero(~near)):
            if not len(rows):
                continue
            texts = cut_out(self.payload, self.row[rows], self.start[rows], lengths[rows])
            if masked is not None:
                mask_variable(texts, masked[rows], lengths[rows])
            found, read = memo.encode(texts, lengths[rows])
            codes[rows] = found + len(values)
            values += read
        return codes, values


def _starts_with(messages: Messages[T], chosen: Callable[[T], bool], count: int) -> NDArray[np.bool_]:
    """Return which of `count` turns start with a message that is chosen."""
    result = np.ones(count, bool)
    wrong = np.array([not chosen(value) for value in messages.values], bool)
    if wrong.any():
        result[messages.row[wrong[messages.code] & (messages.start == 0)]] = False
    return result


def _rests(frames: Frames, count: int) -> NDArray[np.bool_]:
    """Return which requests (m,) are the rest of one that began before their turn: lines beside arrays.

    Nobody mixes these: a line would be part of a value.
    """
    line: NDArray[np.bool_] = frames.kind != ord("*")
    if not line.any():
        return line
    arrays = np.bincount(frames.row[~line], minlength=count) > 0
    rests: NDArray[np.bool_] = line & arrays[frames.row]
    return rests


def _plain_replies(payload: NDArray[np.uint8], frames: Frames) -> NDArray[np.int32]:
    """Return 0 for OK, 1 for null, 2 for a push, and -1 where the line has to be read."""
    kind, last = frames.kind, payload.shape[1] - 1
    second = payload[frames.row, np.minimum(frames.start + 1, last)]
    third = payload[frames.row, np.minimum(frames.start + 2, last)]
    ok = (second == ord("O")) & (third == ord("K")) & (frames.end - frames.start == len("+OK\r\n"))
    null = ((kind == ord("$")) | (kind == ord("*"))) & (second == ord("-"))
    codes = np.where(null | (kind == ord("_")), 1, 0).astype(np.int32)
    codes[kind == ord(">")] = 2
    codes[((kind == ord("+")) & ~ok) | (kind == ord("-")) | (kind == ord("!"))] = -1
    return codes


def _rule_out(alone: NDArray[np.bool_], requests: Messages[Command], replies: Messages[Reply]) -> None:
    """Clear `alone` (n,) for turns that change their connection, or with a push among the replies."""
    followed = np.array([command.followed for command in requests.values], bool)
    pushes = np.array([reply.push for reply in replies.values], bool)
    for messages, odd in ((requests, followed), (replies, pushes)):
        if odd.any():
            alone[messages.row[odd[messages.code]]] = False


def _fails(exchange: Exchange[Command, Reply, _Session]) -> bool:
    """Return whether it is an error if no reply came: clients that leave do not wait for one."""
    return exchange.request is None or exchange.request.name not in _FAREWELLS


def _number(namespace: str | None) -> int:
    """Return the number of a database, `ABSENT` if the name is none."""
    return int(namespace) if namespace and _DATABASE.match(namespace) else ABSENT


def _name(database: int) -> str | None:
    return None if database == ABSENT else str(database)


def _parsed(
    pairs: Pairs[Command, Reply],
    base: dict[str, NDArray[np.int64]],
    databases: NDArray[np.int64],
    unanswered: NDArray[np.bool_],
    places: NDArray[np.intp],
) -> Parsed:
    error = pairs.either(lambda _: False, attrgetter("error"))
    error[places] |= unanswered
    cut = pairs.either(attrgetter("truncated"), attrgetter("truncated"))
    query = pairs.asked(attrgetter("query"))
    codes, numbers = renumber(databases - ABSENT, _DATABASE_MOST - ABSENT + 1)
    return Parsed(
        pairs.rows,
        pairs.asked(attrgetter("text")),
        pairs.told(attrgetter("text")),
        error,
        pairs.truncated[pairs.which] | cut,
        {
            "db.system.name": Encoded(np.zeros(len(pairs.rows), np.int32), ["redis"]),
            "db.query.text": query,
            "db.query.summary": query,
            "db.operation.name": pairs.asked(attrgetter("operation")),
            "db.namespace": Coded(codes, numbers).strings(lambda number: _name(number + ABSENT)),
            "db.response.status_code": pairs.told(attrgetter("code")),
            "db.response.message": pairs.told(attrgetter("message")),
            "masdeepflow.db.blocking": pairs.asked(attrgetter("blocking")),
        },
        base,
    )


PROTOCOL = Redis
"""What the registry loads."""
