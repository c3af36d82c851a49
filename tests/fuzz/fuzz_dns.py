"""The DNS parser holds its ground whatever the bytes, and however messages are cut, ordered and batched.

It does not raise, gives columns of one length whose rows point at slots of the batch in order, scores every
slot, and reports exactly what the plain reference reports, queries that are never answered included.

Run with `PYTHONPATH=src:. python tests/fuzz/fuzz_dns.py [-runs=N] [CORPUS]`; needs atheris.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from masdeepflow.protocols.dns import PROTOCOL
from masdeepflow.schema import Flag, Kind, Transport
from tests.support import dns_wire as wire
from tests.support.dns_wire import answered, asked, query, record, response
from tests.support.fuzzing import fuzz, pieces
from tests.support.slots import START, make_slots, turn
from tests.unit.protocols.dns_reference import check_equal

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME = b"www.example.org"
FRAGMENTS = [
    query(NAME),
    query(NAME, wire.AAAA, 2, edns=True),
    query(b"A.test", number=2),
    query(b"", 255),
    response(NAME, record(b"\xc0\0\2\1")),
    response(
        NAME, record(b"\4real\xc0\x10", wire.CNAME), record(bytes(16), wire.AAAA), kind=wire.AAAA, number=2
    ),
    response(b"a.TEST", number=2, code=3),
    response(b"", kind=255, code=12, flags=0x8380),
    query(NAME)[:12],
    wire.encode_name(NAME),
    b"\0\1\1\0\0\1\0\0\0\0\0\0",
    b"\0\1\x81\x80\0\1\0\2\0\0\0\1",
    b"\0\1\x80\1" + bytes(8),
    b"\xc0\x0c",
    b"\xc0\xff",
    b"\0\1\0\1",
    record(b"\xc0\0\2\1"),
    record(b"", 99, name=b"\1z\0"),
    wire.OPT,
    b"\0\0\x29\4\xd0\2\0\0\0\0\0",
    b"\x3f" + b"x" * 63,
]
"""One byte of input stands for each, so that the fuzzer gets deep; other bytes announce literal ones."""

MOST_SLOTS = 12
STEP_NS = 400_000_000


def check(data: bytes) -> None:
    """Hold the invariant for the slots that `data` stands for."""
    source = iter(data)
    split = next(source, 0) % MOST_SLOTS
    turns = list(_slots(source))
    if not turns:
        return
    slots = make_slots(*turns)
    scores = PROTOCOL().recognise(slots)
    assert scores.dtype == np.uint8
    assert scores.shape == slots.shape
    check_equal([slots[:split].copy(), slots[split:].copy()], few=split % 2 * len(slots))


def _slots(source: Iterator[int]) -> Iterator[dict[str, object]]:
    """Yield slots of two sockets: a byte of what and when, then the bytes."""
    for _, what in zip(range(MOST_SLOTS), source, strict=False):
        at = START + (what >> 4) * STEP_NS
        fields: dict[str, Any] = {"cookie": what & 1, "remote_port": 0 if what & 6 == 6 else 53}
        if what & 8:
            yield (asked if what & 2 else answered)(b"".join(pieces(source, FRAGMENTS)), at, **fields)
            continue
        stream = bool(what & 2)
        sides = [_side(source, stream=stream) for _ in range(2)]
        stamps = ("request_first_ns", "request_last_ns", "response_first_ns", "response_last_ns")
        fields |= {name: at + number for number, name in enumerate(stamps)}
        fields["transport"] = Transport.TCP if stream else Transport.UDP
        fields["kind"] = Kind.OPEN if what & 4 else Kind.TURN
        yield turn(sides[0], sides[1], flags=Flag.CONTINUED if what & 32 else 0, **fields)


def _side(source: Iterator[int], *, stream: bool) -> bytes:
    data = b"".join(pieces(source, FRAGMENTS))
    return len(data).to_bytes(2, "big") + data + data[:5] if stream else data


if __name__ == "__main__":
    fuzz(check)
