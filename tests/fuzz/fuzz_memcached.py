"""The Memcached parser holds its ground whatever the bytes, and however turns are cut, numbered and flagged.

It does not raise, gives columns of one length whose rows point at turns of the batch in order, scores every
turn, and reports exactly what the plain reference reports.

Run with `PYTHONPATH=src:. python tests/fuzz/fuzz_memcached.py [-runs=N] [CORPUS]`; needs atheris.
"""

from __future__ import annotations

import struct
import sys
from typing import TYPE_CHECKING

import numpy as np

from masdeepflow.protocols.memcached import PROTOCOL
from masdeepflow.schema import Flag, Kind
from tests.support.slots import make_slots, turn
from tests.unit.protocols.http_reference import cut
from tests.unit.protocols.memcached_reference import check_equal

if TYPE_CHECKING:
    from collections.abc import Iterator


def packet(magic: int, opcode: int, key: bytes = b"", status: int = 0, extras: bytes = b"") -> bytes:
    """Return a binary message with a value of three bytes."""
    body = extras + key + b"abc"
    lengths = struct.pack(">BBHBBHI", magic, opcode, len(key), len(extras), 0, status, len(body))
    return lengths + bytes(12) + body


FRAGMENTS = [
    b"get user:12\r\n",
    b"gets a b1 c\r\n",
    b"gat 60 user:9f86d081\r\n",
    b"set user:1 0 60 5\r\nhello\r\n",
    b"set user:1 0 60 5 noreply\r\nhello\r\n",
    b"add k 0 0 300\r\n",
    b"cas k 0 0 x 7\r\n",
    b"incr n1 5\r\n",
    b"delete k noreply\r\n",
    b"mg user:1 v t q\r\n",
    b"mg user:1 v\r\n",
    b"ms user:1 3 T60\r\nabc\r\n",
    b"mn\r\n",
    b"quit\r\n",
    b"stats\r\n",
    b"hello 12\r\n",
    b"VALUE user:12 0 5\r\nhello\r\n",
    b"VALUE k 0 900 7\r\n",
    b"END\r\n",
    b"STORED\r\n",
    b"NOT_FOUND\r\n",
    b"12 \r\n",
    b"STAT pid 12\r\n",
    b"VERSION 1.6\r\n",
    b"VA 3 t60\r\nabc\r\n",
    b"HD\r\n",
    b"MN\r\n",
    b"ERROR\r\n",
    b"CLIENT_ERROR bad 'chunk'\r\n",
    packet(0x80, 0, b"user:12"),
    packet(0x80, 0x0D, b"9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d"),
    packet(0x80, 1, b"k", extras=bytes(8)),
    packet(0x80, 0x0A),
    packet(0x80, 0x21, b"PLAIN"),
    packet(0x80, 0x77),
    packet(0x81, 0, extras=bytes(4)),
    packet(0x81, 0x0D, b"k"),
    packet(0x81, 0x10, b"pid"),
    packet(0x81, 0x10),
    packet(0x81, 1, status=0x82),
    packet(0x81, 1, status=1),
    b"\r\n",
    b"\n",
]
"""One byte of input stands for each, so that the fuzzer gets deep; other bytes announce literal ones."""

SIZES = [(208, 104), (64, 40), (24, 16)]
MOST_TURNS = 16


def check(data: bytes) -> None:
    """Hold the invariant for the turns that `data` stands for."""
    source = iter(data)
    sizes, split = SIZES[next(source, 0) % len(SIZES)], next(source, 0) % MOST_TURNS
    turns = list(_turns(source))
    if not turns:
        return
    slots = cut(make_slots(*turns), *sizes)
    parsed, scores = PROTOCOL().parse(slots), PROTOCOL().recognise(slots)
    assert scores.dtype == np.uint8
    assert scores.shape == slots.shape
    shown = [parsed.request_text, parsed.response_text, *parsed.attributes.values()]
    arrays = [parsed.error, parsed.truncated, *parsed.base.values()]
    assert {*map(len, shown), *map(len, arrays)} == {len(parsed.rows)}
    assert (np.diff(parsed.rows) >= 0).all()
    assert set(parsed.rows) <= set(range(len(slots)))
    check_equal([slots[:split], slots[split:]])


def _turns(source: Iterator[int]) -> Iterator[dict[str, object]]:
    """Yield turns of two connections: a byte of what happens, then both sides."""
    numbers = [0, 0]
    for _, what in zip(range(MOST_TURNS), source, strict=False):
        cookie, is_open, continued = what & 1, what & 0b110 == 0b010, what & 0b110 == 0b100
        numbers[cookie] += 0 if is_open or continued else 1 + (what >> 7)
        flags = (Flag.CONTINUED if continued else 0) | (Flag.CLOSED if what & 8 else 0)
        request, response = b"".join(_pieces(source)), b"".join(_pieces(source))
        if response and not request:
            flags |= Flag.SERVER_FIRST
        yield turn(
            request * (1 + (what >> 5 & 3)),
            response * (1 + (what >> 5 & 3)),
            cookie=cookie,
            turn=numbers[cookie] + is_open,
            kind=Kind.OPEN if is_open else Kind.TURN,
            flags=flags | (Flag.OLD_CONNECTION if cookie else 0),
        )


def _pieces(source: Iterator[int]) -> Iterator[bytes]:
    """Yield fragments and literal bytes up to a zero."""
    for piece in source:
        if piece == 0:
            return
        if piece <= len(FRAGMENTS):
            yield FRAGMENTS[piece - 1]
        else:
            yield bytes(byte for _, byte in zip(range(piece % 16), source, strict=False))


def main() -> None:
    """Fuzz until a failure or the end of `-runs`. Exits with a message if atheris is not installed."""
    try:
        import atheris  # noqa: PLC0415  # the rest of this module serves tests without it
    except ImportError:
        sys.exit("Fuzzing needs atheris, which is not installed: pip install atheris")
    atheris.instrument_all()
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()


if __name__ == "__main__":
    main()
