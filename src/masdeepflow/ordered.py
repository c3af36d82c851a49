"""Connections followed turn by turn, first in first out, where their turns can't be paired one by one.

A request may be answered in a later turn, something may be sent unasked, a message may change what follows.
What is hidden behind the visible bytes is counted by the rules of `masdeepflow.pipelined`, which pairs all
other turns, as columns.
"""

from __future__ import annotations

import copy
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, NamedTuple, Protocol, TypeVar

import numpy as np

from masdeepflow.pipelined import SEVERAL, SHARED, STAMPS, Pairs, base_of, begin_late, shown_of
from masdeepflow.schema import Flag, Kind

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from numpy.typing import NDArray

    from masdeepflow.pipelined import Messages

__all__ = ["Exchange", "Message", "Ordered", "Session", "Turn", "merge"]

Q = TypeVar("Q")
R = TypeVar("R")
T = TypeVar("T")
Q_contra = TypeVar("Q_contra", contravariant=True)
R_contra = TypeVar("R_contra", contravariant=True)

_CONNECTIONS = 4096
"""Connections of which something is kept, the one that was idle longest dropped first."""
_WAITING = 1024
"""Requests that may wait on one connection."""
_AT_ONCE = 1 << 14
"""Bytes of replies that came with the first of them, as far as anybody can tell."""
_CONTINUED, _CLOSED, _OPEN = int(Flag.CONTINUED), int(Flag.CLOSED), int(Kind.OPEN)


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
            mute = place == len(silent) == len(found) - 1 >= SEVERAL and found[-1].end < 0
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
    """Have a request behind silent ones begin with the last byte of its turn, in place: see `begin_late`."""
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
    texts = [shown_of(message.value) for message in found if 0 <= message.end <= captured]
    return len(texts) >= SEVERAL and len(set(texts)) == 1


def merge(
    slots: np.ndarray, pairs: Pairs[Q, R], exchanges: list[Exchange[Q, R, S]], absent: tuple[Q, R]
) -> tuple[Pairs[Q, R], dict[str, NDArray[np.int64]], NDArray[np.intp]]:
    """Return all transactions (m,) in order of their turns, their base columns, and where `exchanges` are.

    absent: what stands for no request and no reply.
    """
    if not exchanges:
        return pairs, base_of(slots, pairs), np.zeros(0, np.intp)
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
    base = {name: slots[name][merged.rows].astype(np.int64) for name in SHARED[:2] + STAMPS}
    begin_late(base, slots, merged)
    for name in SHARED[:2]:
        base[name][places] = _integers(exchanges, name)
    for name in SHARED[2:]:
        base[name] = getattr(merged, name)[merged.which]
    early = places[np.array([exchange.early for exchange in exchanges], bool)]
    base[STAMPS[1]][early] = base[STAMPS[0]][early]
    answered = merged.answered[merged.which]
    for name in STAMPS:
        base[name][~answered] = 0
    return merged, base, places


def _integers(exchanges: list[Exchange[Q, R, S]], name: str) -> NDArray[np.int64]:
    return np.array([getattr(exchange, name) for exchange in exchanges], np.int64)


def _coded(values: list[T]) -> tuple[NDArray[np.int32], list[T]]:
    return np.arange(len(values), dtype=np.int32), values
