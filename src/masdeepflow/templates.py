"""Payloads that differ only where it does not matter: known by a few words that are compared, without a walk.

A template is a payload with a mask of those of its bytes that decide what it is read as. Where a message's
length decides where the next one begins, it is among them: so a payload that is equal under the mask is built
alike, and is read as the template was. `outlines` can't serve: it compares each of a few with every payload,
which would be slow for hundreds of statements.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from masdeepflow.direct_mapped import DirectMapped
from masdeepflow.table import ABSENT

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable

    from numpy.typing import NDArray

__all__ = ["Templates"]

T = TypeVar("T", bound="Hashable")

_LIMIT = 256
_TRIED = 4
"""Templates compared with a payload, of those whose first bytes and whose sizes are its own."""
_LEARNT, _SAMPLE, _SEEN = 8, 256, 3
"""Templates made of a batch, rows that they are chosen from, and how often they have to be among these."""
_WORD = 8
_BLOCK_WORDS = 8 * 1024  # see columns.row_hash
_HALF = np.uint64(32)
# Secret per process, so that nobody can send two payloads of different lengths that are compared.
_KEYS = np.frombuffer(os.urandom(6 * _WORD), np.uint64) | np.uint64(1)
_LEADING = np.uint64(0xFFFFFFFF)  # behind twelve bytes there may be values


class Templates(Generic[T]):
    """A bounded table of templates and what each is read as.

    mask: from the captured bytes of a payload, and how many were sent, to as many bytes, FF where they decide
    what it is read as, else 00; None where it is not known which do. The number of bytes that were sent, that
    of captured ones, and what the caller adds as `kinds` always decide it.
    """

    def __init__(self, mask: Callable[[bytes, int], bytes | None], limit: int = _LIMIT) -> None:
        self._mask = mask
        self._limit = limit
        self._clear()

    def _clear(self) -> None:
        self._near = DirectMapped()
        self._newest: dict[int, int] = {}
        self._words = np.zeros((0, 0), np.uint64)
        self._masks = np.zeros((0, 0), np.uint64)
        self._widths: list[int] = []
        self._older = np.zeros(0, np.int32)
        self._numbers = np.zeros(0, np.int32)
        self._values: dict[T, int] = {}

    @property
    def values(self) -> list[T]:
        """What payloads are read as, as found and learnt so far; another list each time."""
        return list(self._values)

    def keys(
        self,
        payload: NDArray[np.uint8],
        lengths: NDArray[np.integer],
        totals: NDArray[np.uint64],
        kinds: NDArray[np.integer],
    ) -> NDArray[np.uint64]:
        """Return what payloads (n, w) have to have in common to be compared (n,), uint64.

        lengths: captured bytes. totals: bytes that were sent. kinds: (n,).
        """
        words = payload[:, : 2 * _WORD].view(np.uint64)
        keys: NDArray[np.uint64] = words[:, 0] * _KEYS[0]
        keys ^= keys >> _HALF
        keys += (words[:, 1] & _LEADING) * _KEYS[1]
        keys ^= keys >> _HALF
        keys += lengths.astype(np.uint64) * _KEYS[2]
        keys += totals * _KEYS[3]
        keys += np.asarray(kinds).astype(np.uint64) * _KEYS[4]
        keys ^= keys >> _HALF
        keys *= _KEYS[5]
        keys ^= keys >> _HALF
        return keys

    def find(self, payload: NDArray[np.uint8], keys: NDArray[np.uint64]) -> NDArray[np.int32]:
        """Return codes (n,), int32, into `values` of payloads (n, w), `ABSENT` where there is no template."""
        found = np.full(len(keys), ABSENT, np.int32)
        if not len(self._older):
            return found
        candidates, missing = self._near.find(keys)
        rows = np.arange(len(keys)) if missing is None else np.flatnonzero(~missing)
        candidates = candidates[rows]
        for _ in range(_TRIED):
            if not len(rows):
                break
            equal = self._compare(payload, rows, candidates)
            found[rows[equal]] = self._numbers[candidates[equal]]
            left = np.flatnonzero(~equal)
            candidates, rows = self._older[candidates[left]], rows[left]
            left = np.flatnonzero(candidates != ABSENT)
            candidates, rows = candidates[left], rows[left]
        return found

    def _compare(
        self, payload: NDArray[np.uint8], rows: NDArray[np.intp], candidates: NDArray[np.int32]
    ) -> NDArray[np.bool_]:
        """Return whether the payloads of `rows` (m,) are equal to templates (m,) under their masks."""
        equal = np.empty(len(rows), bool)
        used = np.flatnonzero(np.bincount(candidates)).tolist()
        width = max(self._widths[place] for place in used)
        words = payload.view(np.uint64)[:, :width]
        one = candidates[0] if len(used) == 1 else None
        step = max(_BLOCK_WORDS // max(width, 1), 1)
        for start in range(0, len(rows), step):
            block = slice(start, start + step)
            which = candidates[block] if one is None else one
            differ = words[rows[block]]
            differ ^= self._words[which, :width]
            differ &= self._masks[which, :width]
            # Nearly always all are equal, which is quicker to find than which of them are.
            equal[block] = ~differ.any(axis=1) if differ.any() else True
        return equal

    def learn(
        self,
        payload: NDArray[np.uint8],
        lengths: NDArray[np.integer],
        totals: NDArray[np.integer],
        keys: NDArray[np.uint64],
        value_of: Callable[[int], T],
    ) -> None:
        """Make templates of some payloads (n, w) for which there was none; those that repeat.

        value_of: from the row to what it is read as.
        """
        sample = keys[:_SAMPLE]
        distinct, first, counts = np.unique(sample, return_index=True, return_counts=True)
        chosen = np.argsort(-counts)[:_LEARNT]
        for place in chosen[counts[chosen] >= _SEEN].tolist():
            row = int(first[place])
            data = payload[row, : lengths[row]].tobytes()
            mask = self._mask(data, int(totals[row]))
            if mask is not None:
                self._add(int(distinct[place]), data, mask, value_of(row))

    def _add(self, key: int, data: bytes, mask: bytes, value: T) -> None:
        if len(self._older) >= self._limit:
            self._clear()
        mask = mask.rstrip(b"\0")
        width = -(-len(mask) // _WORD)
        self._words = _appended(self._words, data[: len(mask)], width)
        self._masks = _appended(self._masks, mask, width)
        self._widths.append(width)
        self._older = np.append(self._older, np.int32(self._newest.get(key, ABSENT)))
        self._numbers = np.append(self._numbers, np.int32(self._values.setdefault(value, len(self._values))))
        self._newest[key] = len(self._older) - 1
        self._near.keep(np.array([key], np.uint64), np.array([len(self._older) - 1]))


def _appended(table: NDArray[np.uint64], data: bytes, width: int) -> NDArray[np.uint64]:
    """Return the table (k, w) with a row of these bytes, and as many columns as it needs."""
    larger = np.zeros((len(table) + 1, max(table.shape[1], width)), np.uint64)
    larger[:-1, : table.shape[1]] = table
    larger[-1, :width] = np.frombuffer(data.ljust(width * _WORD, b"\0"), np.uint64)
    return larger
