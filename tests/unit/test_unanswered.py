"""Why a request was never answered, when it ended and for how long it waited."""

from __future__ import annotations

from typing import Any

import numpy as np

from masdeepflow.schema import ERROR_TYPE, WAITED
from masdeepflow.table import ABSENT, Encoded
from masdeepflow.unanswered import Ends, explain


def _explain(
    *rows: tuple[bool, int, int, int], told: list[str | None] | None = None
) -> tuple[list[int], list[Any], list[Any]]:
    """Return ends, reasons and waits of rows: lost, first, last and closed stamps."""
    lost, first, last, closed = (np.array(column) for column in zip(*rows, strict=True))
    encoded = None if told is None else Encoded.from_list(told)
    ended, attributes = explain(encoded, lost.astype(bool), Ends(first, last, closed))
    reasons, waited = attributes[ERROR_TYPE], attributes[WAITED]
    assert isinstance(reasons, Encoded)
    assert isinstance(waited, np.ndarray)
    return ended.tolist(), reasons.to_list(), waited.tolist()


def test_a_close_ends_what_waits() -> None:
    """It waited up to the close, not only up to its own last byte."""
    assert _explain((True, 100, 110, 150)) == ([150], ["closed"], [50])


def test_what_the_protocol_says_goes_first() -> None:
    """Its own end counts then, whatever became of the connection."""
    rows = (True, 100, 170, 150), (True, 100, 110, ABSENT), (True, 100, 110, 150)
    assert _explain(*rows, told=["timeout", "timeout", None]) == (
        [170, 110, 150],
        ["timeout", "timeout", "closed"],
        [70, 10, 50],
    )


def test_nothing_is_told_of_others() -> None:
    """Not of what was answered or has not failed, nor of what failed without a known reason."""
    rows = (False, 100, 110, 150), (True, 100, 110, ABSENT)
    assert _explain(*rows) == ([110, 110], [None, None], [ABSENT, ABSENT])


def test_a_close_of_unknown_time_is_a_reason_all_the_same() -> None:
    """As in recordings of an earlier version: how long it waited is unknown, its end is its last byte."""
    assert _explain((True, 100, 110, 0)) == ([110], ["closed"], [ABSENT])
