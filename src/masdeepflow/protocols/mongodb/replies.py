"""Replies: whether the command went well, and the error's code; never a value.

::

    OP_MSG:   flags | 0 | document: ok 1.0
                          document: ok 0.0 | errmsg ... | code 26 | codeName ...
                          document: n 0 | writeErrors: [ { index 0 | code 11000 | ... } ] | ok 1.0
    OP_REPLY: flags | cursor | from | number | document: $err ... | code 2

Servers put `ok` first where it is 0, so a reply that goes on beyond what was captured went well unless it
says otherwise before. Messages of errors quote values and are not shown.
"""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from masdeepflow.protocols.mongodb.commands import COMPRESSORS, ERRORS
from masdeepflow.protocols.mongodb.documents import DOCUMENTS, NUMBERS, walk
from masdeepflow.protocols.mongodb.requests import distinct
from masdeepflow.protocols.mongodb.wire import BODY, Opcode

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from masdeepflow.protocols.mongodb.documents import Bytes, Elements
    from masdeepflow.protocols.mongodb.wire import Frames

__all__ = ["HIDDEN_REPLY", "NO_REPLY", "Replies", "Reply", "opened_cursors", "read_replies"]

_ANSWER = "MongoDB Response: "
_BODY_KIND, _DOCUMENTS_AT = 20, 36  # offsets: the kind of an OP_MSG's section, the documents of an OP_REPLY
_COMPRESSOR, _PACKED = 24, 25
_CURSOR_NOT_FOUND, _QUERY_FAILURE = 1, 2  # flags of OP_REPLY
_CURSOR_NOT_FOUND_CODE = 43
_FIRST = b"\x030\0", 4  # document 0 of an array, and where it is
_FIRST_DOCUMENT = 7
_SIGNS_OF_ERROR = (b"errmsg", b"$err", b"writeErrors", b"writeConcernError")
_NESTED = (b"writeErrors", b"writeConcernError")
_CODE_MOST = 1 << 31
_INT64 = 0x12
_ERROR, _COMPRESSED, _CUT = 1, 2, 4
_KINDS = 4  # bits
_NO_CODE = 0


class Reply(NamedTuple):
    """What a reply shows.

    text: the summary. error: whether it tells of one. code: its code, None if it was not captured. answers:
    id of the request that it answers, None where it is not told.
    """

    text: str | None = None
    error: bool = False
    code: str | None = None
    truncated: bool = False
    answers: int | None = None


HIDDEN_REPLY, NO_REPLY = Reply(truncated=True), Reply()
"""Stand for a reply that was not captured, and for none."""


class Replies(NamedTuple):
    """Replies (m,) of n sides of turns: codes (m,), and the values they index."""

    frames: Frames
    codes: NDArray[np.int32]
    values: list[Reply]


@functools.lru_cache(4096)
def _reply(kind: int, code: int) -> Reply:
    if kind & _CUT:
        return Reply(truncated=True)
    if kind & _COMPRESSED:
        return Reply(f"{_ANSWER}compressed ({COMPRESSORS[code]})")
    if not kind & _ERROR:
        return Reply(_ANSWER + "OK")
    if code == _NO_CODE:
        return Reply(_ANSWER + "Error", error=True)
    return Reply(f"{_ANSWER}Error {code} {ERRORS.get(code, '')}".rstrip(), error=True, code=str(code))


class _Bodies:
    """Bodies of m replies, column by column."""

    def __init__(self, frames: Frames) -> None:
        self.frames, self.data = frames, frames.data
        count = len(frames.row)
        self.stop = frames.limit.copy()
        self.kind, self.code = np.zeros(count, np.int64), np.full(count, _NO_CODE)
        opcode = frames.opcode
        self.kind[opcode == 0] = _CUT
        self._read_msg(np.flatnonzero(opcode == Opcode.MSG))
        if (opcode != Opcode.MSG).any():
            self._read_reply(np.flatnonzero(opcode == Opcode.REPLY))
            self._read_compressed(np.flatnonzero(opcode == Opcode.COMPRESSED))

    def _read_msg(self, rows: NDArray[np.intp]) -> None:
        place = self.frames.place[rows] + _BODY_KIND
        there = (place + 5 <= self.frames.limit[rows]) & (
            self.data.flat[np.minimum(place, self.frames.limit[rows])] == 0
        )
        self.kind[rows[place >= self.frames.limit[rows]]] = _CUT
        self._read_documents(rows[there], place[there] + 1)

    def _read_documents(self, rows: NDArray[np.intp], at: NDArray[np.int64]) -> None:
        end = at + self.data.int32(at)
        self.stop[rows] = np.clip(end, at + 4, self.frames.limit[rows])
        nested = self._read_fields(rows, at + 4)
        for inner, places in nested:
            self._read_fields(inner, places, only_code=True)

    def _read_fields(
        self, rows: NDArray[np.intp], at: NDArray[np.int64], *, only_code: bool = False
    ) -> list[tuple[NDArray[np.intp], NDArray[np.int64]]]:
        """Read the fields at `at` (k,) of replies; return where to find codes of errors that they list."""
        nested = []
        for found in walk(self.data, at, self.stop[rows]):
            mine = rows[found.row]
            chosen = found.called(self.data, b"code")
            if len(chosen):
                self._note_code(mine, found, chosen)
            if only_code:
                continue
            chosen = found.called(self.data, b"ok")
            if len(chosen):
                self._note_ok(mine, found, chosen)
            for name in _SIGNS_OF_ERROR:
                chosen = found.called(self.data, name)
                if len(chosen):
                    self.kind[mine[chosen]] |= _ERROR
                    if name in _NESTED:
                        nested.append(self._inside(mine, found, chosen))
        return nested

    def _note_ok(self, rows: NDArray[np.intp], found: Elements, chosen: NDArray[np.intp]) -> None:
        value = self.data.numbers(found.kind[chosen], found.value[chosen])
        self.kind[rows[chosen[found.whole[chosen] & (value == 0)]]] |= _ERROR

    def _note_code(self, rows: NDArray[np.intp], found: Elements, chosen: NDArray[np.intp]) -> None:
        value = self.data.numbers(found.kind[chosen], found.value[chosen])
        right = (
            found.whole[chosen] & np.isin(found.kind[chosen], NUMBERS) & (value > 0) & (value < _CODE_MOST)
        )
        rows, value = rows[chosen[right]], value[right]
        fresh = self.code[rows] == _NO_CODE
        self.code[rows[fresh]] = value[fresh]

    def _inside(
        self, rows: NDArray[np.intp], found: Elements, chosen: NDArray[np.intp]
    ) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
        """Return replies (k,) and where the fields of a document, or of an array's first one, begin."""
        is_document = np.isin(found.kind[chosen], DOCUMENTS) & found.valid[chosen]
        chosen = chosen[is_document & (found.value[chosen] + 4 <= self.stop[rows[chosen]])]
        value, rows = found.value[chosen], rows[chosen]
        first = self.data.are(value + _FIRST[1], _FIRST[0])
        at = value + np.where(first, _FIRST_DOCUMENT + 4, 4)
        room = at <= self.stop[rows]
        return rows[room], at[room]

    def _read_reply(self, rows: NDArray[np.intp]) -> None:
        place, flags = self.frames.place[rows], self.data.int32(self.frames.place[rows] + BODY - 4)
        self.kind[rows[self.frames.limit[rows] < place + BODY]] = _CUT
        lost = flags & _CURSOR_NOT_FOUND > 0
        self.code[rows[lost]] = _CURSOR_NOT_FOUND_CODE
        self.kind[rows[flags & (_CURSOR_NOT_FOUND | _QUERY_FAILURE) > 0]] |= _ERROR
        at = place + _DOCUMENTS_AT
        there = (at + 4 <= self.frames.limit[rows]) & (self.data.int32(at - 4) > 0)
        self._read_documents(rows[there], at[there])

    def _read_compressed(self, rows: NDArray[np.intp]) -> None:
        place = self.frames.place[rows]
        way = self.data.flat[place + _COMPRESSOR].astype(np.int64)
        known = (place + _PACKED <= self.frames.limit[rows]) & (way < len(COMPRESSORS))
        self.kind[rows] = np.where(known, _COMPRESSED, _CUT)
        self.code[rows] = np.where(known, way, _NO_CODE)


def read_replies(frames: Frames) -> Replies:
    """Return what messages (m,) tell of how it went."""
    bodies = _Bodies(frames)
    # The code of what is no error says nothing.
    code = np.where(bodies.kind > 0, bodies.code, _NO_CODE)
    code[bodies.kind & _CUT > 0] = _NO_CODE
    keys = (code << _KINDS) + bodies.kind
    codes, present = distinct(keys, int(keys.max(initial=0)) + 1)
    return Replies(frames, codes, [_reply(key & ((1 << _KINDS) - 1), key >> _KINDS) for key in present])


def opened_cursors(frames: Frames, rows: NDArray[np.intp]) -> NDArray[np.int64]:
    """Return the cursors (k,) that the first replies of turns `rows` (j,) opened, as far as they are seen.

    ::

        document: cursor: { firstBatch: [] | id 7000000000000000001 | ns ... } | ok 1.0
    """
    data = frames.data
    mine = np.flatnonzero(np.isin(frames.row, rows) & (frames.start == 0) & (frames.opcode == Opcode.MSG))
    at, limit = frames.place[mine] + _BODY_KIND + 5, frames.limit[mine]
    for name, kinds in ((b"cursor", DOCUMENTS), (b"id", (_INT64,))):
        at, limit = _field(data, at, limit, name, kinds)
    return np.unique(data.words[at[at + 8 <= limit]].view(np.int64))


def _field(
    data: Bytes, at: NDArray[np.int64], limit: NDArray[np.int64], name: bytes, kinds: tuple[int, ...]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return where the values (k,) of fields of that name and these types are, or their first fields."""
    places, limits = [], []
    for found in walk(data, np.minimum(at, limit), limit):
        chosen = found.called(data, name)
        chosen = chosen[np.isin(found.kind[chosen], kinds)]
        inner = np.isin(found.kind[chosen], DOCUMENTS)
        places.append(found.value[chosen] + np.where(inner, 4, 0))
        limits.append(limit[found.row[chosen]])
    nothing = np.zeros(0, np.int64)
    return np.concatenate([nothing, *places]), np.concatenate([nothing, *limits])
