"""Connections followed turn by turn: logins, prepared statements, several commands in one turn.

Nothing here raises, whatever the bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from masdeepflow.pipelined import BATCH_MOST
from masdeepflow.protocols.mysql.commands import (
    HEADER_BYTES,
    LAST_STATEMENT,
    MAX_LENGTH,
    ON_STATEMENT,
    REFUSED,
    Answer,
    Code,
    Command,
    on_known_statement,
    read_command,
    read_commands,
)
from masdeepflow.protocols.mysql.handshake import compressed, is_refusal, read_greeting, read_login
from masdeepflow.protocols.mysql.hidden import TURN_MOST, count, hidden
from masdeepflow.protocols.mysql.replies import (
    FILE,
    MORE,
    NO_REPLY,
    OK,
    UNANSWERED,
    UNKNOWN,
    UNSEEN,
    Reply,
    prepared_id,
    read_error,
    read_last_reply,
    read_reply,
    says_ok,
)
from masdeepflow.schema import Flag, Kind, Role

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from numpy.typing import NDArray

__all__ = ["Connection", "Connections", "Transaction", "Turn", "read_turns"]

_CONNECTIONS = 4096
"""Connections kept, the one that was idle longest dropped first."""
_STATEMENTS = 1024
"""Prepared statements kept of one connection, the oldest dropped first."""
_ALL_STATEMENTS = 65536
"""Prepared statements kept of all connections, before whole connections are dropped."""

# Plain integers: an `&` with a member of an IntFlag costs more than the rest of a turn's tests.
_CONTINUED, _CLOSED = int(Flag.CONTINUED), int(Flag.CLOSED)
_OPEN = int(Kind.OPEN)
_CLIENT = int(Role.CLIENT)
_GREETING_STARTS = frozenset({b"\0\x0a", b"\0\x09"})

_FIRST = frozenset({b"\1", b""})
"""Sequence number of the first packet of a reply to a command, as far as captured."""
_OUT_OF_ORDER = b"\0\xff"
"""An error that a server does not answer a command with: it shuts down, or nothing came for too long."""

_GOING_ON = frozenset({MORE, FILE})
"""Replies that the client answers in the next turn."""
_ONGOING = _GOING_ON | {NO_REPLY}
_LEARN = frozenset({Code.STMT_PREPARE, Code.STMT_CLOSE, Code.RESET_CONNECTION})
"""Commands that change what is known of the connection, besides those that name a database."""


class Turn(NamedTuple):
    """One slot. row: its index. request, response: valid bytes of the prefixes. The rest as in bpf/wire.h."""

    row: int
    request: bytes
    response: bytes
    cookie: int
    kind: int
    flags: int
    request_bytes: int
    response_bytes: int
    request_first_ns: int
    queue_ns: int
    role: int
    request_segments: int

    @property
    def calls(self) -> int:
        """In how many calls a client handed over the request; 0 at the server's end, which tells nothing."""
        return self.request_segments if self.role == _CLIENT else 0


class Transaction(NamedTuple):
    """One command and its reply.

    row: the turn that ended it. namespace: the database it worked in, None if unknown. request_bytes,
    response_bytes: its share of its turns' bytes. request_first_ns, queue_ns: of the turn that began it.
    """

    row: int
    command: Command
    reply: Reply
    system: str
    namespace: str | None
    request_bytes: int
    response_bytes: int
    request_first_ns: int
    queue_ns: int


class _Pending(NamedTuple):
    """A command that goes on in the next turn: a login, or a load that waits for the client's file.

    capabilities: chosen by a login. The rest: of the turns so far.
    """

    command: Command
    capabilities: int
    request_first_ns: int
    queue_ns: int
    request_bytes: int = 0
    response_bytes: int = 0

    def plus(self, request_bytes: int, response_bytes: int) -> _Pending:
        """Return it with another turn's bytes."""
        return self._replace(
            request_bytes=self.request_bytes + request_bytes,
            response_bytes=self.response_bytes + response_bytes,
        )


@dataclass(slots=True)
class Connection:
    """What is known of a connection.

    system: `mysql` or `mariadb`. offered: capabilities of the server, None unless the greeting was seen.
    namespace: the database in use, None if unknown. statements: id -> what executing the statement shows.
    last: the same of the one prepared last. pending: what the next turn goes on with. opaque: the rest of the
    connection is TLS or compressed. dropped: statements forgotten, and not counted yet.
    """

    system: str = "mysql"
    offered: int | None = None
    namespace: str | None = None
    statements: dict[int, Command] = field(default_factory=dict)
    last: Command | None = None
    pending: _Pending | None = None
    opaque: bool = False
    dropped: int = 0

    @property
    def busy(self) -> bool:
        """Whether the next turn is not to be read by itself."""
        return self.opaque or self.pending is not None

    @property
    def known(self) -> bool:
        """Whether anything is known that a connection seen for the first time does not have."""
        return bool(
            self.offered is not None
            or self.namespace
            or self.statements
            or self.last
            or self.pending
            or self.opaque
        )

    def copy(self) -> Connection:
        """Return a connection to follow a turn in flight on, which comes again."""
        return replace(self, statements=dict(self.statements))

    def follow(self, turn: Turn, most: int = TURN_MOST) -> list[Transaction]:
        """Return the transactions that a turn ends, and of one in flight what it shows so far.

        most: commands beyond the prefix that it may stand for.
        """
        if turn.flags & _CONTINUED or not turn.request_bytes:
            return self._follow_response(turn)
        if turn.request[3:4] == b"\0":
            return self._follow_commands(turn, most)
        if self.pending:
            return self._follow_pending(self.pending, turn)
        if len(turn.request) >= HEADER_BYTES:
            return self._follow_login(turn)
        return self._follow_commands(turn, most)

    def _follow_response(self, turn: Turn) -> list[Transaction]:
        """Follow response bytes without a request: an error in place of the greeting, or the rest of a turn.

        The rest is no transaction, as its turn was written before; but a login may end with it.
        """
        if turn.flags & _CONTINUED:
            reply, _ = read_reply(Answer.LOGIN, turn.response, 0)
            if self.pending and self.pending.command.answer is Answer.LOGIN and reply is not MORE:
                self._end(self.pending, reply)
            if self.pending and turn.flags & _CLOSED:
                return self._go_on(self.pending, turn, MORE)
            return []
        if not is_refusal(turn.response, turn.response_bytes):
            return []
        pending = _Pending(REFUSED, 0, turn.request_first_ns, turn.queue_ns, 0, turn.response_bytes)
        return self._go_on(pending, turn, read_error(turn.response))

    def _follow_login(self, turn: Turn) -> list[Transaction]:
        login = read_login(turn.request) if turn.request[3] == 1 else None
        if login is None:
            return []
        if login.tls:
            self.opaque = True
            return []
        pending = _Pending(login.command, login.capabilities, turn.request_first_ns, turn.queue_ns)
        return self._follow_pending(pending, turn)

    def _follow_pending(self, pending: _Pending, turn: Turn) -> list[Transaction]:
        reply, response_bytes = _Replies(turn, 1).take(pending.command.answer)
        return self._go_on(pending.plus(turn.request_bytes, response_bytes), turn, reply)

    def _go_on(self, pending: _Pending, turn: Turn, reply: Reply) -> list[Transaction]:
        """Wait for the next turn, or end what is pending with a reply or with the connection."""
        closed = turn.flags & _CLOSED
        if reply in _ONGOING:
            self.pending = pending
            if turn.kind != _OPEN and not closed:
                return []
            reply = UNANSWERED if closed else NO_REPLY
        else:
            self._end(pending, reply)
        return [
            Transaction(
                turn.row,
                pending.command,
                reply,
                self.system,
                self._namespace(pending.command),
                pending.request_bytes,
                pending.response_bytes,
                pending.request_first_ns,
                pending.queue_ns,
            )
        ]

    def _end(self, pending: _Pending, reply: Reply) -> None:
        self.pending = None
        if reply is OK and pending.command.answer is Answer.LOGIN:
            self.namespace = pending.command.namespace
            self.statements.clear()
            self.last = None
            self.opaque = compressed(self.offered, pending.capabilities)

    def _follow_commands(self, turn: Turn, most: int) -> list[Transaction]:
        if self.pending:
            # The turn that ended it was lost; that another command follows shows that a login was let in.
            self._end(self.pending, OK)
            if self.opaque:
                return []
        length = int.from_bytes(turn.request[:3], "little")
        alone = length + HEADER_BYTES == turn.request_bytes and length != MAX_LENGTH
        if not alone or len(turn.request) <= HEADER_BYTES:
            return self._follow_pipeline(turn, most)
        command = self._read(turn.request)
        return (
            self._exchange(turn, command, turn.request_bytes, _Replies.to_commands(turn, 1))
            if command
            else []
        )

    def _read(self, packet: bytes) -> Command | None:
        """Read a command with the text of its statement; quickly if it executes one that is known."""
        if packet[HEADER_BYTES] == Code.STMT_EXECUTE:
            statement = int.from_bytes(packet[HEADER_BYTES + 1 : HEADER_BYTES + 5], "little")
            if statement in self.statements:
                return self.statements[statement]
        command = read_command(packet)
        return self.with_statement(command) if command else None

    def _follow_pipeline(self, turn: Turn, most: int) -> list[Transaction]:
        commands, left = read_commands(turn.request, turn.request_bytes)
        likely = left > HEADER_BYTES and bool(commands or len(turn.request) <= HEADER_BYTES)
        awaited = sum(command.answer is not Answer.NONE for command, _ in commands) + likely
        replies = _Replies.to_commands(turn, awaited)
        transactions: list[Transaction] = []
        for place, (command, size) in enumerate(commands):
            # It may be the one before that prepared the statement.
            commands[place] = self.with_statement(command), size
            transactions += self._exchange(turn, *commands[place], replies)
        number = count(commands, left, turn.calls, most) if turn.kind != _OPEN else None
        if number or (likely and replies.at != turn.response_bytes):
            behind = hidden(commands, left, number or 1, self.with_statement)
            replies.awaited = sum(command.answer is not Answer.NONE for command, _ in behind)
            for command, size in behind:
                transactions += self._exchange(turn, command, size, replies)
        return transactions

    def _exchange(self, turn: Turn, command: Command, size: int, replies: _Replies) -> list[Transaction]:
        """Pair a command of `size` bytes with the next reply."""
        at = replies.at
        reply, response_bytes = replies.take(command.answer)
        if reply in _GOING_ON or command.answer is Answer.LOGIN:
            pending = _Pending(command, 0, turn.request_first_ns, turn.queue_ns, size, response_bytes)
            return self._go_on(pending, turn, reply)
        if command.namespace or command.code in _LEARN:
            self._learn(command, turn.response[at:] if at != UNKNOWN else b"")
        return [
            Transaction(
                turn.row,
                command,
                reply,
                self.system,
                command.namespace or self.namespace,
                size,
                response_bytes,
                turn.request_first_ns,
                turn.queue_ns,
            )
        ]

    def with_statement(self, command: Command) -> Command:
        """Return a command with the text of its prepared statement, if it is about one that is known."""
        if command.code not in ON_STATEMENT:
            return command
        last = command.statement == LAST_STATEMENT
        return on_known_statement(command, self.last if last else self.statements.get(command.statement))

    def _learn(self, command: Command, answer: bytes) -> None:
        """Take over what a command changes. answer: its reply and what follows, as far as captured."""
        if command.code == Code.STMT_PREPARE:
            self.prepare(prepared_id(answer) if says_ok(answer) else None, command.execute)
        elif command.code == Code.STMT_CLOSE:
            self.statements.pop(command.statement, None)
        elif not says_ok(answer):
            return
        elif command.code == Code.RESET_CONNECTION:
            self.statements.clear()
            self.last = None
        else:
            self.namespace = command.namespace

    def prepare(self, statement: int | None, execute: Command | None) -> None:
        """Take over a statement that was prepared last, and its id, None if there is none."""
        self.last = execute
        if statement is None or execute is None:
            return
        self.statements.pop(statement, None)
        self.statements[statement] = execute
        if len(self.statements) > _STATEMENTS:
            del self.statements[next(iter(self.statements))]
            self.dropped += 1

    def _namespace(self, command: Command) -> str | None:
        if command.answer is Answer.LOGIN:
            return command.namespace
        return command.namespace or self.namespace


class _Replies:
    """Hands out the replies of a turn, which come in the order of the commands.

    at: where the next one starts, `UNKNOWN` where that is beyond the prefix. awaited: how many are to come.
    """

    __slots__ = ("_turn", "_unshared", "at", "awaited")

    def __init__(self, turn: Turn, awaited: int, at: int = 0) -> None:
        """Start in front of the first of `awaited` replies."""
        self._turn = turn
        self._unshared = turn.response_bytes if at == UNKNOWN else 0
        self.awaited = awaited
        self.at = at

    @classmethod
    def to_commands(cls, turn: Turn, awaited: int) -> _Replies:
        """Start in front of the first reply to commands, which is no rest of an earlier one."""
        begun = turn.response[3:4] in _FIRST or turn.response[3:5] == _OUT_OF_ORDER
        return cls(turn, awaited, 0 if begun or not turn.response_bytes else UNKNOWN)

    def take(self, answer: Answer) -> tuple[Reply, int]:
        """Return the next reply and its bytes: all that are left if it is the last, or its end is hidden."""
        turn, start = self._turn, self.at
        if answer is Answer.NONE:
            return NO_REPLY, 0
        self.awaited -= 1
        if start == UNKNOWN:
            share, self._unshared = self._unshared, 0
            return UNSEEN, share
        if start >= turn.response_bytes:
            return (UNANSWERED if turn.flags & _CLOSED else NO_REPLY), 0
        if not self.awaited:
            self.at = turn.response_bytes
            return read_last_reply(answer, turn.response, start), turn.response_bytes - start
        reply, end = read_reply(answer, turn.response, start)
        self.at = UNKNOWN if end == UNKNOWN else min(end, turn.response_bytes)
        stop = turn.response_bytes if end == UNKNOWN else self.at
        return reply, stop - start


class Connections:
    """What is known of all connections, between turns and between batches.

    evicted: connections and statements that had to be forgotten before their time.
    """

    def __init__(self) -> None:
        """Start with no connections."""
        self.evicted = 0
        self._known: dict[int, Connection] = {}
        self._statements = 0
        self._room = BATCH_MOST

    def begin_batch(self) -> None:
        """Make room for so many commands beyond the prefix as a batch may hold."""
        self._room = BATCH_MOST

    def get(self, cookie: int) -> Connection | None:
        """Return what is known of a connection, and keep it longer than those that were not asked for."""
        connection = self._known.pop(cookie, None)
        if connection is not None:
            self._known[cookie] = connection
        return connection

    def waiting(self, cookies: Iterable[int]) -> list[int]:
        """Return those of these connections on which a command goes on."""
        return [cookie for cookie in self._known.keys() & cookies if self._known[cookie].pending]

    def forget(self, cookies: Iterable[int]) -> None:
        """Drop what is kept of these connections."""
        for cookie in self._known.keys() & cookies:
            self._statements -= len(self._known.pop(cookie).statements)

    def follow(self, turns: Iterable[Turn]) -> tuple[list[Transaction], list[int]]:
        """Return the transactions of turns, and the cookies of connections that became opaque with them."""
        transactions: list[Transaction] = []
        opaque: list[int] = []
        for turn in turns:
            known = self._known.get(turn.cookie)
            if turn.response[3:5] in _GREETING_STARTS and self._greet(turn):
                continue
            if known is not None and known.opaque:
                continue
            if turn.kind == _OPEN:
                transactions += (known.copy() if known else Connection()).follow(turn)
            else:
                connection = known or Connection()
                prepared = len(connection.statements)
                found = connection.follow(turn, min(TURN_MOST, self._room))
                self._room = max(self._room - len(found), 1)
                transactions += found
                if connection.opaque:
                    opaque.append(turn.cookie)
                if known is None or connection.dropped or prepared != len(connection.statements):
                    self.keep(turn.cookie, connection, prepared)
        return transactions, opaque

    def _greet(self, turn: Turn) -> bool:
        """Start a connection, if the turn is its greeting; a proxy may have sent a PROXY header before it."""
        greeting = read_greeting(turn.response, turn.response_bytes)
        if greeting is None or turn.flags & _CONTINUED or turn.kind == _OPEN:
            return False
        self.forget([turn.cookie])
        self.keep(turn.cookie, Connection(greeting.system, greeting.capabilities), 0)
        return True

    def keep(self, cookie: int, connection: Connection, prepared: int) -> None:
        """Keep a connection that a turn changed; `prepared` statements were counted of it before."""
        if connection.known:
            self._known[cookie] = connection
        self._statements += len(connection.statements) - prepared
        self.evicted += connection.dropped
        connection.dropped = 0
        while len(self._known) > _CONNECTIONS or self._statements > _ALL_STATEMENTS:
            self.forget([next(iter(self._known))])
            self.evicted += 1


def read_turns(slots: np.ndarray, rows: NDArray[np.intp]) -> Iterator[Turn]:
    """Yield the turns of `rows` (m,), indices into `slots` (n,)."""
    sides = []
    for side in ("request", "response"):
        payload = slots[side][rows]
        data, width = payload.tobytes(), payload.shape[1]
        ends = np.minimum(slots[f"{side}_length"][rows], width) + width * np.arange(len(rows))
        starts = range(0, len(data), width)
        sides.append([data[start:end] for start, end in zip(starts, ends.tolist(), strict=True)])
    columns = [slots[name][rows].tolist() for name in Turn._fields[3:]]
    return map(Turn._make, zip(rows.tolist(), *sides, *columns, strict=True))
