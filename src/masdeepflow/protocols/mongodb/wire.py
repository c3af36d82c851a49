"""MongoDB's messages on columns: where they begin and end, and what their headers say.

Source: https://www.mongodb.com/docs/manual/reference/mongodb-wire-protocol/; the messages before OP_MSG:
https://www.mongodb.com/docs/manual/legacy-opcodes/. All integers are little-endian.

::

    | size (4) | request id (4) | response to (4) | opcode (4) | body ...
    OP_MSG:        | flags (4) | 0 | document | 1 | size (4) | name NUL | documents ... | checksum (4)
    OP_QUERY:      | flags (4) | database.collection NUL | skip (4) | return (4) | document
    OP_REPLY:      | flags (4) | cursor (8) | from (4) | number (4) | documents ...
    OP_COMPRESSED: | original opcode (4) | size (4) | compressor (1) | compressed body
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from masdeepflow.protocols.mongodb.documents import Bytes, lay_out

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "BODY",
    "CHECKSUM",
    "EXHAUST_ALLOWED",
    "MORE_TO_COME",
    "REPLIES",
    "REQUESTS",
    "Frames",
    "Opcode",
    "frames",
]


class Opcode(IntEnum):
    """What a message is."""

    REPLY = 1
    UPDATE = 2001
    INSERT = 2002
    QUERY = 2004
    GET_MORE = 2005
    DELETE = 2006
    KILL_CURSORS = 2007
    COMPRESSED = 2012
    MSG = 2013


REQUESTS = frozenset(Opcode) - {Opcode.REPLY}
REPLIES = frozenset({Opcode.REPLY, Opcode.COMPRESSED, Opcode.MSG})
BODY = 20
"""Offset behind the header and the four bytes that every body begins with: flags, or what was zero once."""
CHECKSUM, MORE_TO_COME, EXHAUST_ALLOWED = 1, 1 << 1, 1 << 16
"""Flags of OP_MSG: a checksum ends it; no reply will come, or more replies; more replies may come."""

_HEADER, _ANSWERS = 16, 8  # bytes of the header, offset of the id that is answered
_COLUMNS, _END_ROW, _OPCODE_ROW, _FLAGS_ROW = 8, 2, 5, 6  # of a table of messages
_LARGEST = 48_000_000 + 16_384
"""Bytes of a message: maxMessageSizeBytes of all servers so far, and what they allow beyond it."""
_CUT = -1


class Frames(NamedTuple):
    """Messages at the start of n sides of turns: m of them, in the order of rows and bytes.

    data: the rows' bytes. row: intp (m,). start, end: int64 (m,), bytes from the row's first; end is -1 where
    it is not known. place, limit: int64 (m,), of the first byte and behind the last one that there is of it,
    in `data`. number, answers: int64 (m,), request id, and that of the request that is answered. opcode:
    int64 (m,), 0 where the header is cut. flags: int64 (m,), of OP_MSG, 0 if cut. ended: int64 (n,), end of
    the last message whose end is known. good: bool (n,), nothing else was found.

    Replies of which each says that more will come are one message: header and limit are the first's.
    """

    data: Bytes
    row: NDArray[np.intp]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    place: NDArray[np.int64]
    limit: NDArray[np.int64]
    number: NDArray[np.int64]
    answers: NDArray[np.int64]
    opcode: NDArray[np.int64]
    flags: NDArray[np.int64]
    ended: NDArray[np.int64]
    good: NDArray[np.bool_]


_OPCODES = 2048  # places of a table that has all of them
_IS_REQUEST = np.isin(np.arange(_OPCODES), list(REQUESTS))
_IS_REPLY = np.isin(np.arange(_OPCODES), list(REPLIES))


class _Walk:
    """Rows on their way through their messages, one message of each a step."""

    def __init__(self, payload: NDArray[np.uint8], lengths: NDArray[np.integer], *, requests: bool) -> None:
        count, self._width = payload.shape
        self._data, self._requests = lay_out(payload), requests
        self._allowed = _IS_REQUEST if requests else _IS_REPLY
        self._ended, self._good = np.zeros(count, np.int64), np.ones(count, bool)
        self._found: list[NDArray[np.int64]] = []
        self._row = np.flatnonzero(lengths > 0)
        self._limit = np.minimum(lengths[self._row], self._width).astype(np.int64)
        self._at = np.zeros(len(self._row), np.int64)
        self._chain: NDArray[np.int64] | None = None

    def run(self) -> Frames:
        """Go on until no row has more to be seen; return the messages."""
        while len(self._row):
            self._step()
        table = np.concatenate(self._found, axis=1) if self._found else np.zeros((_COLUMNS, 0), np.int64)
        if len(self._found) > 1:
            table = table[:, np.argsort(table[0], kind="stable")]
        row, start, end, number, answers, opcode, flags, limit = table
        base = row * self._width
        return Frames(
            self._data,
            row,
            start,
            end,
            base + start,
            base + limit,
            number,
            answers,
            opcode,
            flags,
            self._ended,
            self._good,
        )

    def _step(self) -> None:
        row, limit, at = self._row, self._limit, self._at
        room = limit - at
        whole = room >= _HEADER
        size, table = self._headers(whole, room)
        opcode = table[_OPCODE_ROW]
        right = (
            whole & (size >= _HEADER) & (size <= _LARGEST) & self._allowed[np.clip(opcode, 0, _OPCODES - 1)]
        )
        end = at + size
        more = np.zeros(len(row), bool)
        if not self._requests:
            more = right & (table[_FLAGS_ROW] & MORE_TO_COME > 0) & (opcode == Opcode.MSG)
        if self._chain is not None:
            # What belongs to replies before keeps their header.
            inside = self._chain[1] >= 0
            table[1:, inside] = self._chain[1:, inside]
        partial = ~whole | (more & (end >= limit))
        done = right & ~partial & ~more
        table[_END_ROW] = np.where(partial, _CUT, end)
        kept = done | partial
        self._found.append(table if kept.all() else table[:, kept])
        self._ended[row[done]] = end[done]
        self._good[row[whole & ~right]] = False
        going = right & ~partial & (end < limit)
        self._chain = None
        if (more & going).any():
            self._chain = table[:, going]
            self._chain[1, ~more[going]] = _CUT
        self._row, self._limit, self._at = row[going], limit[going], end[going]

    def _headers(
        self, whole: NDArray[np.bool_], room: NDArray[np.int64]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Return the sizes (m,) of messages, and the columns of `Frames` (8, m) but for the end."""
        place = self._row * self._width + self._at
        first, second = (self._data.words[place + offset].view(np.int64) for offset in (0, _ANSWERS))
        table = np.empty((_COLUMNS, len(place)), np.int64)
        size = first << 32 >> 32
        table[0], table[1] = self._row, self._at
        table[3], table[4], table[_OPCODE_ROW] = first >> 32, second << 32 >> 32, second >> 32
        table[_FLAGS_ROW] = self._data.int32(place + _HEADER)
        table[_FLAGS_ROW, np.minimum(room, size) < BODY] = 0
        table[7] = self._at + np.where(whole, np.minimum(size, room), room)
        if not whole.all():
            table[3:7, ~whole] = 0
        return size, table


def frames(payload: NDArray[np.uint8], lengths: NDArray[np.integer], *, requests: bool) -> Frames:
    """Return the messages of the rows (n, w), w a multiple of 8, with valid lengths (n,)."""
    return _Walk(payload, lengths, requests=requests).run()
