"""The PostgreSQL parser holds its ground whatever the bytes, and however turns are cut, numbered and flagged.

It does not raise, gives columns of one length whose rows point at turns of the batch in order, scores every
turn, and reports exactly what the plain reference reports.

Run with `PYTHONPATH=src:. python tests/fuzz/fuzz_postgresql.py [-runs=N] [CORPUS]`; needs atheris.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from masdeepflow.protocols.postgresql import PROTOCOL
from masdeepflow.schema import Flag, Kind
from tests.support.fuzzing import MOST_TURNS, check_parser, fuzz
from tests.support.slots import turn
from tests.unit.protocols.postgresql_reference import check_equal

if TYPE_CHECKING:
    from collections.abc import Iterator


def message(kind: bytes, body: bytes = b"") -> bytes:
    """Return a message."""
    return kind + (len(body) + 4).to_bytes(4, "big") + body


def startup(code: int, body: bytes = b"") -> bytes:
    """Return a packet that begins a connection."""
    return (len(body) + 8).to_bytes(4, "big") + code.to_bytes(4, "big") + body


def query(text: str | bytes) -> bytes:
    """Return a simple query."""
    return message(b"Q", (text.encode() if isinstance(text, str) else text) + b"\0")


def parse(text: bytes, name: bytes = b"") -> bytes:
    """Return a Parse without types of parameters."""
    return message(b"P", name + b"\0" + text + b"\0\0\0")


def bind(name: bytes = b"", portal: bytes = b"", value: bytes = b"7") -> bytes:
    """Return a Bind of one value as text."""
    length = len(value).to_bytes(4, "big")
    return message(b"B", portal + b"\0" + name + b"\0\0\0\0\1" + length + value + b"\0\0")


def execute(portal: bytes = b"", rows: int = 0) -> bytes:
    """Return an Execute."""
    return message(b"E", portal + b"\0" + rows.to_bytes(4, "big"))


def described(*columns: bytes) -> bytes:
    """Return a RowDescription of integers."""
    body = b"".join(name + b"\0\0\0\x40\0\0\1\0\0\0\x17\0\4\xff\xff\xff\xff\0\0" for name in columns)
    return message(b"T", len(columns).to_bytes(2, "big") + body)


def row(value: bytes) -> bytes:
    """Return a DataRow of one value."""
    return message(b"D", b"\0\1" + len(value).to_bytes(4, "big") + value)


def tag(text: bytes) -> bytes:
    """Return a CommandComplete."""
    return message(b"C", text + b"\0")


def notice(text: bytes, kind: bytes = b"E", severity: bytes = b"ERROR", code: bytes = b"42P01") -> bytes:
    """Return an ErrorResponse, or a NoticeResponse."""
    fields = (b"S" + severity, b"V" + severity, b"C" + code, b"M" + text, b"Fx.c", b"L7", b"Rf")
    return message(kind, b"\0".join(fields) + b"\0\0")


DESCRIBE = message(b"D", b"P\0")
SYNC, FLUSH = message(b"S"), message(b"H")
PARSED, BOUND, CLOSED, NO_DATA = (message(kind) for kind in (b"1", b"2", b"3", b"n"))
SUSPENDED, EMPTY = message(b"s"), message(b"I")
READY = message(b"Z", b"I")
LOGIN = startup(0x30000, b"user\0bob\0database\0shop\0application_name\0psql\0\0")
LET_IN = message(b"R", bytes(4)) + message(b"S", b"TimeZone\0UTC\0") + READY
TLS, GSS, CANCEL = startup(80877103), startup(80877104), startup(80877102, b"\0\0\1\0\1\2\3\4")
COPY_IN, COPY_OUT, COPY_BOTH = (message(kind, b"\0\0\1\0\0") for kind in (b"G", b"H", b"W"))
DATA, DATA_END = message(b"d", b"7\n"), message(b"c")
NOTIFICATION = message(b"A", b"\0\0\1\0news\0hello\0")

FRAGMENTS = [
    LOGIN,
    startup(0x30000, b"user\0bob\0\0"),
    TLS,
    GSS,
    CANCEL,
    b"N",
    b"S",
    message(b"R", b"\0\0\0\x0aSCRAM-SHA-256\0\0"),
    message(b"p", b"SCRAM-SHA-256\0"),
    message(b"R", bytes(4)),
    LET_IN,
    query("SELECT 1 FROM t"),
    query("BEGIN; SELEC"),
    query("COPY t FROM STDIN"),
    query("DEALLOCATE s1"),
    parse(b"SELECT $1 FROM t"),
    parse(b"UPDATE t SET a = $1", b"s1"),
    parse(b"SELECT '" + b"x" * 300),
    bind(),
    bind(b"s1"),
    bind(b"s1", b"p1"),
    bind(b"s1", b"", b"x" * 300),
    DESCRIBE,
    message(b"D", b"Ss1\0"),
    execute(),
    execute(b"p1", 10),
    SYNC,
    FLUSH,
    message(b"C", b"Ss1\0"),
    message(b"C", b"Pp1\0"),
    message(b"F", b"\0\0\3\xbd\0\0\0\0\0\1"),
    message(b"X"),
    DATA,
    DATA_END,
    PARSED,
    BOUND,
    CLOSED,
    message(b"t", b"\0\1\0\0\0\x17"),
    described(b"a"),
    described(b"a_column_with_a_long_name", b"b", b"c", b"d"),
    NO_DATA,
    row(b"1"),
    row(b"x" * 200),
    tag(b"SELECT 1"),
    tag(b"UPDATE 10"),
    SUSPENDED,
    EMPTY,
    READY,
    notice(b'relation "t" does not exist'),
    notice(b"x" * 200, severity=b"FATAL"),
    notice(b"careful", b"N", b"NOTICE", b"00000"),
    COPY_IN,
    COPY_OUT,
    COPY_BOTH,
    message(b"V", b"\0\0\0\1\0"),
    NOTIFICATION,
    message(b"S", b"TimeZone\0UTC\0"),
    parse(b"SELECT $1") + bind() + DESCRIBE + execute() + SYNC,
    bind(b"s1") + execute() + SYNC,
    PARSED + BOUND + described(b"a") + row(b"1") + tag(b"SELECT 1") + READY,
    BOUND + row(b"1") + tag(b"SELECT 1") + READY,
    BOUND + tag(b"UPDATE 1"),
    notice(b"no") + READY,
    (bind(b"s1") + execute()) * 5,
    (bind(b"s1") + execute() + SYNC) * 5,
    (parse(b"SELECT 1") + bind() + execute()) * 4,
    bind(b"s1", b"", b"x" * 100) + execute(),
    (BOUND + tag(b"INSERT 0 1")) * 5,
    (BOUND + tag(b"INSERT 0 1") + READY) * 4,
]
"""One byte of input stands for each, so that the fuzzer gets deep; other bytes announce literal ones."""

MESSAGES = 0x80
"""Pieces from here on are messages with a right length: type, length and body follow."""


def check(data: bytes) -> None:
    """Hold the invariant for the turns that `data` stands for."""
    check_parser(data, PROTOCOL, _turns, check_equal)


def _turns(source: Iterator[int]) -> Iterator[dict[str, object]]:
    """Yield turns of two connections: a byte of what happens, then both sides."""
    numbers = [0, 0]
    for _, what in zip(range(MOST_TURNS), source, strict=False):
        cookie, is_open, continued = what & 1, what & 0b110 == 0b010, what & 0b110 == 0b100
        numbers[cookie] += (not continued) + (what & 0b1100000 == 0b1100000)
        flags = (Flag.CONTINUED if continued else 0) | (Flag.CLOSED if what & 8 else 0)
        yield turn(
            b"".join(_pieces(source)),
            b"".join(_pieces(source)),
            cookie=cookie,
            kind=Kind.OPEN if is_open else Kind.TURN,
            turn=numbers[cookie],
            flags=flags | (Flag.IDLE if what & 16 else 0),
            queue_ns=what,
        )
        numbers[cookie] -= is_open


def _pieces(source: Iterator[int]) -> Iterator[bytes]:
    """Yield fragments, messages and literal bytes up to a zero."""
    for piece in source:
        if piece == 0:
            return
        if piece <= len(FRAGMENTS):
            yield FRAGMENTS[piece - 1]
        elif piece < MESSAGES:
            yield _literal(source, piece % 16)
        else:
            kind = bytes([next(source, 0)])
            yield message(kind, _literal(source, piece % 32))


def _literal(source: Iterator[int], count: int) -> bytes:
    return bytes(byte for _, byte in zip(range(count), source, strict=False))


if __name__ == "__main__":
    fuzz(check)
