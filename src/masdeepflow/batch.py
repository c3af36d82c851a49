"""A batch of slots: what is read of every one, as contiguous columns.

A batch may be a view into the ring, which the kernel overwrites once it is released: what is kept is copied.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any, cast

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Slots", "payloads", "word", "word_of", "words"]

_LAST = "family"
"""The last field of the two cache lines that are read of every slot: see `struct slot` in bpf/wire.h."""
_WORD = 8


class Slots(np.ndarray):
    """Slots (n,) whose head fields are columns of their own, copied in one pass over the slots.

    `slots["flags"]` is then a contiguous, read-only array instead of one value every 512 bytes, where each
    costs a cache line. Everything else, fields behind the head, rows and views, is as of the plain array.
    """

    head: NDArray[np.int64]
    """Words of the head (w, n)."""
    _columns: dict[str, np.ndarray]

    @classmethod
    def of(cls, plain: np.ndarray) -> Slots:
        """Read the heads of slots (n,), contiguous."""
        slots = plain.view(cls)
        slots._read()  # noqa: SLF001  # a constructor of its own would see every view too
        return slots

    def neighbours(self, first: str, last: str) -> NDArray[np.int64]:
        """Return the words (k, n) of the head from field `first` to field `last`."""
        start, _ = _head_words(self.dtype)
        return self.head[word_of(self, first) - start : word_of(self, last) - start + 1]

    def _read(self) -> None:
        first, last = _head_words(self.dtype)
        # In two steps: the rows are read once, and what is turned around lies in the cache.
        self.head = words(self)[:, first:last].copy().T.copy()
        self._columns = {}

    def __array_finalize__(self, other: object) -> None:
        """Views have no columns of their own: they are plain."""

    def __getitem__(self, key: Any) -> Any:  # noqa: ANN401  # as that of ndarray
        """Return a column, or rows as a plain array."""
        if type(key) is not str:
            plain = self.view(np.ndarray)
            if not isinstance(key, np.ndarray):
                return plain[key]
            # An index would copy the rows field by field.
            return plain.take(np.flatnonzero(key) if key.dtype == bool else key)
        column = self._columns.get(key)
        if column is None:
            column = self._columns[key] = self._column(key)
        return column

    def _column(self, name: str) -> np.ndarray:
        place = _place_in_head(self.dtype, name)
        if place is None:
            behind: np.ndarray = self.view(np.ndarray)[name]
            return behind
        row, dtype, offset = place
        column: np.ndarray = self.head[row].view(dtype)
        if dtype.itemsize < _WORD:
            column = column[offset :: _WORD // dtype.itemsize].copy()
        column.flags.writeable = False
        return column


def word(slots: np.ndarray, name: str) -> NDArray[np.int64]:
    """Return the 8-byte word (n,) that the field `name` starts in."""
    if isinstance(slots, Slots):
        first, _ = _head_words(slots.dtype)
        column: NDArray[np.int64] = slots.head[word_of(slots, name) - first]
        return column
    return words(slots)[:, word_of(slots, name)]


@lru_cache(maxsize=8)
def _head_words(dtype: np.dtype[np.void]) -> tuple[int, int]:
    """Return the words (first, behind the last) of the head: all but the ring's own."""
    kind, offset = _fields(dtype)[_LAST]
    return _fields(dtype)["cookie"][1] // _WORD, -(-(offset + kind.itemsize) // _WORD)


@lru_cache(maxsize=64)
def _place_in_head(dtype: np.dtype[np.void], name: str) -> tuple[int, np.dtype[np.generic], int] | None:
    """Return a field's word in the head, its type, and which part of the word it is; None behind the head."""
    first, last = _head_words(dtype)
    kind, offset = _fields(dtype)[name]
    if not first * _WORD <= offset < last * _WORD or kind.shape:
        return None
    return offset // _WORD - first, kind, offset % _WORD // kind.itemsize


def words(slots: np.ndarray) -> NDArray[np.int64]:
    """Return slots (n,), contiguous, as int64 (n, itemsize / 8), a view."""
    return slots.view(np.ndarray).view(np.int64).reshape(len(slots), slots.dtype.itemsize // 8)


def word_of(slots: np.ndarray, name: str) -> int:
    """Return which column of `words` the field `name` starts in."""
    return _fields(slots.dtype)[name][1] // 8


def _fields(dtype: np.dtype[np.void]) -> dict[str, tuple[np.dtype[np.generic], int]]:
    return cast("dict[str, tuple[np.dtype[np.generic], int]]", dtype.fields)


def payloads(slots: np.ndarray, side: str, rows: NDArray[np.intp]) -> list[bytes]:
    """Return the captured bytes of `side`, `request` or `response`, of `rows` (m,) of slots (n,)."""
    payload = slots[side][rows]
    data, width = payload.tobytes(), payload.shape[1]
    ends = np.minimum(slots[f"{side}_length"][rows], width) + width * np.arange(len(rows))
    starts = range(0, len(data), width)
    return [data[start:end] for start, end in zip(starts, ends.tolist(), strict=True)]
