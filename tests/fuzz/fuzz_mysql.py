"""The MySQL parser holds its ground whatever the bytes, and however turns are cut, numbered and flagged.

It does not raise, gives columns of one length whose rows point at turns of the batch in order, scores every
turn, and reports exactly what the plain reference reports.

Run with `PYTHONPATH=src:. python tests/fuzz/fuzz_mysql.py [-runs=N] [CORPUS]`; needs atheris.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from masdeepflow.protocols.mysql import PROTOCOL
from masdeepflow.schema import Flag, Kind
from tests.support.fuzzing import MOST_TURNS, check_parser, fuzz
from tests.support.slots import turn
from tests.unit.protocols.mysql_reference import check_equal

if TYPE_CHECKING:
    from collections.abc import Iterator


def packet(body: bytes, sequence: int = 0) -> bytes:
    """Return a packet."""
    return len(body).to_bytes(3, "little") + bytes([sequence]) + body


VERSION = b"\x0a5.5.5-10.11.19-MariaDB\0"
GREETING = packet(VERSION + b"\1\0\0\0saltsalt\0\xff\xff\x2d\2\0\xff\xff\x15" + bytes(10) + b"moresalt1234\0")
CAPABILITIES = 0x3BA28D
COMPRESS, TLS = 0x20, 0x800


def login(capabilities: int = CAPABILITIES, user: bytes = b"root\0\0db\0mysql_native_password\0") -> bytes:
    """Return a login of MySQL 4.1."""
    return packet(capabilities.to_bytes(4, "little") + b"\0\0\0\1\x2d" + bytes(23) + user, 1)


COUNT = packet(b"\1", 1)
DEFINITION = packet(b"\3def\0\0\0\x011\0\x0c\x3f\0\1\0\0\0\3\x81\0\0\0\0", 2)
OK = packet(b"\0\1\0\2\0\0\0", 1)
FRAGMENTS = [
    GREETING,
    login(),
    login(CAPABILITIES | COMPRESS),
    login(CAPABILITIES | TLS, b""),
    packet(b"\3SELECT 1 FROM t"),
    packet(b"\3\0\1SELECT 1"),
    packet(b"\3\1\1\0\1\xfe\0\1n\1vUPDATE t SET a=1"),
    packet(b"\3USE shop"),
    packet(b"\x16SELECT ? FROM t"),
    packet(b"\x17\1\0\0\0\0\1\0\0\0"),
    packet(b"\x17\xff\xff\xff\xff\0\1\0\0\0"),
    packet(b"\xfa\1\0\0\0\x80\0"),
    packet(b"\x19\1\0\0\0"),
    packet(b"\x18\1\0\0\0\0\0" + b"long" * 20),
    packet(b"\x1c\1\0\0\0\1\0\0\0"),
    packet(b"\2mysql"),
    packet(b"\x0e"),
    packet(b"\x1f"),
    packet(b"\1"),
    packet(b"\x09"),
    packet(b"\4t\0%"),
    packet(b"\x12\4\0\0\0\0\0\1\0\0\0binlog.1"),
    packet(b"\x11root\0\0db\0"),
    packet(b"7,zed\n", 2) + packet(b"", 3),
    packet(b"\xff\x10\4Too many connections"),
    OK,
    packet(b"\0\0\0\x0a\0\0\0", 1),
    packet(b"\xff\x28\4#42000You have an error in your SQL syntax", 1),
    packet(b"\xff\x28\4#42000Deadlock", 4),
    packet(b"\xfe\0\0\2\0", 1),
    COUNT,
    packet(b"\1\1", 1),
    packet(b"\1\0", 1),
    DEFINITION,
    packet(b"\xfe\0\0\2\0", 3),
    packet(b"\xfe\0\0\x42\0", 3),
    packet(b"\xfe\0\0\x0a\0", 3),
    packet(b"\3ann", 4),
    packet(b"\xfe\0\0\2\0", 5),
    COUNT + DEFINITION + packet(b"\xfe\0\0\2\0", 3) + packet(b"\xfe\0\0\2\0", 4),
    packet(b"\0\1\0\0\0\1\0\1\0\0\0\0", 1),
    packet(b"\0\1\0\0\0\0\0\0\0\0\0\0", 1),
    packet(b"\xfemysql_native_password\0salt", 2),
    packet(b"\1\3", 2),
    packet(b"\0\0\0\2\0\0\0", 3),
    packet(b"\xfbfile.csv", 1),
    packet(b"\xff\xff\xff\1\2\2\0\0\0\1x", 1),
    b"\xff\xff\xff\0\3SELECT '" + b"x" * 300,
]
"""One byte of input stands for each, so that the fuzzer gets deep; other bytes announce literal ones."""

PACKETS = 0x80
"""Pieces from here on are packets with a right length: sequence number, length and body follow."""


def check(data: bytes) -> None:
    """Hold the invariant for the turns that `data` stands for."""
    check_parser(data, PROTOCOL, _turns, check_equal)


def _turns(source: Iterator[int]) -> Iterator[dict[str, object]]:
    """Yield turns of two connections: a byte of what happens, then both sides."""
    for _, what in zip(range(MOST_TURNS), source, strict=False):
        is_open, continued = what & 0b110 == 0b010, what & 0b110 == 0b100
        flags = (Flag.CONTINUED if continued else 0) | (Flag.CLOSED if what & 8 else 0)
        yield turn(
            b"".join(_pieces(source)),
            b"".join(_pieces(source)),
            cookie=what & 1,
            kind=Kind.OPEN if is_open else Kind.TURN,
            flags=flags | (Flag.IDLE if what & 16 else 0),
            queue_ns=what,
            request_segments=1 + (what >> 4),
        )


def _pieces(source: Iterator[int]) -> Iterator[bytes]:
    """Yield fragments, packets and literal bytes up to a zero."""
    for piece in source:
        if piece == 0:
            return
        if piece <= len(FRAGMENTS):
            yield FRAGMENTS[piece - 1]
        elif piece < PACKETS:
            yield _literal(source, piece % 16)
        else:
            sequence = next(source, 0)
            yield packet(_literal(source, piece % 32), sequence)


def _literal(source: Iterator[int], count: int) -> bytes:
    return bytes(byte for _, byte in zip(range(count), source, strict=False))


if __name__ == "__main__":
    fuzz(check)
