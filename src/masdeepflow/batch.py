"""A batch of slots as a matrix of 8-byte words: columns beside each other are read in one pass.

A batch may be a view into the ring, which the kernel overwrites once it is released: what is kept is copied.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["word_of", "words"]


def words(slots: np.ndarray) -> NDArray[np.int64]:
    """Return slots (n,), contiguous, as int64 (n, itemsize / 8), a view."""
    return slots.view(np.int64).reshape(len(slots), slots.dtype.itemsize // 8)


def word_of(slots: np.ndarray, name: str) -> int:
    """Return which column of `words` the field `name` starts in."""
    fields = cast("dict[str, tuple[np.dtype[np.generic], int]]", slots.dtype.fields)
    return fields[name][1] // 8
