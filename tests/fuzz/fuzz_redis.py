"""The Redis parser holds its ground whatever the bytes, and however turns are cut, numbered and flagged.

It does not raise, gives columns of one length whose rows point at turns of the batch in order, scores every
turn, and reports exactly what the plain reference reports.

Run with `PYTHONPATH=src:. python tests/fuzz/fuzz_redis.py [-runs=N] [CORPUS]`; needs atheris.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import numpy as np

from masdeepflow.protocols.redis import PROTOCOL
from masdeepflow.schema import Flag, Kind
from tests.support.slots import make_slots, turn
from tests.unit.protocols.http_reference import cut
from tests.unit.protocols.redis_reference import check_equal

if TYPE_CHECKING:
    from collections.abc import Iterator


def command(*words: bytes) -> bytes:
    """Return a command as clients send it."""
    return b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words)


FRAGMENTS = [
    command(b"GET", b"user:12"),
    command(b"SET", b"550e8400-e29b-41d4-a716-446655440000", b"12345678"),
    command(b"SELECT", b"3"),
    command(b"MULTI"),
    command(b"EXEC"),
    command(b"SUBSCRIBE", b"a1"),
    command(b"CLIENT", b"REPLY", b"OFF"),
    command(b"CLIENT", b"REPLY", b"SKIP"),
    command(b"XREAD", b"BLOCK", b"0", b"STREAMS", b"s:1", b"$"),
    command(b"EVAL", b"return 1", b"1", b"k9"),
    command(b"MONITOR"),
    command(b"reset"),
    command(b"message", b"a1", b"hello"),
    command(b"subscribe", b"a1"),
    b"PING\r\n",
    b"*0\r\n",
    b"*2\r\n",
    b"$3\r\n",
    b"GET\r\n",
    b"$300\r\n",
    b"+OK\r\n",
    b"+QUEUED\r\n",
    b"+PONG\r\n",
    b":12\r\n",
    b"$-1\r\n",
    b"*-1\r\n",
    b"$5\r\nhello\r\n",
    b"-ERR unknown command 'x', with args beginning with: 'y'\r\n",
    b"-MOVED 1 127.0.0.1:2\r\n",
    b"%1\r\n",
    b"|1\r\n",
    b">2\r\n",
    b"_\r\n",
    b"!3\r\n",
    b"abc\r\n",
    b"\r\n",
    b"$1234567890\r\n",
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
