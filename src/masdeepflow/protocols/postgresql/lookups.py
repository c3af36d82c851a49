"""Which statements executions are of, on columns: parsed earlier in the batch, or before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from masdeepflow.coded import Coded
from masdeepflow.protocols.postgresql.names import OWN, name_key
from masdeepflow.protocols.postgresql.requests import NOTHING, Command, described, unknown_statement
from masdeepflow.recall import once, renumber
from masdeepflow.table import ABSENT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from masdeepflow.protocols.postgresql.changes import Changes
    from masdeepflow.protocols.postgresql.connection import Connection
    from masdeepflow.protocols.postgresql.names import OwnNames
    from masdeepflow.protocols.postgresql.plain import Ask, Plain

__all__ = ["Asked", "commands_of"]

_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_GONE = -2
_DENSE = 4
"""Times as many places as numbers: a table of so many is quicker than sorting."""


class Asked(NamedTuple):
    """What k transactions ask. rows: intp (k,), their turns. states: of their connections, before the batch.

    requests: all that the turns (n,) ask. names: their own (n,). changes: what they change. at: int32 (n,),
    the state of each that is read as columns, else `ABSENT`.
    """

    asks: Coded[Ask]
    rows: NDArray[np.intp]
    states: Coded[Connection | None]
    requests: Coded[Plain]
    names: OwnNames
    changes: Changes
    at: NDArray[np.int32]


def commands_of(asked: Asked) -> Coded[Command]:
    """Return what k transactions show; a statement is looked up once for each thing that is asked of it."""
    asks, codes = asked.asks, asked.asks.codes
    commands = [one.command or NOTHING for one in asks.values]
    places = np.flatnonzero(asks.flags(_is_looked_up))
    if not len(places):
        return Coded(codes, commands)
    codes = codes.copy()
    own = asks.take(places).flags(_is_own)
    changed = bool((asked.at[asked.changes.rows] != ABSENT).any())
    if not changed and not own.any():
        return _with(codes, commands, places, _earlier(asked, places, _pairs(asked, places)))
    keys = _keys(asked, places, own)
    sources = _changed_in_batch(asked, places, keys) if changed else np.full(len(places), ABSENT)
    of_requests = np.flatnonzero(sources >= 0)
    if len(of_requests):
        some = places[of_requests]
        _with(codes, commands, some, _of_requests(asked, some, sources[of_requests]))
    for source in ABSENT, _GONE:
        others = np.flatnonzero(sources == source)
        if len(others):
            some = places[others]
            distinct = once(keys[others] + asks.codes[some].astype(np.uint64) * _SPREAD)
            _with(codes, commands, some, _earlier(asked, some, distinct, gone=source == _GONE))
    return Coded(codes, commands)


def _with(
    codes: NDArray[np.int32],
    commands: list[Command],
    places: NDArray[np.intp],
    found: tuple[NDArray[np.integer], list[Command]],
) -> Coded[Command]:
    """Add what was found for `places` (m,) to codes and commands, in place."""
    numbers, shown = found
    codes[places] = numbers + np.int32(len(commands))
    commands += shown
    return Coded(codes, commands)


def _is_looked_up(asked: Ask) -> bool:
    return asked.command is None


def _is_own(asked: Ask) -> bool:
    return asked.statement == OWN


def _keys(asked: Asked, places: NDArray[np.intp], own: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Return keys (m,) of connection and statement that transactions at `places` (m,) are about."""
    fixed = [name_key(one.statement) if one.command is None else 0 for one in asked.asks.values]
    keys: NDArray[np.uint64] = np.array(fixed, np.uint64)[asked.asks.codes[places]]
    keys[own] = asked.names.take(asked.rows[places[own]]).keys
    keys ^= asked.states.codes[places].astype(np.uint64) * _SPREAD
    return keys


def _changed_in_batch(
    asked: Asked, places: NDArray[np.intp], keys: NDArray[np.uint64]
) -> NDArray[np.integer]:
    """Return codes (m,) of the requests that parsed the statements, earlier within the batch.

    They are `_GONE` of those that were deallocated behind that, `ABSENT` of those that nothing has changed.
    """
    changes = asked.changes
    mine = np.flatnonzero(asked.at[changes.rows] != ABSENT)
    if not len(mine):
        return np.full(len(places), ABSENT, np.int32)
    here = changes.keys[mine] ^ (asked.at[changes.rows[mine]].astype(np.uint64) * _SPREAD)
    codes = np.append(np.where(changes.codes[mine] == ABSENT, _GONE, changes.codes[mine]), ABSENT)
    together = np.concatenate([here, keys])
    # No request both parses a statement and executes an earlier one of the same name.
    order = np.lexsort((np.concatenate([changes.rows[mine], asked.rows[places]]), together))
    last = np.maximum.accumulate(np.where(order < len(mine), np.arange(len(order)), -1))
    found = (last >= 0) & (together[order[last]] == together[order])
    sources = np.empty(len(order), codes.dtype)
    sources[order] = codes[np.where(found, np.minimum(order[last], len(mine)), len(mine))]
    return sources[len(mine) :]


def _pairs(asked: Asked, places: NDArray[np.intp]) -> tuple[NDArray[np.intp], NDArray[np.integer]]:
    """Return where in `places` (m,) all are (d,) that differ in state or request, and which (m,) each is."""
    codes = asked.asks.codes[places]
    numbers, _ = _numbered(asked.states.codes[places].astype(np.int64) * len(asked.asks.values) + codes)
    first = np.zeros(int(numbers.max()) + 1, np.intp)
    first[numbers] = np.arange(len(numbers))
    return first, numbers


def _earlier(
    asked: Asked,
    places: NDArray[np.intp],
    distinct: tuple[NDArray[np.intp], NDArray[np.integer]],
    *,
    gone: bool = False,
) -> tuple[NDArray[np.integer], list[Command]]:
    """Return codes (m,) and what they show, of statements from before the batch, if they are not `gone`.

    distinct: where in `places` (m,) all are (d,) that differ, and which (m,) of these each is.
    """
    asks, states = asked.asks, asked.states
    found = []
    for place in places[distinct[0]].tolist():
        one, state = asks.values[asks.codes[place]], states.values[states.codes[place]]
        name = asked.names.name_of(int(asked.rows[place])) if one.statement == OWN else one.statement
        found.append(_shown(None if state is None or gone else state.statements.get(name), one, name))
    return distinct[1], found


def _of_requests(
    asked: Asked, places: NDArray[np.intp], sources: NDArray[np.integer]
) -> tuple[NDArray[np.integer], list[Command]]:
    """Return the same of those that `sources` (m,) of the requests have parsed."""
    asks = asked.asks
    pairs = sources.astype(np.int64) * len(asks.values) + asks.codes[places]
    codes, distinct = _numbered(pairs)
    found = []
    for source, code in (divmod(pair, len(asks.values)) for pair in distinct):
        one = asks.values[code]
        found.append(_shown(asked.requests.values[source].parsed, one, one.statement))
    return codes, found


def _numbered(pairs: NDArray[np.int64]) -> tuple[NDArray[np.integer], list[int]]:
    """Return codes (k,) of pairs (k,), and the distinct pairs; without sorting if they are small numbers."""
    size = int(pairs.max()) + 1
    if size <= _DENSE * len(pairs):
        return renumber(pairs, size)
    distinct, codes = np.unique(pairs, return_inverse=True)
    return codes, distinct.tolist()


def _shown(statement: Command | None, asked: Ask, name: str) -> Command:
    """Return what executing or describing a statement shows, None if it is not known."""
    if asked.describes:
        return described(statement, name)
    return statement or unknown_statement(name)
