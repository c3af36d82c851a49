"""One side of many turns: what repeats, is built alike, or comes down to the same, is read once."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from masdeepflow.batch import payloads
from masdeepflow.coded import Coded
from masdeepflow.columns import row_hash
from masdeepflow.recall import Recall
from masdeepflow.table import ABSENT
from masdeepflow.templates import Templates

if TYPE_CHECKING:
    from collections.abc import Hashable

    from numpy.typing import NDArray

__all__ = ["Side", "keys_of"]

T = TypeVar("T", bound="Hashable")
_Parse = Callable[[bytes, int, int], T]

_SPREAD = np.uint64(0x9E3779B97F4A7C15)
"""Odd, so that nothing is lost when it is multiplied: keeps what is mixed into a hash apart."""


def keys_of(slots: np.ndarray, side: str, rows: NDArray[np.intp]) -> NDArray[np.uint64]:
    """Return a hash (m,), uint64, of one side of `rows` (m,): of the bytes, and of how many there are."""
    keys = slots[f"{side}_hash"][rows]
    if not keys.all():
        none = np.flatnonzero(keys == 0)
        keys[none] = row_hash(slots[side][rows[none]], slots[f"{side}_length"][rows[none]])
    keys += slots[f"{side}_bytes"][rows] * _SPREAD
    return keys


class Side(Generic[T]):
    """Reads one side of turns, those that are alike once. side: `request` or `response`."""

    def __init__(
        self,
        side: str,
        mask: Callable[[bytes, int], bytes | None],
        outlines: Callable[[np.ndarray, NDArray[np.intp]], tuple[NDArray[np.bool_], NDArray[np.uint64]]],
    ) -> None:
        self._side = side
        self._outlines = outlines
        self._equal: Recall[T] = Recall(sparing=True)
        self._templates: Templates[T] = Templates(mask)
        self._built: Recall[T] = Recall()

    def read(
        self,
        slots: np.ndarray,
        rows: NDArray[np.intp],
        kinds: NDArray[np.int64],
        parse: _Parse[T],
        parse_outline: _Parse[T] | None = None,
    ) -> Coded[T]:
        """Return what `rows` (m,) are read as.

        kinds: int64 (m,), what it depends on beside the bytes. parse: from captured bytes, how many were
        sent, and kind. parse_outline: the same, of what all with the same outline are read as.
        """
        keys = keys_of(slots, self._side, rows) ^ ((kinds + 1).view(np.uint64) * _SPREAD)
        parsers = parse, parse_outline or parse

        def read(missing: NDArray[np.intp]) -> tuple[NDArray[np.int32], list[T]]:
            return self._compare(slots, rows[missing], kinds[missing], keys[missing], parsers)

        return Coded(*self._equal.encode(keys, read))

    def _compare(
        self,
        slots: np.ndarray,
        rows: NDArray[np.intp],
        kinds: NDArray[np.int64],
        keys: NDArray[np.uint64],
        parsers: tuple[_Parse[T], _Parse[T]],
    ) -> tuple[NDArray[np.int32], list[T]]:
        """Return codes (m,) and values of `rows` (m,), those found that are built as others were."""
        index = slice(None) if len(rows) == len(slots) else rows
        payload, totals = slots[self._side][index], slots[f"{self._side}_bytes"][index]
        lengths = np.minimum(slots[f"{self._side}_length"][index], payload.shape[1])
        alike = self._templates.keys(payload, lengths, totals, kinds)
        codes, values = self._templates.find(payload, alike), self._templates.values
        left = np.flatnonzero(codes == ABSENT)
        if not len(left):
            return codes, values
        walked = self._walk(slots, rows[left], kinds[left], keys[left], parsers)
        codes[left] = walked.codes + np.int32(len(values))
        self._templates.learn(
            payload[left],
            lengths[left],
            totals[left],
            alike[left],
            lambda row: self._read_one(slots, rows[left[row]], int(kinds[left[row]]), parsers[0]),
        )
        return codes, values + walked.values

    def _read_one(self, slots: np.ndarray, row: np.intp, kind: int, parse: _Parse[T]) -> T:
        data = payloads(slots, self._side, np.array([row]))[0]
        return parse(data, int(slots[f"{self._side}_bytes"][row]), kind)

    def _walk(
        self,
        slots: np.ndarray,
        rows: NDArray[np.intp],
        kinds: NDArray[np.int64],
        keys: NDArray[np.uint64],
        parsers: tuple[_Parse[T], _Parse[T]],
    ) -> Coded[T]:
        """Return what `rows` (m,) are read as: those with one outline alike, others by their bytes."""
        fits, outlines = self._outlines(slots, rows)
        outlines ^= (kinds + 1).view(np.uint64) * _SPREAD
        hashes = np.where(fits, outlines, keys)

        def read(missing: NDArray[np.intp]) -> tuple[NDArray[np.int32], list[T]]:
            _, first, codes = np.unique(hashes[missing], return_index=True, return_inverse=True)
            some = missing[first]
            totals = slots[f"{self._side}_bytes"][rows[some]].tolist()
            data = payloads(slots, self._side, rows[some])
            columns = zip(data, totals, kinds[some].tolist(), fits[some].tolist(), strict=True)
            return codes.astype(np.int32), [
                parsers[fit](one, total, kind) for one, total, kind, fit in columns
            ]

        return Coded(*self._built.encode(hashes, read))
