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
from masdeepflow.protocols.postgresql.changes import Learning, changes_of
from masdeepflow.protocols.postgresql.connection import read_turns
from masdeepflow.protocols.postgresql.lookups import Asked, commands_of
from masdeepflow.protocols.postgresql.masks import request_mask, response_mask
from masdeepflow.protocols.postgresql.names import OWN, Names, OwnNames, names_of
from masdeepflow.protocols.postgresql.outlines import request_outlines, response_outlines
from masdeepflow.protocols.postgresql.parsed import Commons
from masdeepflow.protocols.postgresql.plain import (
    TO_END,
    Answer,
    Ask,
    Plain,
    one_query,
    read_nameless,
    read_plain,
    read_reply,
)
from masdeepflow.protocols.postgresql.queries import Queries, are_queries
from masdeepflow.protocols.postgresql.sides import Side, keys_of
from masdeepflow.recall import once
from masdeepflow.schema import Flag, Kind
from masdeepflow.table import ABSENT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from masdeepflow.protocols.postgresql.connection import Connections, Transaction
    from masdeepflow.statements import Texts

__all__ = ["Common"]

T = TypeVar("T")

# A member of an enum would have NumPy cast the whole column to int64 first.
_TURN = int(Kind.TURN)
_ODD = int(Flag.CONTINUED | Flag.SERVER_FIRST)


class _Requests(NamedTuple):
    """Requests of n turns. own: int32 (n,), index into `texts` of those that have one, else `ABSENT`.

    rows: intp (k,), turns that have all that are distinct. alike: (n,), the one of these that each is like.
    """

    plains: Coded[Plain]
    own: NDArray[np.int32]
    texts: Texts | None
    rows: NDArray[np.intp]
    alike: NDArray[np.intp]

    def names(self, slots: np.ndarray) -> OwnNames:
        """Return the own names of those that depend on them."""
        named = np.zeros(len(self.rows), bool)
        named[self.alike] = self.plains.flags(_is_named)
        some = np.flatnonzero(named)
        places = np.full(len(named), ABSENT, np.int32)
        places[some] = np.arange(len(some))
        names = names_of(slots, self.rows[some]) if len(some) else Names.none()
        return OwnNames(names, places[self.alike])


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
        read = self._read_requests(slots)
        requests, own, texts = read.plains, read.own, read.texts
        shapes = np.array([plain.shape for plain in requests.values], np.int64)[requests.codes]
        common = (slots["kind"] == _TURN) & ((slots["flags"] & _ODD) == 0) & (slots["response_bytes"] > 0)
        common &= shapes >= 0
        asked = np.flatnonzero(common)
        replies = self._replies.read(slots, asked, shapes[asked], read_reply)
        failed = np.zeros(len(slots), bool)
        failed[asked] = replies.flags(_fails)
        # What could not be parsed has not replaced what had its name.
        common[asked] = replies.flags(bool)
        common &= ~(failed & requests.flags(_parses_own))
        names = read.names(slots)
        changes = changes_of(slots, requests, names, failed)
        learn = Learning(changes, owner, cookies, connections)
        turns, states, transactions, opaque = in_order(
            Turns(common, owner, cookies, lambda rows: read_turns(slots, rows)),
            connections,
            learn,
            others_only=True,
        )
        codes = np.zeros(len(slots), np.int32)
        codes[asked] = replies.codes
        at = np.full(len(slots), ABSENT, np.int32)
        at[turns] = states.codes
        each = _each(requests.take(turns), Coded(codes[turns], replies.values))
        several = len(each.asks.codes) > len(turns)
        rows, states = turns[each.turns], states.take(each.turns)
        namespaces = Coded(states.codes, [None if one is None else one.namespace for one in states.values])
        commands = commands_of(Asked(each.asks, rows, states, requests, names, changes, at))
        learn(turns)
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
            return _Requests(self._read_others(slots, rows).take(alike), own[alike], None, rows, alike)
        asking = rows[queries]
        read = self._queries.read(slots, asking)
        plains = list(map(one_query, read.commands.values))
        own[queries] = np.arange(len(asking), dtype=np.int32)
        if len(asking) == len(rows):
            known = Coded(read.commands.codes[alike], plains)
            return _Requests(known, own[alike], read.texts, rows, alike)
        rest = self._read_others(slots, rows[~queries])
        codes = np.empty(len(rows), np.int32)
        codes[queries] = read.commands.codes
        codes[~queries] = rest.codes + np.int32(len(plains))
        return _Requests(Coded(codes[alike], plains + rest.values), own[alike], read.texts, rows, alike)

    def _read_others(self, slots: np.ndarray, rows: NDArray[np.intp]) -> Coded[Plain]:
        """Return the requests of `rows` (m,), which are no simple queries."""
        return self._requests.read(slots, rows, np.zeros(len(rows), np.int64), read_plain, read_nameless)


def _is_named(plain: Plain) -> bool:
    asked = any(one.command is None and one.statement == OWN for one in plain.asks)
    return asked or plain.parsed_as == OWN


def _parses_own(plain: Plain) -> bool:
    return bool(plain.parsed_as)


def _fails(answers: tuple[Answer, ...]) -> bool:
    return any(answer.reply.error for answer in answers)


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
