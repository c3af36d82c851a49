"""Connections followed turn by turn: logins, prepared statements, pipelines, COPY, what a server pushes.

A connection keeps what was asked and not answered yet, in order. A turn's request adds to it, its response
takes from it, so it does not matter in which turn an answer comes. Nothing here raises, whatever the bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from masdeepflow.batch import payloads
from masdeepflow.pipelined import BATCH_MOST
from masdeepflow.protocols.postgresql.asked import TURN_MOST, Asked, ask, more_of
from masdeepflow.protocols.postgresql.hidden import answered, begin, going_on
from masdeepflow.protocols.postgresql.replies import (
    ACCEPTED,
    NO_REPLY,
    OK,
    REFUSED,
    SKIPPED,
    UNANSWERED,
    UNSEEN,
    Message,
    Reply,
    Response,
    read_response,
)
from masdeepflow.protocols.postgresql.requests import DEALLOCATE, Command, Request, read_request
from masdeepflow.schema import Flag, Kind

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Iterator

    import numpy as np
    from numpy.typing import NDArray

__all__ = ["Connection", "Connections", "Transaction", "Turn", "read_turns"]

_CONNECTIONS = 4096
"""Connections kept, the one that was idle longest dropped first."""
_STATEMENTS = 1024
"""Statements kept of one connection, the oldest dropped first; as many portals and open questions."""
_ALL_STATEMENTS = 65536
"""Prepared statements and portals kept of all connections, before whole connections are dropped."""

# Plain integers: an `&` with a member of an IntFlag costs more than the rest of a turn's tests.
_CONTINUED, _CLOSED, _IDLE = int(Flag.CONTINUED), int(Flag.CLOSED), int(Flag.IDLE)
_OPEN = int(Kind.OPEN)
_COPY_DATA = frozenset("dcfHS")
_LOGGED_IN = frozenset("SKZ")
"""What follows AuthenticationOk if the login succeeded."""
_SEVERITIES = frozenset({"ERROR", "FATAL", "PANIC"})
COPY_BOTH = Reply("PostgreSQL Response: Copy both")


class Turn(NamedTuple):
    """One slot. row: its index. request, response: valid bytes of the prefixes. The rest as in bpf/wire.h."""

    row: int
    request: bytes
    response: bytes
    cookie: int
    kind: int
    flags: int
    turn: int
    request_bytes: int
    response_bytes: int
    request_first_ns: int
    response_first_ns: int
    response_last_ns: int
    queue_ns: int


class Transaction(NamedTuple):
    """One command and its reply, or something that a server says unasked, which has no command.

    row: the turn that ended it. namespace: the database, None if unknown. request_bytes, response_bytes: its
    share of its turns' bytes. request_first_ns, queue_ns: of the turn that began it. response_first_ns,
    response_last_ns: 0 without a response. still_open: it has not ended, and comes again.
    """

    row: int
    command: Command | None
    reply: Reply
    namespace: str | None
    request_bytes: int
    response_bytes: int
    request_first_ns: int
    response_first_ns: int
    response_last_ns: int
    queue_ns: int
    still_open: bool = False

    def shared(self, count: int) -> list[Transaction]:
        """Return as many transactions as this stands for, of which each has its share of the bytes."""
        if not count:
            return []
        asked, left = divmod(self.request_bytes, count)
        answered, over = divmod(self.response_bytes, count)
        each = self._replace(request_bytes=asked, response_bytes=answered)
        last = self._replace(request_bytes=asked + left, response_bytes=answered + over)
        return [*[each] * (count - 1), last]


@dataclass(slots=True)
class Connection:
    """What is known of a connection.

    namespace: the database, None if unknown. statements: name -> what executing it shows; portals likewise.
    waiting: what was asked and not answered yet, in order. failed: nothing is done up to the next Sync.
    opaque: the rest of the connection is encrypted. turn, idle: of the last turn that was followed, and
    whether it was written because it was idle. dropped: statements, portals and questions forgotten, and not
    counted yet. astray: the next request may begin within a message. unit: size and command of what the last
    one repeated beyond the prefix, and whether each had a Sync.
    """

    namespace: str | None = None
    statements: dict[str, Command] = field(default_factory=dict)
    portals: dict[str, Command] = field(default_factory=dict)
    waiting: list[Asked] = field(default_factory=list)
    failed: bool = False
    opaque: bool = False
    turn: int = 0
    idle: bool = False
    dropped: int = 0
    astray: bool = False
    unit: tuple[int, Command, bool | None] | None = None

    @property
    def busy(self) -> bool:
        """Whether the next turn is not to be read by itself."""
        return bool(self.waiting) or self.failed or self.opaque or self.astray or "" in self.portals

    @property
    def known(self) -> bool:
        """Whether anything is known that a connection seen for the first time does not have."""
        return self.busy or bool(self.namespace or self.size)

    @property
    def size(self) -> int:
        """Statements and portals."""
        return len(self.statements) + len(self.portals)

    def copy(self) -> Connection:
        """Return a connection to follow a turn in flight on, which comes again."""
        waiting = [replace(asked, tags=asked.tags[:], notices=asked.notices[:]) for asked in self.waiting]
        return replace(self, statements=dict(self.statements), portals=dict(self.portals), waiting=waiting)

    def follow(self, turn: Turn, most: int = TURN_MOST) -> list[Transaction]:
        """Return the transactions that a turn ends, and of one in flight what it shows so far.

        most: statements beyond the prefix that it may stand for.
        """
        return _Exchange(self, turn, most).run()

    def bound(self) -> None:
        """Forget the oldest of what there is too much of."""
        for known in (self.statements, self.portals):
            while len(known) > _STATEMENTS:
                del known[next(iter(known))]
                self.dropped += 1
        if (excess := len(self.waiting) - _STATEMENTS) > 0:
            del self.waiting[:excess]
            self.dropped += excess


class _Exchange:
    """One turn on a connection: what it asks, then what it answers.

    _shared: bytes of the response that transactions have got their share of.
    """

    def __init__(self, connection: Connection, turn: Turn, most: int) -> None:
        self._connection = connection
        self._turn = turn
        self._most = most
        self._shared = 0
        self._transactions: list[Transaction] = []

    def run(self) -> list[Transaction]:
        connection, turn = self._connection, self._turn
        self._give_up_lost()
        last = self._ask() if turn.request_bytes and not turn.flags & _CONTINUED else None
        if turn.response_bytes:
            self._receive(read_response(turn.response, turn.response_bytes))
        if turn.kind == _OPEN:
            # How many are behind the prefix is told when they have ended.
            connection.waiting = [asked for asked in connection.waiting if asked.more is None]
            self._end_all(NO_REPLY)
            return [one for one in self._transactions if one.command]
        if turn.flags & _CLOSED:
            self._end_all(UNANSWERED)
        if last is not None:
            self._end(last, NO_REPLY)
        connection.turn, connection.idle = turn.turn, bool(turn.flags & _IDLE)
        connection.bound()
        if connection.idle:
            self._show_waiting()
        return self._transactions

    def _show_waiting(self) -> None:
        """Show what an answer has begun to and pauses: how long, nobody knows; none of what is not seen."""
        ended = len(self._transactions)
        for asked in self._connection.waiting:
            if asked.more is None:
                self._end(asked, NO_REPLY)
        self._transactions[ended:] = [one._replace(still_open=True) for one in self._transactions[ended:]]

    def _give_up_lost(self) -> None:
        """Wait no longer for an answer that was lost, or later answers would be taken for it.

        A turn is missing; or the rest of an answer is, as it had begun and its turn was idle, and clients do
        not ask again before they have it.
        """
        connection, turn = self._connection, self._turn
        if not connection.waiting:
            return
        continued = bool(turn.flags & _CONTINUED)
        missing = turn.turn - connection.turn != (not continued)
        cut_short = connection.idle and not continued and not connection.waiting[0].patient
        nothing_shown = not any(asked.command for asked in connection.waiting)
        if missing or cut_short or nothing_shown:
            self._give_up()

    def _give_up(self) -> None:
        self._end_all(UNSEEN)
        self._connection.failed = False

    def _ask(self) -> Asked | None:
        """Add what the request asks; return what is asked and never answered."""
        turn, connection = self._turn, self._connection
        before = begin(turn.request, turn.request_bytes) if connection.astray else 0
        if before is None:
            asked = self._more()
        else:
            total = turn.request_bytes - before
            request = read_request(turn.request[before:], total)
            if connection.waiting and self._goes_on(connection.waiting[0], request):
                connection.waiting[0].request_bytes += turn.request_bytes
                return None
            asked = ask(request, total, connection.statements, connection.portals, self._most)
            connection.astray = request.broken and bool(request.messages)
            self._note_repetition(asked)
        for one in asked:
            one.request_first_ns, one.queue_ns = turn.request_first_ns, turn.queue_ns
        last = asked.pop() if asked and asked[-1].kind in {"X", "cancel"} else None
        connection.waiting += asked
        return last

    def _note_repetition(self, asked: list[Asked]) -> None:
        """Remember what is repeated beyond the prefix: the next turn may begin in the midst of it."""
        connection = self._connection
        for one in asked:
            if one.repeated and one.command:
                connection.astray = True
                connection.unit = one.repeated.size, one.command, one.repeated.synced

    def _more(self) -> list[Asked]:
        """Return what a request asks in which no statement is seen to begin."""
        unit, total = self._connection.unit, self._turn.request_bytes
        found = going_on(unit[0], total, synced=unit[2]) if unit and total > len(self._turn.request) else None
        return [more_of(found, unit[1], total, self._most), Asked("S")] if unit and found else []

    def _goes_on(self, first: Asked, request: Request) -> bool:
        """Whether the request is a login's next message, or data for COPY."""
        kinds = {message.kind for message in request.messages[:1]}
        if first.kind == "login":
            if kinds == {"p"}:
                return True
        elif first.copying and not request.startup and (kinds <= _COPY_DATA or not kinds):
            return True
        if first.patient:
            self._give_up()
        return False

    def _receive(self, response: Response) -> None:
        waiting = self._connection.waiting
        for message in response.messages:
            self._take(message, sure=not response.broken)
        if response.rest:
            self._count_answers(response)
            self._end_unseen()
        left = self._turn.response_bytes - self._shared
        if self._shared:
            last = self._transactions[-1]
            self._transactions[-1] = last._replace(response_bytes=last.response_bytes + left)
        elif waiting:
            waiting[0].response_bytes += left

    def _count_answers(self, response: Response) -> None:
        """Take the number of statements beyond the prefix from their answers, where it was only likely."""
        waiting = self._connection.waiting
        likely = [one for one in waiting if one.repeated and not one.repeated.exact]
        if len(likely) != 1:
            return
        count, estimate = answered(response.messages, self._turn.response_bytes), likely[0].more or 0
        if count is None:
            return
        count -= sum(one.kind == "E" and one.more is None for one in waiting)
        if estimate // 2 <= count <= 2 * estimate + 1:
            likely[0].more = min(count, self._most)

    def _take(self, message: Message, *, sure: bool) -> None:
        """Take one message of the response. sure: all that was captured of it are messages."""
        waiting, kind = self._connection.waiting, message.kind
        if kind == "A":
            if sure and message.text:
                self._push(message, Reply(f"PostgreSQL Notification: {message.text}", truncated=message.cut))
        elif kind == "E":
            self._fail(message, sure=sure)
        elif kind == "N":
            if message.notice and (about := next((asked for asked in waiting if asked.command), None)):
                about.notices.append(message.notice.text)
                about.cut |= message.notice.cut
        elif kind == "Z" and not (waiting and waiting[0].startup):
            self._ready(message.end)
        elif waiting:
            self._answer(waiting[0], message)

    def _answer(self, first: Asked, message: Message) -> None:
        connection = self._connection
        if first.more is not None:
            first = first.one()
            connection.waiting.insert(0, first)
        if first.kind == "login":
            self._log_in(first, message)
        elif first.startup:
            if message.kind == "!":
                connection.opaque = message.text == first.accepted
                self._finish(message.end, ACCEPTED if connection.opaque else REFUSED)
        elif first.take(message):
            connection.failed = False
            if message.kind == "W":
                self._finish(message.end, COPY_BOTH)
            elif message.kind == "G":
                self._copy_in(first)
            elif first.done:
                self._finish(message.end, first.reply(whole=True))
                if message.kind == "T" and connection.waiting:
                    connection.waiting[0].columns = message.number

    def _copy_in(self, first: Asked) -> None:
        """A server that waits for data overlooks what the client has sent behind an Execute."""
        waiting = self._connection.waiting
        if first.kind == "E":
            del waiting[1 : 1 + next((at for at, one in enumerate(waiting) if one.kind == "S"), 0)]

    def _log_in(self, login: Asked, message: Message) -> None:
        if message.kind == "R" and message.number == 0:
            login.accepted = "R"
        elif login.accepted and message.kind in _LOGGED_IN:
            self._logged_in(message.end)

    def _logged_in(self, end: int) -> None:
        self._connection.namespace = self._connection.waiting[0].name
        self._finish(end, OK)

    def _ready(self, end: int) -> None:
        """ReadyForQuery: all up to the next Sync has been answered, or skipped after an error."""
        connection = self._connection
        failed, connection.failed = connection.failed, False
        while connection.waiting:
            first = connection.waiting[0]
            if first.kind == "S":
                del connection.waiting[0]
                return
            if first.repeated and self._is_not_the_end(first, end):
                return
            if first.repeated and (first.repeated.synced or not failed):
                del connection.waiting[0]
                continue
            if failed:
                self._undo([first])
            self._finish(end, SKIPPED if failed else first.at_ready())

    def _is_not_the_end(self, others: Asked, end: int) -> bool:
        """Whether there are more that end with a ReadyForQuery each, behind that at `end`."""
        if others.repeated is None or others.repeated.synced is False:
            return False
        return bool(others.more) and end < self._turn.response_bytes

    def _fail(self, message: Message, *, sure: bool) -> None:
        """Give the error to the first that is shown, up to the next Sync; what is behind it is skipped."""
        connection, notice = self._connection, message.notice
        if notice is None:
            return
        reply = notice.reply()
        upto = next((at for at, one in enumerate(connection.waiting) if one.kind == "S"), None)
        failed = self._failing(upto)
        unasked = not any(asked.command for asked in failed)
        if unasked and sure and notice.severity in _SEVERITIES and notice.code:
            self._push(message, reply)
        connection.failed = bool(failed) and not failed[0].startup
        self._undo(failed)
        for asked in failed:
            if asked.command:
                self._give(asked, reply, message.end)
                reply = SKIPPED

    def _failing(self, upto: int | None) -> list[Asked]:
        """Take off what an error ends, of those that wait: one of repeated ones that have a Sync each."""
        waiting = self._connection.waiting
        failed = waiting[:upto]
        del waiting[: len(failed)]
        if not failed or failed[-1].repeated is None:
            return failed
        others = failed.pop()
        if not any(asked.command for asked in failed):
            failed.append(others.one())
        if others.repeated and others.repeated.synced:
            waiting.insert(0, others)
        else:
            failed.append(others)
        return failed

    def _undo(self, failed: list[Asked]) -> None:
        """A statement that could not be parsed has not replaced another of its name."""
        statements = self._connection.statements
        for asked in reversed(failed):
            if asked.kind == "P" and asked.name:
                if asked.before is None:
                    statements.pop(asked.name, None)
                else:
                    statements[asked.name] = asked.before

    def _end_unseen(self) -> None:
        """The rest of the response was not captured: what it answers has ended, but a login may go on."""
        connection = self._connection
        connection.failed = False
        if connection.waiting and connection.waiting[0].startup:
            if connection.waiting[0].kind == "login" and connection.waiting[0].accepted:
                self._logged_in(self._turn.response_bytes)
            return
        while connection.waiting:
            self._finish(self._turn.response_bytes, connection.waiting[0].reply(whole=False))

    def _finish(self, end: int, reply: Reply) -> None:
        """End the first that waits. end: bytes of the response up to the end of its answer."""
        self._give(self._connection.waiting.pop(0), reply, end)

    def _give(self, asked: Asked, reply: Reply, end: int) -> None:
        if asked.command and asked.more != 0:
            share, self._shared = end - self._shared, end
            self._show(asked, reply, asked.response_bytes + share)
            if asked.kind == "Q" and not reply.error:
                self._deallocate(asked.command.query or "")

    def _deallocate(self, query: str) -> None:
        if name := DEALLOCATE.fullmatch(query):
            self._connection.statements.pop(name[1], None)

    def _end_all(self, reply: Reply) -> None:
        """End all that waits without an answer."""
        waiting, self._connection.waiting = self._connection.waiting, []
        for asked in waiting:
            self._end(asked, reply)

    def _end(self, asked: Asked, reply: Reply) -> None:
        if asked.command:
            self._show(asked, reply, asked.response_bytes, answered=False)

    def _show(self, asked: Asked, reply: Reply, response_bytes: int, *, answered: bool = True) -> None:
        turn = self._turn
        shown = Transaction(
            turn.row,
            asked.command,
            reply,
            asked.name if asked.kind == "login" else self._connection.namespace,
            asked.request_bytes,
            response_bytes,
            asked.request_first_ns,
            turn.response_first_ns if answered else 0,
            turn.response_last_ns if answered else 0,
            asked.queue_ns,
        )
        self._transactions += [shown] if asked.more is None else shown.shared(asked.more)

    def _push(self, message: Message, reply: Reply) -> None:
        """Show what nobody asked for."""
        turn = self._turn
        share, self._shared = message.end - self._shared, message.end
        namespace = self._connection.namespace
        last = turn.response_last_ns
        self._transactions.append(Transaction(turn.row, None, reply, namespace, 0, share, 0, last, last, 0))


class Connections:
    """What is known of all connections, between turns and between batches.

    evicted: connections, statements, portals and unanswered questions that had to be forgotten before their
    time.
    """

    def __init__(self) -> None:
        """Start with no connections."""
        self.evicted = 0
        self._known: dict[int, Connection] = {}
        self._size = 0
        self._room = BATCH_MOST

    def begin_batch(self) -> None:
        """Make room for so many statements beyond the prefix as a batch may hold."""
        self._room = BATCH_MOST

    def get(self, cookie: int) -> Connection | None:
        """Return what is known of a connection, and keep it longer than those that were not asked for."""
        connection = self._known.pop(cookie, None)
        if connection is not None:
            self._known[cookie] = connection
        return connection

    def waiting(self, cookies: Iterable[int]) -> list[int]:
        """Return those of these connections on which a command waits for its answer."""
        return [cookie for cookie in self._known.keys() & cookies if self._known[cookie].waiting]

    def forget(self, cookies: Iterable[int]) -> None:
        """Drop what is kept of these connections."""
        for cookie in self._known.keys() & cookies:
            connection = self._known.pop(cookie)
            self._size -= connection.size
            self.evicted += sum(asked.command is not None for asked in connection.waiting)

    def follow(self, turns: Iterable[Turn]) -> tuple[list[Transaction], list[int]]:
        """Return the transactions of turns, and the cookies of connections that became opaque with them."""
        transactions: list[Transaction] = []
        opaque: list[int] = []
        for turn in turns:
            known = self._known.get(turn.cookie)
            if known is not None and known.opaque:
                continue
            if turn.kind == _OPEN:
                transactions += (known.copy() if known else Connection()).follow(turn)
                continue
            connection = known or Connection()
            before = connection.size
            found = connection.follow(turn, min(TURN_MOST, self._room))
            self._room = max(self._room - len(found), 1)
            transactions += found
            if connection.opaque:
                opaque.append(turn.cookie)
            self._keep(turn.cookie, connection, before)
        return transactions, opaque

    def remember(self, cookie: int, name: str, statement: Command) -> None:
        """Take over a statement that a turn of a connection parsed."""
        connection = self._known.get(cookie, None) or Connection()
        before = connection.size
        connection.statements.pop(name, None)
        connection.statements[name] = statement
        connection.bound()
        self._keep(cookie, connection, before)

    def statements(self, cookie: int) -> Collection[str]:
        """Return the names of the statements of a connection."""
        connection = self._known.get(cookie)
        return () if connection is None else connection.statements

    def drop(self, cookie: int, name: str) -> None:
        """Forget a statement that a turn of a connection deallocated."""
        connection = self._known.get(cookie)
        if connection is not None and connection.statements.pop(name, None) is not None:
            self._size -= 1

    def _keep(self, cookie: int, connection: Connection, before: int) -> None:
        """Keep a connection that a turn changed; its size was `before`."""
        if not connection.known and cookie not in self._known:
            return
        self._known[cookie] = connection
        self._size += connection.size - before
        self.evicted += connection.dropped
        connection.dropped = 0
        while len(self._known) > _CONNECTIONS or self._size > _ALL_STATEMENTS:
            self.forget([next(iter(self._known))])
            self.evicted += 1


def read_turns(slots: np.ndarray, rows: NDArray[np.intp]) -> Iterator[Turn]:
    """Yield the turns of `rows` (m,), indices into `slots` (n,)."""
    sides = [payloads(slots, side, rows) for side in ("request", "response")]
    columns = [slots[name][rows].tolist() for name in Turn._fields[3:]]
    return map(Turn._make, zip(rows.tolist(), *sides, *columns, strict=True))
