"""BSON documents on columns: all documents at once, one element of each a step.

Source: https://bsonspec.org/spec.html, version 1.1.

::

    | size (4) | type (1) name NUL value | type name NUL value | ... | 0 |
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from masdeepflow.columns import find_byte

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["DOCUMENTS", "NUMBERS", "STRING", "Bytes", "Elements", "lay_out", "walk"]

STRING = 0x02
"""Type of a text: its size with the NUL at its end, the text, NUL."""
DOCUMENTS = (0x03, 0x04)
"""Types of documents and arrays, which are documents too."""
_DOUBLE, _BOOL, _INT32, _INT64 = 0x01, 0x08, 0x10, 0x12
NUMBERS = (_DOUBLE, _BOOL, _INT32, _INT64)
"""Types whose value `Bytes.numbers` gives."""

_ELEMENTS_MOST = 64
"""Elements looked at in one document: whoever has more has arranged that."""
_FIXED = {
    _DOUBLE: 8,
    0x06: 0,
    0x07: 12,
    _BOOL: 1,
    0x09: 8,
    0x0A: 0,
    _INT32: 4,
    0x11: 8,
    _INT64: 8,
    0x13: 16,
    0x7F: 0,
    0xFF: 0,
}
_SIZED = {STRING: (4, 1), 0x03: (0, 5), 0x04: (0, 5), 0x05: (5, 0), 0x0D: (4, 1), 0x0E: (4, 1), 0x0F: (0, 14)}
"""Type -> bytes of a value beyond the size that it starts with, and the least size there is."""
_SPAN, _LEAST = np.zeros(256, np.int64), np.zeros(256, np.int64)
_IS_SIZED, _KNOWN = np.zeros(256, bool), np.zeros(256, bool)
for _type, _size in _FIXED.items():
    _SPAN[_type], _KNOWN[_type] = _size, True
for _type, (_more, _least) in _SIZED.items():
    _SPAN[_type], _LEAST[_type], _IS_SIZED[_type], _KNOWN[_type] = _more, _least, True, True

_WORD = 8
_ONES, _HIGHS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
_PLACES = np.uint64(0x0001020304050607)  # of a lone bit 8 * i, shifted to the top byte: i
_MASKS = np.array([(1 << 8 * count) - 1 for count in range(_WORD + 1)], np.uint64)
_NO_NUMBER = np.iinfo(np.int64).min
_LARGEST = float(1 << 53)
_NAMELESS = -1


def _before_nul(word: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return how many bytes (m,) of each word lie before its first NUL, 8 where it has none."""
    hits = (word - _ONES) & ~word & _HIGHS
    lowest = (hits & (~hits + np.uint64(1))) >> np.uint64(7)
    place = ((lowest * _PLACES) >> np.uint64(56)).astype(np.int64)
    return np.where(hits == 0, _WORD, place)


class Bytes(NamedTuple):
    """Payloads one behind the other, to be read at any place. words: the eight bytes from each place on."""

    flat: NDArray[np.uint8]
    words: NDArray[np.uint64]

    def int32(self, place: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the signed integers (m,) at `place` (m,)."""
        found: NDArray[np.int64] = self.words[place].astype(np.uint32).view(np.int32).astype(np.int64)
        return found

    def text_length(self, place: NDArray[np.int64], stop: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return how many bytes (m,) from `place` lie before a NUL; any number that reaches `stop`."""
        before = _before_nul(self.words[place])
        far = np.flatnonzero(before == _WORD)
        while len(far):
            far = far[place[far] + before[far] < stop[far]]
            step = _before_nul(self.words[place[far] + before[far]])
            before[far] += step
            far = far[step == _WORD]
        return before

    def numbers(self, kind: NDArray[np.uint8], place: NDArray[np.int64]) -> NDArray[np.int64]:
        """Return the values (m,) of elements of the types `NUMBERS`; far below 0 where they are none."""
        word = self.words[place]
        with np.errstate(invalid="ignore"):
            doubles = word.view(np.float64)
            whole = np.where(np.abs(doubles) < _LARGEST, doubles, _NO_NUMBER).astype(np.int64)
        result = np.where(kind == _INT64, word.view(np.int64), self.int32(place))
        result = np.where(kind == _DOUBLE, whole, result)
        result = np.where(kind == _BOOL, self.flat[place], result)
        return np.where(np.isin(kind, NUMBERS), result, _NO_NUMBER)

    def are(self, place: NDArray[np.int64], text: bytes) -> NDArray[np.bool_]:
        """Return at which places (m,) that text is."""
        width = len(text)
        windows = np.lib.stride_tricks.as_strided(
            self.flat, (len(self.flat) - width + 1, width), (1, 1), writeable=False
        )
        same: NDArray[np.bool_] = (windows[place] == np.frombuffer(text, np.uint8)).all(axis=1)
        return same

    def find(self, place: NDArray[np.int64], lengths: NDArray[np.int64], byte: int) -> NDArray[np.int64]:
        """Return how far (m,) behind `place` that byte is; `lengths` where it is not within them."""
        found = find_byte(self.texts(place, lengths), lengths, byte)
        return np.where(found < 0, lengths, found)

    def texts(self, place: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.uint8]:
        """Return `lengths` (m,) bytes from `place` (m,) on: (m, v), v a multiple of 8; stale behind them."""
        width = max((int(lengths.max(initial=0)) + 7) // 8 * 8, _WORD)
        room = len(self.flat) - width + 1
        windows = np.lib.stride_tricks.as_strided(self.flat, (room, width), (1, 1), writeable=False)
        texts: NDArray[np.uint8] = windows[place]
        return texts


def lay_out(payload: NDArray[np.uint8]) -> Bytes:
    """Return the rows (n, w) of a payload, with room behind them for any text of one row."""
    count, width = payload.shape
    flat = np.zeros((count + 1) * width + 2 * _WORD, np.uint8)
    flat[: count * width].reshape(count, width)[:] = payload
    return Bytes(flat, np.ndarray((len(flat) - _WORD + 1,), "<u8", buffer=flat, strides=(1,)))


class Elements(NamedTuple):
    """One element of each of m documents.

    row: intp (m,), which document. kind: uint8 (m,), type. name: uint64 (m,), the name's first eight bytes.
    length: of the name, -1 if it is cut. value: place of the value, behind the last byte then.
    after: place behind the value. whole: bool (m,), all bytes are there, and they are an element. valid: bool
    (m,), as far as they are there they are one.
    """

    row: NDArray[np.intp]
    kind: NDArray[np.uint8]
    name: NDArray[np.uint64]
    length: NDArray[np.int64]
    value: NDArray[np.int64]
    after: NDArray[np.int64]
    whole: NDArray[np.bool_]
    valid: NDArray[np.bool_]

    def called(self, data: Bytes, name: bytes) -> NDArray[np.intp]:
        """Return the places (k,) among the m of elements of that name."""
        first = np.uint64(int.from_bytes(name[:_WORD], "little"))
        found = np.flatnonzero((self.name == first) & (self.length == len(name)))
        for at in range(_WORD, len(name), _WORD):
            rest = name[at : at + _WORD]
            begins = self.value[found] - 1 - len(name)
            word = data.words[begins + at] & _MASKS[len(rest)]
            found = found[word == np.uint64(int.from_bytes(rest, "little"))]
        return found


def walk(data: Bytes, at: NDArray[np.int64], stop: NDArray[np.int64]) -> Iterator[Elements]:
    """Yield the first elements of documents (n,), then the second ones, and so on.

    at: place of the first one's type. stop: end of what there is of each document. The last element of each
    may be cut, or no element: then it is not `whole`, and not `valid` if it can't be one.
    """
    row = np.arange(len(at))
    for _ in range(_ELEMENTS_MOST):
        kind = data.flat[np.minimum(at, stop)]
        going = (at < stop) & (kind != 0)
        if not going.all():
            row, at, stop, kind = row[going], at[going], stop[going], kind[going]
        if not len(row):
            return
        length = data.text_length(at + 1, stop)
        value = np.minimum(at + length + 2, stop + 1)
        named = value <= stop
        size = data.int32(value)
        sized = _IS_SIZED[kind]
        after = value + _SPAN[kind] + np.where(sized, size, 0)
        seen = named & (~sized | (value + 4 <= stop))
        valid = _KNOWN[kind] & (~seen | ~sized | (size >= _LEAST[kind]))
        whole = seen & valid & (after <= stop)
        name = data.words[at + 1] & _MASKS[np.minimum(length, _WORD)]
        yield Elements(row, kind, name, np.where(named, length, _NAMELESS), value, after, whole, valid)
        row, at, stop = row[whole], after[whole], stop[whole]
