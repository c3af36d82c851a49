"""Bodies of requests on columns: where the texts that are shown are, and which fields there are.

::

    OP_MSG:   flags | 1 | size | documents NUL | ... | 0 | insert NUL size users NUL | ... | $db NUL ...
    OP_QUERY: flags | admin.$cmd NUL | skip | return | isMaster NUL 1 | ...
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from masdeepflow.protocols.mongodb.commands import COMPRESSORS, LEGACY, SEQUENCES
from masdeepflow.protocols.mongodb.documents import DOCUMENTS, STRING, walk
from masdeepflow.protocols.mongodb.wire import BODY, CHECKSUM, EXHAUST_ALLOWED, MORE_TO_COME, REQUESTS, Opcode

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from masdeepflow.protocols.mongodb.documents import Elements
    from masdeepflow.protocols.mongodb.wire import Frames

__all__ = ["FIELDS", "FORCED", "Bodies", "Texts"]

_SECTIONS_MOST = 8
_IDENTIFIER = 5  # offset in a section with a sequence of documents
_FLAGS_KNOWN = CHECKSUM | MORE_TO_COME | EXHAUST_ALLOWED
_COMMAND_COLLECTION = b"$cmd"
_WRAPPERS = (b"$query", b"query")
"""Older drivers put a command into this field when they have more to say."""
_FIRST_STAGE, _STREAM = (b"\x030\0", 4), (b"\x03$changeStream\0", 11)  # in an array, and where
_ORIGINAL, _UNPACKED, _COMPRESSOR, _PACKED = 16, 20, 24, 25  # offsets in OP_COMPRESSED
_SKIP_AND_RETURN = 8
_BOOL, _INT64 = 0x08, 0x12

_OPCODES = sorted(REQUESTS)
_PACKED_OPCODES = np.array(_OPCODES, np.int64)
FORCED: list[tuple[str, str | None]] = [
    *((name, name) for name in LEGACY.values()),
    *((name, name) for name in SEQUENCES.values()),
    *((f"OP_{opcode.name} ({way})", None) for opcode in _OPCODES for way in COMPRESSORS.values()),
]
"""What is shown, and the operation, of requests whose command is not taken from their text."""
_SEQUENCES_AT, _PACKED_AT = len(LEGACY), len(LEGACY) + len(SEQUENCES)
_LEGACY_SILENT = [Opcode.UPDATE, Opcode.INSERT, Opcode.DELETE, Opcode.KILL_CURSORS]
_FLAGS_MOST = np.zeros(Opcode.MSG + 1, np.int64)
_FLAGS_MOST[[Opcode.QUERY, Opcode.INSERT]] = 0xFF, 1

FIELDS = (b"topologyVersion", b"maxAwaitTimeMS", b"maxTimeMS", b"tailable", b"awaitData", b"pipeline")
"""Fields of bodies: bit i of `Bodies.seen` tells of field i. Flags count if true, pipelines if they watch."""
_IF_TRUE = {b"tailable", b"awaitData"}


class Texts:
    """Where a text of each of m messages is: place, length, and whether it goes on."""

    def __init__(self, count: int) -> None:
        self.at, self.length = np.zeros(count, np.int64), np.zeros(count, np.int64)
        self.cut = np.zeros(count, bool)

    def put(self, rows: NDArray[np.intp], at: NDArray[np.int64], length: NDArray[np.int64]) -> None:
        """Note where the texts of messages `rows` (k,) are."""
        self.at[rows], self.length[rows] = at, length

    def put_strings(
        self,
        stop: NDArray[np.int64],
        rows: NDArray[np.intp],
        found: Elements,
        chosen: NDArray[np.intp],
    ) -> None:
        """Take the values of the `chosen` elements if they are texts, for messages `rows`."""
        at = found.value[chosen] + 4
        fits = (found.kind[chosen] == STRING) & found.valid[chosen] & (at <= stop[rows])
        rows, at, after = rows[fits], at[fits], found.after[chosen][fits]
        self.put(rows, at, np.minimum(after - 1, stop[rows]) - at)
        self.cut[rows] = after > stop[rows]


class Bodies:
    """What is found out of m messages, column by column."""

    def __init__(self, frames: Frames) -> None:
        self.frames, self.data = frames, frames.data
        count = len(frames.row)
        self.name, self.collection, self.field, self.namespace = (Texts(count) for _ in range(4))
        self.forced = np.full(count, -1)
        self.seen = np.zeros(count, np.int64)  # bits of fields
        self.stop = frames.limit.copy()
        self.cut, self.sound = np.zeros(count, bool), np.zeros(count, bool)
        self.cursor = np.zeros(count, np.int64)
        opcode = frames.opcode
        self.silent = (frames.flags & MORE_TO_COME > 0) & (opcode == Opcode.MSG)
        self._read_msg(np.flatnonzero(opcode == Opcode.MSG))
        if (opcode != Opcode.MSG).any():
            self._read_legacy(np.flatnonzero((opcode > 0) & (opcode < Opcode.COMPRESSED)))
            self._read_compressed(np.flatnonzero(opcode == Opcode.COMPRESSED))

    def _end(self, rows: NDArray[np.intp]) -> NDArray[np.int64]:
        """Return where messages (k,) end, in `data`."""
        return self.frames.place[rows] + self.frames.end[rows] - self.frames.start[rows]

    def _read_msg(self, rows: NDArray[np.intp]) -> None:
        """Find the body among the sections, and read it."""
        data, limit, end = self.data, self.frames.limit[rows], self._end(rows)
        at = self.frames.place[rows] + BODY
        flags = self.frames.flags[rows]
        sound = (flags & ~_FLAGS_KNOWN == 0) & (limit >= at)
        for _ in range(_SECTIONS_MOST):
            ahead = np.flatnonzero((at + _IDENTIFIER <= limit) & (data.flat[np.minimum(at, limit)] == 1))
            if not len(ahead):
                break
            self._note_sequence(rows[ahead], at[ahead] + _IDENTIFIER)
            size = data.int32(at[ahead] + 1)
            sound[ahead] &= size > _IDENTIFIER
            at[ahead] = np.where(size > _IDENTIFIER, at[ahead] + 1 + size, limit[ahead])
        there = (at + _IDENTIFIER <= limit) & (data.flat[np.minimum(at, limit)] == 0)
        self.cut[rows[~there]] = True
        rows, at, end, sound = rows[there], at[there], end[there], sound[there]
        stop = at + 1 + data.int32(at + 1)
        self.cut[rows] = stop > self.frames.limit[rows]
        self.stop[rows] = np.clip(stop, at + _IDENTIFIER, self.frames.limit[rows])
        self.sound[rows] = sound & (stop <= end) & (stop > at + _IDENTIFIER)
        self._read_body(rows, at + _IDENTIFIER)

    def _note_sequence(self, rows: NDArray[np.intp], at: NDArray[np.int64]) -> None:
        """Know the command by the name of its documents, as long as it is not seen itself."""
        for place, name in enumerate(SEQUENCES):
            text = name.encode() + b"\0"
            same = (at + len(text) <= self.frames.limit[rows]) & self.data.are(at, text)
            self.forced[rows[same]] = _SEQUENCES_AT + place

    def _read_body(self, rows: NDArray[np.intp], at: NDArray[np.int64]) -> None:
        for number, found in enumerate(walk(self.data, at, self.stop[rows])):
            mine = rows[found.row]
            self.sound[mine[~found.valid]] = False
            if number == 0:
                self._read_command(mine, found)
            for name, texts in ((b"$db", self.namespace), (b"collection", self.field)):
                chosen = found.called(self.data, name)
                if len(chosen):
                    texts.put_strings(self.stop, mine[chosen], found, chosen)
            self._note_fields(mine, found)

    def _read_command(self, rows: NDArray[np.intp], found: Elements) -> None:
        named = found.value <= self.stop[rows]
        at = found.value - 1 - found.length
        self.name.put(rows[named], at[named], found.length[named])
        self.forced[rows[named]] = -1
        every = np.flatnonzero(named)
        self.collection.put_strings(self.stop, rows[every], found, every)
        asks = found.whole & (found.kind == _INT64)
        self.cursor[rows[asks]] = self.data.words[found.value[asks]].view(np.int64)

    def _note_fields(self, rows: NDArray[np.intp], found: Elements) -> None:
        for place, name in enumerate(FIELDS):
            chosen = found.called(self.data, name)
            if not len(chosen):
                continue
            value = found.value[chosen]
            if name in _IF_TRUE:
                true = found.whole[chosen] & (found.kind[chosen] == _BOOL) & (self.data.flat[value] == 1)
                chosen = chosen[true]
            if name == b"pipeline":
                chosen = chosen[self._watches(value, self.stop[rows[chosen]])]
            self.seen[rows[chosen]] |= 1 << place

    def _watches(self, value: NDArray[np.int64], stop: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Return which pipelines at `value` (k,) begin with the stage of a change stream."""
        inside = value + _STREAM[1] + len(_STREAM[0]) <= stop
        value = np.where(inside, value, 0)
        for text, offset in (_FIRST_STAGE, _STREAM):
            inside &= self.data.are(value + offset, text)
        return inside

    def _read_legacy(self, rows: NDArray[np.intp]) -> None:
        """Read the messages before OP_MSG."""
        opcode = self.frames.opcode[rows]
        for place, kind in enumerate(LEGACY):
            self.forced[rows[opcode == kind]] = place
        self.silent[rows] = np.isin(opcode, _LEGACY_SILENT)
        kills = opcode == Opcode.KILL_CURSORS
        self._read_kills(rows[kills])
        self._read_namespaces(rows[~kills])
        self._read_query_commands(rows[opcode == Opcode.QUERY])

    def _read_kills(self, rows: NDArray[np.intp]) -> None:
        place = self.frames.place[rows]
        zero, count = self.data.int32(place + BODY - 4), self.data.int32(place + BODY)
        size = self.frames.end[rows] - self.frames.start[rows]
        there = self.frames.limit[rows] >= place + BODY + 4
        self.sound[rows] = there & (zero == 0) & (count > 0) & (size == BODY + 4 + 8 * count)

    def _read_namespaces(self, rows: NDArray[np.intp]) -> None:
        """Read `database.collection`, which is behind the flags; the collection may have dots, too."""
        at = self.frames.place[rows] + BODY
        self.stop[rows] = stop = np.maximum(np.minimum(self.frames.limit[rows], self._end(rows)), at)
        length = np.minimum(self.data.text_length(at, stop), stop - at)
        self.cut[rows] = cut = at + length >= stop
        dot = self.data.find(at, length, ord("."))
        split = dot < length
        self.namespace.put(rows, at, dot)
        self.collection.put(rows, at + dot + 1, np.where(split, length - dot - 1, 0))
        self.namespace.cut[rows], self.collection.cut[rows] = cut & ~split, cut & split
        first = self.data.int32(at - 4)
        fits = (first >= 0) & (first <= _FLAGS_MOST[self.frames.opcode[rows]])
        self.sound[rows] = fits & (dot > 0) & split & ~cut

    def _read_query_commands(self, rows: NDArray[np.intp]) -> None:
        """Read commands that are queries of the collection `$cmd`."""
        name = self.collection
        asks = ~self.cut[rows] & (name.length[rows] == len(_COMMAND_COLLECTION))
        rows = rows[asks]
        rows = rows[self.data.are(name.at[rows], _COMMAND_COLLECTION)]
        at = name.at[rows] + len(_COMMAND_COLLECTION) + 1 + _SKIP_AND_RETURN
        name.length[rows], self.forced[rows] = 0, -1
        for _ in range(2):
            rows, at = self._read_query(rows, at)

    def _read_query(
        self, rows: NDArray[np.intp], at: NDArray[np.int64]
    ) -> tuple[NDArray[np.intp], NDArray[np.int64]]:
        """Read commands in documents at `at` (k,); return messages and documents of those in another."""
        self.name.length[rows] = 0
        there = at + 4 <= self.stop[rows]
        self.cut[rows[~there]] = True
        rows, at = rows[there], at[there]
        end = np.maximum(at + self.data.int32(at), at + 4)
        self.cut[rows] = end > self.stop[rows]
        self.stop[rows] = np.minimum(end, self.stop[rows])
        found = next(walk(self.data, at + 4, self.stop[rows]), None)
        if found is None:
            return rows[:0], at[:0]
        self._read_command(rows[found.row], found)
        wrapped = np.concatenate([found.called(self.data, name) for name in _WRAPPERS])
        wrapped = wrapped[np.isin(found.kind[wrapped], DOCUMENTS)]
        return rows[found.row[wrapped]], found.value[wrapped]

    def _read_compressed(self, rows: NDArray[np.intp]) -> None:
        """Read what was compressed, and how; the rest can't be read."""
        place = self.frames.place[rows]
        room = place + _PACKED <= self.frames.limit[rows]
        original = self.data.int32(place + _ORIGINAL)
        way = self.data.flat[place + _COMPRESSOR].astype(np.int64)
        which = np.minimum(np.searchsorted(_PACKED_OPCODES, original), len(_PACKED_OPCODES) - 1)
        known = room & (way < len(COMPRESSORS)) & (_PACKED_OPCODES[which] == original)
        self.forced[rows[known]] = _PACKED_AT + (which * len(COMPRESSORS) + way)[known]
        self.cut[rows] = ~known
        self.sound[rows] = known & (self.data.int32(place + _UNPACKED) > 0) & (original != Opcode.COMPRESSED)
