"""Slots as a matrix of words: the same memory, and each field where it is."""

from __future__ import annotations

import numpy as np
import pytest

from masdeepflow.batch import neighbours, word_of, words
from tests.support.slots import DTYPE, make_slots, turn

WORDS = ["cookie", "request_first_ns", "request_last_ns", "response_first_ns", "response_last_ns"]


def test_words_are_a_view() -> None:
    """Nothing is copied: a change of the slots shows."""
    slots = make_slots(turn(b"a"), turn(b"b"))
    matrix = words(slots)
    assert matrix.shape == (2, DTYPE.itemsize // 8)
    slots["cookie"] = 77
    assert matrix[:, word_of(slots, "cookie")].tolist() == [77, 77]
    assert np.shares_memory(matrix, slots)


@pytest.mark.parametrize("name", [*WORDS, "request_bytes", "response_bytes", "queue_ns", "request_hash"])
def test_fields_of_eight_bytes_are_columns(name: str) -> None:
    """What is one word in the slot is one column of the matrix."""
    slots = make_slots(turn(b"a", b"b", queue_ns=5, request_hash=6), turn(b"c", cookie=9))
    assert words(slots)[:, word_of(slots, name)].tolist() == slots[name].tolist()


def test_smaller_fields_start_in_the_column_of_their_word() -> None:
    """A PID is the lower half of its word, whatever stands in the upper."""
    slots = make_slots(turn(b"a", pid=4_194_303))
    word = int(words(slots)[0, word_of(slots, "pid")]) & 0xFFFFFFFF
    assert word == 4_194_303
    assert word_of(slots, "request") == DTYPE.fields["request"][1] // 8  # type: ignore[index]


def test_parts_of_a_batch_are_batches() -> None:
    """A slice is viewed as it is; rows in another order are copied by whoever takes them."""
    slots = make_slots(turn(b"a", cookie=1), turn(b"b", cookie=2), turn(b"c", cookie=3))
    column = word_of(slots, "cookie")
    assert words(slots[1:])[:, column].tolist() == [2, 3]
    assert words(slots[[2, 0]])[:, column].tolist() == [3, 1]
    assert words(slots[:0]).shape == (0, DTYPE.itemsize // 8)


@pytest.mark.parametrize(
    "names", [("cookie",), ("request_bytes", "response_bytes", "service", "kind"), ("kind", "comm"), ("pid",)]
)
@pytest.mark.parametrize("count", [0, 1, 3])
def test_neighbours_are_a_copy_of_these_fields(names: tuple[str, ...], count: int) -> None:
    """Values and types as in the slots, in memory of their own, wherever in a word they start and end."""
    turns = [turn(b"a", b"bc", service=2**32 - 1, pid=3), turn(b"", cookie=2**64 - 1), turn(b"x", kind=6)]
    slots = make_slots(*turns[:count])
    taken = neighbours(slots, *names)
    assert taken.dtype.names == names
    for name in names:
        assert taken[name].tolist() == slots[name].tolist()
        assert taken[name].dtype == slots[name].dtype
    assert not np.shares_memory(taken, slots)
