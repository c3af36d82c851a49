"""What one side of turns shows, read once for all that say the same.

A side is known by the kernel's hash of it, or by its outline (`masdeepflow.outlines`); only what is neither
is read. What a side says depends on its captured bytes alone: how many more there were is up to who pairs.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from masdeepflow.direct_mapped import DirectMapped
from masdeepflow.outlines import Outline, Outlines
from masdeepflow.pipelined import Messages
from masdeepflow.recall import renumber
from masdeepflow.table import ABSENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["SIDES", "Sides"]

T = TypeVar("T")

SIDES = 1 << 13
"""Codes are below this."""
_FULL = SIDES // 2
_FULL_OF_MESSAGES = 1 << 16
_OFTEN = 3  # times in a batch: both ends of a connection on this host show the same once


class Sides(Generic[T]):
    """A bounded table of the messages of sides, known by a code.

    read: the messages of payloads (n, w) of valid lengths (n,). outline: as `masdeepflow.outlines.Outlines`
    takes it: where two sides have equal keys, `read` has to give the same messages.
    """

    def __init__(
        self,
        read: Callable[[NDArray[np.uint8], NDArray[np.integer]], Messages[T]],
        outline: Callable[[bytes], Outline | None],
    ) -> None:
        self._read, self._outlines = read, Outlines(outline)
        self._near = DirectMapped()
        self._codes: dict[int, int] = {}
        self.clear()

    def clear(self) -> None:
        """Forget all codes."""
        self._near.clear()
        self._codes.clear()
        self._counts, self._ended = np.zeros(0, np.int64), np.zeros(0, np.int64)
        self._good = np.zeros(0, bool)
        # start, end, code of the value, silent
        self._messages = np.zeros((4, 0), np.int64)
        self._values: dict[T, int] = {}

    @property
    def full(self) -> bool:
        """Whether it is time to forget all: what is kept goes on to grow until then."""
        return len(self._counts) > _FULL or self._messages.shape[1] > _FULL_OF_MESSAGES

    def encode(
        self, payload: NDArray[np.uint8], lengths: NDArray[np.integer], hashes: NDArray[np.uint64]
    ) -> NDArray[np.int32]:
        """Return codes (n,), int32, of sides; `ABSENT` where they have to be read.

        hashes: of each payload (n, w) of valid lengths (n,) as the kernel has it, 0 where it has none.
        """
        codes, missing = self._near.find(hashes)
        if missing is None:
            return codes
        rows = np.flatnonzero(missing)
        every = len(rows) == len(codes)
        some, some_lengths = (payload, lengths) if every else (payload[rows], lengths[rows])
        keys = self._outlines.keys(some, some_lengths)
        np.copyto(keys, hashes[rows], where=keys == 0)
        found, unknown = self._near.find(keys)
        if unknown is not None:
            left = np.flatnonzero(unknown)
            found[left] = self._learn(some, some_lengths, keys[left], left)
        codes[rows] = found
        return codes

    def messages(
        self, payload: NDArray[np.uint8], lengths: NDArray[np.integer], codes: NDArray[np.int32]
    ) -> Messages[T]:
        """Return the messages of sides (n,), from the table if all of them are there."""
        if int(codes.min(initial=0)) == ABSENT:
            return self._read(payload, lengths)
        counts = self._counts[codes]
        ends, first = np.cumsum(counts), np.cumsum(self._counts) - self._counts
        place = np.repeat(first[codes] - ends + counts, counts) + np.arange(counts.sum())
        start, end, value, silent = self._messages[:, place]
        value, present = renumber(value, len(self._values) + 1)
        values = list(self._values)
        return Messages(
            np.repeat(np.arange(len(codes)), counts),
            start,
            end,
            value,
            [values[code] for code in present],
            self._ended[codes],
            self._good[codes],
            silent > 0,
        )

    def _learn(
        self,
        payload: NDArray[np.uint8],
        lengths: NDArray[np.integer],
        keys: NDArray[np.uint64],
        rows: NDArray[np.intp],
    ) -> NDArray[np.int32]:
        """Return the codes (k,) of `rows` with these keys (k,), taking up those that come often."""
        new, first, inverse, times = np.unique(
            keys, return_index=True, return_inverse=True, return_counts=True
        )
        codes = np.full(len(new), ABSENT, np.int32)
        often = np.flatnonzero((times >= _OFTEN) & (new != 0))
        known = [self._codes.get(key, ABSENT) for key in new[often].tolist()]
        codes[often] = known
        fresh = often[codes[often] == ABSENT]
        if 0 < len(fresh) <= SIDES - len(self._counts):
            examples = rows[first[fresh]]
            codes[fresh] = self._keep(new[fresh], self._read(payload[examples], lengths[examples]))
        kept = codes >= 0
        self._near.keep(new[kept], codes[kept])
        return codes[inverse]

    def _keep(self, keys: NDArray[np.uint64], found: Messages[T]) -> NDArray[np.int32]:
        """Return the codes (k,) that sides get."""
        codes = np.arange(len(self._counts), len(self._counts) + len(keys), dtype=np.int32)
        numbers = [self._values.setdefault(value, len(self._values)) for value in found.values]
        silent = np.zeros(len(found.row), bool) if found.silent is None else found.silent
        values = np.array(numbers, np.int64)[found.code]
        self._messages = np.hstack([self._messages, np.stack([found.start, found.end, values, silent])])
        self._counts = np.append(self._counts, np.bincount(found.row, minlength=len(keys)))
        self._ended, self._good = np.append(self._ended, found.ended), np.append(self._good, found.good)
        self._codes.update(zip(keys.tolist(), codes.tolist(), strict=True))
        return codes
