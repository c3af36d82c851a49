"""Counters by key, in one growing array, so that a batch is added by whole-array operations."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Hashable

    from numpy.typing import NDArray

__all__ = ["Counters"]

K = TypeVar("K", bound="Hashable")

_FIRST_ROWS = 16


class Counters(Generic[K]):
    """A row of `width` counters for each key. Not locked: whoever shares it does that.

    limit: keys beyond it are counted together, under the key that the caller names for it.
    """

    def __init__(self, width: int, limit: int) -> None:
        self._limit = limit
        self._numbers: dict[K, int] = {}
        self._counts = np.zeros((_FIRST_ROWS, width), np.int64)

    def __len__(self) -> int:
        return len(self._numbers)

    def number(self, key: K, overflow: K) -> int:
        """Return the row of `key`; that of `overflow` when `key` is new and the limit is reached."""
        found = self._numbers.get(key)
        if found is not None:
            return found
        if len(self._numbers) >= self._limit and key != overflow:
            return self.number(overflow, overflow)
        self._numbers[key] = len(self._numbers)
        self._grow()
        return len(self._numbers) - 1

    def add(
        self, rows: NDArray[np.integer], columns: NDArray[np.integer] | int, amounts: NDArray[np.int64] | int
    ) -> None:
        """Add amounts (n,), or one for all, to counters at rows (n,) and columns (n,); they may repeat."""
        np.add.at(self._counts.reshape(-1), rows * self._counts.shape[1] + columns, amounts)

    def count(self, rows: NDArray[np.intp], column: int) -> None:
        """Add 1 to one column of rows (n,) for each time that they occur."""
        self._counts[:, column] += np.bincount(rows, minlength=len(self._counts))

    def row(self, number: int) -> NDArray[np.int64]:
        """Return a view (width,) of one row, valid until the next new key."""
        view: NDArray[np.int64] = self._counts[number]
        return view

    def keys(self) -> list[K]:
        """Return the keys in the order of their rows."""
        return list(self._numbers)

    def copy(self, columns: slice = slice(None)) -> NDArray[np.int64]:
        """Return a copy (n, width) of all rows, or of some columns."""
        return self._counts[: len(self._numbers), columns].copy()

    def _grow(self) -> None:
        if len(self._numbers) > len(self._counts):
            self._counts = np.concatenate([self._counts, np.zeros_like(self._counts)])
