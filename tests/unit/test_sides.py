"""The rules of sides: what is read, what is known again, and that it stays bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from masdeepflow.outlines import Outline
from masdeepflow.pipelined import Messages
from masdeepflow.sides import SIDES, Sides

if TYPE_CHECKING:
    from numpy.typing import NDArray

READS: list[int] = []


def read(payload: NDArray[np.uint8], lengths: NDArray[np.integer]) -> Messages[str]:
    """Read as many messages of one byte as the first byte says, each with the second as its value."""
    READS.append(len(payload))
    counts = np.minimum(payload[:, 0], lengths)
    row = np.repeat(np.arange(len(payload)), counts)
    start = np.arange(len(row)) - np.repeat(np.cumsum(counts) - counts, counts)
    values = [chr(byte) for byte in range(256)]
    ends = counts.astype(np.int64)
    return Messages(
        row, start, start + 1, payload[row, 1].astype(np.int32), values, ends, payload[:, 0] < 9, start == 1
    )


def outline(data: bytes) -> Outline:
    """Only the first two bytes count."""
    return Outline(data, [(2, len(data))], [])


def column(rows: list[bytes]) -> tuple[NDArray[np.uint8], NDArray[np.int64], NDArray[np.uint64]]:
    """Return payloads with lengths and hashes."""
    payload = np.zeros((len(rows), 16), np.uint8)
    for place, row in enumerate(rows):
        payload[place, : len(row)] = np.frombuffer(row, np.uint8)
    hashes = np.array([hash(row) for row in rows]).astype(np.uint64) | np.uint64(1)
    return payload, np.array([len(row) for row in rows]), hashes


def shown(messages: Messages[str]) -> list[tuple[object, ...]]:
    """Return each message in full."""
    silent = np.zeros(len(messages.row), bool) if messages.silent is None else messages.silent
    values = [messages.values[code] for code in messages.code]
    return list(
        zip(
            messages.row.tolist(),
            messages.start.tolist(),
            messages.end.tolist(),
            values,
            silent.tolist(),
            strict=True,
        )
    )


def test_what_is_known_is_not_read() -> None:
    """Messages from the table are those that were read."""
    sides = Sides(read, outline)
    payload, lengths, hashes = column([b"\x02a-", b"\x00b-", b"\x09c----------"] * 3)
    codes = sides.encode(payload, lengths, hashes)
    assert len(set(codes.tolist())) == 3
    READS.clear()
    again = sides.encode(payload, lengths, hashes)
    found = sides.messages(payload, lengths, again)
    assert not READS
    expected = read(payload, lengths)
    assert again.tolist() == codes.tolist()
    assert shown(found) == shown(expected)
    assert found.ended.tolist() == expected.ended.tolist()
    assert found.good.tolist() == expected.good.tolist()


def test_what_comes_seldom_is_read_each_time() -> None:
    """One that is not known is enough to have all read."""
    sides = Sides(read, outline)
    payload, lengths, hashes = column([b"\x01a", b"\x01a", b"\x01a", b"\x02b"])
    codes = sides.encode(payload, lengths, hashes)
    assert codes.tolist() == [0, 0, 0, -1]
    assert shown(sides.messages(payload, lengths, codes)) == shown(read(payload, lengths))


def test_what_has_no_hash_is_not_kept() -> None:
    """A request in flight has none."""
    sides = Sides(read, outline)
    payload, lengths, _ = column([b"\x01a"] * 9)
    assert (sides.encode(payload, lengths, np.zeros(9, np.uint64)) == -1).all()


def test_outlines_make_up_for_hashes() -> None:
    """Payloads that are all distinct have one code where they are built alike."""
    sides = Sides(read, outline)
    for _ in range(2):
        payload, lengths, hashes = column([b"\x02a%d" % number for number in range(10, 99)])
        codes = sides.encode(payload, lengths, hashes)
    assert set(codes.tolist()) == {0}
    assert shown(sides.messages(payload, lengths, codes)) == shown(read(payload, lengths))


def test_it_stays_bounded() -> None:
    """Codes stay below the bound, and there is a time to forget all."""
    sides = Sides(read, lambda _: None)
    generator = np.random.default_rng(1)
    for _ in range(9):
        rows = [b"\x01" + generator.bytes(12) for _ in range(1500)] * 3
        assert sides.encode(*column(rows)).max() < SIDES
    assert len(sides._codes) > SIDES // 4
    filled = sides.full
    sides.clear()
    assert filled > sides.full
    assert sides.encode(*column([b"\x01a"] * 3)).tolist() == [0, 0, 0]
