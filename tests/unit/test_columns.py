"""The rules of the vector operations on payload columns."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from masdeepflow.columns import Memo, cut_out, find_byte, prefix, row_hash

WIDTH = 136
PAYLOADS = st.lists(
    st.one_of(
        st.binary(max_size=WIDTH),
        # Few distinct bytes, and words that differ in a single bit, are what a weak hash confuses.
        st.text("\0\x01\x80", max_size=24).map(lambda text: text.encode("latin-1")),
    ),
    max_size=40,
)


def columns(payloads: list[bytes]) -> tuple[np.ndarray, np.ndarray]:
    """Return payloads as rows (n, WIDTH), stale bytes behind each, and their lengths (n,)."""
    rows = np.full((len(payloads), WIDTH), 0xAA, np.uint8)
    for row, data in zip(rows, payloads, strict=True):
        row[: len(data)] = np.frombuffer(data, np.uint8)
    return rows, np.array([len(data) for data in payloads], np.uint16)


@given(PAYLOADS)
def test_equal_bytes_have_equal_codes(payloads: list[bytes]) -> None:
    """Two rows have the same code if and only if their valid bytes are the same."""
    codes, values = Memo(bytes).encode(*columns(payloads))
    assert codes.dtype == np.int32
    assert [values[code] for code in codes] == payloads
    assert len(values) == len(set(payloads))


@given(st.lists(PAYLOADS, max_size=4), st.integers(0, 20))
def test_codes_hold_over_batches(batches: list[list[bytes]], limit: int) -> None:
    """What is remembered, and what is forgotten at the limit, does not change what a batch gives."""
    memo = Memo(bytes, limit)
    for payloads in batches:
        codes, values = memo.encode(*columns(payloads))
        assert [values[code] for code in codes] == payloads


def test_each_value_is_parsed_once() -> None:
    """Known bytes are not parsed again, in this batch or a later one."""
    parsed: list[bytes] = []
    memo = Memo(parsed.append)
    memo.encode(*columns([b"a", b"b", b"a"]))
    memo.encode(*columns([b"b", b"c"]))
    assert sorted(parsed) == [b"a", b"b", b"c"]


def test_memo_is_bounded() -> None:
    """No more values are kept than the limit, or than one batch holds."""
    memo = Memo(bytes, limit=10)
    for first in range(0, 100, 4):
        memo.encode(*columns([b"%d" % number for number in range(first, first + 4)]))
        assert len(memo._known) <= 10


@given(PAYLOADS)
def test_hash_does_not_depend_on_the_other_rows(payloads: list[bytes]) -> None:
    """A row's hash is the same alone and beside longer rows: values found in one batch serve the next."""
    rows, lengths = columns(payloads)
    together = row_hash(rows, lengths)
    alone = [row_hash(rows[[row]], lengths[[row]])[0] for row in range(len(rows))]
    assert together.tolist() == alone


def test_hash_of_many_rows() -> None:
    """Rows are hashed in blocks; every row of every block has its own hash."""
    payloads = [b"%0136d" % number for number in range(5000)]
    assert len(set(row_hash(*columns(payloads)).tolist())) == 5000


def test_hash_of_long_rows() -> None:
    """Of thousands of bytes each counts up to the length, and none behind it."""
    rows = np.random.default_rng(3).integers(0, 256, (40, 4096), np.uint8)
    lengths = np.arange(0, 4000, 100)
    hashes = row_hash(rows, lengths)
    for row, length in enumerate(lengths.tolist()):
        assert row_hash(rows[[row], : -(-length // 8) * 8 or 8], lengths[[row]])[0] == hashes[row]
        other = rows[[row]]
        other[0, length:] += np.uint8(1)
        assert row_hash(other, lengths[[row]])[0] == hashes[row]
        for at in {0, length // 2, length - 1} if length else ():
            other[0, at] += np.uint8(1)
            assert row_hash(other, lengths[[row]])[0] != hashes[row]
            other[0, at] -= np.uint8(1)


def test_hash_of_strided_rows() -> None:
    """Rows may be a column of larger records, as a ring's are."""
    records = np.zeros(
        3, np.dtype([("head", np.uint64), ("payload", np.uint8, (WIDTH,)), ("tail", np.uint64)])
    )
    payloads = [b"one", b"two" * 40, b""]
    rows, lengths = columns(payloads)
    records["payload"] = rows
    assert row_hash(records["payload"], lengths).tolist() == row_hash(rows, lengths).tolist()


@given(PAYLOADS, st.sampled_from([0x00, 0x01, 0x80, 0xAA]))
def test_find_byte(payloads: list[bytes], byte: int) -> None:
    """The first position is found, and only among a row's valid bytes."""
    rows, lengths = columns(payloads)
    assert find_byte(rows, lengths, byte).tolist() == [data.find(bytes([byte])) for data in payloads]


@pytest.mark.parametrize("position", [0, 63, 64, 65, 135])
def test_find_byte_anywhere(position: int) -> None:
    """A byte far behind is found as well as a near one."""
    rows, lengths = columns([b"x" * position + b"\n" + b"\n" * (135 - position), b"x" * 136])
    assert find_byte(rows, lengths, 0x0A).tolist() == [position, -1]


@pytest.mark.parametrize("width", [2, 4, 8])
def test_prefix(width: int) -> None:
    """The first bytes are little-endian integers."""
    payloads = [bytes(range(start, start + 8)) for start in (1, 100, 200)]
    rows, _ = columns(payloads)
    assert prefix(rows, width).tolist() == [int.from_bytes(data[:width], "little") for data in payloads]


def test_no_rows() -> None:
    """Empty columns give empty results."""
    rows, lengths = columns([])
    codes, values = Memo(bytes).encode(rows, lengths)
    assert len(codes) == len(values) == len(find_byte(rows, lengths, 0)) == len(prefix(rows, 8)) == 0


def test_cut_out_takes_texts_at_their_places() -> None:
    """Whatever lies behind them, also at the very end of the payload."""
    payload = np.arange(64, dtype=np.uint8).reshape(4, 16)
    rows, starts, lengths = np.array([0, 3, 3]), np.array([0, 2, 15]), np.array([3, 9, 1])
    texts = cut_out(payload, rows, starts, lengths)
    assert texts.shape == (3, 16)
    for text, row, start, length in zip(texts, rows, starts, lengths, strict=True):
        assert text[:length].tolist() == payload[row, start : start + length].tolist()
    assert cut_out(payload, rows[:0], starts[:0], lengths[:0]).shape == (0, 0)
