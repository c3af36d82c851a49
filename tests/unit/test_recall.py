"""Payloads known by their hash: what comes out is what reading them would give."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from masdeepflow.recall import Recall, Repeated, once, renumber

if TYPE_CHECKING:
    from numpy.typing import NDArray

# Few, so that they repeat; 0 is "no hash".
HASHES = st.lists(st.sampled_from([0, 1, 2, 3, 2**63, 2**64 - 1]), max_size=8)


class Reader:
    """Reads rows the slow way: a row's value is made of its hash, or of its place where there is none."""

    def __init__(self) -> None:
        self.asked: list[int] = []

    def encode(self, recall: Recall[str], hashes: list[int]) -> list[str]:
        """Return the value of each row, and note which rows had to be read."""
        column = np.array(hashes, np.uint64)
        values = [f"value {number}" if number else f"row {row}" for row, number in enumerate(hashes)]

        def read(rows: NDArray[np.intp]) -> tuple[NDArray[np.int32], list[str]]:
            self.asked += rows.tolist()
            distinct = sorted({values[row] for row in rows.tolist()})
            return np.array([distinct.index(values[row]) for row in rows.tolist()], np.int32), distinct

        codes, known = recall.encode(column, read)
        assert codes.dtype == np.int32
        got = [known[code] for code in codes.tolist()]
        assert got == values
        return got


@given(st.lists(HASHES, max_size=6), st.integers(0, 6))
def test_values_are_those_that_reading_gives(batches: list[list[int]], limit: int) -> None:
    """Over any batches and with any limit: a known payload has the value that it was read with."""
    recall, reader = Recall[str](limit), Reader()
    for hashes in batches:
        reader.encode(recall, hashes)
        assert len(recall._hashes) == len(recall._values) <= limit


@given(st.lists(st.sampled_from([0, 1, 2**32, 2**33, 2**63, 2**64 - 1]), max_size=200))
def test_once_stands_for_all(keys: list[int]) -> None:
    """Each row is told by one that has its key; who has none is told by itself."""
    column = np.array(keys, np.uint64)
    first, alike = once(column)
    assert (column[first[alike]] == column).all()
    none = np.flatnonzero(column == 0)
    assert (first[alike[none]] == none).all()
    assert sorted(set(alike.tolist())) == list(range(len(first)))


def test_what_is_there_twice_is_read_once() -> None:
    """Both ends of a connection within the host have the same payloads; without a hash nothing is known."""
    recall, reader = Recall[str](), Reader()
    hashes = np.random.default_rng(1).integers(1, 2**64, 100, np.uint64).repeat(2).tolist()
    reader.encode(recall, [*hashes, *[0] * 9])
    assert 100 <= len(reader.asked) - 9 < 120  # some have one place in the look-up table


def test_a_sparing_table_keeps_what_repeats() -> None:
    """Payloads that come but once or twice push nothing out, and are read again."""
    recall, reader = Recall[str](sparing=True), Reader()
    reader.encode(recall, [5, 6, 5, 7, 5, 7, 0, 0, 0])
    reader.asked.clear()
    reader.encode(recall, [5, 6, 7])
    assert reader.asked == [1, 2]


def test_what_is_known_is_not_read_again() -> None:
    """Only rows with new payloads, and those without a hash, are read."""
    recall, reader = Recall[str](), Reader()
    for hashes in ([5, 6, 5], [3], [8]):
        reader.encode(recall, hashes)
    reader.asked.clear()
    reader.encode(recall, [3, 5, 6, 8])
    assert reader.asked == []
    reader.encode(recall, [6, 0, 5, 7])
    assert reader.asked == [1, 3]


def test_memory_is_bounded() -> None:
    """Payloads that are all different do not make the table grow."""
    recall, reader = Recall[str](limit=10), Reader()
    for number in range(1, 100):
        reader.encode(recall, [number])
        assert len(recall._hashes) == len(recall._values) <= 10


def test_rows_without_a_hash_are_never_kept() -> None:
    """They are not one payload."""
    recall = Recall[str]()
    Reader().encode(recall, [0, 0])
    assert len(recall._hashes) == 0


def test_traffic_that_never_repeats_does_not_push_out_what_does() -> None:
    """A batch with more new payloads than half of the limit is read and not kept."""
    recall, reader = Recall[str](limit=10), Reader()
    reader.encode(recall, [1, 2])
    reader.encode(recall, list(range(100, 106)))
    reader.asked.clear()
    reader.encode(recall, [1, 2])
    assert reader.asked == []


@given(st.lists(st.integers(0, 9), max_size=10))
def test_renumbered_codes_count_only_what_occurs(codes: list[int]) -> None:
    """Ascending, without gaps, each pointing to the code that it was."""
    numbers, present = renumber(np.array(codes, np.int64), 10)
    assert present == sorted(set(codes))
    assert [present[number] for number in numbers.tolist()] == codes


@given(
    st.lists(st.lists(st.sampled_from([0, 1, 2, 9, 2**64 - 1]), max_size=8), max_size=6), st.integers(0, 6)
)
def test_repeated_keys_are_numbered(batches: list[list[int]], limit: int) -> None:
    """Each distinct one once in every batch, whichever were there before."""
    repeated = Repeated(limit)
    for keys in batches:
        codes, distinct = repeated.encode(np.array(keys, np.uint64))
        assert [distinct[code] for code in codes.tolist()] == keys
        assert sorted(distinct) == sorted(set(keys))
