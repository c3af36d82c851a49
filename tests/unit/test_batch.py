"""Slots as a matrix of words: the same memory, and each field where it is."""

from __future__ import annotations

import numpy as np
import pytest

from masdeepflow.batch import Slots, word, word_of, words
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


def _varied(count: int) -> np.ndarray:
    turns = [
        turn(b"a", b"bc", service=2**32 - 1, pid=3, flags=256, queue_ns=9),
        turn(b"", cookie=2**64 - 1, role=2, transport=3),
        turn(b"x", kind=6, turn=7, local_port=80),
    ]
    return make_slots(*turns[:count])


@pytest.mark.parametrize("count", [0, 1, 3])
def test_read_slots_have_the_columns_of_plain_ones(count: int) -> None:
    """Every field, in the head or behind it: same values, same type, asked for once or twice."""
    plain = _varied(count)
    slots = Slots.of(plain)
    for name in DTYPE.names or ():
        for _ in range(2):
            assert slots[name].tolist() == plain[name].tolist()
            assert slots[name].dtype == plain[name].dtype


def test_columns_of_the_head_are_contiguous_and_no_view_of_the_slots() -> None:
    """The ring may be overwritten, and nobody can write to what others read too."""
    plain = _varied(3)
    slots = Slots.of(plain)
    for name in ("cookie", "queue_ns", "pid", "flags", "service", "request_length", "kind", "family"):
        column = slots[name]
        assert column.flags.c_contiguous
        assert not column.flags.writeable
        assert not np.shares_memory(column, plain)


def test_rows_of_read_slots_are_plain() -> None:
    """A choice of rows has its own columns, not those of the whole batch."""
    plain = _varied(3)
    slots = Slots.of(plain)
    for rows in (slice(1, 3), np.array([2, 0]), np.array([True, False, True])):
        some = slots[rows]
        assert type(some) is np.ndarray
        assert some["cookie"].tolist() == plain[rows]["cookie"].tolist()
        assert some["kind"].tolist() == plain[rows]["kind"].tolist()
    assert int(slots[2]["turn"]) == 7
    assert len(slots) == 3


@pytest.mark.parametrize("name", ["cookie", "pid", "queue_ns", "kind"])
def test_words_of_the_head_are_those_of_the_slots(name: str) -> None:
    """One 8-byte word, whichever of the two it is read from."""
    plain = _varied(3)
    assert word(Slots.of(plain), name).tolist() == word(plain, name).tolist()
    assert word(plain, name).tolist() == words(plain)[:, word_of(plain, name)].tolist()


def test_neighbours_in_the_head_are_rows_beside_each_other() -> None:
    """From the first field to the last, both included."""
    slots = Slots.of(_varied(3))
    taken = slots.neighbours("request_first_ns", "response_last_ns")
    assert taken.tolist() == [slots[name].tolist() for name in WORDS[1:]]
