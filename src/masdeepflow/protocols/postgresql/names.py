"""The name of the statement that a request's first message is about: of many requests all that differs.

Clients that prepare each query (PDO, tokio-postgres) count up its name. So it is a column of its own, and
what a request is read as does not depend on it.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from masdeepflow.columns import row_hash
from masdeepflow.protocols.postgresql.requests import HEADER_BYTES

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "NAME_WORDS",
    "OWN",
    "Names",
    "OwnNames",
    "beginnings",
    "name_key",
    "names_of",
    "own_name",
    "until_zero",
]

NAME_WORDS = 5
OWN = "\0"
"""Stands for the name that is each request's own; no name is so."""

_WORD = 8
_REMEMBERED = 1024
_ROOM = NAME_WORDS * _WORD
_PARSE, _BIND = ord("P"), ord("B")
_ONES, _TOPS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)


class Names(NamedTuple):
    """Of n requests. words: uint64 (n, NAME_WORDS), zeros behind the name. lengths: int64 (n,), 0: none."""

    words: NDArray[np.uint64]
    lengths: NDArray[np.int64]

    @classmethod
    def none(cls) -> Names:
        """Return those of no requests."""
        return cls(np.zeros((0, NAME_WORDS), np.uint64), np.zeros(0, np.int64))

    def keys(self) -> NDArray[np.uint64]:
        """Return what stands for each name (n,), `name_key` of it."""
        return row_hash(self.words.view(np.uint8), np.full(len(self.words), _ROOM))

    def string(self, row: int) -> str:
        """Return one of them."""
        name: bytes = self.words[row].tobytes()[: self.lengths[row]]
        return name.decode("ascii")


class OwnNames(NamedTuple):
    """The own names of n turns. names: of k requests. places: int32 (n,), index into these, or `ABSENT`."""

    names: Names
    places: NDArray[np.int32]

    @property
    def keys(self) -> NDArray[np.uint64]:
        """Return what stands for each name (n,); it means nothing where there is none."""
        if not len(self.names.lengths):
            return np.zeros(len(self.places), np.uint64)
        return self.names.keys()[self.places]

    def take(self, rows: NDArray[np.intp]) -> OwnNames:
        """Return those of `rows` (m,)."""
        return OwnNames(self.names, self.places[rows])

    def name_of(self, row: int) -> str:
        """Return one."""
        return self.names.string(int(self.places[row]))


@lru_cache(_REMEMBERED)
def name_key(name: str) -> int:
    """Return what stands for a name."""
    data = name.encode()
    room = max(-(-len(data) // _WORD) * _WORD, _ROOM)
    padded = np.frombuffer(data.ljust(room, b"\0"), np.uint8)
    return int(row_hash(padded[None, :].copy(), np.array([room]))[0])


def own_name(data: bytes, total: int) -> bytes:
    """Return the name, empty where there is none, it is not whole, too long for a column, or not ASCII."""
    if data[:1] not in {b"P", b"B"} or (data[:1] == b"B" and data[HEADER_BYTES : HEADER_BYTES + 1] != b"\0"):
        return b""
    start = HEADER_BYTES + (data[:1] == b"B")
    end = min(1 + int.from_bytes(data[1:HEADER_BYTES], "big"), len(data), total)
    zero = data.find(0, start, end)
    name = data[start:zero] if start < zero < start + _ROOM else b""
    return name if name.isascii() else b""


def names_of(slots: np.ndarray, rows: NDArray[np.intp]) -> Names:
    """Return the names of the requests of `rows` (n,)."""
    begin = beginnings(slots, rows, HEADER_BYTES + 1 + _ROOM)
    binds = (begin[:, 0] == _BIND) & (begin[:, HEADER_BYTES] == 0)
    at = HEADER_BYTES
    names = np.where(binds[:, None], begin[:, at + 1 : at + 1 + _ROOM], begin[:, at : at + _ROOM])
    words, lengths = until_zero(names.view(np.uint64))
    ends = 1 + begin[:, 1:HEADER_BYTES].copy().view(">u4")[:, 0].astype(np.int64)
    ends = np.minimum(ends, np.minimum(slots["request_length"][rows], slots["request"].shape[1]))
    ends = np.minimum(ends, slots["request_bytes"][rows].astype(np.int64))
    known = (binds | (begin[:, 0] == _PARSE)) & (lengths < _ROOM) & (at + binds + lengths < ends)
    known &= ~(words & _TOPS).any(axis=1)
    words[~known] = 0
    return Names(words, np.where(known, lengths, 0))


def beginnings(slots: np.ndarray, rows: NDArray[np.intp], count: int) -> NDArray[np.uint8]:
    """Return the first bytes (n, count) of the requests of `rows` (n,), zeros where there is no more room."""
    some = slots["request"][:, :count][rows]
    return np.pad(some, ((0, 0), (0, count - some.shape[1]))) if some.shape[1] < count else some


def until_zero(words: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return words (k, count) up to the first zero byte, and how many bytes (k,) are before it."""
    zeros = (words - _ONES) & ~words & _TOPS
    found = zeros != 0
    before = (np.cumsum(found, axis=1) - found) == 0
    masks = np.where(found, ((zeros & (~zeros + np.uint64(1))) >> np.uint64(7)) - np.uint64(1), _ALL)
    masks = np.where(before, masks, np.uint64(0))
    return words & masks, np.bitwise_count(masks).sum(axis=1, dtype=np.int64) // 8
