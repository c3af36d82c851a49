"""Messages on columns: most are told without reading each, whether they were seen before or not.

Of those that ask one question, whose name is not compressed and has printable bytes only, all that a
`Message` shows is found by walking names and records of all of them at once. Names stay bytes until somebody
asks for them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from masdeepflow.columns import row_hash
from masdeepflow.protocols.dns.message import (
    AAAA,
    ADDRESSES,
    ALLOWED_ADDITIONAL,
    ANYWHERE,
    CLASSES,
    CNAME,
    CODE_BYTES,
    CUT,
    EXTENDED_ERROR,
    HEADER_BYTES,
    IXFR,
    LAST_CODE,
    NAME_BYTES,
    NOWHERE,
    ON_ITS_PORT,
    OPT,
    OPTION_BYTES,
    OPTIONS,
    POINTER,
    QUESTION_BYTES,
    RECOGNISED,
    RECORD_BYTES,
    RECORDS,
    RESERVED_BIT,
    RESPONSE_BIT,
    RESPONSE_BITS,
    SOA,
    TRUNCATED_BIT,
    UPDATE,
    A,
)
from masdeepflow.protocols.dns.pairing import mixed
from masdeepflow.protocols.dns.words import TYPES
from masdeepflow.table import ABSENT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from masdeepflow.protocols.dns.message import Message

__all__ = ["ADDRESS", "ASKED_ANEW", "MESSAGE", "Block", "Glance", "glance", "joined", "question_keys", "told"]

_FLAGS = ("valid", "response", "truncated", "doubtful", "elsewhere", "unheard", "unread", "watched")
MESSAGE = np.dtype(
    [
        *((name, np.uint64) for name in ("key", "cookie", "id")),
        *((name, np.int64) for name in ("row", "first_ns", "last_ns", "size", "queue_ns")),
        *((name, np.int32) for name in ("place", "end", "kind", "code", "answers", "extended", "errno")),
        *((name, np.uint8) for name in ("opcode", "fits")),
        *((name, np.bool_) for name in _FLAGS),
    ],
    align=True,
)
"""What is known of a message: what a `Message` shows but its name, and what its slot tells.

key: hash of `Message.question`, 0 without a name. valid: it is a message. doubtful: a query that may have
been answered by what was not captured, or not read. elsewhere: another server has answered it. unheard: of
such a one, that an answer would have been told of. unread: a response that nobody has read. watched: a query
whose answer is told of, read or not; a response whose sender is certain. extended: code of RFC 8914, one more
than it is, 0 for none. errno: why a query could not be sent, `ASKED_ANEW` where its client went on to another
server, at `last_ns`, else 0. row: of its slot. place: in the `Names` and among the addresses. Stamps are in
ns, size is in bytes. To choose rows, `take` is thirty times as quick as an index, and so is `joined`.
"""
ADDRESS = np.dtype([("place", np.int32), ("six", np.bool_), ("ttl", np.int64), ("packed", np.uint8, 16)])
"""An address of the answers of the message `place`. six: IPv6, else the first four bytes count. ttl: s."""

ASKED_ANEW = -1
"""`errno` of a query whose client went on to another server."""
_RAW = f"V{MESSAGE.itemsize}"
_WORD, _ROOM = 8, 128
_LABEL_BYTES, _LABELS = 63, 127
_DOT, _BACKSLASH, _LETTER = ord("."), ord("\\"), ord("a")
_FIRST, _SPAN = 0x21, 0x7F - 0x21 - 1  # of printable bytes
_UPPER, _CASE = ord("A"), 5
_LETTERS = 26
_FOUR, _SIX = 4, 16
_EVER = (1 << 31) - 1


def _among(numbers: Sequence[int] | frozenset[int] | dict[int, str], size: int) -> NDArray[np.bool_]:
    table = np.zeros(size, bool)
    table[list(numbers)] = True
    return table


_TYPES, _CLASSES = _among(TYPES, 1 << 16), _among(CLASSES, 1 << 16)
_OPCODES = np.array([RECOGNISED.get(opcode, NOWHERE) for opcode in range(16)], np.uint8)


def joined(*parts: np.ndarray) -> np.ndarray:
    """Return messages one behind the other, as bytes; a part itself where the others are empty."""
    filled = [part for part in parts if len(part)] or [parts[0]]
    if len(filled) == 1:
        return filled[0]
    return np.concatenate([part.view(_RAW) for part in filled]).view(MESSAGE)


class Block:
    """n payloads of datagrams, and room behind them to read a little too far.

    payload: uint8 (n, width), width a multiple of 8; a copy. lengths: int64 (n,), valid bytes.
    """

    def __init__(self, payload: NDArray[np.uint8], lengths: NDArray[np.int64]) -> None:
        self.octets = np.zeros(payload.size + _ROOM, np.uint8)
        self.payload = self.octets[: payload.size].reshape(payload.shape)
        self.payload[:] = payload
        self.lengths = lengths
        self.starts = np.arange(len(payload)) * payload.shape[1]
        self.limits = self.starts + lengths

    def numbers(self, at: NDArray[np.int64], size: int) -> NDArray[np.int64]:
        """Return big-endian numbers (k,) of `size` bytes, 2 or 4, that start at places `at` (k,)."""
        view = np.ndarray((self.octets.size - size,), f">u{size}", buffer=self.octets, strides=(1,))
        return view[at].astype(np.int64)


class Glance(NamedTuple):
    """fits: bool (n,), which messages are told by it; the others have to be read.

    texts: uint8 (n, w), w a multiple of 8, and lengths: int64 (n,), their names, in presentation form.
    addresses: (a,), of dtype `ADDRESS`, `place` the row.
    """

    fits: NDArray[np.bool_]
    texts: NDArray[np.uint8]
    lengths: NDArray[np.int64]
    addresses: np.ndarray


def glance(block: Block, messages: np.ndarray) -> Glance:
    """Look at messages (n,); fill what they show into `messages` (n,), zeros of dtype `MESSAGE`.

    What it says of those that it does not fit means nothing.
    """
    header = block.payload[:, :HEADER_BYTES].view(">u2")
    flags, counts = header[:, 1].astype(np.uint16), header[:, 2:].astype(np.int64)
    fits = (block.lengths >= HEADER_BYTES) & (counts[:, 0] == 1) & (counts[:, 1:] <= RECORDS).all(axis=1)
    name = _walk(block, block.starts + HEADER_BYTES, block.limits)
    question = name.stops + 1
    ends = question + QUESTION_BYTES
    sizes = question - block.starts - HEADER_BYTES
    fits &= (ends <= block.limits) & (block.octets[name.stops] == 0) & (sizes > 1) & (sizes <= NAME_BYTES)
    texts, lengths = _texts(block, name, np.where(fits, sizes - 2, 0), fits)
    kind = block.numbers(np.where(fits, question, 0), 2)
    records = _records(block, np.where(fits, ends, 0), counts[:, 1:], fits)
    response = flags >> np.uint16(8) & np.uint16(RESPONSE_BIT) > 0
    messages["valid"], messages["response"], messages["kind"] = fits, response, kind
    messages["opcode"] = flags >> np.uint16(11) & np.uint16(15)
    messages["truncated"] = flags >> np.uint16(8) & np.uint16(TRUNCATED_BIT)
    messages["code"] = np.where(response, (flags & np.uint16(15)) | records.upper << 4, ABSENT)
    messages["answers"] = np.where(response, counts[:, 1], 0)
    messages["key"] = _keys(texts, lengths, kind)
    messages["end"], messages["extended"] = records.ends, records.extended
    group = block.numbers(np.where(fits, question + 2, 0), 2)
    rare = ~_TYPES[kind]
    rare |= _OPCODES[messages["opcode"]] == ON_ITS_PORT
    messages["fits"] = np.where(
        _CLASSES[group] & _usual(flags, messages, counts), np.where(rare, ON_ITS_PORT, ANYWHERE), NOWHERE
    )
    return Glance(fits, texts, lengths, records.addresses)


class _Walk(NamedTuple):
    """stops: int64 (k,), what is behind the labels. labels: rows, and places of lengths but the first."""

    stops: NDArray[np.int64]
    labels: list[tuple[NDArray[np.intp], NDArray[np.int64]]]


def _walk(block: Block, at: NDArray[np.int64], limits: NDArray[np.int64]) -> _Walk:
    """Step over the labels of names (k,) that start at `at`, within `limits`."""
    stops, rows = at.copy(), np.arange(len(at))
    labels = []
    for number in range(_LABELS + 1):
        size = block.octets[at]
        going = (size - np.uint8(1) < _LABEL_BYTES) & (at < limits)
        if not going.all():
            stops[rows[~going]] = at[~going]
            rows, at, limits, size = rows[going], at[going], limits[going], size[going]
        if not len(rows) or number == _LABELS:
            break
        if number:
            labels.append((rows, at))
        at = at + size + 1
    stops[rows] = at
    return _Walk(stops, labels)


def _texts(
    block: Block, name: _Walk, lengths: NDArray[np.int64], fits: NDArray[np.bool_]
) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return names as text (n, w) of lengths (n,), and clear `fits` where some bytes are not printable."""
    start = HEADER_BYTES + 1
    width = -(-int(lengths.max(initial=0)) // _WORD) * _WORD
    texts = np.zeros((len(lengths), width), np.uint8)
    given = block.payload[:, start : start + width]
    texts[:, : given.shape[1]] = given
    dots = [rows * width + (at - block.starts[rows] - start) for rows, at in _within(name, fits)]
    places = np.concatenate(dots) if dots else np.zeros(0, np.int64)
    flat = texts.reshape(-1)
    flat[places] = _LETTER
    strange = (texts - np.uint8(_FIRST) > _SPAN) | (texts == _DOT) | (texts == _BACKSLASH)
    strange &= np.arange(width, dtype=np.uint8) < lengths.astype(np.uint8)[:, None]
    if strange.any():
        fits[np.flatnonzero(strange) // width] = False
    flat[places] = _DOT
    return texts, lengths


def _within(name: _Walk, fits: NDArray[np.bool_]) -> list[tuple[NDArray[np.intp], NDArray[np.int64]]]:
    if fits.all():
        return name.labels
    return [(rows[fits[rows]], at[fits[rows]]) for rows, at in name.labels]


def _keys(
    texts: NDArray[np.uint8], lengths: NDArray[np.int64], kinds: NDArray[np.int64]
) -> NDArray[np.uint64]:
    """Return hashes (n,) of names, whatever their case, and types; never 0."""
    upper = texts - np.uint8(_UPPER) < _LETTERS
    lowered = texts + (upper.view(np.uint8) << np.uint8(_CASE))
    return mixed(row_hash(lowered, lengths), kinds.astype(np.uint64)) | np.uint64(1)


def question_keys(questions: Sequence[tuple[str, int] | None]) -> NDArray[np.uint64]:
    """Return the same (k,) of `Message.question`; 0 where there is none."""
    names = ["" if question is None else question[0] for question in questions]
    kinds = np.array([0 if question is None else question[1] for question in questions], np.int64)
    lengths = np.array([len(name) for name in names], np.int64)
    width = -(-int(lengths.max(initial=1)) // _WORD) * _WORD
    data = b"".join(name.encode().ljust(width, b"\0") for name in names)
    keys = _keys(np.frombuffer(data, np.uint8).reshape(len(names), width), lengths, kinds)
    keys[[question is None for question in questions]] = 0
    return keys


def _usual(flags: NDArray[np.uint16], messages: np.ndarray, counts: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Return where header (n,) and counts (n, 4) have values that are sent: see `message`."""
    opcode, kind = messages["opcode"], messages["kind"]
    usual: NDArray[np.bool_] = (_OPCODES[opcode] > NOWHERE) & (flags & np.uint16(RESERVED_BIT) == 0)
    answer = flags & np.uint16(15) <= LAST_CODE
    ask = (counts[:, 3] <= ALLOWED_ADDITIONAL) & (counts[:, 1] <= (opcode > 0))
    ask &= counts[:, 2] <= (kind == IXFR)
    ask = np.where(opcode == UPDATE, kind == SOA, ask) & (flags & np.uint16(RESPONSE_BITS) == 0)
    return usual & np.where(messages["response"], answer, ask)


class _Records(NamedTuple):
    """What the records of n messages tell.

    upper: int64 (n,), bits of the code. extended: int64 (n,), as in `MESSAGE`. ends: int64 (n,) or `CUT`.
    """

    upper: NDArray[np.int64]
    extended: NDArray[np.int64]
    ends: NDArray[np.int64]
    addresses: np.ndarray


def _records(
    block: Block, behind: NDArray[np.int64], counts: NDArray[np.int64], fits: NDArray[np.bool_]
) -> _Records:
    """Walk the records (RFC 1035 section 4.1.3) behind questions that end at `behind` (n,).

    counts: (n, 3). Clears `fits` where a record's name is none.
    """
    upper, extended = np.zeros((2, len(behind)), np.int64)
    ends = behind - block.starts
    alias, learnt = np.full(len(behind), _EVER), np.zeros(len(behind), np.int64)
    totals, found = counts.sum(axis=1), []
    rows = np.flatnonzero(fits & (totals > 0))
    ends[rows] = CUT
    at, number = behind[rows], 0
    while len(rows):
        limits = block.limits[rows]
        stops = at if _all_pointers(block, at) else _walk(block, at, limits).stops
        last = block.octets[stops]
        wrong = (stops < limits) & (last > 0) & (last < POINTER)
        fits[rows[wrong]] = False
        data = stops + np.where(last > 0, 2, 1) + RECORD_BYTES
        going = (stops < limits) & ~wrong & (data <= limits)
        if not going.all():
            rows, data, limits = rows[going], data[going], limits[going]
        kind, ttl, length = (
            block.numbers(data - back, size) for back, size in ((RECORD_BYTES, 2), (6, 4), (2, 2))
        )
        extends = kind == OPT
        at = data + length
        if extends.any():
            mine = rows[extends]
            upper[mine] = ttl[extends] >> 24
            extended[mine], told = _extended(block, data[extends], np.minimum(at, limits)[extends])
            fits[mine[told]] = False
        going = at <= limits
        answers = going & (number < counts[rows, 0])
        if answers.any():
            aliases = answers & (kind == CNAME)
            alias[rows[aliases]] = np.minimum(alias[rows[aliases]], ttl[aliases])
            tells = ((kind == A) & (length == _FOUR)) | ((kind == AAAA) & (length == _SIX))
            tells &= answers & (learnt[rows] < ADDRESSES)
            learnt[rows[tells]] += 1
            found.append(_addresses(block, rows[tells], data[tells], kind[tells] == AAAA))
            found[-1]["ttl"] = np.minimum(ttl[tells], alias[rows[tells]])
        number += 1
        over = going & (totals[rows] == number)
        ends[rows[over]] = at[over] - block.starts[rows[over]]
        going &= ~over
        rows, at = rows[going], at[going]
    return _Records(upper, extended, ends, np.concatenate(found) if found else np.zeros(0, ADDRESS))


def _extended(
    block: Block, at: NDArray[np.int64], limits: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return codes (k,) of RFC 8914, as in `MESSAGE`, of options that start `at`; and which have a text."""
    codes, told = np.zeros(len(at), np.int64), np.zeros(len(at), bool)
    places = np.flatnonzero(at + OPTION_BYTES <= limits)
    for _ in range(OPTIONS):
        if not len(places):
            break
        option, size = (block.numbers(at[places] + back, 2) for back in (0, 2))
        start = at[places] + OPTION_BYTES
        found = (option == EXTENDED_ERROR) & (size >= CODE_BYTES) & (start + size <= limits[places])
        codes[places[found]] = block.numbers(start[found], CODE_BYTES) + 1
        told[places[found]] = size[found] > CODE_BYTES
        at[places] = start + size
        places = places[~found & (at[places] + OPTION_BYTES <= limits[places])]
    return codes, told


def _all_pointers(block: Block, at: NDArray[np.int64]) -> bool:
    return bool((block.octets[at] >= POINTER).all())


def _addresses(
    block: Block, rows: NDArray[np.intp], at: NDArray[np.int64], six: NDArray[np.bool_]
) -> np.ndarray:
    addresses = np.zeros(len(rows), ADDRESS)
    addresses["place"], addresses["six"] = rows, six
    packed = block.octets[at[:, None] + np.arange(_SIX)]
    packed[~six, _FOUR:] = 0
    addresses["packed"] = packed
    return addresses


def told(found: Sequence[Message | None]) -> np.ndarray:
    """Return what messages that were read show (k,), of dtype `MESSAGE`."""
    messages = np.zeros(len(found), MESSAGE)
    messages["valid"] = [message is not None for message in found]
    for name in ("response", "opcode", "kind", "code", "answers", "truncated", "extended", "end", "fits"):
        messages[name] = [0 if message is None else getattr(message, name) for message in found]
    messages["key"] = question_keys([None if message is None else message.question for message in found])
    return messages
