"""One DNS message: RFC 1035 section 4, with EDNS (RFC 6891). Bytes in, a named tuple out, never an exception.

::

    | id (2) | QR opcode(4) AA TC RD | RA Z AD CD rcode(4) | 4 counts (2 each) |
    | questions: name, type (2), class (2) | records: name, type (2), class (2), TTL (4), length (2), data ...
"""

from __future__ import annotations

import functools
from typing import NamedTuple

from masdeepflow.protocols.dns.words import TYPES
from masdeepflow.table import ABSENT

__all__ = [
    "AAAA",
    "ADDRESSES",
    "CLASSES",
    "CNAME",
    "CODE_BYTES",
    "CUT",
    "EXTENDED_ERROR",
    "HEADER_BYTES",
    "IXFR",
    "LAST_CODE",
    "NAME_BYTES",
    "NOWHERE",
    "ON_ITS_PORT",
    "OPT",
    "OPTIONS",
    "OPTION_BYTES",
    "POINTER",
    "QUESTION_BYTES",
    "RECOGNISED",
    "RECORDS",
    "RECORD_BYTES",
    "RESERVED_BIT",
    "RESPONSE_BIT",
    "RESPONSE_BITS",
    "SOA",
    "TRUNCATED_BIT",
    "UPDATE",
    "A",
    "Message",
    "read_message",
]

HEADER_BYTES = 12
CUT = -1
"""`Message.end` of a message of which not all bytes are there."""
QUESTION_BYTES, RECORD_BYTES = 4, 10
"""Of a question and of a record, behind the name."""
OPTION_BYTES, CODE_BYTES, EXTENDED_ERROR, OPTIONS = 4, 2, 15, 16
"""Of EDNS (RFC 6891 section 6.1.2): what stands before an option's data, the code of one of RFC 8914, which
says more of errors, before its text; and how many are looked at."""
NAME_BYTES, POINTER = 255, 0xC0
ADDRESSES, RECORDS = 64, 256
"""Addresses that are noted of one message, and records of a section that are looked at."""
NOWHERE, ON_ITS_PORT, ANYWHERE = range(3)
"""Where a message is recognised. No field may have a value that nobody sends; anywhere none that is rare."""
UPDATE = 5
CLASSES, RECOGNISED = frozenset({1, 3, 4, 254, 255}), {0: ANYWHERE, 4: ANYWHERE, UPDATE: ON_ITS_PORT}
"""Classes and opcodes of what is recognised, and where."""
A, CNAME, SOA, AAAA, OPT, IXFR = 1, 5, 6, 28, 41, 251
RESPONSE_BIT, TRUNCATED_BIT, RESERVED_BIT, RESPONSE_BITS = 0x80, 0x02, 0x40, 0x8F
"""Of the third byte, and of the fourth; the last: RA and the code."""
LAST_CODE = 10
"""In a header."""
ALLOWED_ADDITIONAL = 2
"""Of a query that is recognised: EDNS and a signature. An update may have any number."""

_LABEL_BYTES, _POINTERS = 63, 32
_ADDRESS_BYTES = {A: 4, AAAA: 16}
_QUESTIONS = 2  # nobody asks more at once
_BLANK = "\0 "  # a text may end with a zero
_SPECIAL, _PLAIN = b".\\", range(0x21, 0x7F)


class Message(NamedTuple):
    """What a message shows, its id not among it. `ABSENT` is of a number that there is none of.

    response: the QR bit. name: of the question, in RFC 1035's presentation, None if there is none or it is
    cut. kind: type of the question. code: of a response, with the upper bits that EDNS gives it. answers:
    count of records in the answer section of a response. truncated: the TC bit. addresses: (packed address,
    TTL in s) of the answers. extended: code of RFC 8914, one more than it is, 0 for none. remark: its text.
    end: length of the message, `CUT` if it goes on behind the bytes that there are. fits: where it is
    recognised: `NOWHERE`, `ON_ITS_PORT` or `ANYWHERE`.
    """

    response: bool
    opcode: int
    name: str | None
    kind: int
    code: int
    answers: int
    truncated: bool
    addresses: tuple[tuple[bytes, int], ...]
    extended: int
    remark: str
    end: int
    fits: int

    @property
    def question(self) -> tuple[str, int] | None:
        """What a response has in common with its query; servers may change a name's case."""
        return None if self.name is None else (self.name.lower(), self.kind)


class _CutOffError(Exception):
    """The bytes end."""


class _MalformedError(Exception):
    """This is no message."""


def read_message(data: bytes) -> Message | None:
    """Return the message that `data` starts with, None if it is none."""
    if len(data) < HEADER_BYTES:
        return None
    try:
        return _read(data)
    except _MalformedError:
        return None


def _read(data: bytes) -> Message:
    first, second = data[2], data[3]
    response, opcode = bool(first & RESPONSE_BIT), first >> 3 & 15
    questions, *counts = (int.from_bytes(data[at : at + 2], "big") for at in range(4, HEADER_BYTES, 2))
    question, records, end = _NO_QUESTION, _Records(), CUT
    try:
        question, at = _read_questions(data, questions)
        end = records.read(data, at, counts)
    except _CutOffError:
        pass
    name, kind = question.name, question.kind
    fits = questions == 1 and opcode in RECOGNISED and not second & RESERVED_BIT
    fits = fits and (_fits_response(second) if response else _fits_query(opcode, second, kind, counts))
    rcode = (second & 15) | records.extended_code << 4
    return Message(
        response,
        opcode,
        name,
        kind,
        rcode if response else ABSENT,
        counts[0] if response else 0,
        bool(first & TRUNCATED_BIT),
        tuple(records.addresses),
        records.extended,
        records.remark,
        end,
        min(question.fits, RECOGNISED[opcode]) if fits else NOWHERE,
    )


class _Question(NamedTuple):
    name: str | None
    kind: int
    fits: int


_NO_QUESTION = _Question(None, ABSENT, NOWHERE)


def _read_questions(data: bytes, count: int) -> tuple[_Question, int]:
    """Return the first of the questions, and where the last one ends. Raises as `_read_question` does."""
    if count > _QUESTIONS:
        raise _MalformedError
    first, at = _NO_QUESTION, HEADER_BYTES
    for number in range(count):
        question, at = _read_question(data, at)
        first = first if number else question
    return first, at


def _read_question(data: bytes, at: int) -> tuple[_Question, int]:
    """Return a question and where it ends. Raises _CutOffError or _MalformedError."""
    name, at = _read_name(data, at)
    end = at + QUESTION_BYTES
    if end > len(data):
        raise _CutOffError
    kind, group = int.from_bytes(data[at : at + 2], "big"), int.from_bytes(data[at + 2 : end], "big")
    if group not in CLASSES:
        return _Question(name, kind, NOWHERE), end
    return _Question(name, kind, ANYWHERE if kind in TYPES and "\\" not in name else ON_ITS_PORT), end


def _fits_response(second: int) -> bool:
    return second & 15 <= LAST_CODE


def _fits_query(opcode: int, second: int, kind: int, counts: list[int]) -> bool:
    answers, authority, additional = counts
    if opcode == UPDATE:
        return not second & RESPONSE_BITS and kind == SOA
    return (
        not second & RESPONSE_BITS
        and additional <= ALLOWED_ADDITIONAL
        and answers <= (1 if opcode else 0)
        and authority <= (1 if kind == IXFR else 0)
    )


class _Records:
    """What the records of a message tell."""

    def __init__(self) -> None:
        self.addresses: list[tuple[bytes, int]] = []
        self.extended_code = self.extended = 0
        self.remark = ""
        self._alias_ttl = (1 << 31) - 1

    def read(self, data: bytes, at: int, counts: list[int]) -> int:
        """Return where the last record ends. Raises _CutOffError or _MalformedError."""
        for section, count in enumerate(counts):
            if count > RECORDS:
                raise _CutOffError
            for _ in range(count):
                at = self._read_record(data, at, section)
        return at

    def _read_record(self, data: bytes, at: int, section: int) -> int:
        if data[at : at + 1] >= b"\xc0":
            if at + 2 > len(data):
                raise _CutOffError
            at += 2
        else:
            at = _skip_name(data, at)
        start = at + RECORD_BYTES
        if start > len(data):
            raise _CutOffError
        kind = int.from_bytes(data[at : at + 2], "big")
        ttl, length = (
            int.from_bytes(data[at + 4 : at + 8], "big"),
            int.from_bytes(data[at + 8 : start], "big"),
        )
        end = start + length
        if kind == OPT:
            self.extended_code = ttl >> 24
            self._read_options(data[start:end])
        if end > len(data):
            raise _CutOffError
        if section == 0:
            self._learn(kind, ttl, data[start:end])
        return end

    def _read_options(self, options: bytes) -> None:
        at, self.extended, self.remark = 0, 0, ""
        for _ in range(OPTIONS):
            start = at + OPTION_BYTES
            if start > len(options):
                return
            code, size = (int.from_bytes(options[place : place + 2], "big") for place in (at, at + 2))
            at = start + size
            if code == EXTENDED_ERROR and size >= CODE_BYTES and at <= len(options):
                told = start + CODE_BYTES
                self.extended = int.from_bytes(options[start:told], "big") + 1
                self.remark = options[told:at].decode("utf-8", "replace").strip(_BLANK)
                return

    def _learn(self, kind: int, ttl: int, value: bytes) -> None:
        if kind == CNAME:
            self._alias_ttl = min(self._alias_ttl, ttl)
        elif _ADDRESS_BYTES.get(kind) == len(value) and len(self.addresses) < ADDRESSES:
            self.addresses.append((value, min(ttl, self._alias_ttl)))


def _skip_name(data: bytes, at: int) -> int:
    """Return where a name ends: at its zero or behind its first pointer."""
    for _ in range(NAME_BYTES // 2 + 1):
        if at >= len(data):
            raise _CutOffError
        length = data[at]
        if length >= POINTER:
            return at + 2
        if length > _LABEL_BYTES:
            raise _MalformedError
        at += 1 + length
        if not length:
            return at
    raise _MalformedError


def _read_name(data: bytes, at: int) -> tuple[str, int]:
    """Return a name in presentation form, `.` for the root, and where it ends."""
    labels: list[str] = []
    size, end, pointers = 0, CUT, 0
    while True:
        if at >= len(data):
            raise _CutOffError
        length = data[at]
        if length >= POINTER:
            if at + 1 >= len(data):
                raise _CutOffError
            end = at + 2 if end == CUT else end
            target = (length & 0x3F) << 8 | data[at + 1]
            pointers += 1
            # A pointer goes back, or it could go on for ever.
            if target >= at or pointers > _POINTERS:
                raise _MalformedError
            at = target
            continue
        if length > _LABEL_BYTES:
            raise _MalformedError
        size += 1 + length
        if size > NAME_BYTES:
            raise _MalformedError
        label = data[at + 1 : at + 1 + length]
        if len(label) < length:
            raise _CutOffError
        at += 1 + length
        if not length:
            return ".".join(labels) or ".", at if end == CUT else end
        labels.append(_shown(label))


@functools.lru_cache(maxsize=4096)
def _shown(label: bytes) -> str:
    """Return a label in RFC 1035's presentation form: what is not plain is escaped by a backslash."""
    return "".join(map(_shown_byte, label))


def _shown_byte(byte: int) -> str:
    if byte in _SPECIAL:
        return f"\\{chr(byte)}"
    return chr(byte) if byte in _PLAIN else f"\\{byte:03d}"
