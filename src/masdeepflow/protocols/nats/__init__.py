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

from masdeepflow.columns import Memo, prefix
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
    CLIENT_PONG,
    CONNECT,
    ERR,
    HMSG,
    HPUB,
    INFO,
    MSG,
    OK,
    PING,
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

_SERVER_ID = b'INFO {"server_id":"'
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

        `CERTAIN`: the server's INFO. `LIKELY`: whole messages with subjects, and CONNECT, whose other side
        fits as far as it is seen. `POSSIBLE`: PING with its PONG, and lines without contents.
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
        first_asked, whole_asked = _first(asked, slots, "request", (CONNECT, b'CONNECT {"'))
        first_told, whole_told = _first(told, slots, "response", (INFO, b'INFO {"'))
        no_request, no_reply = slots["request_length"] == 0, slots["response_length"] == 0
        fits = asked.good & told.good & (no_request | (first_asked >= 0)) & (no_reply | (first_told >= 0))
        message = np.isin(first_asked, (PUB, HPUB)) & whole_asked
        delivery = np.isin(first_told, (MSG, HMSG)) & whole_told
        subscribed = (first_asked == SUB) & (delivery | (first_told == OK))
        sure = message | (first_asked == CONNECT) | subscribed | (no_request & delivery)
        word = np.isin(first_asked, (PING, CLIENT_PONG)) & (first_told != PONG) & ~delivery
        fits &= sure | (~no_request & ~word & ~np.isin(first_asked, (PUB, HPUB)))
        score = np.where(fits, np.where(sure, LIKELY, POSSIBLE), 0).astype(np.uint8)
        greeting = _begins(slots["response"], slots["response_length"], _SERVER_ID) & (first_told == INFO)
        score[greeting & (no_request | (first_asked == CONNECT))] = CERTAIN
        return score

    def waiting(self, cookies: Sequence[int]) -> list[int]:
        """Return those of these connections on which a request waits for its reply."""
        return [cookie for cookie in self._connections.keys() & cookies if self._connections[cookie].waiting]

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
        columns = transactions(slots, asked.seen, told.seen, plain, partner)
        parsed = parsed_of(slots, columns, asked, told, exchanges)
        parsed.opaque = _encrypted(slots, turns)
        return parsed

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
                texts = asked.cut(rows, asked.start[rows], size[rows])
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
            texts = told.cut(rows, told.start[rows], size)
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


_TLS_HANDSHAKE = int.from_bytes(b"\x16\x03", "little")
_LINE_END = len(b"\r\n")
_IS_PRINTABLE = (np.arange(256) >= ord(" ")) & (np.arange(256) <= ord("~"))
_IS_ASKED = np.isin(np.arange(256), list(b"CPSUHcpsuh"))
_IS_TOLD = np.isin(np.arange(256), list(b"IMHP+-imhp"))


def _encrypted(slots: np.ndarray, turns: NDArray[np.bool_]) -> list[int]:
    """Return the connections of slots (n,) that go on as TLS, as the server's INFO may ask for."""
    hello = turns & (prefix(slots["request"], 2) == _TLS_HANDSHAKE) & (slots["request_length"] > 1)
    cookies: list[int] = np.unique(slots["cookie"][hello]).tolist() if hello.any() else []
    return cookies


def _begins(payload: NDArray[np.uint8], lengths: NDArray[np.integer], head: bytes) -> NDArray[np.bool_]:
    """Return which payloads (n, w) of `lengths` (n,) begin so."""
    if len(head) > payload.shape[1]:
        return np.zeros(len(payload), bool)
    fits: NDArray[np.bool_] = (payload[:, : len(head)] == np.frombuffer(head, np.uint8)).all(axis=1)
    return fits & (lengths >= len(head))


def _first(
    seen: Seen, slots: np.ndarray, side: str, listed: tuple[int, bytes]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return the verb (n,) that a side begins with, -1 for none, and whether its message is there as a whole.

    Its line is printable, and goes on behind what was captured at most in messages, and in what is `listed`:
    a verb, and how the JSON behind it begins.
    """
    verb, whole = np.full(len(slots), -1), np.zeros(len(slots), bool)
    first = np.flatnonzero(seen.start == 0)
    row, own, end = seen.row[first], seen.verb[first], seen.end[first]
    payload, places = slots[side][row], np.arange(slots[side].shape[1])
    fits = _IS_PRINTABLE[payload] | (places >= (seen.line_end[first] - _LINE_END * (end >= 0))[:, None])
    cut = slots[f"{side}_bytes"][row] > slots[f"{side}_length"][row]
    known = fits.all(axis=1) & ((end >= 0) | (cut & (side == "response")) | (own == listed[0]))
    known &= (own != listed[0]) | _begins(payload, slots[f"{side}_length"][row], listed[1])
    verb[row[known]] = own[known]
    whole[row] = (end >= 0) & (end <= slots[f"{side}_bytes"][row])
    return verb, whole


PROTOCOL = Nats
"""What the registry loads."""
