"""The Memcached parser holds its ground whatever the bytes, and however turns are cut, numbered and flagged.

It does not raise, gives columns of one length whose rows point at turns of the batch in order, scores every
turn, and reports exactly what the plain reference reports.

Run with `PYTHONPATH=src:. python tests/fuzz/fuzz_memcached.py [-runs=N] [CORPUS]`; needs atheris.
"""

from __future__ import annotations

import struct

from masdeepflow.protocols.memcached import PROTOCOL
from tests.support.fuzzing import check_pipelined, check_recalled, fuzz
from tests.unit.protocols.memcached_reference import check_equal


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


def check(data: bytes) -> None:
    """Hold the invariant for the turns that `data` stands for."""
    check_pipelined(data, PROTOCOL, FRAGMENTS, check_equal)


def check_again(data: bytes) -> None:
    """Hold that what is known from earlier turns changes nothing."""
    check_recalled(data, PROTOCOL, FRAGMENTS)


if __name__ == "__main__":
    fuzz(check)
