"""Vector operations on payload columns: find a byte, and parse each distinct value once."""

from __future__ import annotations

import os
from functools import lru_cache
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["Memo", "cut_out", "find_byte", "prefix", "row_hash"]

T = TypeVar("T")

_WORDS = 512  # 8-byte words of the largest payload prefix
# Secret per process, so that nobody can send two texts that are taken for one.
_KEYS = np.frombuffer(os.urandom(16 * _WORDS), np.uint64).reshape(2, _WORDS) | np.uint64(1)
_MASKS = np.array([(1 << 8 * n) - 1 for n in range(9)], np.uint64)
# With larger temporary arrays malloc gives memory back and faults it in again: dearer than the work itself.
_BLOCK_WORDS = 8 * 1024
_MASKED_WORDS = 32  # masks for all lengths of so many words stay in the cache
_NEAR = 64  # most lines end within these bytes


def prefix(payload: NDArray[np.uint8], width: int) -> NDArray[np.uint64]:
    """Return the first `width` (2, 4 or 8) bytes of each row (n, w) as little-endian integers (n,)."""
    view: NDArray[np.uint64] = payload[:, :width].view(f"<u{width}")[:, 0]
    return view


def find_byte(payload: NDArray[np.uint8], lengths: NDArray[np.integer], byte: int) -> NDArray[np.int64]:
    """Return the position (n,) of the first `byte` in each row (n, w) of valid length (n,); -1 for none."""
    position = _find_byte(payload[:, :_NEAR], lengths, byte)
    far = np.flatnonzero((position < 0) & (lengths > _NEAR))
    if len(far):
        position[far] = _find_byte(payload[far], lengths[far], byte)
    return position


def _find_byte(payload: NDArray[np.uint8], lengths: NDArray[np.integer], byte: int) -> NDArray[np.int64]:
    hits = payload == byte
    position = hits.argmax(axis=1)
    found = hits[np.arange(len(hits)), position] & (position < lengths)
    return np.where(found, position, -1)


def cut_out(
    payload: NDArray[np.uint8],
    rows: NDArray[np.integer],
    starts: NDArray[np.integer],
    lengths: NDArray[np.integer],
) -> NDArray[np.uint8]:
    """Return `lengths` (m,) bytes of `rows` (m,) of a payload (n, w) from `starts` (m,) on.

    (m, v), v a multiple of 8; bytes behind the length are stale.
    """
    width = (int(lengths.max(initial=0)) + 7) // 8 * 8
    flat = np.zeros(payload.size + width, np.uint8)
    flat[: payload.size].reshape(payload.shape)[:] = payload
    windows = np.lib.stride_tricks.as_strided(flat, (payload.size + 1, width), (1, 1), writeable=False)
    texts: NDArray[np.uint8] = windows[rows * payload.shape[1] + starts]
    return texts


def row_hash(payload: NDArray[np.uint8], lengths: NDArray[np.integer]) -> NDArray[np.uint64]:
    """Return a 64-bit keyed hash (n,) of the first `lengths` bytes of each row (n, w), w a multiple of 8."""
    count = min((int(lengths.max(initial=0)) + 7) // 8, payload.shape[1] // 8)
    words = payload.view(np.uint64)[:, :count]
    ends = lengths.astype(np.int64)
    total = ends.astype(np.uint64) * _KEYS[0, 0]
    step = _BLOCK_WORDS // max(min(count, _MASKED_WORDS), 1)
    for start in range(0, len(words), step):
        for first in range(0, count, _MASKED_WORDS):
            block = slice(start, start + step), slice(first, first + _MASKED_WORDS)
            total[block[0]] += _mix(words[block], ends[block[0]] - 8 * first, _KEYS[:, :count][:, block[1]])
    result: NDArray[np.uint64] = total ^ (total >> np.uint64(31))
    return result


def _mix(
    words: NDArray[np.uint64], lengths: NDArray[np.int64], keys: NDArray[np.uint64]
) -> NDArray[np.uint64]:
    """Return what words (n, k), as far as they are within lengths (n,), add to the hash; keys: (2, k)."""
    mixed = _masks(words.shape[1]).take(np.minimum(np.maximum(lengths, 0), 8 * words.shape[1]), axis=0)
    mixed &= words
    mixed ^= mixed >> np.uint64(29)
    mixed *= keys[0]
    mixed ^= mixed >> np.uint64(32)
    total: NDArray[np.uint64] = mixed @ keys[1]
    return total


@lru_cache(maxsize=_MASKED_WORDS)
def _masks(count: int) -> NDArray[np.uint64]:
    """Return masks (8 * count + 1, count) of the bytes that are within each length."""
    valid = np.arange(8 * count + 1)[:, None] - 8 * np.arange(count)
    masks: NDArray[np.uint64] = _MASKS.take(np.clip(valid, 0, 8))
    return masks


class Memo(Generic[T]):
    """Parses each distinct payload once, over batches; bounded.

    parse: clear scalar code, from the bytes to any value. limit: distinct values kept before all are
    forgotten; a batch with more of them is still encoded whole.
    """

    def __init__(self, parse: Callable[[bytes], T], limit: int = 4096) -> None:
        """Start empty."""
        self._parse = parse
        self._limit = limit
        self._known: dict[int, T] = {}

    def encode(
        self, payload: NDArray[np.uint8], lengths: NDArray[np.integer]
    ) -> tuple[NDArray[np.int32], list[T]]:
        """Return codes (n,), int32, and the values they index, of rows (n, w) with valid lengths (n,)."""
        if not len(payload):
            return np.zeros(0, np.int32), []
        hashes, first, codes = np.unique(row_hash(payload, lengths), return_index=True, return_inverse=True)
        keys = hashes.tolist()
        if len(self._known) + len(keys) > self._limit:
            self._known.clear()
        self._learn(keys, payload, lengths, first)
        return codes.astype(np.int32), [self._known[key] for key in keys]

    def _learn(
        self,
        keys: list[int],
        payload: NDArray[np.uint8],
        lengths: NDArray[np.integer],
        first: NDArray[np.intp],
    ) -> None:
        new = [place for place, key in enumerate(keys) if key not in self._known]
        if not new:
            return
        rows, width = first[new], payload.shape[1]
        data = payload[rows].tobytes()
        starts = range(0, len(data), width)
        for place, start, length in zip(new, starts, np.minimum(lengths[rows], width).tolist(), strict=True):
            self._known[keys[place]] = self._parse(data[start : start + length])
