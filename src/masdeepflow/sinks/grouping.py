"""Which rows of a table are alike: the key to rendering and counting each distinct combination once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from masdeepflow.table import Encoded

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from masdeepflow.table import Attribute

__all__ = ["codes_of", "distinct", "used"]

_SPAN_MOST = 1 << 62
_TABLE_MOST = 4  # a look-up table of up to this many entries a row is quicker than sorting


def codes_of(column: Attribute) -> NDArray[np.integer]:
    """Return what tells the rows (n,) of an attribute apart: codes of an `Encoded` column, else integers."""
    return column.codes if isinstance(column, Encoded) else column


def used(indices: NDArray[np.integer], size: int) -> list[int]:
    """Return the distinct values of `indices` (n,), each in [0, size), ascending."""
    found: list[int] = np.flatnonzero(np.bincount(indices, minlength=size)).tolist()
    return found


def distinct(columns: Sequence[NDArray[np.integer]], size: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Find the distinct combinations of integer columns, each (size,).

    Returns a row (g,) that has each combination, and the combination's number (size,) for each row; one
    combination where there is no column.
    """
    key, span = np.zeros(size, np.int64), 1
    for column in columns if size else ():
        low, high = int(column.min()), int(column.max())
        if low == high:
            continue
        if span * (high - low + 1) > _SPAN_MOST:
            key, span = _dense(key)
            column, low, high = _dense(column)[0], 0, size - 1  # noqa: PLW2901  # the same column, renumbered
        key = key * (high - low + 1) + (column - low)
        span *= high - low + 1
    if span == 1:
        return np.zeros(min(size, 1), np.intp), key
    return _by_table(key, span) if span <= _TABLE_MOST * size else _by_sorting(key)


def _dense(key: NDArray[np.integer]) -> tuple[NDArray[np.int64], int]:
    values, numbers = np.unique(key, return_inverse=True)
    return numbers.astype(np.int64), len(values)


def _by_table(key: NDArray[np.int64], span: int) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    table = np.full(span, -1, np.intp)
    table[key] = np.arange(len(key))
    rows = table[table >= 0]
    table[key[rows]] = np.arange(len(rows))
    return rows, table[key]


def _by_sorting(key: NDArray[np.int64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    _, rows, numbers = np.unique(key, return_index=True, return_inverse=True)
    return rows, numbers
