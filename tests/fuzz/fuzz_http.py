"""The HTTP parser holds its ground whatever the bytes, and however turns are cut, numbered and flagged.

It does not raise, gives columns of one length whose rows point at turns of the batch in order, scores every
turn, and reports exactly what the plain reference reports.

Run with `PYTHONPATH=src:. python tests/fuzz/fuzz_http.py [-runs=N] [CORPUS]`; needs atheris.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from masdeepflow.protocols.http import PROTOCOL
from masdeepflow.schema import Flag, Kind
from tests.support.fuzzing import MOST_TURNS, check_parser, fuzz, pieces
from tests.support.slots import turn
from tests.unit.protocols.http_reference import check_equal

if TYPE_CHECKING:
    from collections.abc import Iterator

FRAGMENTS = [
    b"GET / HTTP/1.1\r\n",
    b"HEAD http://h/p?q HTTP/1.0\n",
    b"POST /%41 HTTP/1.1\r\n",
    b"CONNECT h:1 HTTP/1.1\r\n",
    b"Host: h\r\n",
    b"User-Agent: u\n",
    b"Content-Length: 9\r\n",
    b"Content-Length: 40\r\n",
    b"Transfer-Encoding: chunked\r\n",
    b"\r\n",
    b"\n",
    b"4\r\nbody\r\n",
    b"0\r\n\r\n",
    b"HTTP/1.1 200 OK\r\n",
    b"HTTP/1.0 404\r\n",
    b"HTTP/1.1 100 Continue\r\n\r\n",
    b"HTTP/1.1 101 X\r\n\r\n",
    b"HTTP/1.1 204 No\r\n\r\n",
    b"GET /",
    b"HTTP/1.",
]
"""One byte of input stands for each, so that the fuzzer gets deep; other bytes announce literal ones."""


def check(data: bytes) -> None:
    """Hold the invariant for the turns that `data` stands for."""
    check_parser(data, PROTOCOL, _turns, check_equal)


def _turns(source: Iterator[int]) -> Iterator[dict[str, object]]:
    """Yield turns of two connections: a byte of what happens, then both sides."""
    numbers = [0, 0]
    for _, what in zip(range(MOST_TURNS), source, strict=False):
        cookie, is_open, continued = what & 1, what & 0b110 == 0b010, what & 0b110 == 0b100
        numbers[cookie] += 0 if is_open or continued else 1 + (what >> 7)
        flags = (Flag.CONTINUED if continued else 0) | (Flag.CLOSED if what & 8 else 0)
        yield turn(
            b"".join(pieces(source, FRAGMENTS)),
            b"".join(pieces(source, FRAGMENTS)),
            cookie=cookie,
            turn=numbers[cookie] + is_open,
            kind=Kind.OPEN if is_open else Kind.TURN,
            flags=flags | (Flag.IDLE if what & 16 else 0),
            role=what >> 5 & 3,
        )


if __name__ == "__main__":
    fuzz(check)
