"""Columns of what distinct objects show, without a look at each row."""

from __future__ import annotations

from operator import attrgetter, itemgetter

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from masdeepflow.coded import Coded

VALUES = st.tuples(st.none() | st.sampled_from(["a", "b"]), st.integers(-5, 5))


def _coded(items: list[tuple[str | None, int]], spare: int) -> Coded[tuple[str | None, int]]:
    """Return the items, each with a value of its own, and some values that no row has."""
    return Coded(np.arange(len(items), dtype=np.int32), items + [("spare", 0)] * spare)


@given(st.lists(VALUES, max_size=8), st.integers(0, 2))
def test_columns_show_what_the_values_show(items: list[tuple[str | None, int]], spare: int) -> None:
    """Strings, absent ones among them, integers and flags: row by row, whatever values are not used."""
    coded = _coded(items, spare)
    assert coded.strings(itemgetter(0)).to_list() == [text for text, _ in items]
    assert coded.integers(itemgetter(1)).tolist() == [number for _, number in items]
    assert coded.integers(itemgetter(1)).dtype == np.int64
    assert coded.flags(lambda value: value[1] > 0).tolist() == [number > 0 for _, number in items]


def test_equal_strings_have_one_code() -> None:
    """So that sinks can tell rows that are alike by their codes."""
    column = _coded([("a", 1), ("b", 2), ("a", 3), (None, 4)], 0).strings(itemgetter(0))
    assert column.codes.tolist() == [0, 1, 0, -1]
    assert column.values == ["a", "b"]


@given(st.lists(VALUES, max_size=6), st.lists(VALUES, max_size=6), st.integers(0, 99))
def test_joined_rows_stand_in_the_order_asked_for(
    items: list[tuple[str | None, int]], others: list[tuple[str | None, int]], seed: int
) -> None:
    """These rows, then the others, and then put in order; equal others share a value."""
    together = items + others
    order = np.random.default_rng(seed).permutation(len(together))
    joined = _coded(items, 1).joined(others, order)
    assert [joined.values[code] for code in joined.codes.tolist()] == [together[place] for place in order]
    assert len(joined.values) == len(items) + 1 + len(set(others))
    assert joined.codes.dtype == np.int32


def test_rows_are_taken_with_the_same_values() -> None:
    """By place, or as they are."""
    coded = _coded([("a", 1), ("b", 2), ("c", 3)], 0)
    assert coded.take(np.array([2, 0])).strings(itemgetter(0)).to_list() == ["c", "a"]
    assert coded.take(slice(None)).values is coded.values
    complex_numbers = Coded(np.zeros(2, np.int32), [1 + 2j])
    assert complex_numbers.integers(attrgetter("imag")).tolist() == [2, 2]
