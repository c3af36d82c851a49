"""What turns that are read as columns change: statements that they parse, and have the server forget."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from masdeepflow.protocols.postgresql.names import NAME_WORDS, OWN, Names, beginnings, name_key, until_zero
from masdeepflow.protocols.postgresql.plain import QUERY
from masdeepflow.protocols.postgresql.requests import HEADER_BYTES
from masdeepflow.table import ABSENT

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from masdeepflow.coded import Coded
    from masdeepflow.protocols.postgresql.connection import Connections
    from masdeepflow.protocols.postgresql.names import OwnNames
    from masdeepflow.protocols.postgresql.plain import Plain

__all__ = ["Changes", "Learning", "changes_of"]

_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_DEALLOCATE = np.frombuffer(b"DEALLOCATE ", np.uint8)
_START = HEADER_BYTES + len(_DEALLOCATE)
_FEW = 64
_ROOM = 8 * NAME_WORDS
_LETTERS = np.zeros(256, bool)
_LETTERS[list(b"_0123456789abcdefghijklmnopqrstuvwxyz")] = True


class Changes(NamedTuple):
    """Statements that c turns parse or deallocate.

    rows: intp (c,), ascending, those turns. keys: uint64 (c,), of their names. codes: int32 (c,), of the
    request that parses it; `ABSENT` where it is deallocated. parsed: of n turns, their own names. dropped:
    names of those that are deallocated, in order.
    """

    rows: NDArray[np.intp]
    keys: NDArray[np.uint64]
    codes: NDArray[np.int32]
    requests: Coded[Plain]
    parsed: OwnNames
    dropped: Names

    def name_of(self, place: int) -> str:
        """Return the name of a statement that is parsed."""
        name = self.requests.values[self.codes[place]].parsed_as
        return self.parsed.name_of(int(self.rows[place])) if name == OWN else name

    def dropped_name(self, place: int) -> str:
        """Return the name of one that is deallocated."""
        return self.dropped.string(int(np.count_nonzero(self.codes[:place] == ABSENT)))


def changes_of(
    slots: np.ndarray, requests: Coded[Plain], names: OwnNames, failed: NDArray[np.bool_]
) -> Changes:
    """Return what n turns change. names: (n,), their own. failed: bool (n,), turns with an error."""
    parses, drops = requests.flags(_parses), requests.flags(_deallocates)
    if not drops.any():
        rows = np.flatnonzero(parses)
        return Changes(
            rows, _parsed_keys(requests, names, rows), requests.codes[rows], requests, names, Names.none()
        )
    dropping = np.flatnonzero(drops & ~failed)
    dropped = _deallocated(slots, dropping)
    known = np.flatnonzero(dropped.lengths)
    dropping, dropped = dropping[known], Names(dropped.words[known], dropped.lengths[known])
    parsing = np.flatnonzero(parses)
    rows = np.concatenate([parsing, dropping])
    order = np.argsort(rows)
    keys = np.concatenate([_parsed_keys(requests, names, parsing), dropped.keys()])[order]
    codes = np.append(requests.codes[parsing], np.full(len(dropping), ABSENT, np.int32))[order]
    return Changes(rows[order], keys, codes, requests, names, dropped)


def _parsed_keys(requests: Coded[Plain], names: OwnNames, rows: NDArray[np.intp]) -> NDArray[np.uint64]:
    """Return keys (m,) of the names as which requests of `rows` (m,) parse statements."""
    known = [name_key(plain.parsed_as) if plain.parsed else 0 for plain in requests.values]
    keys = np.array(known, np.uint64)[requests.codes[rows]]
    own = np.flatnonzero(requests.take(rows).flags(_parses_own))
    if len(own):
        keys[own] = names.take(rows[own]).keys
    return keys


def _parses(plain: Plain) -> bool:
    return plain.parsed is not None


def _parses_own(plain: Plain) -> bool:
    return plain.parsed_as == OWN


def _deallocates(plain: Plain) -> bool:
    command = plain.asks[0].command if plain.shape == QUERY else None
    return command is not None and command.operation == "DEALLOCATE"


def _deallocated(slots: np.ndarray, rows: NDArray[np.intp]) -> Names:
    """Return the names of what queries of `rows` (k,) deallocate, as `requests.DEALLOCATE` finds them."""
    begin = beginnings(slots, rows, _START + _ROOM)
    name = begin[:, _START:].copy()
    words, lengths = until_zero(name.view(np.uint64))
    known = (begin[:, HEADER_BYTES:_START] == _DEALLOCATE).all(axis=1)
    known &= (_LETTERS[name] | (np.arange(_ROOM) >= lengths[:, None])).all(axis=1)
    captured = np.minimum(slots["request_length"][rows], slots["request"].shape[1])
    known &= (lengths < _ROOM) & (_START + lengths < captured)
    return Names(words, np.where(known, lengths, 0))


class Learning:
    """Has connections remember what changes of turns leave behind, each once; a callable for `in_order`."""

    def __init__(
        self, changes: Changes, owner: NDArray[np.integer], cookies: list[int], connections: Connections
    ) -> None:
        """Take over changes of n turns. owner: (n,), index into `cookies`."""
        self._changes = changes
        self._owner = owner
        self._cookies = cookies
        self._connections = connections
        self._left = np.zeros(len(owner), bool)
        self._left[changes.rows] = True

    def __call__(self, rows: NDArray[np.intp]) -> None:
        """Learn from `rows` (k,), ascending, but those that were learnt from before."""
        changes = self._changes
        rows = rows[self._left[rows]]
        if not len(rows):
            return
        self._left[rows] = False
        places = np.searchsorted(changes.rows, rows)
        owners = self._owner[rows]
        keys = changes.keys[places] ^ (owners.astype(np.uint64) * _SPREAD)
        last = _last(keys)
        parses = changes.codes[places] != ABSENT
        # What is parsed and deallocated within the batch leaves nothing where nothing was.
        left = parses[last]
        if not left.all():
            left |= self._are_known(keys[last], owners[last])
        for place, owner in zip(places[last[left]].tolist(), owners[last[left]].tolist(), strict=True):
            self._change(place, self._cookies[owner])

    def _are_known(self, keys: NDArray[np.uint64], owners: NDArray[np.integer]) -> NDArray[np.bool_]:
        """Return which statements (m,) their connections may know. keys: with the owner in them."""
        known: list[int] = []
        many = np.zeros(len(self._cookies), bool)
        own = (np.arange(len(self._cookies), dtype=np.uint64) * _SPREAD).tolist()
        for owner in np.unique(owners).tolist():
            names = self._connections.statements(self._cookies[owner])
            many[owner] = len(names) > _FEW
            if not many[owner]:
                known += [name_key(name) ^ own[owner] for name in names]
        result: NDArray[np.bool_] = np.isin(keys, np.array(known, np.uint64)) | many[owners]
        return result

    def _change(self, place: int, cookie: int) -> None:
        changes = self._changes
        code = changes.codes[place]
        parsed = changes.requests.values[code].parsed if code != ABSENT else None
        if parsed is None:
            self._connections.drop(cookie, changes.dropped_name(place))
        else:
            self._connections.remember(cookie, changes.name_of(place), parsed)


def _last(keys: NDArray[np.uint64]) -> NDArray[np.intp]:
    """Return where each of the distinct keys (k,) is for the last time, ascending."""
    order = np.argsort(keys, kind="stable")
    # In this order, what has to be forgotten again is the oldest.
    return np.sort(order[np.append(keys[order[1:]] != keys[order[:-1]], True)])
