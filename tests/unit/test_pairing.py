"""Turns paired by kind hold the transactions that they hold when each is paired by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masdeepflow.pairing import Pairing, Reader
from masdeepflow.pipelined import Messages, Pairs, pair
from masdeepflow.schema import Flag, Kind
from tests.support.slots import make_slots, turn

if TYPE_CHECKING:
    from numpy.typing import NDArray

HIDDEN = ("?", "!")
SIZE = 4


def read(payload: NDArray[np.uint8], lengths: NDArray[np.integer]) -> Messages[str]:
    """Read messages of four bytes, whose first letter is their value: `q` expects no reply, `x` is none."""
    sizes = np.minimum(lengths, payload.shape[1]).astype(np.int64)
    ended: NDArray[np.int64] = SIZE * (sizes // SIZE)
    counts = -(-sizes // SIZE)
    row = np.repeat(np.arange(len(payload)), counts)
    start = SIZE * (np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts))
    end = np.where(start + SIZE <= sizes[row], start + SIZE, -1)
    letter = payload[row, start].astype(np.int32)
    good = np.ones(len(payload), bool)
    good[row[letter == ord("x")]] = False
    values = [chr(byte) for byte in range(256)]
    silent = letter == ord("q")
    return Messages(row, start, end, letter, values, ended, good, silent)


def rule_out(alone: NDArray[np.bool_], requests: Messages[str], replies: Messages[str]) -> None:
    """Nothing that says `p` is paired so."""
    for messages in (requests, replies):
        odd = np.array([value == "p" for value in messages.values], bool)
        alone[messages.row[odd[messages.code]]] = False


def pairing() -> Pairing[str, str]:
    """Return one that has seen nothing; no two payloads have an outline in common."""
    reader = Reader(read, lambda _: None)
    return Pairing(reader, reader, HIDDEN, "none", rule_out)


def shown(pairs: Pairs[str, str]) -> list[tuple[object, ...]]:
    """Return each transaction in full."""
    asked = [pairs.request_values[code] for code in pairs.requests.tolist()]
    told = [pairs.reply_values[code] for code in pairs.replies.tolist()]
    columns = (pairs.request_bytes, pairs.response_bytes, pairs.truncated, pairs.answered)
    every = list(zip(asked, told, *(column.tolist() for column in columns), strict=True))
    return [
        (row, *every[which]) for row, which in zip(pairs.rows.tolist(), pairs.which.tolist(), strict=True)
    ]


def one_by_one(slots: np.ndarray) -> tuple[NDArray[np.bool_], list[tuple[object, ...]]]:
    """Pair turns without any table."""
    requests = read(slots["request"], slots["request_length"])
    replies = read(slots["response"], slots["response_length"])
    alone, build = pair(slots, requests, replies, HIDDEN, "none")
    rule_out(alone, requests, replies)
    return alone, shown(build(alone))


def hashed(*turns: dict[str, object]) -> np.ndarray:
    """Return slots with hashes of their payloads."""
    slots = make_slots(*turns)
    for side in ("request", "response"):
        texts = zip(slots[side], slots[f"{side}_length"], strict=True)
        slots[f"{side}_hash"] = [hash(row[:length].tobytes()) % 2**64 | 1 for row, length in texts]
    return slots


SIDE = st.lists(st.sampled_from([b"a...", b"b...", b"q...", b"p...", b"x...", b"a."]), max_size=3).map(
    b"".join
)
TURN = st.builds(
    lambda request, response, repeat, more, flags, kind: turn(
        request * repeat,
        response * repeat,
        request_bytes=len(request * repeat) + more[0],
        response_bytes=len(response * repeat) + more[1],
        flags=flags,
        kind=kind,
    ),
    SIDE,
    SIDE,
    st.sampled_from([1, 2, 40]),
    st.sampled_from([(0, 0), (4, 4), (9, 0), (400, 400), (1 << 20, 8)]),
    st.sampled_from([0, 0, int(Flag.CONTINUED), int(Flag.CLOSED)]),
    st.sampled_from([Kind.TURN, Kind.TURN, Kind.OPEN]),
)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(TURN, min_size=1, max_size=6), min_size=1, max_size=4), st.integers(1, 4))
def test_equals_one_by_one(batches: list[list[dict[str, object]]], times: int) -> None:
    """Whatever was seen before, and however often a turn comes."""
    pairs = pairing()
    for batch in batches:
        slots = hashed(*batch * times)
        alone, build = pairs.pair(slots)
        expected, transactions = one_by_one(slots)
        assert alone.tolist() == expected.tolist()
        assert shown(build(alone)) == transactions


def test_some_of_the_turns() -> None:
    """Only those that are chosen are built."""
    slots = hashed(*[turn(b"a...", b"b...")] * 4, turn(b"b...", b"b..."), turn(b"b...a...", b"b...b..."))
    pairs = pairing()
    for _ in range(2):
        alone, build = pairs.pair(slots)
        assert alone.all()
        chosen = np.array([True, False, False, True, False, True])
        assert [row for row, *_ in shown(build(chosen))] == [0, 3, 5, 5]
        assert shown(build(np.zeros(6, bool))) == []


def test_no_turns() -> None:
    """An empty batch."""
    alone, build = pairing().pair(make_slots())
    assert shown(build(alone)) == []


@pytest.mark.parametrize("size", [40, 100_000])
def test_long_turns_are_as_many(size: int) -> None:
    """A turn that stands for thousands is not kept, and a batch of them stays bounded as it is."""
    alike = turn(b"a..." * 30, b"b..." * 20, request_bytes=4 * size, response_bytes=4 * size)
    slots, pairs = hashed(*[alike] * 60), pairing()
    for _ in range(2):
        alone, build = pairs.pair(slots)
        assert shown(build(alone)) == one_by_one(slots)[1]


def test_it_stays_bounded() -> None:
    """Turns that are all of other sizes do not fill the memory."""
    pairs = pairing()
    for number in range(6):
        turns = [
            turn(b"a...", b"b..." * 40, request_bytes=4, response_bytes=8000 * number + 4 * size)
            for size in range(40, 2000)
        ]
        slots = hashed(*turns)
        alone, build = pairs.pair(slots)
        assert len(shown(build(alone))) == len(one_by_one(slots)[1])
        assert len(pairs._counts) <= 8192
