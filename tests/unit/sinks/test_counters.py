"""Rules of counters by key."""

from __future__ import annotations

import numpy as np

from masdeepflow.sinks.counters import Counters


def test_amounts_add_up_by_row_and_column() -> None:
    """A batch may name the same counter many times."""
    counters: Counters[str] = Counters(2, limit=10)
    a, b = counters.number("a", "*"), counters.number("b", "*")
    counters.add(np.array([a, b, a]), 1, 1)
    counters.add(np.array([a, a]), np.array([0, 0]), np.array([5, 6]))
    assert counters.keys() == ["a", "b"]
    assert counters.copy().tolist() == [[11, 2], [0, 1]]
    assert counters.copy(slice(1, 2)).tolist() == [[2], [1]]


def test_rows_are_counted_as_often_as_they_occur() -> None:
    """One more each time, in one column and no other."""
    counters: Counters[str] = Counters(2, 10)
    rows = [counters.number(key, "other") for key in "abc"]
    counters.count(np.array([rows[0], rows[2], rows[0]]), 1)
    counters.count(np.zeros(0, np.intp), 1)
    assert counters.copy().tolist() == [[0, 2], [0, 0], [0, 1]]


def test_a_key_keeps_its_row() -> None:
    """Counts survive the growth that other keys cause."""
    counters: Counters[int] = Counters(1, limit=1000)
    for key in range(200):
        number = counters.number(key, -1)
        assert number == key
        counters.add(np.array([number]), 0, key)
    assert counters.number(7, -1) == 7
    assert counters.copy()[:, 0].tolist() == list(range(200))


def test_beyond_the_limit_keys_are_counted_together() -> None:
    """New keys then share the overflow key's row; known ones go on as before."""
    counters: Counters[str] = Counters(1, limit=2)
    assert [counters.number(key, "*") for key in "abcda"] == [0, 1, 2, 2, 0]
    assert counters.keys() == ["a", "b", "*"]
    assert len(counters) == 3


def test_a_copy_does_not_change() -> None:
    """Who reads on another thread works on a copy."""
    counters: Counters[str] = Counters(1, limit=2)
    counters.number("a", "*")
    copy = counters.copy()
    counters.row(0)[0] += 1
    assert copy.tolist() == [[0]]
