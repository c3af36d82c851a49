"""The Redis parser holds its ground whatever the bytes, and however turns are cut, numbered and flagged.

It does not raise, gives columns of one length whose rows point at turns of the batch in order, scores every
turn, and reports exactly what the plain reference reports.

Run with `PYTHONPATH=src:. python tests/fuzz/fuzz_redis.py [-runs=N] [CORPUS]`; needs atheris.
"""

from __future__ import annotations

from masdeepflow.protocols.redis import PROTOCOL
from tests.support.fuzzing import check_pipelined, check_recalled, fuzz
from tests.unit.protocols.redis_reference import check_equal


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


def check(data: bytes) -> None:
    """Hold the invariant for the turns that `data` stands for."""
    check_pipelined(data, PROTOCOL, FRAGMENTS, check_equal)


def check_again(data: bytes) -> None:
    """Hold that what is known from earlier turns changes nothing."""
    check_recalled(data, PROTOCOL, FRAGMENTS)


if __name__ == "__main__":
    fuzz(check)
