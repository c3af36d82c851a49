"""Vector operations on payload columns: find a byte, and parse each distinct value once."""

from __future__ import annotations

import secrets
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["Memo", "find_byte", "prefix", "row_hash"]

T = TypeVar("T")

_WORDS = 512  # 8-byte words of the largest payload prefix
# Secret per process, so that nobody can send two texts that are taken for one.
_KEYS = np.frombuffer(secrets.token_bytes(16 * _WORDS), np.uint64).reshape(2, _WORDS) | np.uint64(1)
_MASKS = np.array([(1 << 8 * n) - 1 for n in range(9)], np.uint64)
_STARTS = 8 * np.arange(_WORDS)


def prefix(payload: NDArray[np.uint8], width: int) -> NDArray[np.uint64]:
    """Return the first `width` (2, 4 or 8) bytes of each row (n, w) as little-endian integers (n,)."""
    view: NDArray[np.uint64] = payload[:, :width].view(f"<u{width}")[:, 0]
    return view


def find_byte(payload: NDArray[np.uint8], lengths: NDArray[np.integer], byte: int) -> NDArray[np.int64]:
    """Return the position (n,) of the first `byte` in each row (n, w) of valid length (n,); -1 where there is none."""
    if not len(payload):
        return np.zeros(0, np.int64)
    hits = payload == byte
    position = hits.argmax(axis=1)
    found = hits[np.arange(len(hits)), position] & (position < lengths)
    return np.where(found, position, -1)


def row_hash(payload: NDArray[np.uint8], lengths: NDArray[np.integer]) -> NDArray[np.uint64]:
    """Return a 64-bit keyed hash (n,) of the first `lengths` bytes of each row (n, w), w a multiple of 8."""
    count = (int(lengths.max(initial=0)) + 7) // 8
    words = payload.view(np.uint64)[:, :count]
    valid = np.clip(lengths.astype(np.int64)[:, None] - _STARTS[:count], 0, 8)
    mixed = words & _MASKS[valid]
    mixed ^= mixed >> np.uint64(29)
    mixed *= _KEYS[0, :count]
    mixed ^= mixed >> np.uint64(32)
    mixed *= _KEYS[1, :count]
    total = mixed.sum(axis=1, dtype=np.uint64) + lengths.astype(np.uint64) * _KEYS[0, 0]
    result: NDArray[np.uint64] = total ^ (total >> np.uint64(31))
    return result


class Memo(Generic[T]):
    """Parses each distinct payload once, over batches; bounded.

    parse: clear scalar code, from the bytes to any value. limit: distinct values kept before all are forgotten.
    """

    def __init__(self, parse: Callable[[bytes], T], limit: int = 4096) -> None:
        self._parse = parse
        self._limit = limit
        self._known: dict[int, T] = {}

    def encode(self, payload: NDArray[np.uint8], lengths: NDArray[np.integer]) -> tuple[NDArray[np.int32], list[T]]:
        """Return codes (n,), int32, and the parsed values they index, of rows (n, w) with valid lengths (n,)."""
        if not len(payload):
            return np.zeros(0, np.int32), []
        hashes, first, codes = np.unique(row_hash(payload, lengths), return_index=True, return_inverse=True)
        if len(self._known) + len(hashes) > self._limit:
            self._known.clear()
        values = [
            self._value(key, payload, row, lengths) for key, row in zip(hashes.tolist(), first.tolist(), strict=True)
        ]
        return codes.astype(np.int32), values

    def _value(self, key: int, payload: NDArray[np.uint8], row: int, lengths: NDArray[np.integer]) -> T:
        if key not in self._known:
            self._known[key] = self._parse(payload[row, : int(lengths[row])].tobytes())
        return self._known[key]
