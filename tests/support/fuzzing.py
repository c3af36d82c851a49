"""What the fuzz harnesses share."""

from __future__ import annotations

import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING
from unittest.mock import patch

import numpy as np

from masdeepflow import recall, templates
from masdeepflow.schema import Flag, Kind
from tests.support.slots import MILLISECOND, cut, make_slots, turn
from tests.unit.protocols.http_reference import rows_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from masdeepflow.protocols.base import Protocol

__all__ = ["MOST_TURNS", "check_parser", "check_pipelined", "check_recalled", "fuzz", "pieces"]

_SIZES = [(208, 104), (64, 40), (24, 16)]
MOST_TURNS = 16
OTHER_CONNECTIONS = 1 << 32
_COPIES, _CHANGED = 40, 0.1


def check_parser(
    data: bytes,
    protocol: Callable[[], Protocol],
    turns: Callable[[Iterator[int]], Iterator[dict[str, object]]],
    check_equal: Callable[[list[np.ndarray]], object],
) -> None:
    """Hold what every parser has to for the turns that `data` stands for, however they are cut and batched.

    And whether it has met their payloads before, on other connections and in another order.

    turns: from the bytes to the turns. check_equal: holds the parser and its reference equal over batches.
    """
    source = iter(data)
    sizes, split = _SIZES[next(source, 0) % len(_SIZES)], next(source, 0) % MOST_TURNS
    some = list(turns(source))
    if not some:
        return
    slots = cut(make_slots(*some), *sizes)
    # As of requests of several writes.
    slots["request_last_ns"] += np.where(
        slots["request_first_ns"] > 0, np.uint64(MILLISECOND // 2), np.uint64(0)
    )
    parsed, scores = protocol().parse(slots), protocol().recognise(slots)
    assert scores.dtype == np.uint8
    assert scores.shape == slots.shape
    shown = [parsed.request_text, parsed.response_text, *parsed.attributes.values()]
    arrays = [parsed.error, parsed.truncated, *parsed.base.values()]
    assert {*map(len, shown), *map(len, arrays)} == {len(parsed.rows)}
    assert (np.diff(parsed.rows) >= 0).all()
    assert set(parsed.rows) <= set(range(len(slots)))
    check_equal([slots[:split], slots[split:]])
    before = slots[::-1].copy()
    before["cookie"] += OTHER_CONNECTIONS
    with _learning_at_once():
        check_equal([before, slots[split:], slots[:split]])


@contextmanager
def _learning_at_once() -> Iterator[None]:
    """Have parsers keep what they meet for the first time, which they otherwise do of what repeats."""
    with patch.object(recall, "_SEVERAL", 1), patch.object(templates, "_SEEN", 1):
        yield


def check_pipelined(
    data: bytes,
    protocol: Callable[[], Protocol],
    fragments: Sequence[bytes],
    check_equal: Callable[[list[np.ndarray]], object],
) -> None:
    """Hold it for a protocol with pipelines.

    fragments: a byte of `data` stands for each, so that the fuzzer gets deep; others announce literal ones.
    """
    check_parser(data, protocol, lambda source: _turns(source, fragments), check_equal)


def check_recalled(data: bytes, protocol: Callable[[], Protocol], fragments: Sequence[bytes]) -> None:
    """Hold that turns like earlier ones, but for some bytes, are read as by a parser that is new to them."""
    source = iter(data)
    sizes = _SIZES[next(source, 0) % len(_SIZES)]
    turns = list(_turns(source, fragments))
    if not turns:
        return
    slots = cut(make_slots(*turns), *sizes)
    parser, generator = protocol(), np.random.default_rng(len(data))
    for _ in range(3):
        many = np.concatenate([_copy(slots, number, generator) for number in range(_COPIES)])
        together = rows_of(many, parser.parse(many))
        by_itself = []
        for start in range(0, len(many), len(slots)):
            some = many[start : start + len(slots)]
            by_itself += [row[1:] for row in rows_of(some, protocol().parse(some))]
        assert [row[1:] for row in together] == by_itself
        parser.forget(many["cookie"].tolist())


def _copy(slots: np.ndarray, number: int, generator: np.random.Generator) -> np.ndarray:
    """Return the same turns on other connections, every other time with some digits or bytes changed."""
    copied = slots.copy()
    copied["cookie"] += np.uint64(2 * number)
    for side in ("request", "response"):
        payload = copied[side]
        if number % 2:
            digits = (
                (payload >= ord("0")) & (payload <= ord("9")) & (generator.random(payload.shape) < _CHANGED)
            )
            payload[digits] = generator.integers(ord("0"), ord("9") + 1, int(digits.sum()))
        if number % 4 == 1:
            payload[generator.random(payload.shape) < _CHANGED / 10] = generator.integers(256)
        copied[side] = payload
        hashes = [
            hash(row[:length].tobytes())
            for row, length in zip(payload, copied[f"{side}_length"], strict=True)
        ]
        copied[f"{side}_hash"] = np.array(hashes).astype(np.uint64) | np.uint64(1)
    copied["request_hash"][copied["kind"] == Kind.OPEN] = 0
    return copied


def _turns(source: Iterator[int], fragments: Sequence[bytes]) -> Iterator[dict[str, object]]:
    """Yield turns of two connections: a byte of what happens, then both sides."""
    numbers = [0, 0]
    for _, what in zip(range(MOST_TURNS), source, strict=False):
        cookie, is_open, continued = what & 1, what & 0b110 == 0b010, what & 0b110 == 0b100
        numbers[cookie] += 0 if is_open or continued else 1 + (what >> 7)
        flags = (Flag.CONTINUED if continued else 0) | (Flag.CLOSED if what & 8 else 0)
        request, response = b"".join(pieces(source, fragments)), b"".join(pieces(source, fragments))
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


def pieces(source: Iterator[int], fragments: Sequence[bytes]) -> Iterator[bytes]:
    """Yield fragments and literal bytes up to a zero."""
    for piece in source:
        if piece == 0:
            return
        if piece <= len(fragments):
            yield fragments[piece - 1]
        else:
            yield bytes(byte for _, byte in zip(range(piece % 16), source, strict=False))


def fuzz(check: Callable[[bytes], None]) -> None:
    """Fuzz until a failure or the end of `-runs`. Exits with a message if atheris is not installed."""
    try:
        import atheris  # noqa: PLC0415  # harnesses serve tests without it
    except ImportError:
        sys.exit("Fuzzing needs atheris, which is not installed: pip install atheris")
    atheris.instrument_all()
    atheris.Setup(sys.argv, check)
    atheris.Fuzz()
