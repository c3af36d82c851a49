"""Rows as indices into distinct objects, each read once; and the columns of what the objects show."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import numpy as np

from masdeepflow.table import Encoded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

__all__ = ["Coded"]

T = TypeVar("T")


class Coded(NamedTuple, Generic[T]):
    """codes: int32 (n,), index into `values`, which have more than one thing to show."""

    codes: NDArray[np.int32]
    values: list[T]

    def take(self, rows: NDArray[np.intp] | slice) -> Coded[T]:
        """Return `rows` (m,), with the same values."""
        return Coded(self.codes[rows], self.values)

    def joined(self, others: Iterable[T], order: NDArray[np.intp]) -> Coded[T]:
        """Return these rows and one for each of `others`, hashable, put in `order` (m,)."""
        places: dict[T, int] = {}
        codes = [places.setdefault(value, len(places)) for value in others]
        together = np.concatenate([self.codes, np.array(codes, np.int32) + np.int32(len(self.values))])
        return Coded(together[order], self.values + list(places))

    def strings(self, show: Callable[[T], str | None]) -> Encoded:
        """Return what each row's value shows, absent where that is None; equal strings have one code."""

        def make() -> tuple[NDArray[np.int32], list[str]]:
            shown = Encoded.from_list([show(value) for value in self.values])
            return shown.codes, shown.values

        return Encoded.later(self.codes, make)

    def integers(self, show: Callable[[T], int]) -> NDArray[np.int64]:
        """Return what each row's value shows, int64 (n,)."""
        table = np.array([show(value) for value in self.values], np.int64)
        return np.full(len(self.codes), table[0]) if len(table) == 1 else table[self.codes]

    def flags(self, show: Callable[[T], bool]) -> NDArray[np.bool_]:
        """Return what each row's value shows, bool (n,)."""
        flags: NDArray[np.bool_] = np.array([show(value) for value in self.values], bool)[self.codes]
        return flags
