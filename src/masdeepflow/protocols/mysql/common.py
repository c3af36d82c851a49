"""The common turns, on columns: one query, execute or ping that fills the request, and the reply to it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from masdeepflow.coded import Coded
from masdeepflow.columns import Memo, prefix
from masdeepflow.in_order import Turns, in_order
from masdeepflow.protocols.mysql.commands import (
    HEADER_BYTES,
    Code,
    Command,
    on_statement,
    read_plain_command,
)
from masdeepflow.protocols.mysql.connection import read_turns
from masdeepflow.protocols.mysql.prepared import Prepared
from masdeepflow.protocols.mysql.queries import Queries, are_plain_queries
from masdeepflow.protocols.mysql.replies import ERROR, NO_REPLY, OK, Reply, read_error, result_set
from masdeepflow.protocols.mysql.requests import CLOSE_BYTES, read_requests
from masdeepflow.recall import Recall
from masdeepflow.schema import Flag, Kind
from masdeepflow.table import ABSENT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from masdeepflow.protocols.mysql.connection import Connection, Connections, Transaction
    from masdeepflow.protocols.mysql.requests import Requests
    from masdeepflow.statements import Texts

__all__ = ["Common", "Commons"]

_EXECUTE_BYTES = 9  # header, command, statement id
_OK_BYTES = 7  # of an OK packet since MySQL 4.1
_PREPARED_BYTES = 12  # of the OK packet that answers a prepare
_ID_BYTES = 8  # header, OK, all of the statement id but a byte
_FLAGGED = 2  # bytes of a column count with MariaDB's flag behind it
_COUNTS = 0xFB  # first byte of a column count that is longer than a byte, or of a request for a file
_LENGTH = np.uint64(0xFFFFFF)
_BYTE = np.uint64(0xFF)
_QUIT = np.uint64(1 | int(Code.QUIT) << 32)
_START = np.uint64((1 << 40) - 1)
_TURN = int(Kind.TURN)
_SKIPPED = int(Flag.CONTINUED | Flag.SERVER_FIRST)


class Commons(NamedTuple):
    """Transactions of m turns.

    rows: intp (m,), ascending. states: systems and namespaces. own: int32 (m,), index into `texts` where a
    command's text is not that of its value, else `ABSENT`. sizes: int64 (m,), bytes of each command. silent:
    bool (m,), those that have no reply.
    """

    rows: NDArray[np.intp]
    commands: Coded[Command]
    replies: Coded[Reply]
    states: Coded[tuple[str, str | None]]
    own: NDArray[np.int32]
    texts: Texts | None
    sizes: NDArray[np.int64]
    silent: NDArray[np.bool_]


class _Commands(NamedTuple):
    """Commands of n turns. own, texts: as in `Commons`.

    coded: `ABSENT` for turns that are not common, and for executes: what these show their connection tells.
    """

    coded: Coded[Command]
    own: NDArray[np.int32]
    texts: Texts | None


def _field(head: NDArray[np.uint64], byte: int) -> NDArray[np.uint64]:
    result: NDArray[np.uint64] = (head >> np.uint64(8 * byte)) & _BYTE
    return result


def _is_common(slots: np.ndarray, requests: Requests) -> NDArray[np.bool_]:
    """Return which turns (n,) are one plain command and its reply, as far as the bytes of each turn tell.

    ::

        | length (3) | seq: 0 | 03 query, 0E ping, 16 prepare, 17 execute, 1A reset statement ...
        | length (3) | seq: 1 | 00 OK ..., alone; FF error ..., alone; 01 to FA columns ...

    Statements that it closes before may stand in front of it.
    """
    request, response = prefix(requests.payload, 8), prefix(slots["response"], 8)
    command = _field(request, 4)
    execute, prepare = command == Code.STMT_EXECUTE, command == Code.STMT_PREPARE
    on_statement = execute | (command == Code.STMT_RESET)
    results = execute | (command == Code.QUERY)
    asked = (
        (requests.lengths > np.where(on_statement, _EXECUTE_BYTES - 1, HEADER_BYTES))
        & (requests.sizes == (request & _LENGTH).astype(np.int64) + HEADER_BYTES)
        & (_field(request, 3) == 0)
        & (on_statement | results | prepare | (command == Code.PING))
        & ((slots["flags"] & _SKIPPED) == 0)
    )
    # What changes statements is to be taken over once: a turn in flight comes again.
    asked &= (slots["kind"] == _TURN) | ~(prepare | (requests.closes > 0))
    length, first, second = response & _LENGTH, _field(response, 4), _field(response, 5)
    answered = (slots["response_length"] > HEADER_BYTES) & (_field(response, 3) == 1)
    alone = slots["response_bytes"] == length + np.uint64(HEADER_BYTES)
    progress = (response >> np.uint64(40)) & np.uint64(0xFFFF) == np.uint64(0xFFFF)
    status = alone & (((first == 0) & (length >= _OK_BYTES) & ~prepare) | ((first == ERROR) & ~progress))
    status |= prepare & (first == 0) & (length >= _PREPARED_BYTES) & (slots["response_length"] > _ID_BYTES)
    counted = (first > 0) & (first < _COUNTS) & results
    # MariaDB puts a flag behind the count: the definitions of the columns follow.
    flagged = (length == _FLAGGED) & (second <= 1) & (slots["response_length"] > HEADER_BYTES + 1)
    counted &= (length == 1) | flagged
    # Behind the OK of one statement comes what the next one of the query does.
    several = counted | (results & ~alone & (first == 0) & (length >= _OK_BYTES))
    common: NDArray[np.bool_] = asked & answered & (status | several)
    later = np.flatnonzero(common & several)
    common[later[_has_error(slots["response"][later], slots["response_length"][later])]] = False
    return common | _quits(slots, requests)


def _quits(slots: np.ndarray, requests: Requests) -> NDArray[np.bool_]:
    """Return which turns (n,) are a goodbye, which has no reply."""
    quits: NDArray[np.bool_] = (
        (prefix(requests.payload, 8) & _START == _QUIT)
        & (requests.sizes == HEADER_BYTES + 1)
        & (requests.lengths == HEADER_BYTES + 1)
        & (slots["response_bytes"] == 0)
        & (slots["kind"] == _TURN)
        & ((slots["flags"] & _SKIPPED) == 0)
    )
    return quits


def _has_error(response: NDArray[np.uint8], lengths: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Return which responses (n, w) of valid lengths (n,) show an FF at the start of a later packet."""
    found = np.zeros(len(response), bool)
    data, width = response.ravel(), response.shape[1]
    rows = np.arange(len(response))
    ends = rows * width + np.minimum(lengths, width)
    at = rows * width
    for _ in range(width // HEADER_BYTES):
        length = data[at + 2].astype(np.int64) << 16
        length += data[at + 1].astype(np.int64) << 8
        length += data[at]
        at = at + HEADER_BYTES + length
        inside = at + HEADER_BYTES < ends
        rows, ends, at = rows[inside], ends[inside], at[inside]
        if not len(rows):
            break
        found[rows] |= data[at + HEADER_BYTES] == ERROR
    return found


class Common:
    """Reads the common turns; each distinct command and error once."""

    def __init__(self) -> None:
        """Start with nothing remembered."""
        self._queries = Queries()
        self._commands = Memo(_read)
        self._known: Recall[Command] = Recall()
        self._errors = Memo(read_error)

    def read(
        self, slots: np.ndarray, cookies: list[int], owner: NDArray[np.integer], connections: Connections
    ) -> tuple[Commons, list[Transaction], list[int]]:
        """Return the transactions of slots (n,): of the common turns, of others, and who became opaque.

        owner: (n,), index into `cookies`. A turn that changes the database in use is not common.
        """
        requests = read_requests(slots)
        common = _is_common(slots, requests)
        commands, own, texts = self._read_commands(requests, np.flatnonzero(common))
        moves = np.array([*map(_moves, commands.values), False], bool)
        common &= ~moves[commands.codes]
        prepared = Prepared(requests, slots["response"], commands)
        rows, states, transactions, opaque = in_order(
            Turns(common, owner, cookies, lambda rows: read_turns(slots, rows)),
            connections,
            lambda rows: prepared.learn(rows, owner, cookies, connections),
        )
        coded = _with_executed(commands.take(rows), prepared.shown(rows))
        coded = _with_statements(requests, rows, coded, states)
        shown = Coded(states.codes, [_state(known) for known in states.values])
        silent = requests.payload[rows, HEADER_BYTES] == Code.QUIT
        replies = self._read_replies(slots, rows, silent)
        found = Commons(rows, coded, replies, shown, own[rows], texts, requests.sizes[rows], silent)
        return _with_closes(found, requests), transactions, opaque

    def _read_commands(self, requests: Requests, rows: NDArray[np.intp]) -> _Commands:
        """Return the commands of n requests, those of `rows` (k,) read."""
        codes, own = (np.full(len(requests.sizes), ABSENT, np.int32) for _ in range(2))
        values: list[Command] = []
        texts = None
        queries = are_plain_queries(requests, rows)
        asked = rows[queries]
        if len(asked):
            found, texts = self._queries.read(requests, asked)
            codes[asked] = found.codes + np.int32(len(values))
            values += found.values
            own[asked] = np.arange(len(asked), dtype=np.int32)
        others = rows[~queries]
        others = others[requests.payload[others, HEADER_BYTES] != Code.STMT_EXECUTE]
        if len(others):
            found = self._read_plain(requests, others)
            codes[others] = found.codes + np.int32(len(values))
            values += found.values
        return _Commands(Coded(codes, values), own, texts)

    def _read_plain(self, requests: Requests, rows: NDArray[np.intp]) -> Coded[Command]:
        """Read commands that are all in their bytes: those whose hash is known need not be read."""

        def read(unknown: NDArray[np.intp]) -> tuple[NDArray[np.int32], list[Command]]:
            chosen = rows[unknown]
            return self._commands.encode(requests.payload[chosen], requests.lengths[chosen])

        return Coded(*self._known.encode(requests.hashes[rows], read))

    def _read_replies(
        self, slots: np.ndarray, rows: NDArray[np.intp], silent: NDArray[np.bool_]
    ) -> Coded[Reply]:
        response, lengths = slots["response"], slots["response_length"]
        first = np.where(silent, np.uint8(0), response[rows, HEADER_BYTES])
        counts = np.flatnonzero(np.bincount(first, minlength=256)[1:_COUNTS]) + 1
        code_of = np.zeros(256, np.int32)
        code_of[counts] = np.arange(1, len(counts) + 1)
        codes = code_of[first]
        values = [OK, *map(result_set, counts.tolist())]
        errors = first == ERROR
        if errors.any():
            error_codes, replies = self._errors.encode(response[rows[errors]], lengths[rows[errors]])
            codes[errors] = error_codes + len(values)
            values += replies
        if silent.any():
            codes[silent] = len(values)
            values.append(NO_REPLY)
        return Coded(codes, values)


def _moves(command: Command) -> bool:
    """Return whether a command changes the database in use."""
    return command.namespace is not None


def _state(connection: Connection | None) -> tuple[str, str | None]:
    return (connection.system, connection.namespace) if connection else ("mysql", None)


def _read(packet: bytes) -> Command:
    """Read a command that is no execution."""
    if packet[HEADER_BYTES] == Code.STMT_RESET:
        return on_statement(
            Code.STMT_RESET, int.from_bytes(packet[HEADER_BYTES + 1 : _EXECUTE_BYTES], "little")
        )
    return read_plain_command(packet)


def _with_executed(commands: Coded[Command], executed: Coded[Command]) -> Coded[Command]:
    """Return commands (m,) with those (m,) of executions that are known."""
    if not executed.values:
        return commands
    known = executed.codes != ABSENT
    codes = np.where(known, executed.codes + np.int32(len(commands.values)), commands.codes)
    return Coded(codes, commands.values + executed.values)


def _with_closes(found: Commons, requests: Requests) -> Commons:
    """Return transactions with those in front of them that close statements."""
    closes = requests.closes[found.rows]
    if not closes.any():
        return found
    counts = closes.astype(np.intp) + 1
    places = np.repeat(np.arange(len(counts)), counts)
    behind = np.cumsum(counts)[places] - np.arange(len(places)) - 1
    before = behind > 0
    rows = found.rows[places]
    ids = requests.closed[rows[before], closes[places[before]] - behind[before]]
    distinct, codes_of = np.unique(ids, return_inverse=True)
    codes, replies, own = found.commands.codes[places], found.replies.codes[places], found.own[places]
    sizes = found.sizes[places]
    codes[before] = codes_of + len(found.commands.values)
    replies[before] = len(found.replies.values)
    own[before], sizes[before] = ABSENT, CLOSE_BYTES
    closing = [on_statement(Code.STMT_CLOSE, statement) for statement in distinct.tolist()]
    return Commons(
        rows,
        Coded(codes, found.commands.values + closing),
        Coded(replies, [*found.replies.values, NO_REPLY]),
        found.states.take(places),
        own,
        found.texts,
        sizes,
        before | found.silent[places],
    )


def _with_statements(
    requests: Requests,
    rows: NDArray[np.intp],
    commands: Coded[Command],
    states: Coded[Connection | None],
) -> Coded[Command]:
    """Return commands (m,) with what executes show: each distinct pair of state and statement once."""
    executes = np.flatnonzero(commands.codes == ABSENT)
    if not len(executes):
        return commands
    ids = np.ascontiguousarray(requests.payload[rows[executes], HEADER_BYTES + 1 : _EXECUTE_BYTES])
    owners = states.codes[executes].astype(np.uint64) << np.uint64(32)
    pairs, places = np.unique(owners | ids.view("<u4")[:, 0], return_inverse=True)
    codes = commands.codes.copy()
    codes[executes] = places + len(commands.values)
    found = [_execute(states.values[pair >> 32], pair & 0xFFFFFFFF) for pair in pairs.tolist()]
    return Coded(codes, commands.values + found)


def _execute(connection: Connection | None, statement: int) -> Command:
    command = on_statement(Code.STMT_EXECUTE, statement)
    return connection.with_statement(command) if connection else command
