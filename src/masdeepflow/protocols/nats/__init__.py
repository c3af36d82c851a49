"""NATS: the client protocol, over TCP and Unix sockets.

Source: https://docs.nats.io/reference/reference-protocols/nats-protocol. WebSocket, MQTT and the connections
between servers are not read.

::

    PUB orders.new 5 CR LF hello CR LF                      (no reply)
    PUB svc.add _INBOX.a.1 5 CR LF hello CR LF              MSG _INBOX.a.1 1 2 CR LF ok CR LF
    HPUB svc.add _INBOX.a.2 22 27 CR LF headers hello CR LF HMSG _INBOX.a.2 1 16 16 CR LF NATS/1.0 503 ...
    PING CR LF                                              PONG CR LF

A message with a subject for its reply is a request: the first message to that subject on the same connection
answers it, in whatever order and however many turns later. Others are transactions without a response.
Messages that a client has subscribed to answer nothing: they are no transactions, nor are the server's PING
and the PONG to it.
"""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING

import numpy as np

from masdeepflow.columns import Memo, cut_out
from masdeepflow.keys import mask_variable
from masdeepflow.pipelined import BATCH_MOST
from masdeepflow.protocols.base import CERTAIN, LIKELY, POSSIBLE
from masdeepflow.protocols.nats.columns import parsed_of, plain_turns, transactions
from masdeepflow.protocols.nats.exchanges import Connection, Read, Turn, messages, spans
from masdeepflow.protocols.nats.shown import (
    FINE,
    PONGED,
    read_command,
    read_cut_command,
    read_error,
    status_answer,
)
from masdeepflow.protocols.nats.wire import (
    CONNECT,
    ERR,
    HMSG,
    HPUB,
    INFO,
    MSG,
    PONG,
    PUB,
    SUB,
    read_sides,
    statuses,
)
from masdeepflow.schema import Kind

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from masdeepflow.protocols.nats.exchanges import Exchange
    from masdeepflow.protocols.nats.shown import Answer, Command
    from masdeepflow.protocols.nats.wire import Seen
    from masdeepflow.table import Parsed

__all__ = ["PROTOCOL", "Nats"]

_SERVER_ID = np.frombuffer(b'INFO {"server_id', np.uint8)
_CONNECTIONS = 4096


class Nats:
    """The protocol (see `masdeepflow.protocols.base.Protocol`)."""

    name = "nats"

    def __init__(self) -> None:
        """Start with no connections."""
        self._commands, self._cut_commands = Memo(read_command), Memo(read_cut_command)
        self._errors = Memo(read_error)
        self._connections: dict[int, Connection] = {}
        self.evicted = 0
        """Connections, and requests that waited, that had to be forgotten before their time."""

    def recognise(self, slots: np.ndarray) -> NDArray[np.uint8]:
        """Return a score (n,), uint8.

        `CERTAIN`: the server's INFO. `LIKELY`: whole messages with subjects, or CONNECT, whose other side
        fits as far as it is seen. `POSSIBLE`: a word only, such as PING, and what goes on behind the prefix.
        """
        score = np.zeros(len(slots), np.uint8)
        asked, told = slots["request"][:, 0], slots["response"][:, 0]
        no_request, no_reply = slots["request_length"] == 0, slots["response_length"] == 0
        fits = (no_request | _IS_ASKED[asked]) & (no_reply | _IS_TOLD[told]) & ~(no_request & no_reply)
        rows = np.flatnonzero(fits)
        if len(rows):
            score[rows] = self._scores(slots[rows])
        return score

    @staticmethod
    def _scores(slots: np.ndarray) -> NDArray[np.uint8]:
        asked, told = read_sides(slots)
        no_request, no_reply = slots["request_length"] == 0, slots["response_length"] == 0
        first_asked, sure_asked = _first(asked, slots["request"], (PUB, HPUB), (CONNECT, len("CONNECT ")))
        first_told, sure_told = _first(told, slots["response"], (MSG, HMSG), (INFO, len("INFO ")))
        fits = asked.good & told.good & (no_request | (first_asked >= 0)) & (no_reply | (first_told >= 0))
        greeting = (slots["response"][:, : len(_SERVER_ID)] == _SERVER_ID).all(axis=1)
        greeting &= slots["response_length"] >= len(_SERVER_ID)
        subscribed = (first_asked == SUB) & ~no_reply & (asked.ended > 0)
        sure = sure_asked | subscribed | (no_request & sure_told)
        score = np.where(fits, np.where(sure, LIKELY, POSSIBLE), 0).astype(np.uint8)
        score[fits & greeting & (no_request | (first_asked == CONNECT))] = CERTAIN
        return score

    def forget(self, cookies: Sequence[int]) -> None:
        """Drop what is kept for these closed connections."""
        for cookie in cookies:
            connection = self._connections.pop(cookie, None)
            self.evicted += len(connection.waiting) if connection else 0

    def parse(self, slots: np.ndarray) -> Parsed:
        """Return the transactions of turns of NATS connections."""
        asked, told = self._read(slots)
        turns = slots["kind"] == int(Kind.TURN)
        plain, partner = plain_turns(slots, asked.seen, told.seen)
        busy = [cookie for cookie, known in self._connections.items() if known.busy]
        odd = np.union1d(slots["cookie"][turns & ~plain], np.array(busy, np.uint64))
        if len(odd):
            plain &= ~np.isin(slots["cookie"], odd)
        followed = np.flatnonzero(turns & ~plain)
        exchanges = self._follow(slots, followed, asked, told) if len(followed) else []
        return parsed_of(
            slots, transactions(slots, asked.seen, told.seen, plain, partner), asked, told, exchanges
        )

    def _read(
        self, slots: np.ndarray, asked_from: int = 0, told_from: int = 0
    ) -> tuple[Read[Command], Read[Answer]]:
        asked, told = read_sides(slots, asked_from, told_from)
        return self._commands_of(slots, asked), self._answers_of(slots, told)

    def _commands_of(self, slots: np.ndarray, asked: Seen) -> Read[Command]:
        size = asked.word_end - asked.start
        cut = (asked.end < 0) & (asked.word_end >= slots["request_length"][asked.row])
        values: list[Command] = []
        codes = np.zeros(len(asked.row), np.int64)
        for memo, chosen in ((self._commands, ~cut), (self._cut_commands, cut)):
            rows = np.flatnonzero(chosen)
            if len(rows):
                texts = cut_out(slots["request"], asked.row[rows], asked.start[rows], size[rows])
                subject = np.where(asked.subject > 0, asked.subject - asked.start, size)[rows]
                mask_variable(texts, subject, size[rows])
                found, values_of = memo.encode(texts, size[rows])
                codes[rows] = found + len(values)
                values += values_of
        return Read(asked, values, codes)

    def _answers_of(self, slots: np.ndarray, told: Seen) -> Read[Answer]:
        values = [FINE, PONGED]
        codes = np.where(told.verb == PONG, 1, 0).astype(np.int64)
        rows = np.flatnonzero((told.verb == HMSG) & (told.end >= 0))
        if len(rows):
            numbers, found = np.unique(
                statuses(slots, told.row[rows], told.line_end[rows]), return_inverse=True
            )
            codes[rows] = found + len(values)
            values += map(status_answer, numbers.tolist())
        rows = np.flatnonzero(told.verb == ERR)
        if len(rows):
            size = told.line_end[rows] - told.start[rows]
            texts = cut_out(slots["response"], told.row[rows], told.start[rows], size)
            refusals, values_of = self._errors.encode(texts, size)
            codes[rows] = refusals + len(values)
            values += values_of
        return Read(told, values, codes)

    def _follow(
        self, slots: np.ndarray, rows: NDArray[np.intp], asked: Read[Command], told: Read[Answer]
    ) -> list[Exchange]:
        """Return what the turns in `rows` (m,), one by one, show to have ended."""
        ended: list[Exchange] = []
        for row, ask, tell in zip(
            rows.tolist(), spans(asked.seen, rows), spans(told.seen, rows), strict=True
        ):
            one = slots[row : row + 1]
            cookie = int(one["cookie"][0])
            connection = self._connections.pop(cookie, None) or Connection()
            turn = Turn(one, connection, BATCH_MOST - len(ended))
            if connection.request_left or connection.response_left:
                asked_again, told_again = self._read(one, turn.skip("request"), turn.skip("response"))
                commands = messages(asked_again, 0, len(asked_again.codes), 0)
                answers = messages(told_again, 0, len(told_again.codes), 0)
            else:
                commands, answers = messages(asked, *ask, row), messages(told, *tell, row)
            turn.ask(commands, answers)
            turn.tell(answers)
            self.evicted += turn.end()
            for exchange in turn.ended:
                exchange.row = row
            ended += sorted(turn.ended, key=attrgetter("order"))
            self._keep(cookie, connection)
        return ended

    def _keep(self, cookie: int, connection: Connection) -> None:
        if connection.busy:
            self._connections[cookie] = connection
        if len(self._connections) > _CONNECTIONS:
            oldest = self._connections.pop(next(iter(self._connections)))
            self.evicted += 1 + len(oldest.waiting)


_IS_ASKED = np.isin(np.arange(256), list(b"CPSUHcpsuh"))
_IS_TOLD = np.isin(np.arange(256), list(b"IMHP+-imhp"))


def _first(
    seen: Seen, payload: NDArray[np.uint8], sized: tuple[int, int], listed: tuple[int, int]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the verb (n,) that a side begins with, -1 for none, and whether that is enough to be sure.

    sized: the verbs with a payload behind them. listed: one with JSON behind it, and where that begins.
    """
    other, place = listed
    verb, sure = np.full(len(payload), -1), np.zeros(len(payload), bool)
    first = np.flatnonzero(seen.start == 0)
    row = seen.row[first]
    verb[row] = seen.verb[first]
    json = payload[row, place] == ord("{")
    is_json = seen.verb[first] == other
    fits = ~is_json | json
    verb[row[~fits]] = -1
    known = np.isin(seen.verb[first], sized) & (seen.end[first] >= 0)
    sure[row] = known | (is_json & json)
    return verb, sure


PROTOCOL = Nats
"""What the registry loads."""
