"""A batch of slots as a matrix of 8-byte words: columns beside each other are read in one pass.

A batch may be a view into the ring, which the kernel overwrites once it is released: what is kept is copied.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, cast

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["neighbours", "payloads", "word_of", "words"]


def words(slots: np.ndarray) -> NDArray[np.int64]:
    """Return slots (n,), contiguous, as int64 (n, itemsize / 8), a view."""
    return slots.view(np.int64).reshape(len(slots), slots.dtype.itemsize // 8)


def word_of(slots: np.ndarray, name: str) -> int:
    """Return which column of `words` the field `name` starts in."""
    return _fields(slots.dtype)[name][1] // 8


def neighbours(slots: np.ndarray, *names: str) -> np.ndarray:
    """Return a copy of the named fields of slots (n,), contiguous, as a structured array (n,).

    They lie near one another, `names` in their order there: what is between them is copied too.
    """
    first, last, dtype = _neighbours(slots.dtype, names)
    block: np.ndarray = words(slots)[:, first:last].copy().view(dtype)[:, 0]
    return block


@lru_cache(maxsize=64)
def _neighbours(dtype: np.dtype[np.void], names: tuple[str, ...]) -> tuple[int, int, np.dtype[np.void]]:
    """Return the words (first, behind the last) that the fields lie in, and the type of a row of these."""
    fields = [_fields(dtype)[name] for name in names]
    first, last = fields[0][1] // 8, -(-(fields[-1][1] + fields[-1][0].itemsize) // 8)
    offsets = [offset - 8 * first for _, offset in fields]
    formats = [kind for kind, _ in fields]
    named = {"names": list(names), "formats": formats, "offsets": offsets, "itemsize": 8 * (last - first)}
    return first, last, np.dtype(named)  # type: ignore[call-overload]  # no stub knows this form


def _fields(dtype: np.dtype[np.void]) -> dict[str, tuple[np.dtype[np.generic], int]]:
    return cast("dict[str, tuple[np.dtype[np.generic], int]]", dtype.fields)


def payloads(slots: np.ndarray, side: str, rows: NDArray[np.intp]) -> list[bytes]:
    """Return the captured bytes of `side`, `request` or `response`, of `rows` (m,) of slots (n,)."""
    payload = slots[side][rows]
    data, width = payload.tobytes(), payload.shape[1]
    ends = np.minimum(slots[f"{side}_length"][rows], width) + width * np.arange(len(rows))
    starts = range(0, len(data), width)
    return [data[start:end] for start, end in zip(starts, ends.tolist(), strict=True)]
