"""The common turns, on columns: one query or execution, and its whole answer.

Which turns these are is decided for each distinct request and response, with the code that follows
connections turn by turn: so both give the same.
"""

from __future__ import annotations

import re
from dataclasses import astuple
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from masdeepflow.coded import Coded
from masdeepflow.in_order import Turns, in_order
from masdeepflow.protocols.postgresql.asked import Asked, ask
from masdeepflow.protocols.postgresql.connection import Connection, Turn, read_turns
from masdeepflow.protocols.postgresql.masks import request_mask, response_mask
from masdeepflow.protocols.postgresql.outlines import request_outlines, response_outlines
from masdeepflow.protocols.postgresql.parsed import Commons
from masdeepflow.protocols.postgresql.queries import Queries, are_queries
from masdeepflow.protocols.postgresql.replies import UNSEEN, Reply
from masdeepflow.protocols.postgresql.requests import (
    HIDDEN,
    NOTHING,
    Command,
    described,
    read_request,
    unknown_statement,
)
from masdeepflow.protocols.postgresql.sides import Side, keys_of
from masdeepflow.recall import once
from masdeepflow.schema import Flag, Kind
from masdeepflow.table import ABSENT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from masdeepflow.protocols.postgresql.connection import Connections, Transaction
    from masdeepflow.statements import Texts

__all__ = ["Common"]

_REMEMBERED = 1024

# A member of an enum would have NumPy cast the whole column to int64 first.
_TURN = int(Kind.TURN)
_ODD = int(Flag.CONTINUED | Flag.SERVER_FIRST)
_KINDS = re.compile(r"Q|P?B?D?E?S?")
_ASKED = re.compile(r"QS|P?B?D?[Ee]S|PD?S|DS")
_SHOWN = "QEePD"
"""Of what is asked together, the first of these is what is shown."""
_NONE, _QUERY = -1, 0
_SHAPES = {"QS": _QUERY}
"""Shapes by their kinds, numbered as they are met; there are fewer than twenty."""


class _Plain(NamedTuple):
    """A request that asks one thing which needs no more than its answer.

    shape: number of the kinds of what it asks, in `_SHAPES`, with `e` for an Execute that may not be there;
    or `_NONE`. command: what it shows, None if it executes `statement`, which was parsed in an earlier turn,
    or `describes` it; without a text where each request has its own. parsed: the statement without a name
    that it parses.
    """

    shape: int
    command: Command | None
    statement: str
    parsed: Command | None
    describes: bool = False


class _Requests(NamedTuple):
    """Requests of n turns. own: int32 (n,), index into `texts` of those that have one, else `ABSENT`."""

    plains: Coded[_Plain]
    own: NDArray[np.int32]
    texts: Texts | None


_ODD_ONE = _Plain(_NONE, None, "", None)
"""Any other request."""


def _number(shape: str) -> int:
    return _SHAPES.setdefault(shape, len(_SHAPES))


def _read_plain(data: bytes, total: int, _kind: int) -> _Plain:
    """Return a request as the columns need it, `_ODD_ONE` if it has to be followed turn by turn."""
    request = read_request(data, total)
    # A Flush asks nothing.
    kinds = "".join(message.kind for message in request.messages if message.kind != "H")
    if not kinds or request.broken or not _KINDS.fullmatch(kinds):
        return _ODD_ONE
    by_kind = {message.kind: message for message in request.messages}
    parse, bind, execute = (by_kind.get(kind) for kind in "PBE")
    statements: dict[str, Command] = {}
    asked = ask(request, total, statements, {})
    shape = "".join(one.kind if one.certain else "e" for one in asked)
    shown = [one.command for one in asked if one.command]
    if not _ASKED.fullmatch(shape) or len(shown) != 1 or (parse and parse.name):
        return _ODD_ONE
    portals = bind and (bind.portal or (execute and execute.portal))
    # How much is hidden behind a Bind matters, where that is more than its Execute.
    if portals or (bind and ((bind.name and parse) or shown[0].truncated)):
        return _ODD_ONE
    if kinds == "Q" or parse:
        return _Plain(_number(shape), shown[0], "", parse and parse.command)
    about = bind or (None if execute else by_kind.get("D"))
    if about is None or about.name is None:
        return _ODD_ONE
    return _Plain(_number(shape), None, about.name, None, describes=about is not bind)


def _read_reply(data: bytes, total: int, shape: int) -> Reply | None:
    """Return the reply to a request of a shape, None if that is not all that the response tells."""
    asked = list(_SHAPES)[shape]
    shown = next(kind for kind in _SHOWN if kind in asked)
    waiting = [Asked(kind.upper(), _ONE if kind == shown else None, certain=kind != "e") for kind in asked]
    connection = Connection(waiting=waiting, turn=-1)
    found = connection.follow(Turn(0, b"", data, 0, _TURN, 0, 0, 0, total, 0, 0, 0, 0))
    alone = len(found) == 1 and found[0].command is _ONE and not connection.busy
    return _same(*astuple(found[0].reply)) if alone else None


@lru_cache(_REMEMBERED)
def _same(*fields: Any) -> Reply:  # noqa: ANN401  # those of `Reply`
    """Return one object for equal replies."""
    return Reply(*fields)


_ONE = HIDDEN._replace(text="")


class Common:
    """Reads the common turns; each distinct request, and each distinct response to a shape of it, once."""

    def __init__(self) -> None:
        """Start with nothing remembered."""
        self._queries = Queries()
        self._requests: Side[_Plain] = Side("request", request_mask, request_outlines)
        self._replies: Side[Reply | None] = Side("response", response_mask, response_outlines)

    def read(
        self, slots: np.ndarray, cookies: list[int], owner: NDArray[np.integer], connections: Connections
    ) -> tuple[Commons, list[Transaction], list[int]]:
        """Return the transactions of slots (n,): of the common turns, of others, and who became opaque.

        owner: (n,), index into `cookies`.
        """
        requests, own, texts = self._read_requests(slots)
        parses = np.array([plain.parsed is not None for plain in requests.values], bool)[requests.codes]
        before = _without_name(requests, cookies, connections)
        shapes = np.array([plain.shape for plain in requests.values], np.int64)[requests.codes]
        common = (slots["kind"] == _TURN) & ((slots["flags"] & _ODD) == 0) & (slots["response_bytes"] > 0)
        common &= shapes >= 0
        asked = np.flatnonzero(common)
        replies = self._replies.read(slots, asked, shapes[asked], _read_reply)
        common[asked] = replies.flags(_is_reply)
        rows, states, transactions, opaque = in_order(
            Turns(common, owner, cookies, lambda rows: read_turns(slots, rows)),
            connections,
            lambda rows: self._learn(requests, rows[parses[rows]], owner, cookies, connections),
        )
        codes = np.zeros(len(slots), np.int32)
        codes[asked] = replies.codes
        found = Coded(codes[rows], [reply or UNSEEN for reply in replies.values])
        commands = _commands(requests.take(rows), parses[rows], states, before)
        namespaces = Coded(states.codes, [None if one is None else one.namespace for one in states.values])
        return Commons(rows, commands, found, namespaces, own[rows], texts), transactions, opaque

    def _read_requests(self, slots: np.ndarray) -> _Requests:
        """Return the requests of slots (n,)."""
        # Both ends of a connection within the host have the same.
        rows, alike = once(keys_of(slots, "request", np.arange(len(slots))))
        queries = are_queries(slots, rows)
        own = np.full(len(rows), ABSENT, np.int32)
        if not queries.any():
            return _Requests(self._read_others(slots, rows).take(alike), own[alike], None)
        asking = rows[queries]
        read = self._queries.read(slots, asking)
        plains = [_Plain(_QUERY, command, "", None) for command in read.commands.values]
        own[queries] = np.arange(len(asking), dtype=np.int32)
        if len(asking) == len(rows):
            return _Requests(Coded(read.commands.codes[alike], plains), own[alike], read.texts)
        rest = self._read_others(slots, rows[~queries])
        codes = np.empty(len(rows), np.int32)
        codes[queries] = read.commands.codes
        codes[~queries] = rest.codes + np.int32(len(plains))
        return _Requests(Coded(codes[alike], plains + rest.values), own[alike], read.texts)

    def _read_others(self, slots: np.ndarray, rows: NDArray[np.intp]) -> Coded[_Plain]:
        """Return the requests of `rows` (m,), which are no simple queries."""
        return self._requests.read(slots, rows, np.zeros(len(rows), np.int64), _read_plain)

    def _learn(
        self,
        requests: Coded[_Plain],
        rows: NDArray[np.intp],
        owner: NDArray[np.integer],
        cookies: list[int],
        connections: Connections,
    ) -> None:
        """Remember the last of the statements without a name that each connection parsed in rows (m,)."""
        if not len(rows):
            return
        rows = rows[::-1]
        owners, last = np.unique(owner[rows], return_index=True)
        for place, code in zip(owners.tolist(), requests.codes[rows[last]].tolist(), strict=True):
            plain = requests.values[code]
            if plain.parsed:
                connections.remember(cookies[place], plain.parsed)


def _is_reply(reply: Reply | None) -> bool:
    return reply is not None


def _without_name(
    requests: Coded[_Plain], cookies: list[int], connections: Connections
) -> list[Command | None]:
    """Return the statement without a name of each connection, where a request may be about it."""
    if not any(plain.command is None and not plain.statement for plain in requests.values):
        return []
    known = map(connections.get, cookies)
    return [None if one is None else one.statements.get("") for one in known]


def _commands(
    requests: Coded[_Plain],
    parses: NDArray[np.bool_],
    states: Coded[Connection | None],
    before: list[Command | None],
) -> Coded[Command]:
    """Return what m turns show; statements are looked up once for each pair of state and request.

    parses: bool (m,), of those that parse a statement without a name. before: such statements before the
    batch, of the first of `states`.
    """
    commands = [plain.command or NOTHING for plain in requests.values]
    looked_up = np.array([plain.command is None for plain in requests.values], bool)
    if not looked_up.any():
        return Coded(requests.codes, commands)
    places = np.flatnonzero(looked_up[requests.codes])
    sources = _sources(requests, parses, states)[places]
    pairs, found = np.unique(sources * len(commands) + requests.codes[places], return_inverse=True)
    codes = requests.codes.copy()
    codes[places] = found + len(commands)
    for pair in pairs.tolist():
        source, code = divmod(pair, len(requests.values))
        plain, other = requests.values[code], source - len(states.values)
        if other >= 0:
            statement = requests.values[other].parsed
        elif not plain.statement and source < len(before):
            statement = before[source]
        else:
            state = states.values[source]
            statement = None if state is None else state.statements.get(plain.statement)
        commands.append(_about(statement, plain))
    return Coded(codes, commands)


def _sources(
    requests: Coded[_Plain], parses: NDArray[np.bool_], states: Coded[Connection | None]
) -> NDArray[np.int64]:
    """Return in what the statement of each of m turns is looked up.

    That is a state, by its number; or, behind these, the request that parsed it, earlier within the turns of
    that state.
    """
    sources = states.codes.astype(np.int64)
    unnamed = np.array([plain.command is None and not plain.statement for plain in requests.values], bool)
    places = np.flatnonzero(unnamed[requests.codes] | parses)
    if not parses.any():
        return sources
    places = places[np.argsort(sources[places], kind="stable")]
    last = np.maximum.accumulate(np.where(parses[places], np.arange(len(places)), -1))
    here = (last >= 0) & (sources[places[last]] == sources[places]) & ~parses[places]
    sources[places[here]] = len(states.values) + requests.codes[places[last[here]]]
    return sources


def _about(statement: Command | None, plain: _Plain) -> Command:
    """Return what executing or describing a statement shows, None if it is not known."""
    if plain.describes:
        return described(statement, plain.statement)
    return statement or unknown_statement(plain.statement)
