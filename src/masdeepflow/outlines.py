"""Payloads that differ only in what is not shown: values, and what makes each key its own.

Hardly a payload with a key in it is like another, so the kernel's hashes seldom repeat. But few are built
differently: where one was read, others of its length are known by comparing all that is not free in them, at
once, and by the keys that are left when `masdeepflow.keys` has masked them. `templates` can't serve: it looks
its own up by the first twelve bytes, in which a reply's value may begin here, and has no keys to tell apart.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from masdeepflow.columns import prefix, row_hash
from masdeepflow.keys import mask_keys

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

__all__ = ["Outline", "Outlines"]

_WORD = 8
_OUTLINES = 16
"""Kept, those that fit least drop out first."""
_MANY = 32
"""Payloads that no outline fits before one more is looked for: fewer are read as soon."""


class Outline(NamedTuple):
    """What a payload has in common with others of its length that say the same.

    free: bytes that say nothing, from where to where. masked: texts in which only what `keys.key_pattern`
    shows of a key says something. Neither overlaps with the other.
    """

    data: bytes
    free: Sequence[tuple[int, int]]
    masked: Sequence[tuple[int, int]]


class _Shape:
    """An outline, ready for comparison with rows. hits: rows that it fitted lately."""

    def __init__(self, outline: Outline) -> None:
        self.length, self.hits = len(outline.data), 0
        width = -(-self.length // _WORD) * _WORD
        fixed, data = np.zeros(width, np.uint8), np.zeros(width, np.uint8)
        fixed[: self.length] = 255
        data[: self.length] = np.frombuffer(outline.data, np.uint8)
        for start, end in (*outline.free, *outline.masked):
            fixed[start:end] = 0
        self.fixed: NDArray[np.uint64] = fixed.view(np.uint64)
        self.words: NDArray[np.uint64] = data.view(np.uint64) & self.fixed
        self._masked = outline.masked
        self._salt = np.frombuffer(os.urandom(_WORD), np.uint64)[0]
        # A zero behind each key keeps it from the next.
        self._ends = np.cumsum([end - start + 1 for start, end in outline.masked])

    def like(self, other: _Shape) -> bool:
        return (
            self.length == other.length
            and np.array_equal(self.words, other.words)
            and np.array_equal(self.fixed, other.fixed)
        )

    def fits(self, payload: NDArray[np.uint8]) -> NDArray[np.bool_]:
        """Return which rows (m, w) of the same length are built so."""
        words = np.ascontiguousarray(payload[:, : len(self.words) * _WORD]).view(np.uint64)
        fits: NDArray[np.bool_] = (((words ^ self.words) & self.fixed) == 0).all(axis=1)
        return fits

    def keys(self, payload: NDArray[np.uint8]) -> NDArray[np.uint64]:
        """Return a key (m,) of rows (m, w) that fit: equal for those that say the same."""
        width = -(-int(self._ends.max(initial=1)) // _WORD) * _WORD
        texts = np.zeros((len(payload), width), np.uint8)
        for (start, end), stop in zip(self._masked, self._ends.tolist(), strict=True):
            texts[:, stop - 1 - (end - start) : stop - 1] = payload[:, start:end]
        mask_keys(texts)
        words = texts.view(np.uint64)
        if (words == words[:1]).all():
            texts = texts[:1]
        return np.broadcast_to(row_hash(texts, np.full(len(texts), width)) ^ self._salt, (len(payload),))


class Outlines:
    """The outlines of payloads that come often; bounded.

    outline: what the bytes of a payload have in common with others, None if every byte counts. It is asked
    for a few of those that fit none.
    """

    def __init__(self, outline: Callable[[bytes], Outline | None]) -> None:
        self._outline = outline
        self._shapes: list[_Shape] = []

    def keys(self, payload: NDArray[np.uint8], lengths: NDArray[np.integer]) -> NDArray[np.uint64]:
        """Return a key (n,) of rows (n, w), w a multiple of 8, with valid lengths (n,); 0 where none fits.

        Rows with the same key say the same. Keys are of this process.
        """
        keys, left = np.zeros(len(payload), np.uint64), len(payload)
        lengths, first = np.minimum(lengths, payload.shape[1]), prefix(payload, _WORD).copy()
        for shape in self._shapes:
            shape.hits //= 2
            if left:
                alike = (first & shape.fixed[0] == shape.words[0]) & (lengths == shape.length)
                found = self._fill(keys, shape, payload, np.flatnonzero(alike))
                shape.hits += found
                left -= found
        self._shapes.sort(key=lambda shape: -shape.hits)
        if left >= _MANY:
            self._learn(payload, lengths, np.flatnonzero(keys == 0))
        return keys

    @staticmethod
    def _fill(
        keys: NDArray[np.uint64], shape: _Shape, payload: NDArray[np.uint8], rows: NDArray[np.intp]
    ) -> int:
        """Set the keys of those `rows` that are built so, and have none yet; return how many there are."""
        if not len(rows):
            return 0
        every = len(rows) == len(keys)
        if not every:
            rows = rows[keys[rows] == 0]
        some = payload if every and not keys.any() else payload[rows]
        fits = shape.fits(some)
        if not fits.all():
            rows, some = rows[fits], some[fits]
        if len(rows):
            keys[rows] = shape.keys(some)
        return len(rows)

    def _learn(
        self, payload: NDArray[np.uint8], lengths: NDArray[np.integer], rows: NDArray[np.intp]
    ) -> None:
        """Take up the outlines of two of the rows."""
        for row in (rows[0], rows[len(rows) // 2]):
            outline = self._outline(payload[row, : lengths[row]].tobytes()) if lengths[row] else None
            if outline is None:
                continue
            shape = _Shape(outline)
            if not any(known.like(shape) for known in self._shapes):
                del self._shapes[_OUTLINES - 1 :]
                self._shapes.append(shape)
