"""Names of messages that stay bytes until somebody asks for them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from masdeepflow.columns import row_hash

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["READ", "Names", "as_objects"]

READ = -1
"""Length of a name that is known."""


class Names:
    """k names, by place.

    texts: uint8 (m, w), w a multiple of 8, names of the first m places in presentation form, as long as
    lengths (m,); `known` has those whose length is `READ`. known: object (k,), str or None.
    """

    def __init__(
        self, texts: NDArray[np.uint8], lengths: NDArray[np.int64], known: NDArray[np.object_]
    ) -> None:
        self._texts, self._lengths, self._known = texts, lengths, known

    @classmethod
    def of(cls, known: Sequence[str | None]) -> Names:
        """Return names that all are known."""
        return cls(np.zeros((0, 0), np.uint8), np.zeros(0, np.int64), as_objects(known))

    def __len__(self) -> int:
        return len(self._known)

    def joined(self, more: NDArray[np.object_]) -> Names:
        """Return these and those of more places."""
        return Names(self._texts, self._lengths, np.concatenate((self._known, more))) if len(more) else self

    def encoded(self, places: NDArray[np.integer]) -> tuple[NDArray[np.int64], list[str | None]]:
        """Return codes (m,) and the distinct names that they index, of `places` (m,)."""
        unread = np.flatnonzero(self._unread(places))
        rows = places[unread]
        texts, lengths = self._texts[rows], self._lengths[rows]
        first, numbers = np.unique(row_hash(texts, lengths), return_index=True, return_inverse=True)[1:]
        names: dict[str | None, int] = {}
        distinct = [names.setdefault(name, len(names)) for name in _decoded(texts[first], lengths[first])]
        codes = np.empty(len(places), np.int64)
        codes[unread] = np.array(distinct, np.int64)[numbers]
        if len(unread) < len(places):
            others = np.ones(len(places), bool)
            others[unread] = False
            codes[others] = [
                names.setdefault(name, len(names)) for name in self._known[places[others]].tolist()
            ]
        return codes, list(names)

    def some(self, places: NDArray[np.integer]) -> list[str | None]:
        """Return the names of a few places (m,)."""
        names = self._known[places]
        unread = np.flatnonzero(self._unread(places))
        rows = places[unread]
        names[unread] = as_objects(_decoded(self._texts[rows], self._lengths[rows]))
        found: list[str | None] = names.tolist()
        return found

    def _unread(self, places: NDArray[np.integer]) -> NDArray[np.bool_]:
        count = len(self._lengths)
        if not count:
            return np.zeros(len(places), bool)
        unread: NDArray[np.bool_] = self._lengths[np.minimum(places, count - 1)] != READ
        return unread & (places < count)


def as_objects(names: Sequence[str | None]) -> NDArray[np.object_]:
    """Return names as an array (k,) of objects."""
    array = np.empty(len(names), object)
    array[:] = names
    return array


def _decoded(texts: NDArray[np.uint8], lengths: NDArray[np.int64]) -> list[str]:
    data, width = texts.tobytes().decode("latin-1"), texts.shape[1]  # ASCII; what is behind may be anything
    return [data[at * width : at * width + length] for at, length in enumerate(lengths.tolist())]
