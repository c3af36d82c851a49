"""Rules of finding alike rows."""

from __future__ import annotations

import numpy as np
from hypothesis import example, given, settings
from hypothesis import strategies as st

from masdeepflow.sinks.grouping import codes_of, distinct, used
from masdeepflow.table import Encoded

INT64 = st.integers(-(2**62), 2**62)


@settings(deadline=None)
@example([(0, 0, 0, 0), (0, 0, 0, 2**32 - 1), (2**32, 0, 0, 0)])  # 2**32 * 2**32 overflows to 0
@given(st.lists(st.tuples(INT64, st.integers(-1, 3), st.integers(-1, 3), INT64)))
def test_rows_are_in_one_group_exactly_when_they_are_alike(rows: list[tuple[int, int, int, int]]) -> None:
    """Groups are the distinct combinations, however wide the columns' ranges, and each has an example."""
    columns = [np.array(column, np.int64) for column in zip(*rows, strict=True)] if rows else []
    examples, groups = distinct(columns, len(rows))
    assert len(groups) == len(rows)
    assert len(examples) == len(set(rows))
    assert [rows[examples[group]] for group in groups.tolist()] == rows


def test_without_columns_all_rows_are_alike() -> None:
    """No column means one combination, of any row."""
    examples, groups = distinct([], 3)
    assert (len(examples), groups.tolist()) == (1, [0, 0, 0])


def test_used_are_the_distinct_indices() -> None:
    """Indices that no row has are left out."""
    assert used(np.array([3, 1, 3], np.int32), 5) == [1, 3]
    assert used(np.zeros(0, np.int32), 0) == []


def test_codes_of_text_and_of_integers() -> None:
    """An encoded column is told apart by its codes, any other by its values."""
    assert codes_of(Encoded.from_list(["a", None, "a"])).tolist() == [0, -1, 0]
    assert codes_of(np.array([200, 404])).tolist() == [200, 404]
