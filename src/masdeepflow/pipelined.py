"""Requests and replies that follow each other in order on one connection, any number of them to a turn.

A turn shows the first bytes of either side; behind them more may be hidden. How many transactions it holds is

- exact where one side is seen to its end: each request has one reply, so either tells the number;
- exact, too, where both sides go on in messages of one size, and both sizes give the same number;
- taken from the size of the requests, else of the replies, where only one side tells: what goes beyond the
  visible is then marked `truncated`;
- else estimated: as if those not captured were as large as the visible are on average, the lower number if
  both sides give one. All beyond the visible are marked;
- else unknown: the visible ones and one more are counted, and the last is marked.

Turns whose requests are all answered within them are paired as columns. Connections with others (requests
answered in later turns, pushes, what changes the connection) are followed turn by turn, by `Ordered`.
"""

from __future__ import annotations

import copy
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from masdeepflow.schema import Flag, Kind
from masdeepflow.table import Encoded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

__all__ = [
    "BATCH_MOST",
    "Exchange",
    "Message",
    "Messages",
    "Ordered",
    "Pairs",
    "Session",
    "Turn",
    "in_one_turn",
    "merge",
    "pair",
]

Q = TypeVar("Q")
R = TypeVar("R")
T = TypeVar("T")
Q_contra = TypeVar("Q_contra", contravariant=True)
R_contra = TypeVar("R_contra", contravariant=True)

_CONNECTIONS = 4096
"""Connections of which something is kept, the one that was idle longest dropped first."""
_WAITING = 1024
"""Requests that may wait on one connection."""
_SEVERAL = 2
"""Requests that have to show the same before others are taken for such, too."""
_AT_ONCE = 1 << 14
"""Bytes of replies that came with the first of them, as far as anybody can tell."""
_TURN_MOST = 16384
"""Transactions that one turn may stand for without being seen: sizes are the peer's."""
BATCH_MOST = 1 << 19
"""Such transactions of a batch."""
_CONTINUED, _CLOSED = int(Flag.CONTINUED), int(Flag.CLOSED)
_NOT_ALONE = int(Flag.CONTINUED | Flag.SERVER_FIRST)
# A member of an enum would have NumPy cast the whole column to int64 first.
_TURN, _OPEN = int(Kind.TURN), int(Kind.OPEN)
_SHARED = ("request_first_ns", "queue_ns", "request_bytes", "response_bytes")
_STAMPS = ("response_first_ns", "response_last_ns")


class Messages(NamedTuple, Generic[T]):
    """What one side of n turns shows: m messages, in the order of turns and bytes, without gaps.

    row: intp (m,). start, end: int64 (m,), bytes; end is -1 where it is not known, only for a turn's last.
    code: int32 (m,), index into `values`. ended: int64 (n,), end of the last message whose end is known.
    good: bool (n,), nothing that is no message was seen. silent: bool (m,), requests that no reply comes for.
    """

    row: NDArray[np.intp]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    code: NDArray[np.int32]
    values: list[T]
    ended: NDArray[np.int64]
    good: NDArray[np.bool_]
    silent: NDArray[np.bool_] | None = None


class Pairs(NamedTuple, Generic[Q, R]):
    """m transactions, d of which differ. rows: intp (m,), their turns. which: intp (m,), index into the rest.

    requests, replies: int32 (d,), codes of the values. request_bytes, response_bytes: int64 (d,), each one's
    share. truncated: bool (d,), something of it was not seen and is not certain. answered: bool (d,), it has
    a reply.
    """

    rows: NDArray[np.intp]
    which: NDArray[np.intp]
    requests: NDArray[np.int32]
    request_values: list[Q]
    replies: NDArray[np.int32]
    reply_values: list[R]
    request_bytes: NDArray[np.int64]
    response_bytes: NDArray[np.int64]
    truncated: NDArray[np.bool_]
    answered: NDArray[np.bool_]

    def asked(self, show: Callable[[Q], str | None]) -> Encoded:
        """Return what the requests show (m,), absent where that is None; equal texts have one code."""
        return self._column(self.requests, [show(value) for value in self.request_values])

    def told(self, show: Callable[[R], str | None]) -> Encoded:
        """Return what the replies show (m,)."""
        return self._column(self.replies, [show(value) for value in self.reply_values])

    def either(self, asked: Callable[[Q], bool], told: Callable[[R], bool]) -> NDArray[np.bool_]:
        """Return of which transactions (m,) the request or the reply is so."""
        flags = np.array([asked(value) for value in self.request_values], bool)[self.requests]
        flags |= np.array([told(value) for value in self.reply_values], bool)[self.replies]
        return flags[self.which]

    def joined(self, other: Pairs[Q, R]) -> Pairs[Q, R]:
        """Return these and others, of other turns, in the order of the turns."""
        rows = np.concatenate([self.rows, other.rows])
        order = np.argsort(rows, kind="stable")
        names = ("request_bytes", "response_bytes", "truncated", "answered")
        columns = (np.concatenate([getattr(self, name), getattr(other, name)]) for name in names)
        return Pairs(
            rows[order],
            np.concatenate([self.which, other.which + len(self.requests)])[order],
            np.concatenate([self.requests, other.requests + np.int32(len(self.request_values))]),
            self.request_values + other.request_values,
            np.concatenate([self.replies, other.replies + np.int32(len(self.reply_values))]),
            self.reply_values + other.reply_values,
            *columns,
        )

    def _column(self, codes: NDArray[np.int32], texts: list[str | None]) -> Encoded:
        shown = Encoded.from_list(texts)
        return Encoded.by(self.which, shown.codes[codes], shown.values)


class _Side(NamedTuple):
    """One side of n turns in numbers, all int64 (n,).

    total: bytes. whole: messages captured whole. done: messages whose end is known. seen: these and one
    that is cut. first: place of the first among all. rest: bytes behind those done. each: how many messages
    the turn holds if all are of the size that those done have; 0 where they have none in common.
    """

    total: NDArray[np.int64]
    whole: NDArray[np.int64]
    done: NDArray[np.int64]
    seen: NDArray[np.int64]
    first: NDArray[np.int64]
    rest: NDArray[np.int64]
    each: NDArray[np.int64]
    likely: NDArray[np.int64]


def _side(slots: np.ndarray, side: str, messages: Messages[T]) -> _Side:
    total, count = slots[f"{side}_bytes"].astype(np.int64), len(slots)
    known = messages.end >= 0
    captured = known & (messages.end <= slots[f"{side}_length"][messages.row])
    seen = np.bincount(messages.row, minlength=count)
    done = seen if known.all() else np.bincount(messages.row[known], minlength=count)
    rest = total - messages.ended
    each, likely = np.zeros(count, np.int64), np.zeros(count, np.int64)
    if (rest > 0).any():
        _count_alike((each, likely), messages, known, slots[f"{side}_length"], total)
    whole = seen if captured.all() else np.bincount(messages.row[captured], minlength=count)
    return _Side(total, whole, done, seen, np.cumsum(seen) - seen, rest, each, likely)


def _count_alike(
    counts: tuple[NDArray[np.int64], NDArray[np.int64]],
    messages: Messages[T],
    known: NDArray[np.bool_],
    lengths: NDArray[np.integer],
    total: NDArray[np.int64],
) -> None:
    """Set how many messages fill each turn: of the size that the visible ones have in common, and on average.

    One that is cut and already longer than all before it tells that sizes differ too much for an average.
    """
    each, likely = counts
    row, size = messages.row[known], (messages.end - messages.start)[known]
    if not len(row):
        return
    starts = np.flatnonzero(np.diff(row, prepend=-1))
    least, most = np.minimum.reduceat(size, starts), np.maximum.reduceat(size, starts)
    rows = row[starts]
    alike = (least == most) & (total[rows] % least == 0)
    each[rows[alike]] = (total[rows] // least)[alike]
    ended, done = messages.ended[rows], np.diff(starts, append=len(row))
    even = (lengths[rows] - ended <= most) & (total[rows] > ended)
    likely[rows[even]] = (done + _more(total[rows] - ended, ended, done))[even]


def _more(rest: NDArray[np.int64], ended: NDArray[np.int64], done: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many messages (m,) `rest` bytes are, one at least, if `ended` bytes are `done` of them."""
    number: NDArray[np.int64] = np.maximum((2 * rest * done + ended) // (2 * ended), 1)
    return number


def pair(
    slots: np.ndarray,
    requests: Messages[Q],
    replies: Messages[R],
    hidden: tuple[Q, R],
    no_reply: R,
) -> tuple[NDArray[np.bool_], Callable[[NDArray[np.bool_]], Pairs[Q, R]]]:
    """Return which turns (n,) can be paired without looking at others, and what pairs those of a choice (n,).

    hidden: what stands for a request and a reply that was not captured.
    """
    asked, answered = _side(slots, "request", requests), _side(slots, "response", replies)
    whole, told = asked.rest == 0, answered.rest <= 0
    fits = (
        (~whole | (answered.seen <= asked.done))
        & (~told | (answered.done >= asked.seen))
        & (whole | ~told | (answered.done > asked.done))
        & (~whole | told | (answered.done < asked.done))
    )
    quiet = _silent_before(requests, len(slots))
    if quiet is not None:
        spoken = asked.done - quiet[1]
        matched = whole & told & (answered.done == spoken) & (answered.seen == spoken)
        fits = np.where(quiet[1] > 0, matched, fits)
    alone: NDArray[np.bool_] = (
        fits
        & requests.good
        & replies.good
        & in_one_turn(slots)
        & (asked.seen > 0)
        & (answered.seen > 0)
        & (asked.rest >= 0)
    )
    counts, sure = _counts(asked, answered, whole, told)

    def build(chosen: NDArray[np.bool_]) -> Pairs[Q, R]:
        rows = np.flatnonzero(chosen)
        return _expand(
            rows, counts[rows], sure, (asked, answered), (requests, replies), (*hidden, no_reply), quiet
        )

    return alone, build


def in_one_turn(slots: np.ndarray) -> NDArray[np.bool_]:
    """Return which slots (n,) are turns that neither others go before nor a server began."""
    fits: NDArray[np.bool_] = (slots["kind"] == _TURN) & ((slots["flags"] & _NOT_ALONE) == 0)
    return fits


def _silent_before(requests: Messages[Q], count: int) -> tuple[NDArray[np.int64], NDArray[np.int64]] | None:
    """Return how many silent requests of its turn precede each one (m,), and how many each turn has (n,)."""
    if requests.silent is None or not requests.silent.any():
        return None
    total = np.bincount(requests.row[requests.silent], minlength=count)
    before: NDArray[np.int64] = np.cumsum(requests.silent) - requests.silent
    return before - (np.cumsum(total) - total)[requests.row], total


def _counts(
    asked: _Side, answered: _Side, whole: NDArray[np.bool_], told: NDArray[np.bool_]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return how many transactions each turn (n,) holds, and whether that is certain."""
    visible = np.maximum(asked.done, answered.done) + 1
    least, most = np.minimum(asked.likely, answered.likely), np.maximum(asked.likely, answered.likely)
    each = np.where(asked.each >= visible, asked.each, answered.each)
    likely = np.where(each >= visible, each, np.where(least > 0, least, most))
    agreed = (asked.each == answered.each) & (asked.each >= visible)
    guess = np.where(likely >= visible, np.minimum(likely, np.maximum(_TURN_MOST, visible)), visible)
    counts = np.where(whole, asked.done, np.where(told, answered.done, guess))
    return counts, whole | told | (agreed & (guess == likely))


def _expand(  # noqa: PLR0913, PLR0917  # both sides, and what they have in common
    rows: NDArray[np.intp],
    counts: NDArray[np.int64],
    sure: NDArray[np.bool_],
    sides: tuple[_Side, _Side],
    messages: tuple[Messages[Q], Messages[R]],
    blank: tuple[Q, R, R],
    quiet: tuple[NDArray[np.int64], NDArray[np.int64]] | None,
) -> Pairs[Q, R]:
    if int(counts.sum()) > BATCH_MOST:
        counts = np.minimum(counts, max(BATCH_MOST // len(counts), 1))
        sure = np.zeros_like(sure)
    row = np.repeat(rows, counts)
    rank = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    count = np.repeat(counts, counts)
    requests, request_bytes, unasked = _take(sides[0], messages[0], row, rank, count)
    if unasked.any():
        named = np.flatnonzero(unasked & _same(sides[0], messages[0])[row])
        requests[named] = messages[0].code[sides[0].first[row[named]]]
    answered = np.ones(len(row), bool)
    if quiet is not None:
        # Turns with silent requests are seen whole: each rank is a message.
        place = sides[0].first[row] + np.minimum(rank, sides[0].seen[row] - 1)
        some = quiet[1][row] > 0
        answered = ~(some & messages[0].silent[place]) if messages[0].silent is not None else answered
        rank = np.where(some, rank - quiet[0][place], rank)
        count = count - quiet[1][row]
    replies, response_bytes, untold = _take(sides[1], messages[1], row, rank, count)
    return Pairs(
        row,
        np.arange(len(row)),
        requests,
        [*messages[0].values, blank[0]],
        np.where(answered, replies, len(messages[1].values) + 1).astype(np.int32),
        [*messages[1].values, *blank[1:]],
        request_bytes,
        np.where(answered, response_bytes, 0),
        unasked | (untold & answered) | (~sure[row] & (rank >= sides[0].done[row])),
        answered,
    )


def _take(
    side: _Side,
    messages: Messages[T],
    row: NDArray[np.intp],
    rank: NDArray[np.int64],
    count: NDArray[np.int64],
) -> tuple[NDArray[np.int32], NDArray[np.int64], NDArray[np.bool_]]:
    """Return code, bytes and whether it is hidden, of the message of each `rank` (m,) in `row` (m,)."""
    done, seen, first = side.done[row], side.seen[row], side.first[row]
    visible = rank < seen
    alike = (side.each[row] == count) & (side.rest[row] > 0)
    # The last that was captured whole stands for those behind it, if they are alike.
    whole = side.whole[row]
    other = first + np.where((rank < whole) | (visible & ~alike), rank, np.maximum(whole - 1, 0))
    place = first + np.minimum(rank, seen - 1)
    hidden = ~visible & ~alike
    code = np.where(hidden, len(messages.values), messages.code[other]).astype(np.int32)
    last = rank == count - 1
    rest, others = np.maximum(side.rest[row], 0), np.maximum(count - done, 1)
    share = rest // others + np.where(last, rest % others, 0)
    size = np.where(rank < done, messages.end[place] - messages.start[place], share)
    # The last reply may go on in a slot that comes later.
    return code, size + np.where(last, np.minimum(side.rest[row], 0), 0), hidden


def _shown(value: object) -> object:
    """Return what tells a message from others: its text, as the text log has it, if it has one."""
    return getattr(value, "text", value)


def _same(side: _Side, messages: Messages[Q]) -> NDArray[np.bool_]:
    """Return of which turns (n,) the requests that were captured whole, two at least, show the same."""
    result = side.whole >= _SEVERAL
    rank = np.arange(len(messages.row)) - side.first[messages.row]
    chosen = np.flatnonzero((rank < side.whole[messages.row]) & result[messages.row])
    if len(chosen):
        texts: dict[object, int] = {}
        codes = np.array([texts.setdefault(_shown(value), len(texts)) for value in messages.values])
        row, shown = messages.row[chosen], codes[messages.code[chosen]]
        starts = np.flatnonzero(np.diff(row, prepend=-1))
        result[row[starts]] = np.minimum.reduceat(shown, starts) == np.maximum.reduceat(shown, starts)
    return result


class Message(NamedTuple, Generic[T]):
    """One message of a turn. end: -1 where it is not known; it may be beyond what was captured."""

    start: int
    end: int
    value: T


class Turn(NamedTuple, Generic[Q, R]):
    """One slot. row: its index. requests, replies: what it shows of them. The rest as in bpf/wire.h."""

    row: int
    requests: list[Message[Q]]
    replies: list[Message[R]]
    request: bytes
    cookie: int
    turn: int
    kind: int
    flags: int
    request_bytes: int
    response_bytes: int
    request_first_ns: int
    queue_ns: int
    request_last_ns: int
    response_length: int


def _turns(
    slots: np.ndarray, rows: NDArray[np.intp], requests: Messages[Q], replies: Messages[R]
) -> Iterator[Turn[Q, R]]:
    """Yield the turns (n,), in `rows` (n,) of their batch, with their messages."""
    data, width = slots["request"].tobytes(), slots["request"].shape[1]
    lengths = np.minimum(slots["request_length"], width).tolist()
    payloads = [data[at * width : at * width + length] for at, length in enumerate(lengths)]
    columns = [slots[name].tolist() for name in Turn._fields[4:]]
    sides = (_by_turn(requests, len(rows)), _by_turn(replies, len(rows)))
    return map(Turn._make, zip(rows.tolist(), *sides, payloads, *columns, strict=True))


def _by_turn(messages: Messages[T], count: int) -> list[list[Message[T]]]:
    """Return the messages of each of `count` turns."""
    columns = (messages.start.tolist(), messages.end.tolist(), messages.code.tolist())
    every = [Message(start, end, messages.values[code]) for start, end, code in zip(*columns, strict=True)]
    ends = np.cumsum(np.bincount(messages.row, minlength=count)).tolist()
    return [every[start:end] for start, end in zip([0, *ends], ends, strict=False)]


class Session(Protocol[Q_contra, R_contra]):
    """What a protocol remembers of one connection."""

    @property
    def kept(self) -> bool:
        """Whether anything has to be remembered."""

    @property
    def followed(self) -> bool:
        """Whether the next turn is not to be understood without it."""

    def expects(self, request: Q_contra) -> bool:
        """Take note of a request; return whether a reply will come."""

    def answers(self, reply: R_contra, request: Q_contra | None) -> bool:
        """Take note of a reply; return whether it is that of the oldest `request` that waits."""


S = TypeVar("S", bound=Session)  # type: ignore[type-arg]  # a bound takes no variable


@dataclass(slots=True)
class Exchange(Generic[Q, R, S]):
    """One request and its reply, None where there is none.

    row: the turn that ended it. answered: a reply came, captured or not. unanswered: the connection was
    closed before one did. early: its reply was there when something that answers nothing was still to come.
    session: a copy of what was known when it ended.
    """

    row: int
    request: Q | None
    request_first_ns: int
    queue_ns: int
    request_bytes: int
    session: S
    response_bytes: int = 0
    reply: R | None = None
    answered: bool = False
    unanswered: bool = False
    truncated: bool = False
    early: bool = False


@dataclass(slots=True)
class _Connection(Generic[Q, R, S]):
    """turn: number of the last one seen. hidden: requests were not captured whose replies may still come.

    late: silent ones went before them. request_left: bytes still to come of a message whose size is known.
    """

    turn: int
    session: S
    request_left: int = 0
    hidden: bool = False
    late: bool = False
    waiting: deque[Exchange[Q, R, S]] = field(default_factory=deque)

    @property
    def busy(self) -> bool:
        return bool(self.waiting or self.request_left or self.session.followed)


class Ordered(Generic[Q, R, S]):
    """Follows connections turn by turn; bounded.

    read_request: the request at a place in a turn's bytes, None if there is none. session: makes what is
    remembered of a new connection. hidden: what stands for a request and a reply not captured. matches:
    whether a reply is that to a request, where messages carry ids; None: their order is all that tells.
    """

    def __init__(
        self,
        read_request: Callable[[bytes, int], Message[Q] | None],
        session: Callable[[Turn[Q, R]], S],
        hidden: tuple[Q, R],
        matches: Callable[[R, Q], bool] | None = None,
    ) -> None:
        self._read_request, self._session = read_request, session
        self._hidden, self._matches = hidden, matches
        self._connections: dict[int, _Connection[Q, R, S]] = {}
        self.evicted = 0
        """Connections that had to be forgotten, and requests that waited, before their time."""

    @property
    def known(self) -> dict[int, S]:
        """What is remembered, by connection."""
        return {cookie: connection.session for cookie, connection in self._connections.items()}

    def choose(
        self, slots: np.ndarray, alone: NDArray[np.bool_]
    ) -> tuple[NDArray[np.bool_], NDArray[np.intp]]:
        """Return which of the turns `alone` (n,) can be paired so, and the rows that have to be followed.

        A connection is followed through a batch if any turn of it there has to be, or something waits.
        """
        later = (slots["flags"] & _CONTINUED) > 0
        in_flight = slots["kind"] == Kind.OPEN
        odd = slots["cookie"][~alone & ~later & ~in_flight]
        busy = [cookie for cookie, connection in self._connections.items() if connection.busy]
        if not len(odd) and not busy:
            return alone, np.flatnonzero(in_flight)
        cookies = np.unique(np.concatenate([odd, np.array(busy, slots["cookie"].dtype)]))
        followed = np.isin(slots["cookie"], cookies)
        return alone & ~followed, np.flatnonzero(followed | in_flight)

    def waiting(self, cookies: Iterable[int]) -> list[int]:
        """Return those of these connections on which a request waits for its reply."""
        return [cookie for cookie in self._connections.keys() & cookies if self._connections[cookie].waiting]

    def forget(self, cookies: Iterable[int]) -> None:
        """Drop what is kept of these connections."""
        for cookie in self._connections.keys() & cookies:
            del self._connections[cookie]

    def follow(
        self,
        slots: np.ndarray,
        rows: NDArray[np.intp],
        alone: NDArray[np.bool_],
        messages: tuple[Messages[Q], Messages[R]],
    ) -> tuple[list[Exchange[Q, R, S]], dict[int, S]]:
        """Return the exchanges that turns (n,), in `rows` (n,) of their batch, end or show in flight.

        alone: bool (n,). Of these, turns for which nothing is to be remembered are left to be paired as
        columns: returned is what was known of their connection, by row.
        """
        ended: list[Exchange[Q, R, S]] = []
        left: dict[int, S] = {}
        for turn, by_itself in zip(_turns(slots, rows, *messages), alone.tolist(), strict=True):
            known = self._connections.get(turn.cookie)
            if by_itself and (known is None or not known.busy):
                left[turn.row] = copy.copy(known.session) if known else self._session(turn)
            else:
                ended += self._follow(turn)
        return ended, left

    def _follow(self, turn: Turn[Q, R]) -> list[Exchange[Q, R, S]]:
        connection = self._connection(turn)
        ended = []
        if not turn.flags & _CONTINUED:
            ended += self._take_requests(connection, turn)
        if turn.kind == _OPEN:
            ended += connection.waiting
        else:
            ended += self._take_replies(connection, turn)
            ended += self._take_unanswered(connection, turn)
            self._keep(connection, turn)
        for exchange in ended:
            exchange.row = turn.row
        return ended

    def _connection(self, turn: Turn[Q, R]) -> _Connection[Q, R, S]:
        """Return the connection as the turn finds it; a copy for a turn in flight, which comes again.

        A gap in the turns' numbers means that turns were lost, and with them the end of what waited.
        """
        known = self._connections.get(turn.cookie)
        if known is None:
            return _Connection(turn.turn, self._session(turn))
        if turn.kind == _OPEN:
            known = copy.deepcopy(known)
        # Turns that went by as columns left nothing to wait for.
        if known.waiting and known.turn + (not turn.flags & _CONTINUED) != turn.turn:
            known.waiting.clear()
            known.request_left = 0
        if not known.waiting and not turn.flags & _CONTINUED:
            known.hidden = False
        known.turn = turn.turn
        return known

    def _take_requests(self, connection: _Connection[Q, R, S], turn: Turn[Q, R]) -> list[Exchange[Q, R, S]]:
        """Queue the turn's requests; return those that no reply will come for."""
        skipped = min(connection.request_left, turn.request_bytes)
        connection.request_left -= skipped
        if turn.request_bytes == skipped:
            return []
        found = _read(self._read_request, turn.request, skipped) if skipped else turn.requests
        ended = _ended(found, skipped)
        exchanges = [self._exchange(connection, turn, message.value) for message in found]
        for exchange, message in zip(exchanges, found, strict=True):
            exchange.request_bytes = (
                max(message.end, 0) and min(message.end, turn.request_bytes) - message.start
            )
        rest = turn.request_bytes - ended
        connection.request_left += max(-rest, 0)
        connection.hidden |= rest > 0
        if not exchanges:
            exchanges.append(self._exchange(connection, turn, self._hidden[0]))
            exchanges[0].truncated = True
        silent = self._silent(connection, turn, exchanges, found)
        if rest > 0:
            exchanges[-1].request_bytes += rest
        if rest > 0 and len(silent) == len(exchanges):
            silent += self._unseen_silent(connection, turn, found, silent)
        elif rest > 0:
            unseen = self._unseen(connection, turn, found, len(exchanges))
            silent += self._silent(connection, turn, unseen, [], behind=bool(silent))
            exchanges += unseen
        connection.late = bool(silent)
        if rest > 0 and silent:
            # Replies do not tell how many more of these are hidden.
            exchanges[-1].truncated = True
        mute = set(map(id, silent))
        connection.waiting += [exchange for exchange in exchanges if id(exchange) not in mute]
        return silent

    @staticmethod
    def _silent(
        connection: _Connection[Q, R, S],
        turn: Turn[Q, R],
        exchanges: list[Exchange[Q, R, S]],
        found: list[Message[Q]],
        *,
        behind: bool = False,
    ) -> list[Exchange[Q, R, S]]:
        """Return those that no reply will come for; have others behind such begin late. behind: all are."""
        silent: list[Exchange[Q, R, S]] = []
        for place, exchange in enumerate(exchanges):
            # The one that is cut is like those before it.
            mute = place == len(silent) == len(found) - 1 >= _SEVERAL and found[-1].end < 0
            if not connection.session.expects(exchange.request) or mute:
                silent.append(exchange)
            elif silent or behind:
                _begin_last(exchange, turn)
        return silent

    def _unseen_silent(
        self,
        connection: _Connection[Q, R, S],
        turn: Turn[Q, R],
        found: list[Message[Q]],
        silent: list[Exchange[Q, R, S]],
    ) -> list[Exchange[Q, R, S]]:
        """Return as many requests like the visible ones, all of them silent, as there are bytes for."""
        likely = min(_average(found, turn.request_bytes, len(turn.request)), _WAITING)
        if likely <= len(found):
            return []
        each = (turn.request_bytes - _ended(found)) // (likely - len(found) + 1)
        request = found[0].value if _alike_shown(found, len(turn.request)) else self._hidden[0]
        unseen = [self._exchange(connection, turn, request) for _ in range(likely - len(found))]
        for exchange in unseen:
            exchange.request_bytes, exchange.truncated = each, True
        silent[-1].request_bytes -= each * len(unseen)
        return unseen

    def _exchange(self, connection: _Connection[Q, R, S], turn: Turn[Q, R], request: Q) -> Exchange[Q, R, S]:
        return Exchange(
            turn.row, request, turn.request_first_ns, turn.queue_ns, 0, copy.copy(connection.session)
        )

    def _unseen(
        self, connection: _Connection[Q, R, S], turn: Turn[Q, R], found: list[Message[Q]], seen: int
    ) -> list[Exchange[Q, R, S]]:
        """Return the requests beyond the visible ones, where their number can't be told from the replies."""
        if connection.waiting or not turn.replies or _ended(turn.replies) >= turn.response_bytes:
            return []
        asked, answered = _alike(found, turn.request_bytes), _alike(turn.replies, turn.response_bytes)
        request = found[0].value if asked or _alike_shown(found, len(turn.request)) else self._hidden[0]
        number = asked or answered or self._estimate(turn, found)
        unseen = [self._exchange(connection, turn, request) for _ in range(seen, min(number, _WAITING))]
        for exchange in unseen:
            exchange.truncated = asked != answered or not asked
        return unseen

    def _estimate(self, turn: Turn[Q, R], found: list[Message[Q]]) -> int:
        """Return how many requests the turn holds if they or their replies are as large as those visible."""
        if self._matches is not None:
            return 0
        asked = _average(found, turn.request_bytes, len(turn.request))
        answered = _average(turn.replies, turn.response_bytes, turn.response_length)
        return min(asked, answered) or max(asked, answered)

    def _take_replies(self, connection: _Connection[Q, R, S], turn: Turn[Q, R]) -> list[Exchange[Q, R, S]]:
        """Give the turn's replies to the requests that wait, and return those that no longer do."""
        if not turn.response_bytes or (turn.flags & _CONTINUED and not connection.waiting):
            return []
        exchanges: list[Exchange[Q, R, S]] = []
        for message in turn.replies:
            passed = self._pass(connection, message.value)
            if passed is None:
                continue
            exchanges += passed
            exchange = self._answer(connection, turn, message.value)
            if exchange is not None:
                end = turn.response_bytes if message.end < 0 else min(message.end, turn.response_bytes)
                exchange.response_bytes = end - message.start
                exchanges.append(exchange)
            else:
                _end_early(exchanges, message.start)
        ended = _ended(turn.replies)
        if ended < turn.response_bytes:
            if not connection.waiting and not connection.hidden:
                _end_early(exchanges, ended)
            if not connection.session.followed:
                exchanges += self._take_hidden(connection)
        return exchanges

    def _pass(self, connection: _Connection[Q, R, S], reply: R) -> list[Exchange[Q, R, S]] | None:
        """Return what waits before the request that a reply is to: its own reply will not come.

        None if nothing that waits asked for this reply.
        """
        waiting = connection.waiting
        if self._matches is None or not waiting:
            return []
        for place, exchange in enumerate(waiting):
            if exchange.request is not None and self._matches(reply, exchange.request):
                return [waiting.popleft() for _ in range(place)]
        return None

    def _answer(
        self, connection: _Connection[Q, R, S], turn: Turn[Q, R], reply: R
    ) -> Exchange[Q, R, S] | None:
        waiting = connection.waiting
        if not connection.session.answers(reply, waiting[0].request if waiting else None):
            return None
        if waiting:
            exchange = waiting.popleft()
        elif connection.hidden or turn.flags & int(Flag.SERVER_FIRST):
            exchange = self._exchange(connection, turn, self._hidden[0])
            exchange.truncated = connection.hidden
            if connection.hidden and connection.late:
                _begin_last(exchange, turn)
            if not connection.hidden:
                exchange.request = None
        else:
            return None
        exchange.reply, exchange.answered = reply, True
        exchange.session = copy.copy(connection.session)
        return exchange

    def _take_hidden(self, connection: _Connection[Q, R, S]) -> list[Exchange[Q, R, S]]:
        """Return all that waits: the replies are among what was not captured."""
        taken = list(connection.waiting)
        connection.waiting.clear()
        connection.hidden = False
        for exchange in taken:
            exchange.reply, exchange.answered, exchange.truncated = self._hidden[1], True, True
        return taken

    def _take_unanswered(self, connection: _Connection[Q, R, S], turn: Turn[Q, R]) -> list[Exchange[Q, R, S]]:
        """Return what need not wait any longer: no reply will come, or too many wait."""
        waiting, closed = connection.waiting, bool(turn.flags & _CLOSED)
        taken = []
        while waiting and (closed or len(waiting) > _WAITING):
            exchange = waiting.popleft()
            exchange.unanswered = closed
            self.evicted += not closed
            taken.append(exchange)
        return taken

    def _keep(self, connection: _Connection[Q, R, S], turn: Turn[Q, R]) -> None:
        self._connections.pop(turn.cookie, None)
        if not turn.flags & _CLOSED and (connection.busy or connection.session.kept):
            self._connections[turn.cookie] = connection
        if len(self._connections) > _CONNECTIONS:
            del self._connections[next(iter(self._connections))]
            self.evicted += 1


def _begin_last(exchange: Exchange[Q, R, S], turn: Turn[Q, R]) -> None:
    """Have a request behind silent ones begin with the last byte of its turn, in place: see `_begin_late`."""
    exchange.queue_ns *= turn.request_last_ns == turn.request_first_ns
    exchange.request_first_ns = turn.request_last_ns


def _end_early(exchanges: list[Exchange[Q, R, S]], size: int) -> None:
    """Have replies, of `size` bytes in all, end before what comes behind them in their turn, in place."""
    for exchange in exchanges:
        exchange.early |= exchange.answered and size <= _AT_ONCE


def _read(read: Callable[[bytes, int], Message[T] | None], data: bytes, at: int) -> list[Message[T]]:
    """Return the messages from `at` on."""
    found: list[Message[T]] = []
    while 0 <= at < len(data):
        message = read(data, at)
        if message is None:
            break
        found.append(message)
        at = message.end
    return found


def _ended(found: list[Message[T]], start: int = 0) -> int:
    """Return where the last message ends whose end is known."""
    return max((message.end for message in found), default=-1) if found and found[0].end >= 0 else start


def _alike(found: list[Message[T]], total: int) -> int:
    """Return how many messages of the size of those whose end is known fill `total` bytes; 0 if none do."""
    sizes = {message.end - message.start for message in found if message.end >= 0}
    size = sizes.pop() if len(sizes) == 1 else 0
    return total // size if size and total % size == 0 else 0


def _average(found: list[Message[T]], total: int, captured: int) -> int:
    """Return how many messages fill `total` bytes if all are as large on average as those that end.

    0 if that can't be told: there are none, or one that is cut is already longer than all of them.
    """
    sizes = [message.end - message.start for message in found if message.end >= 0]
    ended = _ended(found)
    if not sizes or total <= ended or captured - ended > max(sizes):
        return 0
    return len(sizes) + max((2 * (total - ended) * len(sizes) + sum(sizes)) // (2 * sum(sizes)), 1)


def _alike_shown(found: list[Message[Q]], captured: int) -> bool:
    """Return whether the requests that were captured whole, two at least, show the same."""
    texts = [_shown(message.value) for message in found if 0 <= message.end <= captured]
    return len(texts) >= _SEVERAL and len(set(texts)) == 1


def merge(
    slots: np.ndarray, pairs: Pairs[Q, R], exchanges: list[Exchange[Q, R, S]], absent: tuple[Q, R]
) -> tuple[Pairs[Q, R], dict[str, NDArray[np.int64]], NDArray[np.intp]]:
    """Return all transactions (m,) in order of their turns, their base columns, and where `exchanges` are.

    absent: what stands for no request and no reply.
    """
    if not exchanges:
        return pairs, _base(slots, pairs), np.zeros(0, np.intp)
    own = Pairs(
        np.array([exchange.row for exchange in exchanges], np.intp),
        np.arange(len(exchanges)),
        *_coded([absent[0] if exchange.request is None else exchange.request for exchange in exchanges]),
        *_coded([absent[1] if exchange.reply is None else exchange.reply for exchange in exchanges]),
        _integers(exchanges, "request_bytes"),
        _integers(exchanges, "response_bytes"),
        np.array([exchange.truncated for exchange in exchanges], bool),
        np.array([exchange.answered for exchange in exchanges], bool),
    )
    merged = pairs.joined(own)
    # Each exchange is one that differs, behind those of the pairs.
    found = np.flatnonzero(merged.which >= len(pairs.requests))
    places = np.zeros_like(found)
    places[merged.which[found] - len(pairs.requests)] = found
    base = {name: slots[name][merged.rows].astype(np.int64) for name in _SHARED[:2] + _STAMPS}
    _begin_late(base, slots, merged)
    for name in _SHARED[:2]:
        base[name][places] = _integers(exchanges, name)
    for name in _SHARED[2:]:
        base[name] = getattr(merged, name)[merged.which]
    early = places[np.array([exchange.early for exchange in exchanges], bool)]
    base[_STAMPS[1]][early] = base[_STAMPS[0]][early]
    answered = merged.answered[merged.which]
    for name in _STAMPS:
        base[name][~answered] = 0
    return merged, base, places


def _integers(exchanges: list[Exchange[Q, R, S]], name: str) -> NDArray[np.int64]:
    return np.array([getattr(exchange, name) for exchange in exchanges], np.int64)


def _coded(values: list[T]) -> tuple[NDArray[np.int32], list[T]]:
    return np.arange(len(values), dtype=np.int32), values


def _base(slots: np.ndarray, pairs: Pairs[Q, R]) -> dict[str, NDArray[np.int64]]:
    """Return the base columns (m,) in which transactions differ from their turns."""
    several = len(pairs.rows) > 1 and bool((pairs.rows[1:] == pairs.rows[:-1]).any())
    base = {name: getattr(pairs, name)[pairs.which] for name in _SHARED[2:]} if several else {}
    if not pairs.answered.all():
        base |= {name: slots[name][pairs.rows].astype(np.int64) for name in _SHARED[:2]}
        _begin_late(base, slots, pairs)
        answered = pairs.answered[pairs.which]
        for name in _STAMPS:
            base[name] = np.where(answered, slots[name][pairs.rows].astype(np.int64), 0)
    return base


def _begin_late(base: dict[str, NDArray[np.int64]], slots: np.ndarray, pairs: Pairs[Q, R]) -> None:
    """Have requests behind silent ones begin with the last byte of their turn, in place.

    A turn goes on until something comes: any time may lie between what gets no reply and what follows it.
    """
    silent = ~pairs.answered[pairs.which]
    if not silent.any():
        return
    before: NDArray[np.int64] = np.cumsum(silent) - silent
    late = np.flatnonzero(~silent & (before > before[np.searchsorted(pairs.rows, pairs.rows)]))
    last = slots["request_last_ns"][pairs.rows[late]].astype(np.int64)
    base["queue_ns"][late] *= last == base["request_first_ns"][late]
    base["request_first_ns"][late] = last
