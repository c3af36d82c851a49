"""The common turns, on columns: queries and executions, and the whole answers to them.

Which turns these are is decided for each distinct request and response, with the code that follows
connections turn by turn: so both give the same.
"""

from __future__ import annotations

from itertools import accumulate
from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from masdeepflow.coded import Coded
from masdeepflow.in_order import Turns, in_order
from masdeepflow.protocols.postgresql.connection import Connection, read_turns
from masdeepflow.protocols.postgresql.masks import request_mask, response_mask
from masdeepflow.protocols.postgresql.outlines import request_outlines, response_outlines
from masdeepflow.protocols.postgresql.parsed import Commons
from masdeepflow.protocols.postgresql.plain import (
    TO_END,
    Answer,
    Ask,
    Plain,
    one_query,
    read_plain,
    read_reply,
)
from masdeepflow.protocols.postgresql.queries import Queries, are_queries
from masdeepflow.protocols.postgresql.requests import NOTHING, Command, described, unknown_statement
from masdeepflow.protocols.postgresql.sides import Side, keys_of
from masdeepflow.recall import once, renumber
from masdeepflow.schema import Flag, Kind
from masdeepflow.table import ABSENT

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from masdeepflow.protocols.postgresql.connection import Connections, Transaction
    from masdeepflow.statements import Texts

__all__ = ["Common"]

T = TypeVar("T")

# A member of an enum would have NumPy cast the whole column to int64 first.
_TURN = int(Kind.TURN)
_ODD = int(Flag.CONTINUED | Flag.SERVER_FIRST)
_DENSE = 4
"""Times as many places as numbers: a table of so many is quicker than sorting."""


class _Requests(NamedTuple):
    """Requests of n turns. own: int32 (n,), index into `texts` of those that have one, else `ABSENT`."""

    plains: Coded[Plain]
    own: NDArray[np.int32]
    texts: Texts | None


class Common:
    """Reads the common turns; each distinct request, and each distinct response to a shape of it, once."""

    def __init__(self) -> None:
        """Start with nothing remembered."""
        self._queries = Queries()
        self._requests: Side[Plain] = Side("request", request_mask, request_outlines)
        self._replies: Side[tuple[Answer, ...]] = Side("response", response_mask, response_outlines)

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
        replies = self._replies.read(slots, asked, shapes[asked], read_reply)
        common[asked] = replies.flags(bool)
        rows, states, transactions, opaque = in_order(
            Turns(common, owner, cookies, lambda rows: read_turns(slots, rows)),
            connections,
            lambda rows: self._learn(requests, rows[parses[rows]], owner, cookies, connections),
        )
        codes = np.zeros(len(slots), np.int32)
        codes[asked] = replies.codes
        each = _each(requests.take(rows), Coded(codes[rows], replies.values))
        several = len(each.asks.codes) > len(rows)
        rows = rows[each.turns]
        states = states.take(each.turns)
        namespaces = Coded(states.codes, [None if one is None else one.namespace for one in states.values])
        commands = _commands(_Asked(each.asks, requests.take(rows), parses[rows], states), before)
        answers = Coded(each.answers.codes, [answer.reply for answer in each.answers.values])
        shares = _shares(slots, rows, each) if several else {}
        return Commons(rows, commands, answers, namespaces, own[rows], texts, shares), transactions, opaque

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
        plains = list(map(one_query, read.commands.values))
        own[queries] = np.arange(len(asking), dtype=np.int32)
        if len(asking) == len(rows):
            return _Requests(Coded(read.commands.codes[alike], plains), own[alike], read.texts)
        rest = self._read_others(slots, rows[~queries])
        codes = np.empty(len(rows), np.int32)
        codes[queries] = read.commands.codes
        codes[~queries] = rest.codes + np.int32(len(plains))
        return _Requests(Coded(codes[alike], plains + rest.values), own[alike], read.texts)

    def _read_others(self, slots: np.ndarray, rows: NDArray[np.intp]) -> Coded[Plain]:
        """Return the requests of `rows` (m,), which are no simple queries."""
        return self._requests.read(slots, rows, np.zeros(len(rows), np.int64), read_plain)

    def _learn(
        self,
        requests: Coded[Plain],
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


class _Each(NamedTuple):
    """k transactions of m turns. turns: intp (k,), ascending index into the turns; of one each, all."""

    turns: NDArray[np.intp] | slice
    asks: Coded[Ask]
    answers: Coded[Answer]


def _each(requests: Coded[Plain], replies: Coded[tuple[Answer, ...]]) -> _Each:
    """Return what is asked and answered in m turns, each by itself."""
    asks = Coded(requests.codes, [plain.asks for plain in requests.values])
    numbers = asks.integers(len)
    if (numbers == 1).all():
        return _Each(slice(None), _flat(asks), _flat(replies))
    turns = np.repeat(np.arange(len(numbers)), numbers)
    ranks = np.arange(len(turns)) - (np.cumsum(numbers) - numbers)[turns]
    return _Each(turns, _flat(asks.take(turns), ranks), _flat(replies.take(turns), ranks))


def _flat(groups: Coded[tuple[T, ...]], ranks: NDArray[np.intp] | int = 0) -> Coded[T]:
    """Return the one of each group (k,) that its rank (k,) tells."""
    first = np.array([0, *accumulate(map(len, groups.values))], np.int32)
    codes = first[groups.codes] + ranks
    return Coded(codes.astype(np.int32, copy=False), [one for group in groups.values for one in group])


def _shares(slots: np.ndarray, rows: NDArray[np.intp], each: _Each) -> dict[str, NDArray[np.int64]]:
    """Return the columns of which a transaction (k,) has a share only; rows: its turn."""
    later = np.flatnonzero(rows[1:] == rows[:-1]) + 1
    shares: dict[str, NDArray[np.int64]] = {}
    asked, answered = each.asks.integers(attrgetter("end")), each.answers.integers(attrgetter("end"))
    for name, ends in (("request_bytes", asked), ("response_bytes", answered)):
        share = np.where(ends == TO_END, slots[name][rows].astype(np.int64), ends)
        share[later] -= share[later - 1]
        shares[name] = share
    return shares


def _without_name(
    requests: Coded[Plain], cookies: list[int], connections: Connections
) -> list[Command | None]:
    """Return the statement without a name of each connection, where a request may be about it."""
    if not any(map(_is_unnamed, _asks_of(requests))):
        return []
    known = map(connections.get, cookies)
    return [None if one is None else one.statements.get("") for one in known]


def _asks_of(requests: Coded[Plain]) -> Iterator[Ask]:
    return (one for plain in requests.values for one in plain.asks)


def _is_looked_up(asked: Ask) -> bool:
    return asked.command is None


def _is_unnamed(asked: Ask) -> bool:
    return asked.command is None and not asked.statement


class _Asked(NamedTuple):
    """What k transactions ask, each of its turn. states: of its connection.

    requests: all of the turn. parses: bool (k,), whether that parses a statement without a name.
    """

    asks: Coded[Ask]
    requests: Coded[Plain]
    parses: NDArray[np.bool_]
    states: Coded[Connection | None]


def _commands(asked: _Asked, before: list[Command | None]) -> Coded[Command]:
    """Return what k transactions show; statements are looked up once for each pair of state and request.

    before: statements without a name before the batch, of the first of the states.
    """
    asks, requests, _, states = asked
    commands = [one.command or NOTHING for one in asks.values]
    looked_up = asks.flags(_is_looked_up)
    if not looked_up.any():
        return Coded(asks.codes, commands)
    places = np.flatnonzero(looked_up)
    sources = _sources(asked)[places]
    found, pairs = _numbered(sources * len(commands) + asks.codes[places])
    codes = asks.codes.copy()
    codes[places] = found + np.int32(len(commands))
    for pair in pairs:
        source, code = divmod(pair, len(asks.values))
        one, other = asks.values[code], source - len(states.values)
        if other >= 0:
            statement = requests.values[other].parsed
        elif not one.statement and source < len(before):
            statement = before[source]
        else:
            state = states.values[source]
            statement = None if state is None else state.statements.get(one.statement)
        commands.append(_about(statement, one))
    return Coded(codes, commands)


def _numbered(pairs: NDArray[np.int64]) -> tuple[NDArray[np.integer], list[int]]:
    """Return codes (k,) of pairs (k,), and the distinct pairs; without sorting if they are small numbers."""
    size = int(pairs.max()) + 1
    if size <= _DENSE * len(pairs):
        return renumber(pairs, size)
    distinct, codes = np.unique(pairs, return_inverse=True)
    return codes, distinct.tolist()


def _sources(asked: _Asked) -> NDArray[np.int64]:
    """Return in what the statement of each of k transactions is looked up.

    That is a state, by its number; or, behind these, the request that parsed it, earlier within the turns of
    that state.
    """
    asks, requests, parses, states = asked
    sources = states.codes.astype(np.int64)
    if not parses.any():
        return sources
    # No request both parses a statement without a name and executes one of an earlier turn.
    places = np.flatnonzero(asks.flags(_is_unnamed) | parses)
    places = places[np.argsort(sources[places], kind="stable")]
    last = np.maximum.accumulate(np.where(parses[places], np.arange(len(places)), -1))
    here = (last >= 0) & (sources[places[last]] == sources[places]) & ~parses[places]
    sources[places[here]] = len(states.values) + requests.codes[places[last[here]]]
    return sources


def _about(statement: Command | None, asked: Ask) -> Command:
    """Return what executing or describing a statement shows, None if it is not known."""
    if asked.describes:
        return described(statement, asked.statement)
    return statement or unknown_statement(asked.statement)
