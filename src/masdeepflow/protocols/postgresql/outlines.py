"""What requests and responses come down to: two with the same outline read the same.

Statements are executed again and again with other values, and their rows differ: payloads are seldom equal,
but few are unlike. What is left out are the values of a Bind and the rows of a result. Where several are
executed in a turn, an outline tells how many bytes each takes, but for the last.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from masdeepflow.columns import row_hash
from masdeepflow.protocols.postgresql.names import NAME_WORDS, names_of, until_zero

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from masdeepflow.protocols.postgresql.names import Names

__all__ = ["request_outlines", "response_outlines"]

_STEPS = 11
"""Messages looked at; each takes five bits of an integer."""
_HEADER_BYTES = 5
_TAG_WORDS = 3
_PADDING = 64
_READY_BYTES = 6
_MOST_REST = 128
"""More bytes beyond the prefix than this say nothing more."""

_BEGINS = np.zeros(256, bool)
_BEGINS[list(b"PB")] = True
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_BYTE_MASKS = np.array([(1 << 8 * n) - 1 for n in range(9)], np.uint64)


class _Kinds(NamedTuple):
    """The messages of one side.

    numbers: uint64 (256,), kind by type, 0 for those that do not fit. results: bool (32,), by kind, whether
    it ends one of several results. last: kind that may stand behind the last. repeats: one that counts once.
    """

    numbers: NDArray[np.uint64]
    results: NDArray[np.bool_]
    last: np.uint64
    repeats: np.uint64


def _kinds(types: bytes, results: bytes, last: bytes, repeats: bytes = b"\0") -> _Kinds:
    numbers = np.zeros(256, np.uint64)
    numbers[list(types)] = np.arange(1, len(types) + 1)
    ends = np.zeros(32, bool)
    ends[numbers[list(results)]] = True
    return _Kinds(numbers, ends, numbers[ord(last)], numbers[ord(repeats)])


_REQUESTS = _kinds(b"PBDES", results=b"E", last=b"S")
_RESPONSES = _kinds(b"DZC123tTnIs", results=b"CIs", last=b"Z", repeats=b"D")


class _Walk:
    """Goes over the messages of all payloads at once.

    bytes: of all payloads (m, w), flat. starts: intp (m,), where each starts; at: where the next message of
    it does. ends: where what was captured ends; totals: where all that was sent ends. kinds: uint64 (m,), the
    kinds so far. fits: bool (m,). shares: uint64 (m,), of where all results ended that others follow;
    _ended: int64 (m,), where the last one did, counted from its start, until another follows it.
    """

    def __init__(self, slots: np.ndarray, side: str, rows: NDArray[np.intp]) -> None:
        payload = slots[side][rows]
        width = payload.shape[1]
        self.payload = payload
        self.bytes = np.concatenate([payload.reshape(-1), np.zeros(_PADDING, np.uint8)])
        self.starts = np.arange(len(rows)) * width
        self.at = self.starts.copy()
        self.ends = self.at + np.minimum(slots[f"{side}_length"][rows], width)
        self.totals = self.at + slots[f"{side}_bytes"][rows].astype(np.int64)
        self.kinds = np.zeros(len(rows), np.uint64)
        self.fits = self.ends - self.at >= _HEADER_BYTES
        self.shares = np.zeros(len(rows), np.uint64)
        self._ended = np.zeros(len(rows), np.int64)
        self._some_ended = False
        self._lengths = np.ndarray(len(self.bytes) - 3, ">u4", self.bytes.data, strides=(1,))
        self._words = np.ndarray(len(self.bytes) - 7, "<u8", self.bytes.data, strides=(1,))

    def steps(self, side: _Kinds) -> Iterator[tuple[NDArray[np.intp], NDArray[np.uint64], NDArray[np.int64]]]:
        """Yield at each step which payloads have a message, its kind, where it ends; then go behind it."""
        rows = np.flatnonzero(self.fits)
        for _ in range(_STEPS):
            at = self.at[rows]
            kinds = side.numbers[self.bytes[at]]
            ends = at + 1 + self._lengths[at + 1]
            bad = (kinds == 0) | (ends < at + _HEADER_BYTES) | (ends > self.totals[rows])
            if bad.any():
                self.fits[rows[bad]] = False
                rows, kinds, ends = rows[~bad], kinds[~bad], ends[~bad]
            yield rows, kinds, ends
            self._note_results(side, rows, kinds, ends)
            again = (kinds == side.repeats) & ((self.kinds[rows] & np.uint64(31)) == side.repeats)
            self.kinds[rows] = np.where(again, self.kinds[rows], (self.kinds[rows] << np.uint64(5)) | kinds)
            self.at[rows] = ends
            rows = rows[self.fits[rows]]
            rows = rows[self.at[rows] + _HEADER_BYTES <= self.ends[rows]]
            if not len(rows):
                return
        self.fits[rows] = False

    def _note_results(
        self, side: _Kinds, rows: NDArray[np.intp], kinds: NDArray[np.uint64], ends: NDArray[np.int64]
    ) -> None:
        if self._some_ended:
            self._share(rows[kinds != side.last])
        ended = side.results[kinds]
        if ended.any():
            self._some_ended = True
            self._ended[rows[ended]] = (ends - self.starts[rows])[ended]

    def _share(self, rows: NDArray[np.intp]) -> None:
        """Have what precedes `rows` (k,) end where the last result did."""
        rows = rows[self._ended[rows] > 0]
        self.shares[rows] = _mixed(self.shares[rows], self._ended[rows].view(np.uint64))
        self._ended[rows] = 0

    def end(self, more: NDArray[np.bool_]) -> None:
        """Take it that more results follow beyond the prefix of those payloads (m,)."""
        if self._some_ended:
            self._share(np.flatnonzero(more))

    def words(self, at: NDArray[np.intp], lengths: NDArray[np.integer], count: int) -> NDArray[np.uint64]:
        """Return `count` words (k, count) from `at` (k,), of which `lengths` (k,) bytes count."""
        columns = 8 * np.arange(count)
        valid = np.clip(lengths[:, None] - columns, 0, 8)
        places = np.minimum(at[:, None] + columns, len(self._words) - 1)
        words: NDArray[np.uint64] = self._words[places] & _BYTE_MASKS[valid]
        return words


def _hash(outline: NDArray[np.uint64]) -> NDArray[np.uint64]:
    return row_hash(outline.view(np.uint8), np.full(len(outline), 8 * outline.shape[1]))


def _mixed(before: NDArray[np.uint64], more: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return what stands for both: for `more` itself where nothing was before."""
    return before * _SPREAD + more


def response_outlines(
    slots: np.ndarray, rows: NDArray[np.intp]
) -> tuple[NDArray[np.bool_], NDArray[np.uint64]]:
    """Return which responses of `rows` (m,) have an outline, and its hash (m,).

    It is the kinds of the messages, the number of columns, the tags, and whether all of it was captured.
    """
    walk = _Walk(slots, "response", rows)
    outline = np.zeros((len(rows), 4 + _TAG_WORDS), np.uint64)
    tag, description = _RESPONSES.numbers[list(b"CT")]
    for mine, kinds, ends in walk.steps(_RESPONSES):
        _take_tags(walk, outline, mine[kinds == tag], ends[kinds == tag])
        _take_descriptions(walk, outline, mine[kinds == description])
    rest = walk.totals - walk.at
    hidden = walk.at >= walk.ends
    ready = (rest == _READY_BYTES) & (hidden | (walk.bytes[np.minimum(walk.at, walk.ends)] == ord("Z")))
    cut = (rest > 0) & ~ready
    walk.end(cut)
    outline[:, 0] = np.where(ready, (walk.kinds << np.uint64(5)) | _RESPONSES.last, walk.kinds)
    outline[:, 1] = cut
    outline[:, 3] = walk.shares
    return walk.fits, _hash(outline)


def _take_tags(
    walk: _Walk, outline: NDArray[np.uint64], rows: NDArray[np.intp], ends: NDArray[np.int64]
) -> None:
    """Take the tags of responses; those with a long or a cut one have no outline."""
    if not len(rows):
        return
    at = walk.at[rows] + _HEADER_BYTES
    lengths = ends - at
    walk.fits[rows[(ends > walk.ends[rows]) | (lengths > 8 * _TAG_WORDS)]] = False
    outline[rows, 4:] = _mixed(outline[rows, 4:], walk.words(at, lengths, _TAG_WORDS))


def _take_descriptions(walk: _Walk, outline: NDArray[np.uint64], rows: NDArray[np.intp]) -> None:
    """Take the number of columns: the last one, those before it have ended."""
    if not len(rows):
        return
    at = walk.at[rows] + _HEADER_BYTES
    walk.fits[rows[at + 2 > walk.ends[rows]]] = False
    number = (walk.bytes[at].astype(np.uint64) << np.uint64(8)) | walk.bytes[at + 1]
    outline[rows, 2] = number + np.uint64(1)


def request_outlines(
    slots: np.ndarray, rows: NDArray[np.intp]
) -> tuple[NDArray[np.bool_], NDArray[np.uint64]]:
    """Return which requests of `rows` (m,) have an outline, and its hash (m,).

    It is the kinds of the messages, the statements as far as captured, the names of those that are bound, but
    for its own (`names`), and how many bytes are beyond the prefix. Portals have none.
    """
    fits, hashes = np.zeros(len(rows), bool), np.zeros(len(rows), np.uint64)
    # Of a simple query nothing can be left out.
    extended = np.flatnonzero(_BEGINS[slots["request"][rows, 0]])
    if len(extended):
        names = names_of(slots, rows[extended])
        fits[extended], hashes[extended] = _extended_outlines(
            _Requests(_Walk(slots, "request", rows[extended]), names)
        )
    return fits, hashes


class _Requests:
    """Requests (m,) with their own names. outline: uint64 (m, w), what is seen of each, column by column."""

    def __init__(self, walk: _Walk, names: Names) -> None:
        self.walk = walk
        self.names = names
        self.outline = np.zeros((len(walk.at), 5 + NAME_WORDS), np.uint64)

    def take_parse(self, rows: NDArray[np.intp], ends: NDArray[np.int64]) -> None:
        """Take a statement without a name, or with its own."""
        walk, own = self.walk, self.names.lengths
        first = walk.kinds[rows] == 0
        at, captured = walk.at[rows], np.minimum(ends, walk.ends[rows])
        named = own[rows] * first
        unnamed = walk.bytes[np.minimum(at + _HEADER_BYTES, walk.ends[rows])] == 0
        walk.fits[rows[(captured <= at + _HEADER_BYTES) | ~(unnamed | (named > 0))]] = False
        # Most requests begin with one, without a name.
        plain = first & (named == 0)
        self.outline[rows[plain], 2] = row_hash(walk.payload[rows[plain]], (captured - at)[plain])
        others = np.flatnonzero(~plain)
        if len(others):
            start = at[others] + _HEADER_BYTES + named[others]
            lengths = np.maximum(captured[others] - start, 0)
            words = walk.words(start, lengths, walk.payload.shape[1] // 8)
            self._mix(rows[others], 2, row_hash(words.view(np.uint8), lengths))

    def take_bind(self, rows: NDArray[np.intp], ends: NDArray[np.int64]) -> None:
        """Take the portal without a name, and the statement's name up to its zero."""
        walk = self.walk
        at = walk.at[rows] + _HEADER_BYTES
        names, lengths = self._names(at + 1)
        captured = at + 1 + lengths < np.minimum(ends, walk.ends[rows])
        walk.fits[rows[(walk.bytes[at] != 0) | (lengths >= 8 * NAME_WORDS) | ~captured]] = False
        self._take_names(rows, names)

    def take_describe(self, rows: NDArray[np.intp], ends: NDArray[np.int64]) -> None:
        """Take the portal without a name, a P and a zero, or the statement of the request's own name."""
        walk = self.walk
        at = walk.at[rows] + _HEADER_BYTES
        names, lengths = self._names(at + 1)
        whole = (ends == at + 2 + lengths) & (ends <= walk.ends[rows])
        portal = (walk.bytes[at] == ord("P")) & (lengths == 0)
        statement = (walk.bytes[at] == ord("S")) & (lengths > 0) & self._are_own(rows, names)
        walk.fits[rows[~whole | ~(portal | statement)]] = False
        self._take_names(rows, names)

    def take_execute(self, rows: NDArray[np.intp], ends: NDArray[np.int64]) -> None:
        """Take the portal without a name."""
        walk = self.walk
        at = walk.at[rows] + _HEADER_BYTES
        walk.fits[rows[(ends > walk.ends[rows]) | (walk.bytes[at] != 0)]] = False

    def _names(self, at: NDArray[np.intp]) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
        return until_zero(self.walk.words(at, np.full(len(at), 8 * NAME_WORDS), NAME_WORDS))

    def _are_own(self, rows: NDArray[np.intp], names: NDArray[np.uint64]) -> NDArray[np.bool_]:
        own: NDArray[np.bool_] = (names == self.names.words[rows]).all(axis=1)
        return own & (self.names.lengths[rows] > 0)

    def _take_names(self, rows: NDArray[np.intp], names: NDArray[np.uint64]) -> None:
        """Of the request's own name only that it is this one."""
        own = self._are_own(rows, names)
        self._mix(rows, 4, own.astype(np.uint64) + np.uint64(1))
        self.outline[rows, 5:] = _mixed(self.outline[rows, 5:], np.where(own[:, None], np.uint64(0), names))

    def _mix(self, rows: NDArray[np.intp], column: int, more: NDArray[np.uint64]) -> None:
        self.outline[rows, column] = _mixed(self.outline[rows, column], more)


def _extended_outlines(requests: _Requests) -> tuple[NDArray[np.bool_], NDArray[np.uint64]]:
    walk, outline = requests.walk, requests.outline
    takers = (
        ("P", requests.take_parse),
        ("B", requests.take_bind),
        ("D", requests.take_describe),
        ("E", requests.take_execute),
    )
    for mine, kinds, ends in walk.steps(_REQUESTS):
        for kind, take in takers:
            chosen = kinds == _REQUESTS.numbers[ord(kind)]
            if chosen.any():
                take(mine[chosen], ends[chosen])
    # Of the own name it is how long it is.
    outline[:, 0] = (walk.kinds << np.uint64(6)) | requests.names.lengths.astype(np.uint64)
    outline[:, 1] = np.minimum(walk.totals - walk.at, _MOST_REST)
    outline[:, 3] = walk.shares
    return walk.fits, _hash(outline)
