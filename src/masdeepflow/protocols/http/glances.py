"""Requests on columns: what most of those are that were never seen before is told without reading each.

A glance tells method, version, and where the message ends. Path, query, host and the like are read when a
sink asks for them.
"""

from __future__ import annotations

from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from masdeepflow.coded import Coded
from masdeepflow.protocols.http.heads import UNKNOWN, VERSIONS, Request, read_request
from masdeepflow.table import ABSENT, Encoded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

__all__ = ["Requests", "Unread", "glance"]

_METHODS = ["GET", "POST", "HEAD", "PUT", "DELETE", "PATCH", "OPTIONS"]
_NO_METHOD = len(_METHODS)
_WORD = 8
_LF, _CR, _SPACE, _DELETE, _ZERO = 0x0A, 0x0D, 0x20, 0x7F, 0x30
_TAIL = len(b" HTTP/1.1\r")
_NOT_TARGET = 4  # of a request line: two spaces, CR, LF
_LOWER = np.uint64(0x2020202020202020)


def _word(text: bytes) -> np.uint64:
    return np.uint64(int.from_bytes(text[:_WORD], "little"))


_STARTS = [_word(f"{method} ".encode()) for method in _METHODS]
_START_MASKS = [_word(b"\xff" * (len(method) + 1)) for method in _METHODS]
_TARGETS = np.array([len(method) + 1 for method in _METHODS] + [0])
_PROTOCOL = _word(b" HTTP/1.")
# Of the headers that tell where a body ends; others that start like them are read one by one, too.
_CONTENT, _TRANSFER = _word(b"content-"), _word(b"transfer")


def glance(
    payload: NDArray[np.uint8], lengths: NDArray[np.integer]
) -> tuple[NDArray[np.bool_], Coded[Request], Unread]:
    """Look at requests (k, w), w a multiple of 8, of valid lengths (k,).

    Return which (k,) a glance is enough for; and of those (m,) what it tells, and the rest as bytes. That is
    what `read_request` gives: of a whole request line with a common method, behind which the head goes on
    beyond what was captured, or ends in it and has no header that tells of a body.
    """
    block = _padded(payload, lengths)
    words = np.ndarray((block.size - _WORD + 1,), "<u8", buffer=block, strides=(1,))
    starts = np.arange(len(block)) * block.shape[1]
    feeds = block == _LF
    line_end = feeds.argmax(axis=1)
    method = _methods(words[starts])
    tail = np.maximum(line_end - _TAIL, 0)
    last = words[starts + tail + _TAIL - _WORD]  # the end of `HTTP/1.1`, and CR
    version = (last >> np.uint64(48) & np.uint64(0xFF)).astype(np.int64) - _ZERO
    fits = (method != _NO_METHOD) & (tail > _TARGETS[method]) & (words[starts + tail] == _PROTOCOL)
    fits &= (last >> np.uint64(56) == _CR) & (version >= 0) & (version < len(VERSIONS))
    fits &= _not_target(block, line_end) == _NOT_TARGET
    end = _head_ends(block, feeds)
    ended = fits & (end != UNKNOWN)
    if ended.any():
        fits &= ~_may_have_body(block, words, feeds & ended[:, None])
    numbers = (((end - UNKNOWN) * len(_METHODS) + method) * len(VERSIONS) + version)[fits]
    distinct, codes = np.unique(numbers, return_inverse=True)
    told = Coded(codes.astype(np.int32), list(map(_told, distinct.tolist())))
    return fits, told, Unread(block, lengths).take(fits)


def _told(number: int) -> Request:
    rest, version = divmod(number, len(VERSIONS))
    end, method = divmod(rest, len(_METHODS))
    return Request(None, _METHODS[method], None, None, version, None, None, end + UNKNOWN)


def _padded(payload: NDArray[np.uint8], lengths: NDArray[np.integer]) -> NDArray[np.uint8]:
    """Return a copy with zeros behind the valid bytes, enough to read words anywhere."""
    count, width = payload.shape
    width = min(-(-int(lengths.max(initial=0)) // _WORD) * _WORD, width)
    block = np.zeros((count, width + 2 * _WORD), np.uint8)
    block[:, :width] = payload[:, :width]
    if int(lengths.min(initial=width)) < width:
        block[np.arange(block.shape[1], dtype=np.uint16) >= lengths.astype(np.uint16)[:, None]] = 0
    return block


def _methods(first: NDArray[np.uint64]) -> NDArray[np.intp]:
    method = np.full(len(first), _NO_METHOD)
    for number, (start, mask) in enumerate(zip(_STARTS, _START_MASKS, strict=True)):
        method[(first & mask) == start] = number
    return method


def _not_target(block: NDArray[np.uint8], line_end: NDArray[np.intp]) -> NDArray[np.intp]:
    """Return how many bytes (k,) up to the line's end can't be part of a target (RFC 9112 section 3.2)."""
    width = int(line_end.max(initial=0)) + 1
    line = block[:, :width]
    others = (line <= _SPACE) | (line == _DELETE)
    others &= np.arange(width, dtype=np.uint16) <= line_end.astype(np.uint16)[:, None]
    count: NDArray[np.intp] = np.count_nonzero(others, axis=1)
    return count


def _head_ends(block: NDArray[np.uint8], feeds: NDArray[np.bool_]) -> NDArray[np.int64]:
    """Return where the heads (k,) end, behind their blank lines; `UNKNOWN` where none was captured."""
    bare = feeds[:, :-2] & feeds[:, 1:-1]
    blank = feeds[:, :-2] & (block[:, 1:-1] == _CR) & feeds[:, 2:]
    blank |= bare
    first = blank.argmax(axis=1)
    rows = np.arange(len(block))
    return np.where(blank[rows, first], first + 3 - bare[rows, first], UNKNOWN)


def _may_have_body(
    block: NDArray[np.uint8], words: NDArray[np.uint64], feeds: NDArray[np.bool_]
) -> NDArray[np.bool_]:
    """Return which requests (k,) have a line that starts like a header that tells of a body."""
    places = np.flatnonzero(feeds)
    names = words[places + 1] | _LOWER
    telling = places[(names == _CONTENT) | (names == _TRANSFER)]
    found = np.zeros(len(block), bool)
    found[telling // block.shape[1]] = True
    return found


class Unread:
    """Requests (k, w) as bytes, of valid lengths (k,), until somebody asks for them."""

    def __init__(self, payload: NDArray[np.uint8], lengths: NDArray[np.integer]) -> None:
        self._payload = payload
        self._lengths = lengths

    def take(self, rows: NDArray[np.bool_]) -> Unread:
        """Return those of `rows` (k,)."""
        return self if rows.all() else Unread(self._payload[rows], self._lengths[rows])

    @cached_property
    def requests(self) -> list[Request]:
        """All of them."""
        data, width = self._payload.tobytes(), self._payload.shape[1]
        lengths = self._lengths.tolist()
        return [read_request(data[at * width : at * width + length]) for at, length in enumerate(lengths)]

    def request(self, place: int) -> Request:
        """One of them, without reading the others."""
        return read_request(self._payload[place, : self._lengths[place]].tobytes())


class Requests(NamedTuple):
    """n requests. coded: what is known of each. own: int32 (n,), its place in `unread`, else `ABSENT`.

    own is None where all are read.
    """

    coded: Coded[Request]
    own: NDArray[np.int32] | None
    unread: Unread | None

    def take(self, rows: NDArray[np.intp] | slice) -> Requests:
        """Return `rows` (m,)."""
        return Requests(self.coded.take(rows), None if self.own is None else self.own[rows], self.unread)

    def joined(self, others: Iterable[Request], order: NDArray[np.intp]) -> Requests:
        """Return these rows and one for each of `others`, put in `order` (m,)."""
        coded = self.coded.joined(others, order)
        if self.own is None:
            return Requests(coded, None, None)
        more = np.full(len(order) - len(self.own), ABSENT, np.int32)
        return Requests(coded, np.concatenate([self.own, more])[order], self.unread)

    def strings(self, show: Callable[[Request], str | None]) -> Encoded:
        """Return what each request shows of what a glance does not tell."""
        own, unread = self.own, self.unread
        if own is None or unread is None:
            return self.coded.strings(show)
        codes, values = self.coded

        def make() -> tuple[NDArray[np.int32], list[str]]:
            table = Encoded.from_list([show(one) for one in [*values, *unread.requests]])
            return table.codes[np.where(own == ABSENT, codes, own + np.int32(len(values)))], table.values

        def some(rows: NDArray[np.integer]) -> list[str | None]:
            places = zip(own[rows].tolist(), codes[rows].tolist(), strict=True)
            return [
                show(values[code] if place == ABSENT else unread.request(place)) for place, code in places
            ]

        return Encoded.later(np.arange(len(own)), make, some)
