"""The rules of outlines: which payloads say the same."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from masdeepflow.outlines import Outline, Outlines

if TYPE_CHECKING:
    from numpy.typing import NDArray

ENOUGH = 40


def payload(*rows: bytes) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return rows as a payload column, stale bytes behind them, and their lengths."""
    found = np.full((len(rows), 32), 0xAA, np.uint8)
    for place, row in enumerate(rows):
        found[place, : len(row)] = np.frombuffer(row, np.uint8)
    return found, np.array([len(row) for row in rows])


def outline(data: bytes) -> Outline | None:
    """Of `SET key=value` the key is a key and the value free; anything else counts in full."""
    if not data.startswith(b"SET "):
        return None
    split = data.index(b"=")
    return Outline(data, [(split + 1, len(data))], [(4, split)])


def known(example: bytes) -> Outlines:
    """Return outlines that have seen an example often enough."""
    outlines = Outlines(outline)
    outlines.keys(*payload(*[example] * ENOUGH))
    return outlines


@pytest.mark.parametrize(
    ("other", "same"),
    [
        (b"SET user:12=abc", True),
        (b"SET user:98=\r\n\0", True),  # another value, other digits
        (b"SET user:ab=abc", False),  # a word may be shown
        (b"SET name:12=abc", False),
        (b"GET user:12=abc", False),
        (b"SET user:12 abc", False),
        (b"SET user:12=abcd", False),  # another length
        (b"SET user:12=ab", False),
    ],
)
def test_what_is_not_shown_makes_no_difference(other: bytes, *, same: bool) -> None:
    """All else does, stale bytes excepted."""
    first, second = known(b"SET user:12=abc").keys(*payload(b"SET user:12=abc", other)).tolist()
    assert first
    assert (first == second) == same


def test_two_keys_are_kept_apart() -> None:
    """Letters of one and digits of the next are no token together."""
    outlines = Outlines(lambda data: Outline(data, [], [(0, 2), (2, 4)]))
    outlines.keys(*payload(*[b"ab12"] * ENOUGH))
    first, second = outlines.keys(*payload(b"ab12", b"cd12")).tolist()
    assert first != second


def test_what_has_no_outline_has_no_key() -> None:
    """Every byte of it counts."""
    assert not known(b"DEL user:1").keys(*payload(b"DEL user:1")).any()


def test_few_payloads_are_not_looked_at() -> None:
    """Reading them is as fast."""
    asked: list[bytes] = []
    outlines = Outlines(asked.append)
    outlines.keys(*payload(*[b"SET a=b"] * 3))
    assert not asked
    outlines.keys(*payload(*[b"SET a=b"] * ENOUGH))
    assert asked == [b"SET a=b"] * 2


def test_outlines_that_fit_stay() -> None:
    """However many come that fit nothing else."""
    outlines = known(b"SET user:12=abc")
    for size in range(1, 25):
        outlines.keys(*payload(*[b"SET user:12=abc"] * ENOUGH, *[b"SET a=" + b"v" * size] * ENOUGH))
    assert outlines.keys(*payload(b"SET user:77=xyz")).all()


def test_no_payload() -> None:
    """No rows, and rows without bytes."""
    outlines = known(b"SET user:12=abc")
    assert outlines.keys(*payload()).tolist() == []
    assert outlines.keys(*payload(*[b""] * ENOUGH)).tolist() == [0] * ENOUGH
