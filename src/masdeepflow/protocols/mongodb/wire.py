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

_HEADER, _ID, _TO, _OPCODE, _FLAGS = 16, 4, 8, 12, 16
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


def frames(payload: NDArray[np.uint8], lengths: NDArray[np.integer], *, requests: bool) -> Frames:
    """Return the messages of the rows (n, w), w a multiple of 8, with valid lengths (n,)."""
    count, width = payload.shape
    data = lay_out(payload)
    ended, good = np.zeros(count, np.int64), np.ones(count, bool)
    allowed = _IS_REQUEST if requests else _IS_REPLY
    found: list[NDArray[np.int64]] = []
    row = np.flatnonzero(lengths > 0)
    limit = np.minimum(lengths[row], width).astype(np.int64)
    start, at = np.zeros(len(row), np.int64), np.zeros(len(row), np.int64)
    head = np.zeros((5, len(row)), np.int64)  # id, answered id, opcode, flags, limit
    while len(row):
        place = row * width + at
        fresh = at == start
        whole = limit - at >= _HEADER
        fields = _header(data, place, whole, limit - at)
        size, opcode = fields[0], fields[3]
        stop = np.where(whole, np.minimum(at + size, limit), limit)
        np.copyto(head, np.concatenate([fields[1:], stop[None]]), where=fresh)
        right = (size >= _HEADER) & (size <= _LARGEST) & allowed[np.clip(opcode, 0, _OPCODES - 1)]
        good[row[whole & ~right]] = False
        more = (fields[4] & MORE_TO_COME > 0) & (opcode == Opcode.MSG) & (not requests)
        end = at + size
        partial = ~whole | (right & more & (end >= limit))
        done = whole & right & ~partial & ~more
        kept = done | partial
        ends = np.where(partial, _CUT, end)
        found.append(np.stack([row, start, ends, *head])[:, kept])
        ended[row[done]] = end[done]
        going = whole & right & ~partial & (end < limit)
        start = np.where(done, end, start)
        if not going.any():
            break
        row, limit, start, at, head = row[going], limit[going], start[going], end[going], head[:, going]
    table = np.concatenate(found, axis=1) if found else np.zeros((8, 0), np.int64)
    if len(found) > 1:
        table = table[:, np.argsort(table[0], kind="stable")]
    row, start, ends, number, answers, opcode, flags, limit = table
    place = row * width + start
    return Frames(
        data, row, start, ends, place, row * width + limit, number, answers, opcode, flags, ended, good
    )


def _header(
    data: Bytes, place: NDArray[np.int64], whole: NDArray[np.bool_], room: NDArray[np.int64]
) -> NDArray[np.int64]:
    """Return size, ids, opcode and flags (5, m) of the headers at `place`; zeros where they are cut."""
    offsets = (0, _ID, _TO, _OPCODE, _FLAGS)
    fields = np.stack([data.int32(place + offset) for offset in offsets])
    if not whole.all():
        fields[:, ~whole] = 0
    fields[4, np.minimum(room, fields[0]) < BODY] = 0
    return fields
