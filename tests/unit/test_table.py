"""Dictionary-encoded columns: what goes in comes out, and rows that are taken share the values."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from masdeepflow.table import ABSENT, Encoded, Parsed

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

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


def _counted() -> tuple[Callable[[str], str], list[str]]:
    """Return a function that changes a text, and the texts that it was called with."""
    changed: list[str] = []

    def change(text: str) -> str:
        changed.append(text)
        return text.upper()

    return change, changed


@given(TEXTS.filter(len), st.data())
def test_mapped_texts_are_those_of_the_column_changed(items: list[str | None], data: st.DataObject) -> None:
    """Whether it was made before, is made when asked for, or is taken from first, and a few at a time."""
    rows = np.array(data.draw(st.lists(st.integers(0, len(items) - 1))), np.intp)
    made = Encoded.from_list(items)
    expected = [item if item is None else item.upper() for item in items]
    for column in (
        made,
        Encoded.by(np.arange(len(items)), made.codes, made.values),
        Encoded.later(
            np.arange(len(items)),
            lambda: (made.codes, made.values),
            lambda r: made.take(r.astype(np.intp)).to_list(),
        ),
    ):
        changed = column.mapped(str.upper)
        assert len(changed) == len(items)
        assert changed.some(rows) == [expected[row] for row in rows]
        assert changed.take(rows).to_list() == [expected[row] for row in rows]
        assert column.take(rows).mapped(str.upper).to_list() == [expected[row] for row in rows]
        assert changed.codes.tolist() == column.codes.tolist()
        assert changed.to_list() == expected
        assert column.to_list() == items
        changed.check(len(items))
        changed.take(rows).check(len(rows))


def test_nothing_is_changed_before_somebody_asks() -> None:
    """Codes and rows can be had without; then each distinct text is changed, once."""
    for column in (
        Encoded.from_list(["a", "b", "a"]),
        Encoded.by(np.array([0, 1, 0]), np.arange(2, dtype=np.int32), ["a", "b"]),
    ):
        change, changed = _counted()
        mapped = column.mapped(change)
        taken = mapped.take(np.array([2, 1]))
        assert (mapped.codes.tolist(), taken.codes.tolist()) == ([0, 1, 0], [0, 1])
        assert not changed
        assert (taken.to_list(), mapped.to_list(), taken.to_list()) == (
            ["A", "B"],
            ["A", "B", "A"],
            ["A", "B"],
        )
        assert changed == ["a", "b"]


def test_absent_column_has_no_value_in_any_row() -> None:
    """A column for which a protocol has nothing to say holds only the absent code."""
    column = Encoded.absent(3)
    assert column.to_list() == [None, None, None]
    assert column.codes.tolist() == [ABSENT] * 3
    assert column.codes.dtype == np.int32


def _parsed(**columns: Any) -> Parsed:  # noqa: ANN401  # whatever a parser may return
    text, no = Encoded.from_list(["a", None]), np.zeros(2, bool)
    whole: dict[str, Any] = {
        "rows": np.array([2, 0]),
        "request_text": text,
        "response_text": text,
        "error": no,
        "truncated": no,
        "attributes": {"url.path": text, "http.response.status_code": np.array([200, ABSENT])},
        "base": {"queue_ns": np.zeros(2, np.int64)},
        "opaque": [0, 2**64 - 1],
    }
    return Parsed(**{**whole, **columns})


def test_columns_that_fit_pass() -> None:
    """Transactions in any order of the turns, and none at all."""
    _parsed().check(3)
    none, no = Encoded.absent(0), np.zeros(0, bool)
    Parsed(np.zeros(0, np.intp), none, none, error=no, truncated=no).check(0)


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ({"rows": np.array([0, 3])}, r"rows: they are not all in \[0, 3\)"),
        ({"rows": np.array([-1, 0])}, "rows: they are not all in"),
        ({"rows": np.array([0.0, 1.0])}, "rows: it is float64"),
        ({"rows": [0, 1]}, "rows: it is a list, no array"),
        ({"rows": None}, "rows: it has no length"),
        ({"error": np.zeros(3, bool)}, r"error: it is bool \(3,\), where bool \(2,\) is due"),
        ({"truncated": np.zeros(2, int)}, "truncated: it is int64"),
        ({"request_text": Encoded.absent(3)}, "request_text: it is int32"),
        (
            {"response_text": Encoded(np.array([0, 1], np.int32), ["a"])},
            "response_text: its codes",
        ),
        (
            {"response_text": Encoded(np.array([0, -2], np.int32), ["a"])},
            "response_text: its codes",
        ),
        ({"request_text": ["a", "b"]}, "request_text: it is a list, not Encoded"),
        ({"request_text": Encoded(np.array([0, 1]), [b"a", b"b"])}, "request_text: its values"),  # type: ignore[list-item]
        ({"attributes": {"url.path": Encoded.absent(1)}}, "url.path: it is int32"),
        ({"attributes": {"url.path": ["/", "/"]}}, "url.path: it is a list"),
        ({"attributes": {"http.response.status_code": np.ones(2)}}, "status_code: it is float64"),
        ({"base": {"queue_ns": np.ones((2, 1), int)}}, r"queue_ns: it is int64 \(2, 1\)"),
        ({"base": {"pid": np.ones(2, int)}}, "pid: it is not among what may be replaced"),
        ({"opaque": [2**64]}, "opaque: they are not all"),
        ({"opaque": [True]}, "opaque: they are not all"),
        ({"opaque": np.array([1])}, "opaque: it is a ndarray"),
    ],
)
def test_columns_that_do_not_fit_are_told(columns: dict[str, Any], reason: str) -> None:
    """Whatever a parser returns: the column and what is wrong with it, before a sink stumbles over it."""
    with pytest.raises(ValueError, match=reason):
        _parsed(**columns).check(3)


def _shared(*places: int, codes: tuple[int, ...] = (1, ABSENT)) -> Encoded:
    return Encoded.by(np.array(places, np.int32), np.array(codes, np.int32), ["a", "b"])


def test_a_column_by_places_is_the_column_of_its_codes() -> None:
    """Made when asked for, before or after rows were taken; the length is known without."""
    column = _shared(0, 1, 0)
    taken = column.take(np.array([2, 1]))
    assert len(column) == 3
    assert column.codes.tolist() == [1, ABSENT, 1]
    assert column.codes is column.codes
    assert column.to_list() == ["b", None, "b"]
    assert taken.to_list() == column.take(np.array([2, 1])).to_list() == ["b", None]


@given(TEXTS, st.data())
def test_some_strings_are_those_of_their_rows(items: list[str | None], data: st.DataObject) -> None:
    """Made already, made later, or by themselves, of rows of rows too."""
    rows = np.array(data.draw(st.lists(st.sampled_from(range(len(items))))) if items else [], np.intp)
    whole, index = Encoded.from_list(items), np.arange(len(items))
    table = whole.codes, whole.values

    def alone(places: NDArray[np.integer]) -> list[str | None]:
        return [items[place] for place in places.tolist()]

    expected = [items[row] for row in rows.tolist()]
    for column in (
        whole,
        Encoded.later(index, lambda: table),
        Encoded.later(index, lambda: table, alone),
    ):
        assert column.some(rows) == expected
        assert column.take(rows).some(np.arange(len(rows))) == expected


def test_what_comes_later_is_made_once() -> None:
    """When codes or values are asked for, of the column or of rows of it; its length is known before."""
    made = []

    def make() -> tuple[NDArray[np.int32], list[str]]:
        made.append(1)
        return np.array([ABSENT, 0], np.int32), ["a"]

    column = Encoded.later(np.array([1, 0, 1], np.int32), make)
    taken = column.take(np.array([0]))
    assert (len(column), len(taken), made) == (3, 1, [])
    assert taken.to_list() == ["a"]
    assert column.to_list() == ["a", None, "a"]
    assert made == [1]


@pytest.mark.parametrize(
    ("column", "reason"),
    [
        (_shared(0, 2), r"its places are not all in \[0, 2\)"),
        (_shared(-1, 0), "its places"),
        (_shared(0, 1, codes=(0, 2)), r"its codes are not all in \[-1, 2\)"),
        (_shared(0), r"it is int32 \(1,\), where a signed integer \(2,\) is due"),
    ],
)
def test_columns_by_places_are_checked_without_making_them(column: Encoded, reason: str) -> None:
    """What a parser returns fits, or is told."""
    with pytest.raises(ValueError, match=reason):
        _parsed(request_text=column).check(3)
    _parsed(request_text=_shared(0, 1)).check(3)
