"""What requests and responses come down to: two with the same outline read the same.

Statements are executed again and again with other values, and their rows differ: payloads are seldom equal,
but few are unlike. What is left out are the values of a Bind and the rows of a result.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from masdeepflow.columns import row_hash

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["request_outlines", "response_outlines"]

_STEPS = 11
"""Messages looked at; each takes five bits of an integer."""
_HEADER_BYTES = 5
_NAME_WORDS, _TAG_WORDS = 5, 3
_PADDING = 64
_READY_BYTES = 6
_MOST_REST = 128
"""More bytes beyond the prefix than this say nothing more."""

_REQUESTS = np.zeros(256, np.uint64)
_REQUESTS[list(b"PBDES")] = np.arange(1, 6)
_BEGINS = np.zeros(256, bool)
_BEGINS[list(b"PB")] = True
_RESPONSES = np.zeros(256, np.uint64)
_RESPONSES[list(b"DZC123tTnIs")] = np.arange(1, 12)
_ROW, _READY = _RESPONSES[list(b"DZ")]
_ONES, _TOPS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
_ALL = np.uint64(0xFFFFFFFFFFFFFFFF)
_BYTE_MASKS = np.array([(1 << 8 * n) - 1 for n in range(9)], np.uint64)


class _Walk:
    """Goes over the messages of all payloads at once.

    bytes: of all payloads (m, w), flat. at: intp (m,), where the next message of each starts. ends: where
    what was captured ends; totals: where all that was sent ends. kinds: uint64 (m,), the kinds so far.
    fits: bool (m,).
    """

    def __init__(self, slots: np.ndarray, side: str, rows: NDArray[np.intp]) -> None:
        payload = slots[side][rows]
        width = payload.shape[1]
        self.payload = payload
        self.bytes = np.concatenate([payload.reshape(-1), np.zeros(_PADDING, np.uint8)])
        self.at = np.arange(len(rows)) * width
        self.ends = self.at + np.minimum(slots[f"{side}_length"][rows], width)
        self.totals = self.at + slots[f"{side}_bytes"][rows].astype(np.int64)
        self.kinds = np.zeros(len(rows), np.uint64)
        self.fits = self.ends - self.at >= _HEADER_BYTES
        self._lengths = np.ndarray(len(self.bytes) - 3, ">u4", self.bytes.data, strides=(1,))
        self._words = np.ndarray(len(self.bytes) - 7, "<u8", self.bytes.data, strides=(1,))

    def steps(
        self, numbers: NDArray[np.uint64], repeats: int = 0
    ) -> Iterator[tuple[NDArray[np.intp], NDArray[np.uint64], NDArray[np.int64]]]:
        """Yield for each step which payloads have a message, its kind, and where it ends; then go behind it.

        numbers: uint64 (256,), kind by type, 0 for those that do not fit. repeats: a kind that counts once.
        """
        rows = np.flatnonzero(self.fits)
        for _ in range(_STEPS):
            at = self.at[rows]
            kinds = numbers[self.bytes[at]]
            ends = at + 1 + self._lengths[at + 1]
            bad = (kinds == 0) | (ends < at + _HEADER_BYTES) | (ends > self.totals[rows])
            if bad.any():
                self.fits[rows[bad]] = False
                rows, kinds, ends = rows[~bad], kinds[~bad], ends[~bad]
            yield rows, kinds, ends
            again = (kinds == repeats) & ((self.kinds[rows] & np.uint64(31)) == repeats)
            self.kinds[rows] = np.where(again, self.kinds[rows], (self.kinds[rows] << np.uint64(5)) | kinds)
            self.at[rows] = ends
            rows = rows[self.fits[rows]]
            rows = rows[self.at[rows] + _HEADER_BYTES <= self.ends[rows]]
            if not len(rows):
                return
        self.fits[rows] = False

    def words(self, at: NDArray[np.intp], lengths: NDArray[np.integer], count: int) -> NDArray[np.uint64]:
        """Return `count` words (k, count) from `at` (k,), of which `lengths` (k,) bytes count."""
        columns = 8 * np.arange(count)
        valid = np.clip(lengths[:, None] - columns, 0, 8)
        places = np.minimum(at[:, None] + columns, len(self._words) - 1)
        words: NDArray[np.uint64] = self._words[places] & _BYTE_MASKS[valid]
        return words


def _hash(outline: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return row_hash(outline.view(np.uint8), np.full(len(outline), 8 * outline.shape[1]))


def response_outlines(
    slots: np.ndarray, rows: NDArray[np.intp]
) -> tuple[NDArray[np.bool_], NDArray[np.uint64]]:
    """Return which responses of `rows` (m,) have an outline, and its hash (m,).

    It is the kinds of the messages, the number of columns, the tag, and whether all of it was captured.
    """
    walk = _Walk(slots, "response", rows)
    outline = np.zeros((len(rows), 3 + _TAG_WORDS), np.uint64)
    tag, description = _RESPONSES[ord("C")], _RESPONSES[ord("T")]
    for mine, kinds, ends in walk.steps(_RESPONSES, int(_ROW)):
        _take_tags(walk, outline, mine[kinds == tag], ends[kinds == tag])
        _take_descriptions(walk, outline, mine[kinds == description])
    rest = walk.totals - walk.at
    hidden = walk.at >= walk.ends
    ready = (rest == _READY_BYTES) & (hidden | (walk.bytes[np.minimum(walk.at, walk.ends)] == ord("Z")))
    outline[:, 0] = np.where(ready, (walk.kinds << np.uint64(5)) | _READY, walk.kinds)
    outline[:, 1] = (rest > 0) & ~ready
    return walk.fits, _hash(outline)


def _take_tags(
    walk: _Walk, outline: NDArray[np.uint64], rows: NDArray[np.intp], ends: NDArray[np.int64]
) -> None:
    """Take the one tag of responses; those with several, or a long or a cut one, have no outline."""
    if not len(rows):
        return
    at = walk.at[rows] + _HEADER_BYTES
    lengths = ends - at
    odd = (ends > walk.ends[rows]) | (lengths > 8 * _TAG_WORDS) | (outline[rows, 3] != 0)
    walk.fits[rows[odd]] = False
    outline[rows, 3:] = walk.words(at, lengths, _TAG_WORDS)


def _take_descriptions(walk: _Walk, outline: NDArray[np.uint64], rows: NDArray[np.intp]) -> None:
    """Take the number of columns; there is but one description."""
    if not len(rows):
        return
    at = walk.at[rows] + _HEADER_BYTES
    odd = (at + 2 > walk.ends[rows]) | (outline[rows, 2] != 0)
    walk.fits[rows[odd]] = False
    number = (walk.bytes[at].astype(np.uint64) << np.uint64(8)) | walk.bytes[at + 1]
    outline[rows, 2] = number + np.uint64(1)


def request_outlines(
    slots: np.ndarray, rows: NDArray[np.intp]
) -> tuple[NDArray[np.bool_], NDArray[np.uint64]]:
    """Return which requests of `rows` (m,) have an outline, and its hash (m,).

    It is the kinds of the messages, the statement as far as captured, the name of the statement that is
    bound, and how many bytes are beyond the prefix. Portals and parsed statements with a name have none.
    """
    fits, hashes = np.zeros(len(rows), bool), np.zeros(len(rows), np.uint64)
    # Of a simple query nothing can be left out.
    extended = np.flatnonzero(_BEGINS[slots["request"][rows, 0]])
    if len(extended):
        fits[extended], hashes[extended] = _extended_outlines(_Walk(slots, "request", rows[extended]))
    return fits, hashes


def _extended_outlines(walk: _Walk) -> tuple[NDArray[np.bool_], NDArray[np.uint64]]:
    outline = np.zeros((len(walk.at), 3 + _NAME_WORDS), np.uint64)
    for mine, kinds, ends in walk.steps(_REQUESTS):
        for kind, take in _TAKERS.items():
            chosen = kinds == _REQUESTS[kind]
            if chosen.any():
                take(walk, outline, mine[chosen], ends[chosen])
    outline[:, 0] = walk.kinds
    outline[:, 1] = np.minimum(walk.totals - walk.at, _MOST_REST)
    return walk.fits, _hash(outline)


def _take_parse(
    walk: _Walk, outline: NDArray[np.uint64], rows: NDArray[np.intp], ends: NDArray[np.int64]
) -> None:
    """A statement without a name, at the start of the request."""
    at = walk.at[rows]
    walk.fits[rows[(walk.kinds[rows] != 0) | (walk.bytes[at + _HEADER_BYTES] != 0)]] = False
    captured = np.minimum(ends, walk.ends[rows]) - at
    outline[rows, 2] = row_hash(walk.payload[rows], captured)


def _take_bind(
    walk: _Walk, outline: NDArray[np.uint64], rows: NDArray[np.intp], ends: NDArray[np.int64]
) -> None:
    """The portal without a name, and the statement's name up to its zero."""
    at = walk.at[rows] + _HEADER_BYTES
    names, lengths = _until_zero(walk.words(at + 1, np.full(len(rows), 8 * _NAME_WORDS), _NAME_WORDS))
    captured = at + 1 + lengths < np.minimum(ends, walk.ends[rows])
    walk.fits[rows[(walk.bytes[at] != 0) | (lengths >= 8 * _NAME_WORDS) | ~captured]] = False
    outline[rows, 3:] = names


def _until_zero(words: NDArray[np.uint64]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """Return words (k, count) up to the first zero byte, and how many bytes (k,) are before it."""
    zeros = (words - _ONES) & ~words & _TOPS
    found = zeros != 0
    before = (np.cumsum(found, axis=1) - found) == 0
    masks = np.where(found, ((zeros & (~zeros + np.uint64(1))) >> np.uint64(7)) - np.uint64(1), _ALL)
    masks = np.where(before, masks, np.uint64(0))
    return words & masks, np.bitwise_count(masks).sum(axis=1, dtype=np.int64) // 8


def _take_describe(
    walk: _Walk, outline: NDArray[np.uint64], rows: NDArray[np.intp], ends: NDArray[np.int64]
) -> None:
    """Of the portal without a name: a P and a zero."""
    del outline
    at = walk.at[rows] + _HEADER_BYTES
    whole = (ends == at + 2) & (ends <= walk.ends[rows])
    walk.fits[rows[~whole | (walk.bytes[at] != ord("P")) | (walk.bytes[at + 1] != 0)]] = False


def _take_execute(
    walk: _Walk, outline: NDArray[np.uint64], rows: NDArray[np.intp], ends: NDArray[np.int64]
) -> None:
    """Of the portal without a name."""
    del outline
    at = walk.at[rows] + _HEADER_BYTES
    walk.fits[rows[(ends > walk.ends[rows]) | (walk.bytes[at] != 0)]] = False


_TAKERS = {ord("P"): _take_parse, ord("B"): _take_bind, ord("D"): _take_describe, ord("E"): _take_execute}
