"""Dictionary-encoded columns: what goes in comes out, and rows that are taken share the values."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from masdeepflow.table import ABSENT, Encoded

TEXTS = st.lists(st.none() | st.text(max_size=3))


@given(TEXTS)
def test_encoding_keeps_every_row(items: list[str | None]) -> None:
    """Each row reads back as it was given, absent ones as None."""
    column = Encoded.from_list(items)
    assert column.to_list() == items
    assert len(column) == len(items)


@given(TEXTS)
def test_encoding_holds_each_text_once(items: list[str | None]) -> None:
    """Values are distinct and all in use, so that work per value is work per distinct text."""
    column = Encoded.from_list(items)
    assert len(set(column.values)) == len(column.values)
    assert set(column.values) == {item for item in items if item is not None}
    assert column.codes.dtype == np.int32


@given(TEXTS.filter(len), st.data())
def test_take_picks_rows_and_shares_values(items: list[str | None], data: st.DataObject) -> None:
    """Rows may be taken in any order and repeatedly; the values are not copied."""
    rows = data.draw(st.lists(st.integers(0, len(items) - 1)))
    column = Encoded.from_list(items)
    taken = column.take(np.array(rows, np.intp))
    assert taken.to_list() == [items[row] for row in rows]
    assert taken.values is column.values


def test_absent_column_has_no_value_in_any_row() -> None:
    """A column for which a protocol has nothing to say holds only the absent code."""
    column = Encoded.absent(3)
    assert column.to_list() == [None, None, None]
    assert column.codes.tolist() == [ABSENT] * 3
    assert column.codes.dtype == np.int32
