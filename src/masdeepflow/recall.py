"""What the kernel's payload hashes stand for: repeated payloads are known without being read."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from masdeepflow.direct_mapped import DirectMapped

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["Recall", "Repeated", "once", "renumber"]

T = TypeVar("T")

_LIMIT = 4096
_SAMPLE, _SEVERAL = 128, 3  # both ends of a connection on one host make two
_FEW = 64  # of so few to look at each is quicker
_HALF = np.uint64(32)  # the lower half of a hash may be even or odd only


def renumber(codes: NDArray[np.integer], size: int) -> tuple[NDArray[np.int32], list[int]]:
    """Return codes (n,), int32, counting only those below `size` that occur, and these, ascending."""
    used = np.zeros(size, bool)
    used[codes] = True
    present = np.flatnonzero(used)
    if len(present) == 1:
        return np.zeros(len(codes), np.int32), present.tolist()
    numbers = np.zeros(size, np.int32)
    numbers[present] = np.arange(len(present), dtype=np.int32)
    return numbers[codes], present.tolist()


def once(keys: NDArray[np.uint64]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return rows (k,) that have all of the hashed keys (n,), and which of them (n,) has that of each row.

    Without sorting: a few keys may be there more than once. Keys of 0 stand for nothing, so each is there.
    """
    rows = np.arange(len(keys))
    if len(keys) < _FEW:
        return rows, rows
    size = 2 << len(keys).bit_length()
    places = ((keys >> _HALF) & np.uint64(size - 1)).view(np.int64)
    latest = np.empty(size, np.intp)
    latest[places] = rows
    leaders = latest[places]
    leaders = np.where((keys[leaders] == keys) & (keys != 0), leaders, rows)
    first = np.flatnonzero(leaders == rows)
    if len(first) == len(rows):
        return rows, rows
    numbers = np.empty(len(keys), np.intp)
    numbers[first] = np.arange(len(first))
    return first, numbers[leaders]


class Recall(Generic[T]):
    """A bounded table from 64-bit hash to value, looked up for whole columns.

    read: the slow way: from rows (k,) to codes (k,) and the values they index. It is asked for rows whose
    hash is not in the table, and for those with no hash (0), which are never kept.
    keeps: which values are; all by default. It is asked again for rows of others.
    sparing: keep of a batch only what its first rows that were read have several times. For payloads of
    which most never come again, and whatever reads them does so quickly.
    """

    def __init__(
        self, limit: int = _LIMIT, keeps: Callable[[T], bool] | None = None, *, sparing: bool = False
    ) -> None:
        self._limit = limit
        self._keeps = keeps
        self._sparing = sparing
        self._hashes = np.zeros(0, np.uint64)
        self._values: list[T] = []
        self._near = DirectMapped()

    def __len__(self) -> int:
        return len(self._values)

    def encode(
        self,
        hashes: NDArray[np.uint64],
        read: Callable[[NDArray[np.intp]], tuple[NDArray[np.int32], list[T]]],
    ) -> tuple[NDArray[np.int32], list[T]]:
        """Return codes (n,), int32, and the values they index, of rows with the given hashes (n,)."""
        if not len(self._hashes):
            return self._read(hashes, np.arange(len(hashes)), read)
        places, missing = self._places(hashes)
        if missing is None:
            codes, present = renumber(places, len(self._hashes))
            return codes, [self._values[place] for place in present]
        rows = np.flatnonzero(missing)
        known, present = renumber(places[~missing], len(self._hashes))
        values = [self._values[place] for place in present]
        fresh, fresh_values = self._read(hashes, rows, read)
        codes = np.empty(len(hashes), np.int32)
        codes[~missing] = known
        codes[rows] = fresh + np.int32(len(values))
        return codes, values + fresh_values

    def _places(self, hashes: NDArray[np.uint64]) -> tuple[NDArray[np.integer], NDArray[np.bool_] | None]:
        """Return where each hash (n,) stands in the table, and which (n,) do not; None if all do."""
        places, far = self._near.find(hashes)
        if far is None:
            return places, None
        found = np.searchsorted(self._hashes, hashes[far])
        np.minimum(found, len(self._hashes) - 1, out=found)
        missing = far.copy()
        missing[far] = self._hashes[found] != hashes[far]
        places[far] = found
        self._near.keep(hashes[~missing], places[~missing])
        return places, missing if missing.any() else None

    def _read(
        self,
        hashes: NDArray[np.uint64],
        rows: NDArray[np.intp],
        read: Callable[[NDArray[np.intp]], tuple[NDArray[np.int32], list[T]]],
    ) -> tuple[NDArray[np.int32], list[T]]:
        # Both ends of a connection within the host send and receive the same.
        first, alike = once(hashes[rows])
        codes, values = read(rows[first])
        codes = codes[alike]
        if self._sparing:
            new, first, counts = np.unique(hashes[rows[:_SAMPLE]], return_index=True, return_counts=True)
            new, first = new[counts >= _SEVERAL], first[counts >= _SEVERAL]
        else:
            new, first = np.unique(hashes[rows], return_index=True)
        if len(new) and new[0] == 0:
            new, first = new[1:], first[1:]
        if self._keeps is not None:
            kept = np.array(list(map(self._keeps, values)), bool)[codes[first]]
            new, first = new[kept], first[kept]
        # Traffic that never repeats would only push out what does.
        if 0 < len(new) <= self._limit // 2:
            self._keep(new, [values[code] for code in codes[first].tolist()])
        return codes, values

    def _keep(self, hashes: NDArray[np.uint64], values: list[T]) -> None:
        if len(self._hashes) + len(hashes) > self._limit:
            self._hashes, self._values = np.zeros(0, np.uint64), []
        together = np.concatenate((self._hashes, hashes))
        order = np.argsort(together)
        everything = self._values + values
        self._hashes, self._values = together[order], [everything[place] for place in order.tolist()]
        self._near.clear()


class Repeated:
    """Numbers the distinct keys of a column, such as cookies: without sorting it, once they are known."""

    def __init__(self, limit: int = _LIMIT) -> None:
        self._known: Recall[int] = Recall(limit)

    def encode(self, keys: NDArray[np.uint64]) -> tuple[NDArray[np.int32], list[int]]:
        """Return codes (n,), int32, of keys (n,), and the distinct keys, in no order, that they index."""

        def read(rows: NDArray[np.intp]) -> tuple[NDArray[np.int32], list[int]]:
            distinct, codes = np.unique(keys[rows], return_inverse=True)
            return codes.astype(np.int32), distinct.tolist()

        return self._known.encode(keys, read)
