"""Templates: a payload that is found is read as it would be if it were looked at by itself."""

from __future__ import annotations

from typing import TYPE_CHECKING
from unittest.mock import patch

import numpy as np
from hypothesis import example, given
from hypothesis import strategies as st

from masdeepflow import templates
from masdeepflow.table import ABSENT
from masdeepflow.templates import Templates

if TYPE_CHECKING:
    from numpy.typing import NDArray

Known = Templates[tuple[object, ...]]

ROOM = 32
MESSAGES = st.lists(st.tuples(st.sampled_from(b"ab"), st.binary(max_size=9)), max_size=6)
Payload = list[tuple[int, bytes]]
Columns = tuple["NDArray[np.uint8]", "NDArray[np.uint8]", "NDArray[np.uint64]", "NDArray[np.int64]"]


def encode(messages: Payload) -> bytes:
    """Return messages: a kind and a length, a byte each, and a body."""
    return b"".join(bytes([kind, len(body)]) + body for kind, body in messages)


def read(data: bytes, total: int, kind: int) -> tuple[object, ...]:
    """Return what is read of a payload: kinds of messages, where they end, how many bytes there are."""
    found, at = [], 0
    while at + 2 <= len(data):
        found.append((data[at], at))
        at += 2 + data[at + 1]
    return (*found, total, len(data), kind)


def mask(data: bytes, _total: int) -> bytes:
    """Return which bytes decide that."""
    counts, at = bytearray(len(data)), 0
    while at + 2 <= len(data):
        counts[at : at + 2] = b"\xff\xff"
        at += 2 + data[at + 1]
    return bytes(counts)


def columns(payloads: list[Payload], kinds: list[int]) -> Columns:
    """Return payloads with stale bytes behind them, how much was captured and sent, and the kinds."""
    data = [encode(messages) for messages in payloads]
    payload = np.random.default_rng(1).integers(0, 256, (len(data), ROOM), np.uint8)
    for row, one in zip(payload, data, strict=True):
        row[: len(one)] = np.frombuffer(one[:ROOM], np.uint8)
    lengths = np.array([min(len(one), ROOM) for one in data], np.uint8)
    return payload, lengths, np.array(list(map(len, data)), np.uint64), np.array(kinds, np.int64)


def parse(known: Known, some: Columns) -> tuple[list[tuple[object, ...]], int]:
    """Return what payloads are read as, by templates where there are any, and for how many there are."""
    payload, lengths, totals, kinds = some
    keys = known.keys(payload, lengths, totals, kinds)
    codes, values = known.find(payload, keys), known.values
    left = np.flatnonzero(codes == ABSENT)

    def value(row: int) -> tuple[object, ...]:
        return read(payload[row, : lengths[row]].tobytes(), int(totals[row]), int(kinds[row]))

    known.learn(payload[left], lengths[left], totals[left], keys[left], lambda place: value(int(left[place])))
    found = [value(row) if code == ABSENT else values[code] for row, code in enumerate(codes.tolist())]
    return found, len(codes) - len(left)


@given(st.lists(st.lists(MESSAGES, min_size=1, max_size=8), max_size=4), st.integers(1, 5))
@example([[[(97, b"x")] * 3] * 3, [[(97, b"y")] * 3, [(97, b"\0\0\0\0")]]], 256)
def test_what_is_found_equals_what_is_read(batches: list[list[Payload]], limit: int) -> None:
    """Over any batches, with any limit, however alike they begin."""
    known: Known = Templates(mask, limit)
    with patch.object(templates, "_SEEN", 1):
        for payloads in [*batches, *batches[::-1]]:
            some = columns(payloads, [number % 2 for number in range(len(payloads))])
            found, _ = parse(known, some)
            assert found == [
                read(encode(messages)[:ROOM], len(encode(messages)), number % 2)
                for number, messages in enumerate(payloads)
            ]
            assert len(known._older) <= limit


def test_values_do_not_matter_once_a_template_was_made() -> None:
    """It is made of what came several times; what is built otherwise is not found."""
    known: Known = Templates(mask)
    head = (97, b"the same one")
    first = [[head, (97, bytes([number] * 5)), (98, b"12345")] for number in range(5)]
    assert parse(known, columns(first, [0] * 5))[1] == 0
    others = [[head, (97, bytes([9, number, 7, 7, 7])), (98, b"abcde")] for number in range(5)]
    assert parse(known, columns(others, [0] * 5))[1] == 5
    moved = [[head, (97, b"12345678"[: 5 + number]), (98, b"12345678"[: 5 - number])] for number in (1, 2, 3)]
    assert parse(known, columns(moved, [0] * 3))[1] == 0
    assert parse(known, columns(others, [1] * 5))[1] == 0


def test_templates_that_begin_alike_are_all_tried() -> None:
    """Those made last, up to as many as are worth it."""
    known: Known = Templates(mask)
    layouts = [[(97, b"x" * 12), (98, b"x" * (5 - number)), (97, b"x" * number)] for number in range(6)]
    for layout in layouts:
        parse(known, columns([layout] * 3, [0] * 3))
    assert [parse(known, columns([layout], [0]))[1] for layout in layouts] == [0, 0, 1, 1, 1, 1]


def test_no_templates_are_made_of_what_is_seldom_or_strange() -> None:
    """Each costs as much as reading some payloads."""
    known: Known = Templates(lambda _data, _total: None)
    assert parse(known, columns([[(97, b"x" * 12)]] * 9, [0] * 9))[1] == 0
    known = Templates(mask)
    parse(known, columns([[(97, b"x" * 12)]] * 2, [0] * 2))
    assert known.values == []
