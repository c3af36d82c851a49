"""Requests and replies that follow each other in order on one connection, any number of them to a turn.

A turn shows the first bytes of either side; behind them more may be hidden. How many transactions it holds is

- exact where one side is seen to its end: each request has one reply, so either tells the number;
- exact, too, where both sides go on in messages of one size, and both sizes give the same number;
- taken from the size of the requests, else of the replies, where only one side tells: what goes beyond the
  visible is then marked `truncated`;
- else estimated: as if those not captured were as large as the visible are on average, the lower number if
  both sides give one. All beyond the visible are marked;
- else unknown: the visible ones and one more are counted, and the last is marked.

Turns whose requests are all answered within them are paired as columns, here. Connections with others
(requests answered in later turns, pushes, what changes the connection) are followed turn by turn, by
`masdeepflow.ordered`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import numpy as np

from masdeepflow.schema import Flag, Kind
from masdeepflow.table import Encoded

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = [
    "BATCH_MOST",
    "SEVERAL",
    "SHARED",
    "STAMPS",
    "Messages",
    "Pairs",
    "base_of",
    "begin_late",
    "in_one_turn",
    "pair",
    "shown_of",
]

Q = TypeVar("Q")
R = TypeVar("R")
T = TypeVar("T")

SEVERAL = 2
"""Requests that have to show the same before others are taken for such, too."""
_TURN_MOST = 16384
"""Transactions that one turn may stand for without being seen: sizes are the peer's."""
BATCH_MOST = 1 << 19
"""Such transactions of a batch."""
SHARED = ("request_first_ns", "queue_ns", "request_bytes", "response_bytes")
"""Base columns that a turn's transactions do not have alike: when they began, and their bytes."""
STAMPS = ("response_first_ns", "response_last_ns")
"""Base columns that are 0 without a reply."""
_NOT_ALONE = int(Flag.CONTINUED | Flag.SERVER_FIRST)
_TURN = int(Kind.TURN)  # a member of an enum would have NumPy cast the whole column to int64 first


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


def shown_of(value: object) -> object:
    """Return what tells a message from others: its text, as the text log has it, if it has one."""
    return getattr(value, "text", value)


def _same(side: _Side, messages: Messages[Q]) -> NDArray[np.bool_]:
    """Return of which turns (n,) the requests that were captured whole, two at least, show the same."""
    result = side.whole >= SEVERAL
    rank = np.arange(len(messages.row)) - side.first[messages.row]
    chosen = np.flatnonzero((rank < side.whole[messages.row]) & result[messages.row])
    if len(chosen):
        texts: dict[object, int] = {}
        codes = np.array([texts.setdefault(shown_of(value), len(texts)) for value in messages.values])
        row, shown = messages.row[chosen], codes[messages.code[chosen]]
        starts = np.flatnonzero(np.diff(row, prepend=-1))
        result[row[starts]] = np.minimum.reduceat(shown, starts) == np.maximum.reduceat(shown, starts)
    return result


def base_of(slots: np.ndarray, pairs: Pairs[Q, R]) -> dict[str, NDArray[np.int64]]:
    """Return the base columns (m,) in which transactions differ from their turns."""
    several = len(pairs.rows) > 1 and bool((pairs.rows[1:] == pairs.rows[:-1]).any())
    base = {name: getattr(pairs, name)[pairs.which] for name in SHARED[2:]} if several else {}
    if not pairs.answered.all():
        base |= {name: slots[name][pairs.rows].astype(np.int64) for name in SHARED[:2]}
        begin_late(base, slots, pairs)
        answered = pairs.answered[pairs.which]
        for name in STAMPS:
            base[name] = np.where(answered, slots[name][pairs.rows].astype(np.int64), 0)
    return base


def begin_late(base: dict[str, NDArray[np.int64]], slots: np.ndarray, pairs: Pairs[Q, R]) -> None:
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
