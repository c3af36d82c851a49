"""NATS turn by turn: requests that are answered in later turns, refusals, and what was not captured."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import numpy as np

from masdeepflow.protocols.nats.shown import HIDDEN, HIDDEN_ANSWER, NO_COMMAND, PINGED, Answer, Command
from masdeepflow.protocols.nats.wire import CLIENT_PONG, ERR, HPUB, OK, PING, PONG, PONG_KEY, PUB, UNKNOWN_KEY
from masdeepflow.schema import Flag

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from masdeepflow.protocols.nats.wire import Seen

__all__ = ["TURN_MOST", "Connection", "Exchange", "Message", "Messages", "Read", "Turn", "messages", "spans"]

T = TypeVar("T")
TURN_MOST = 1 << 14
"""Transactions that one turn may stand for without being seen."""
_WAITING = 1024
_PING_SIZE = len(b"PING\r\n")
_PATIENCE_NS = 60_000_000_000
"""What is not answered by then never will be: the reply goes to somebody else, or the client gave up."""
_CLOSED = int(Flag.CLOSED)
_NUMBERS = (
    *("flags", "request_bytes", "response_bytes", "queue_ns"),
    *("request_first_ns", "request_last_ns", "response_last_ns"),
)


@dataclass(slots=True)
class Exchange:
    """A command, and what it was answered. order: of the connection's commands. key: 0 for no reply."""

    order: int
    command: Command
    verb: int = 0
    key: int = 0
    request_first_ns: int = 0
    queue_ns: int = 0
    request_bytes: int = 0
    truncated: bool = False
    row: int = 0
    answer: Answer | None = None
    response_bytes: int = 0


@dataclass(slots=True)
class Connection:
    """request_left, response_left: bytes still to come of messages that a turn ended in."""

    count: int = 0
    request_left: int = 0
    response_left: int = 0
    waiting: list[Exchange] = field(default_factory=list)

    @property
    def busy(self) -> bool:
        """Whether the next turn is not to be understood without it."""
        return bool(self.waiting or self.request_left or self.response_left)


class Read(NamedTuple, Generic[T]):
    """One side of turns: m messages, and which of `values` each one is. codes: int64 (m,)."""

    seen: Seen
    values: list[T]
    codes: NDArray[np.int64]


class Message(NamedTuple, Generic[T]):
    """A message of one turn. end: -1 where it is not known."""

    verb: int
    key: int
    value: T
    start: int
    end: int


def spans(seen: Seen, rows: NDArray[np.intp]) -> list[tuple[int, int]]:
    """Return where the messages of `rows` (m,) begin and end among those seen."""
    begins, ends = np.searchsorted(seen.row, [rows, rows + 1]).tolist()
    return list(zip(begins, ends, strict=True))


class Messages(NamedTuple, Generic[T]):
    """Those of one side of a turn. ended, good: as in `Seen`."""

    found: list[Message[T]]
    ended: int
    good: bool


def messages(read: Read[T], first: int, last: int, row: int) -> Messages[T]:
    """Return some messages of a row."""
    seen, values, codes = read
    some = slice(first, last)
    columns = (seen.verb[some], seen.key[some], codes[some], seen.start[some], seen.end[some])
    found = [
        Message(verb, key, values[code], start, end)
        for verb, key, code, start, end in zip(*(column.tolist() for column in columns), strict=True)
    ]
    return Messages(found, int(seen.ended[row]), bool(seen.good[row]))


class Turn:
    """One turn that is followed. ended: the exchanges that end with it."""

    def __init__(self, slot: np.ndarray, connection: Connection, room: int) -> None:
        """Begin with what was known of the connection. room: how many may be added that were not seen."""
        self._connection, self._room, self._alike = connection, room, 0
        self._before, self._silent = 0, False  # messages of this turn, and whether any of them gets no answer
        self._last: Exchange | None = None
        self._numbers = {name: int(slot[name][0]) for name in _NUMBERS}
        self.ended: list[Exchange] = []
        self._asked: list[Exchange] = []
        now = max(self._numbers["request_first_ns"], self._numbers["response_last_ns"])
        waiting = connection.waiting
        while waiting and waiting[0].request_first_ns + _PATIENCE_NS < now:
            self.ended.append(waiting.pop(0))

    def skip(self, side: str) -> int:
        """Return how many bytes of a side belong to a message of an earlier turn; they are then used up."""
        left: int = getattr(self._connection, f"{side}_left")
        used = min(left, self._numbers[f"{side}_bytes"])
        setattr(self._connection, f"{side}_left", left - used)
        if side == "request" and used:
            self._before, self._silent = 1, True
        return used

    def ask(self, read: Messages[Command], told: Messages[Answer]) -> None:
        """Take the commands; what was told meanwhile shows whether there is a PING among the hidden ones."""
        found, ended, good = read
        total = self._numbers["request_bytes"]
        done = [message for message in found if message.end >= 0]
        if good and not self._connection.waiting:
            self._alike = _alike(done, total)
        for message in done:
            if message.verb == CLIENT_PONG:
                self._before, self._silent, self._last = self._before + 1, True, None
            else:
                self._add(message.value, message.verb, message.key, min(message.end, total) - message.start)
        rest = total - ended
        if good and rest > 0:
            pings = self._hidden_pings(told.found, rest)
            if rest > pings * _PING_SIZE:
                self._add_hidden(found, done, rest - pings * _PING_SIZE)
            for _ in range(pings):
                self._add(PINGED, PING, PONG_KEY, _PING_SIZE)
        if self._last and self._before > 1:
            self._begin_late(self._last)
        if rest < 0:
            self._connection.request_left = -rest

    def _hidden_pings(self, told: list[Message[Answer]], rest: int) -> int:
        """Return how many of the commands in `rest` bytes are told by their PONG."""
        known = sum(exchange.key == PONG_KEY for exchange in self._connection.waiting)
        return min(max(sum(message.verb == PONG for message in told) - known, 0), rest // _PING_SIZE)

    def _add_hidden(self, found: list[Message[Command]], done: list[Message[Command]], rest: int) -> None:
        count = min(_behind(done, rest), TURN_MOST, max(self._room, 1))
        shown = [message for message in done if message.verb != CLIENT_PONG]
        like = shown[-1] if shown else Message(PUB, 0, HIDDEN, 0, 0)
        tied = UNKNOWN_KEY if like.key else 0
        self._room -= count
        for number in range(count):
            size = rest // count + (rest % count if number == count - 1 else 0)
            cut = found[-1] if number == 0 and found and found[-1].end < 0 else None
            if cut is None or cut.verb == CLIENT_PONG:
                self._add(like.value, like.verb, tied, size, truncated=True)
            else:
                key = cut.key or (tied if cut.verb in {PUB, HPUB} else 0)
                self._add(cut.value, cut.verb, key, size, truncated=True)

    def _add(
        self,
        command: Command,
        verb: int,
        key: int,
        size: int,
        *,
        truncated: bool = False,
    ) -> None:
        numbers, connection = self._numbers, self._connection
        connection.count += 1
        exchange = Exchange(
            connection.count,
            command,
            verb,
            key,
            numbers["request_first_ns"],
            numbers["queue_ns"],
            size,
            truncated,
        )
        if self._silent and self._before:
            self._begin_late(exchange)
        self._before, self._silent = self._before + 1, self._silent or not key
        self._last = exchange
        self._asked.append(exchange)
        (connection.waiting if key else self.ended).append(exchange)

    def _begin_late(self, exchange: Exchange) -> None:
        """Have a request begin with the turn's last byte: what came before it waited for no answer.

        Others in front of which the turn may have paused are those that ended it.
        """
        if exchange.key:
            exchange.queue_ns *= self._numbers["request_last_ns"] == self._numbers["request_first_ns"]
            exchange.request_first_ns = self._numbers["request_last_ns"]

    def tell(self, read: Messages[Answer]) -> None:
        """Take what the server says."""
        found, ended, good = read
        total = self._numbers["response_bytes"]
        done = [message for message in found if message.end >= 0]
        acknowledged = (exchange for exchange in list(self._asked) if exchange.verb != PING)
        for message in done:
            size = min(message.end, total) - message.start
            if message.verb == OK:
                exchange = next(acknowledged, None)
                if exchange and not exchange.key:
                    exchange.answer, exchange.response_bytes = message.value, size
            elif message.verb == ERR:
                self._refuse(message.value, size)
            elif message.key:
                self._answer(message.key, message.value, size)
        rest = total - ended
        if good and rest > 0:
            self._answer_hidden(done, rest)
        if rest < 0:
            self._connection.response_left = -rest

    def _answer_hidden(self, done: list[Message[Answer]], rest: int) -> None:
        """End as many of the oldest as are answered behind the visible; surely, if both sides are alike."""
        told = [message.value for message in done if message.key]
        sure = self._alike == _alike(done, self._numbers["response_bytes"]) > 0 and bool(told)
        for _ in range(min(_behind(done, rest), len(self._connection.waiting))):
            if sure:
                self._connection.waiting[0].truncated = False
            self._end(0, told[-1] if sure else HIDDEN_ANSWER, 0)

    def _answer(self, key: int, answer: Answer, size: int) -> None:
        for place, exchange in enumerate(self._connection.waiting):
            if exchange.key == key:
                self._end(place, answer, size)
                return

    def _end(self, place: int, answer: Answer, size: int) -> None:
        exchange = self._connection.waiting.pop(place)
        exchange.answer, exchange.response_bytes = answer, size
        self.ended.append(exchange)

    def _refuse(self, answer: Answer, size: int) -> None:
        """Have -ERR answer the first command of this turn without an answer; else it stands for itself."""
        for exchange in self._asked:
            if exchange.answer is None:
                if exchange.key:
                    self._end(self._connection.waiting.index(exchange), answer, size)
                else:
                    exchange.answer, exchange.response_bytes = answer, size
                return
        self._connection.count += 1
        refused = Exchange(self._connection.count, NO_COMMAND, answer=answer, response_bytes=size)
        self.ended.append(refused)

    def end(self) -> int:
        """End what need not wait any longer; return how much of it because too much waits."""
        waiting, evicted = self._connection.waiting, 0
        closed = bool(self._numbers["flags"] & _CLOSED)
        while waiting and (closed or len(waiting) > _WAITING):
            evicted += not closed
            self.ended.append(waiting.pop(0))
        if closed:
            self._connection.request_left = self._connection.response_left = 0
        return evicted


def _alike(done: list[Message[T]], total: int) -> int:
    """Return how many messages of the size of those seen fill `total` bytes; 0 if none do."""
    sizes = {message.end - message.start for message in done}
    size = sizes.pop() if len(sizes) == 1 else 0
    return total // size if size and total % size == 0 else 0


def _behind(done: list[Message[T]], rest: int) -> int:
    """Return how many messages `rest` bytes hold, if they are as long as those seen on the average."""
    span = done[-1].end - done[0].start if done else 0
    return max((rest * len(done) + span // 2) // span, 1) if span else 1
