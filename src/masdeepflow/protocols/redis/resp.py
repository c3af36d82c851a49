"""RESP2 and RESP3: where commands and replies begin and end, on columns and in one turn.

Source: Redis serialization protocol specification (https://redis.io/docs/latest/develop/reference/protocol-spec/).

::

    * 2 CR LF   $ 3 CR LF G E T CR LF   $ 5 CR LF k e y : 1 CR LF        a command: an array of bulk strings
    + O K CR LF | - E R R ... CR LF | : 1 CR LF | $ -1 CR LF             replies
"""

from __future__ import annotations

import string
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = ["NONE", "Frame", "Frames", "elements", "read_arguments", "read_frame", "walk"]

NONE = -1
"""End of a frame that is not known: its bytes go on beyond what was captured."""

_CR, _LF = 0x0D, 0x0A
_SIZED, _AGGREGATE, _MAP, _ATTRIBUTE, _LINE = range(1, 6)
_TYPES = {
    **dict.fromkeys(b"$=!", _SIZED),
    **dict.fromkeys(b"*~>", _AGGREGATE),
    **dict.fromkeys(b"%", _MAP),
    **dict.fromkeys(b"|", _ATTRIBUTE),
    **dict.fromkeys(b"+-:_,#(", _LINE),
}
_REPLY = np.array([_TYPES.get(byte, 0) for byte in range(256)], np.uint8)
# What starts with a letter is an inline command.
_COMMAND_TYPES = {
    ord("*"): _AGGREGATE,
    ord("$"): _SIZED,
    **dict.fromkeys(string.ascii_letters.encode(), _LINE),
}
_REQUEST = np.array([_COMMAND_TYPES.get(byte, 0) for byte in range(256)], np.uint8)

_WORD = 8
_NUMBER_MOST = 10  # digits of the largest number that is believed
_ONES, _HIGHS = np.uint64(0x0101010101010101), np.uint64(0x8080808080808080)
_CRS = _ONES * np.uint64(_CR)
_ZEROS = _ONES * np.uint64(ord("0"))
_PLACES = np.uint64(0x0001020304050607)  # of a lone bit 8 * i, shifted to the top byte: i
_NULL = np.uint64(int.from_bytes(b"-1\r\n", "little"))
_HALF = np.uint64(0xFFFFFFFF)
_NO_NUMBER = -2
_SECOND = 3  # element of a command: head, name, argument


class Frames(NamedTuple):
    """Frames at the start of n sides of turns: m of them, in the order of rows and bytes.

    row: intp (m,). start, end: int64 (m,), bytes from the row's first, `NONE` where the end is not known; it
    may be beyond what was captured. kind: uint8 (m,), first byte. argument, argument_end: int64 (m,), where
    the text of the second element begins and where it ended, 0 where it was not reached.
    ended: int64 (n,), end of the last frame whose end is known. good: bool (n,), nothing else was found.
    """

    row: NDArray[np.intp]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    kind: NDArray[np.uint8]
    argument: NDArray[np.int64]
    argument_end: NDArray[np.int64]
    ended: NDArray[np.int64]
    good: NDArray[np.bool_]


def _after_cr(word: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return how many bytes (m,) of each word lie before its first CR, 8 where it has none."""
    other = word ^ _CRS
    hits = (other - _ONES) & ~other & _HIGHS
    lowest = (hits & (~hits + np.uint64(1))) >> np.uint64(7)
    place = ((lowest * _PLACES) >> np.uint64(56)).astype(np.int64)
    return np.where(hits == 0, _WORD, place)


def _numbers(word: NDArray[np.uint64], digits: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the decimal number (m,) in the first `digits` (up to 8) bytes, `_NO_NUMBER` for none."""
    value = (word - _ZEROS) << (np.uint64(8) * (_WORD - digits).astype(np.uint64))
    wrong = ((value + _ONES * np.uint64(0x76)) | value) & _HIGHS
    value = value * np.uint64(10) + (value >> np.uint64(8))
    low = (value & np.uint64(0x000000FF000000FF)) * np.uint64(0x000F424000000064)
    high = ((value >> np.uint64(16)) & np.uint64(0x000000FF000000FF)) * np.uint64(0x0000271000000001)
    number = ((low + high) >> np.uint64(32)).astype(np.int64)
    return np.where((wrong == 0) & (digits > 0) & (digits <= _WORD), number, _NO_NUMBER)


class _Walk:
    """Rows on their way through their frames, one element of each a step."""

    def __init__(self, payload: NDArray[np.uint8], lengths: NDArray[np.integer], *, requests: bool) -> None:
        count, width = payload.shape
        # A row more, so that words can be read at every byte.
        self._flat = np.zeros((count + 1) * width + _WORD, np.uint8)
        self._flat[: count * width].reshape(count, width)[:] = payload
        self._words = np.ndarray((len(self._flat) - _WORD + 1,), "<u8", buffer=self._flat, strides=(1,))
        self._requests = requests
        self._types = _REQUEST if requests else _REPLY
        self.ended = np.zeros(count, np.int64)
        self.good = np.ones(count, bool)
        self.found: list[tuple[NDArray[np.int64], ...]] = []
        rows = np.flatnonzero(lengths > 0)
        zero = np.zeros(len(rows), np.int64)
        # row, base, limit, at, start, need, index, argument, its end, kind
        self._state = np.stack([rows, rows * width, np.minimum(lengths[rows], width), *[zero] * 7])
        self._state[5] = 1

    def run(self) -> None:
        """Go on until no row has another element to be seen."""
        while self._state.shape[1]:
            self._step()

    def _step(self) -> None:
        row, base, limit, at, start, need, index, argument, argument_end, kind = self._state
        place = base + at
        byte, word = self._flat[place], self._words[place + 1]
        first = index == 0
        np.copyto(kind, byte, where=first)
        form = self._types[byte]
        line = self._line_ends(place + 1, word, base + limit)
        number = self._numbers(place + 1, word, line)
        null = (word & _HALF) == _NULL
        size = line + 3  # type, CR, LF
        sized = form == _SIZED
        counted = (form > _SIZED) & (form < _LINE)
        seen = (at + size <= limit) & (self._flat[np.minimum(place + size - 1, len(self._flat) - 1)] == _LF)
        known = form > 0
        if self._requests:
            null &= False
            known &= first != sized
        valid = known & ((form == _LINE) | null | (number >= 0))
        end = at + size + np.where(sized & ~null, number + 2, 0)
        going = seen & valid & self._closed(base, end, limit, sized & ~null)
        more = np.where(counted & ~null, number << (form == _MAP), 0)
        more = np.where((form == _ATTRIBUTE) & ~null, 2 * number + 1, more)
        need += more - 1
        index += 1
        second = index == _SECOND
        np.copyto(argument, at + size, where=second)
        np.copyto(argument_end, end, where=second)
        cut = (known & ~seen & (at + size > limit)) | (going & (end >= limit) & (need > 0))
        self.good[row[~going & ~cut]] = False
        self._note_cut(cut)
        done = going & (need == 0)
        self.found.append((row[done], start[done], end[done], kind[done], argument[done], argument_end[done]))
        self.ended[row[done]] = end[done]
        for column, value in ((start, end), (need, 1), (index, 0), (argument, 0), (argument_end, 0)):
            np.copyto(column, value, where=done)
        np.copyto(at, end)
        going &= end < limit
        if not going.all():
            self._state = self._state[:, going]

    def _numbers(
        self, place: NDArray[np.int64], word: NDArray[np.uint64], digits: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return the decimal number (m,) of so many digits from `place` on, `_NO_NUMBER` for none."""
        number = _numbers(word, digits)
        if int(digits.max(initial=0)) <= _WORD:
            return number
        long = np.flatnonzero((digits > _WORD) & (digits <= _NUMBER_MOST))
        if len(long):
            more = digits[long] - _WORD
            head = _numbers(word[long], np.full(len(long), _WORD))
            tail = _numbers(self._words[place[long] + _WORD], more)
            number[long] = np.where((head >= 0) & (tail >= 0), head * 10**more + tail, _NO_NUMBER)
        return number

    def _line_ends(
        self, place: NDArray[np.int64], word: NDArray[np.uint64], stop: NDArray[np.int64]
    ) -> NDArray[np.int64]:
        """Return how many bytes (m,) from `place` lie before the first CR, or before `stop`."""
        before = _after_cr(word)
        far = np.flatnonzero(before == _WORD)
        while len(far):
            far = far[place[far] + before[far] < stop[far]]
            step = _after_cr(self._words[place[far] + before[far]])
            before[far] += step
            far = far[step == _WORD]
        return before

    def _closed(
        self,
        base: NDArray[np.int64],
        end: NDArray[np.int64],
        limit: NDArray[np.int64],
        sized: NDArray[np.bool_],
    ) -> NDArray[np.bool_]:
        """Return which elements (m,) end in CR LF, as far as that is to be seen."""
        checked = np.flatnonzero(sized & (end <= limit))
        closed = np.ones(len(base), bool)
        last = base[checked] + end[checked]
        closed[checked] = (self._flat[last - 2] == _CR) & (self._flat[last - 1] == _LF)
        return closed

    def _note_cut(self, cut: NDArray[np.bool_]) -> None:
        """Note frames of which only a part is to be seen."""
        if cut.any():
            row, _, _, _, start, _, _, argument, argument_end, kind = self._state[:, cut]
            self.found.append((row, start, np.full(len(row), NONE), kind, argument, argument_end))


def walk(payload: NDArray[np.uint8], lengths: NDArray[np.integer], *, requests: bool) -> Frames:
    """Return the frames of the rows (n, w), w a multiple of 8, with valid lengths (n,).

    requests: arrays of bulk strings, and lines (inline commands); else replies of any type.
    """
    steps = _Walk(payload, lengths, requests=requests)
    steps.run()
    columns = [np.concatenate(parts) for parts in zip(*steps.found, strict=True)] or [
        np.zeros(0, np.int64)
    ] * 6
    order = np.argsort(columns[0], kind="stable")
    row, start, end, kind, argument, argument_end = (column[order] for column in columns)
    return Frames(row, start, end, kind.astype(np.uint8), argument, argument_end, steps.ended, steps.good)


class Frame(NamedTuple):
    """A frame of one side of a turn.

    start, end: bytes from the first; end is `NONE` where it is not known. It may be beyond what was captured.
    """

    start: int
    end: int


def _line(data: bytes, at: int) -> tuple[bytes, int]:
    """Return the line at `at` without CR LF, and where the next begins; `NONE` if it is cut, 0 if wrong."""
    end = data.find(b"\r", at)
    if end < 0 or end + 1 == len(data):
        return data[at:], NONE
    return data[at:end], end + 2 if data[end + 1] == _LF else 0


def _number(line: bytes) -> int:
    """Return the number behind the type; -1 for null, `_NO_NUMBER` for none."""
    digits = line[1:]
    if digits == b"-1":
        return -1
    return int(digits) if digits.isdigit() and len(digits) <= _NUMBER_MOST else _NO_NUMBER


def read_frame(data: bytes, at: int, *, requests: bool) -> Frame | None:
    """Return the frame at `at` < len(data), None if there is none."""
    start, need, first = at, 1, True
    while need:
        if at >= len(data):
            return Frame(start, NONE)
        form = int((_REQUEST if requests else _REPLY)[data[at]])
        line, after = _line(data, at)
        if not form or not after or (requests and first == (form == _SIZED)):
            return None
        if after == NONE:
            return Frame(start, NONE)
        number = 0 if form == _LINE else _number(line)
        if number == _NO_NUMBER or (requests and number < 0):
            return None
        need += _elements(form, number) - 1
        at, first = after, False
        if form == _SIZED and number >= 0:
            at += number + 2
            if at <= len(data) and data[at - 2 : at] != b"\r\n":
                return None
    return Frame(start, at)


def elements(data: bytes, frame: Frame, *, requests: bool) -> Iterator[tuple[int, int, int]]:
    """Yield kind, start and end of the text of each element of a frame that `read_frame` found, as captured.

    A string's text are its bytes, a number's its digits; all others have none.
    """
    at, end = frame.start, frame.end if frame.end >= 0 else len(data)
    while at < min(end, len(data)):
        kind = data[at]
        line, after = _line(data, at)
        if after == NONE:
            yield kind, at, at
            return
        size = _number(line) if (_REQUEST if requests else _REPLY)[kind] == _SIZED else NONE
        if size >= 0:
            yield kind, min(after, len(data)), min(after + size, len(data))
            after += size + 2
        elif kind == ord(":"):
            yield kind, at + 1, after - 2
        else:
            yield kind, at, at
        at = after


def _elements(form: int, number: int) -> int:
    """Return how many elements belong to one that says `number`."""
    if form == _ATTRIBUTE:
        return 2 * number + 1 if number >= 0 else 0
    return max(number, 0) * (form in {_AGGREGATE, _MAP}) * (1 + (form == _MAP))


def read_arguments(data: bytes) -> tuple[list[bytes], bool]:
    """Return the arguments of the command that `data` starts with, and whether the last of them is cut."""
    line, at = _line(data, 0)
    if not line.startswith(b"*"):
        return line.split(), at == NONE
    arguments: list[bytes] = []
    while 0 < at < len(data):
        line, at = _line(data, at)
        size = _number(line)
        if at <= 0 or not line.startswith(b"$") or size < 0:
            break
        arguments.append(data[at : at + size])
        if at + size > len(data):
            return arguments, True
        at += size + 2
    return arguments, False
