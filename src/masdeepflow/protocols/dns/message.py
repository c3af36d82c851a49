"""One DNS message: RFC 1035 section 4, with EDNS (RFC 6891). Bytes in, a named tuple out, never an exception.

::

    | id (2) | QR opcode(4) AA TC RD | RA Z AD CD rcode(4) | 4 counts (2 each) |
    | questions: name, type (2), class (2) | records: name, type (2), class (2), TTL (4), length (2), data ...
"""

from __future__ import annotations

import functools
import socket
from typing import NamedTuple

__all__ = ["CUT", "HEADER_BYTES", "Message", "read_message"]

HEADER_BYTES = 12
CUT = -1
"""`Message.end` of a message of which not all bytes are there."""

_QUESTION_BYTES, _RECORD_BYTES = 4, 10  # behind the name
_NAME_BYTES, _LABEL_BYTES, _POINTERS = 255, 63, 32
_POINTER = 0xC0
_ADDRESSES = 64  # of one message
_RECORDS = 256  # looked at in one message
_TYPES = {
    1: "A",
    2: "NS",
    5: "CNAME",
    6: "SOA",
    10: "NULL",
    12: "PTR",
    13: "HINFO",
    15: "MX",
    16: "TXT",
    17: "RP",
    18: "AFSDB",
    24: "SIG",
    25: "KEY",
    28: "AAAA",
    29: "LOC",
    33: "SRV",
    35: "NAPTR",
    36: "KX",
    37: "CERT",
    39: "DNAME",
    41: "OPT",
    42: "APL",
    43: "DS",
    44: "SSHFP",
    45: "IPSECKEY",
    46: "RRSIG",
    47: "NSEC",
    48: "DNSKEY",
    49: "DHCID",
    50: "NSEC3",
    51: "NSEC3PARAM",
    52: "TLSA",
    53: "SMIMEA",
    55: "HIP",
    59: "CDS",
    60: "CDNSKEY",
    61: "OPENPGPKEY",
    62: "CSYNC",
    63: "ZONEMD",
    64: "SVCB",
    65: "HTTPS",
    99: "SPF",
    108: "EUI48",
    109: "EUI64",
    249: "TKEY",
    250: "TSIG",
    251: "IXFR",
    252: "AXFR",
    255: "ANY",
    256: "URI",
    257: "CAA",
    32768: "TA",
    32769: "DLV",
}
_CODES = {
    0: "NOERROR",
    1: "FORMERR",
    2: "SERVFAIL",
    3: "NXDOMAIN",
    4: "NOTIMP",
    5: "REFUSED",
    6: "YXDOMAIN",
    7: "YXRRSET",
    8: "NXRRSET",
    9: "NOTAUTH",
    10: "NOTZONE",
    16: "BADVERS",
    22: "BADTRUNC",
    23: "BADCOOKIE",
}
_NO_FAULT = frozenset({"NOERROR", "NXDOMAIN"})
_OPCODES = {0: "Query", 4: "Notify", 5: "Update"}
_CLASSES = frozenset({1, 3, 4, 254, 255})
_A, _CNAME, _AAAA, _OPT, _IXFR = 1, 5, 28, 41, 251
_ADDRESS_BYTES = {_A: 4, _AAAA: 16}
_FAMILIES = {_A: socket.AF_INET, _AAAA: socket.AF_INET6}
_ALLOWED_ADDITIONAL = 2  # EDNS and a signature
_LAST_CODE = 10  # in a header
_QUESTIONS = 2  # nobody asks more at once
_RECOGNISED = frozenset({0, 4})
_TRUNCATED_BIT, _RESERVED_BIT, _RESPONSE_BITS = 0x02, 0x40, 0x8F  # the last: RA and the code
_SPECIAL, _PLAIN = b".\\", range(0x21, 0x7F)
_KEY = (1 << 64) - 1


class Message(NamedTuple):
    """What a message shows. Its id is not in it, so that equal questions are equal.

    response: the QR bit. operation: `Query`, `Notify` or `Update`. name: of the question, in RFC 1035's
    presentation, None if there is none or it is cut. type: of the question, such as `AAAA`. code: of a
    response, such as `NXDOMAIN`. answers: count of records in the answer section. truncated: the TC bit.
    addresses: (address, TTL in s) of the answers. end: length of the message, `CUT` if it goes on behind the
    bytes that there are. strict: no field has a value that nobody sends. key: hash of what a response has in
    common with its query, servers that change a name's case included; 0 if there is no name.
    """

    response: bool
    operation: str
    name: str | None
    type: str | None
    code: str | None
    answers: int
    truncated: bool
    addresses: tuple[tuple[str, int], ...]
    end: int
    strict: bool
    key: int

    @property
    def failed(self) -> bool:
        """Whether the server could or would not answer; that a name does not exist is an answer."""
        return self.code is not None and self.code not in _NO_FAULT

    def text(self) -> str:
        """Return the summary line."""
        if not self.response:
            name = "?" if self.name is None else self.name
            return f"DNS {self.operation}: {self.type or '?'} {name}"
        text = f"DNS Response: {self.code}"
        if self.answers or self.code == "NOERROR":
            text += f" {self.answers} answer{'' if self.answers == 1 else 's'}"
        return text + ", truncated" * self.truncated


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
    response, opcode = bool(first & 0x80), first >> 3 & 15
    questions, *counts = (int.from_bytes(data[at : at + 2], "big") for at in range(4, HEADER_BYTES, 2))
    question, records, end = _NO_QUESTION, _Records(), CUT
    try:
        question, at = _read_questions(data, questions)
        end = records.read(data, at, counts)
    except _CutOffError:
        pass
    name, kind = question.name, question.kind
    strict = questions == 1 and question.strict and opcode in _RECOGNISED and not second & _RESERVED_BIT
    rcode = (second & 15) | records.extended_code << 4
    return Message(
        response,
        _OPCODES.get(opcode, f"Opcode {opcode}"),
        name,
        None if kind is None else _TYPES.get(kind, f"TYPE{kind}"),
        _CODES.get(rcode, f"RCODE{rcode}") if response else None,
        counts[0] if response else 0,
        bool(first & _TRUNCATED_BIT),
        tuple(records.addresses),
        end,
        strict and (_fits_response(second) if response else _fits_query(opcode, second, kind, counts)),
        0 if name is None else hash((name.lower(), kind)) & _KEY | 1,
    )


class _Question(NamedTuple):
    name: str | None
    kind: int | None
    strict: bool


_NO_QUESTION = _Question(None, None, False)  # noqa: FBT003  # nothing was read


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
    end = at + _QUESTION_BYTES
    if end > len(data):
        raise _CutOffError
    kind, group = int.from_bytes(data[at : at + 2], "big"), int.from_bytes(data[at + 2 : end], "big")
    return _Question(name, kind, kind in _TYPES and group in _CLASSES and "\\" not in name), end


def _fits_response(second: int) -> bool:
    return second & 15 <= _LAST_CODE


def _fits_query(opcode: int, second: int, kind: int | None, counts: list[int]) -> bool:
    answers, authority, additional = counts
    return (
        not second & _RESPONSE_BITS
        and additional <= _ALLOWED_ADDITIONAL
        and answers <= (1 if opcode else 0)
        and authority <= (1 if kind == _IXFR else 0)
    )


class _Records:
    """What the records of a message tell."""

    def __init__(self) -> None:
        self.addresses: list[tuple[str, int]] = []
        self.extended_code = 0
        self._alias_ttl = (1 << 31) - 1

    def read(self, data: bytes, at: int, counts: list[int]) -> int:
        """Return where the last record ends. Raises _CutOffError or _MalformedError."""
        for section, count in enumerate(counts):
            if count > _RECORDS:
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
        start = at + _RECORD_BYTES
        if start > len(data):
            raise _CutOffError
        kind = int.from_bytes(data[at : at + 2], "big")
        ttl, length = (
            int.from_bytes(data[at + 4 : at + 8], "big"),
            int.from_bytes(data[at + 8 : start], "big"),
        )
        end = start + length
        if kind == _OPT:
            self.extended_code = ttl >> 24
        if end > len(data):
            raise _CutOffError
        if section == 0:
            self._learn(kind, ttl, data[start:end])
        return end

    def _learn(self, kind: int, ttl: int, value: bytes) -> None:
        if kind == _CNAME:
            self._alias_ttl = min(self._alias_ttl, ttl)
        elif _ADDRESS_BYTES.get(kind) == len(value) and len(self.addresses) < _ADDRESSES:
            address = socket.inet_ntop(_FAMILIES[kind], value)
            self.addresses.append((address, min(ttl, self._alias_ttl)))


def _skip_name(data: bytes, at: int) -> int:
    """Return where a name ends: at its zero or behind its first pointer."""
    for _ in range(_NAME_BYTES // 2 + 1):
        if at >= len(data):
            raise _CutOffError
        length = data[at]
        if length >= _POINTER:
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
        if length >= _POINTER:
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
        if size > _NAME_BYTES:
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
