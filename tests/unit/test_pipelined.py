"""How many transactions a turn holds: rules that hold for any protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from masdeepflow.pipelined import pair
from tests.support.messages import HIDDEN, messages, side
from tests.support.slots import make_slots, turn

if TYPE_CHECKING:
    from masdeepflow.pipelined import Messages


def counted(
    request_bytes: int, response_bytes: int, asked: Messages[str], told: Messages[str]
) -> tuple[int, int]:
    """Return how many transactions one turn is taken for, and how many of them are marked."""
    slots = make_slots(turn(b"q" * request_bytes, b"r" * response_bytes))
    alone, build = pair(slots, asked, told, HIDDEN, "")
    pairs = build(alone)
    if alone.all():
        assert pairs.request_bytes.sum() == request_bytes
        assert pairs.response_bytes.sum() == response_bytes
    return len(pairs.rows), int(pairs.truncated.sum())


@pytest.mark.parametrize(
    ("request_bytes", "response_bytes", "expected"),
    [
        (20, 10, (2, 0)),  # both sides are seen to their end
        (80, 10, (0, 0)),  # more requests than replies: those wait
        (20, 80, (0, 0)),  # more replies than requests
        (500, 125, (0, 0)),  # 50 requests of 10 bytes, replies of 5: 25
    ],
)
def test_two_of_each_seen(request_bytes: int, response_bytes: int, expected: tuple[int, int]) -> None:
    """Two requests of 10 bytes and two replies of 5 are seen; what lies behind decides."""
    found = counted(request_bytes, response_bytes, side(messages(10, "a", "b")), side(messages(5, "x", "y")))
    if request_bytes == 500:
        assert found == (50, 48)
    else:
        assert found == expected


def test_agreement_is_certain() -> None:
    """Both sizes give 50."""
    assert counted(500, 250, side(messages(10, "a", "b")), side(messages(5, "x", "y"))) == (50, 0)


def test_the_replies_alone_tell() -> None:
    """Requests of different sizes go on unseen: three replies are three requests, of which one is hidden."""
    asked = side([(0, 10, "a"), (10, 21, "b")])
    assert counted(90, 15, asked, side(messages(5, "x", "y", "z"))) == (3, 1)


def test_a_turn_without_messages_is_not_alone() -> None:
    """Neither side may be empty."""
    assert counted(10, 5, side([]), side(messages(5, "x"))) == (0, 0)


def test_a_column_has_each_text_once() -> None:
    """Codes of values with equal texts are equal; None is absent."""
    slots = make_slots(*[turn(b"q" * 10, b"r" * 5)] * 4)
    sides = [side(*[messages(size, letter) for letter in "abca"]) for size in (10, 5)]
    alone, build = pair(slots, sides[0], sides[1], HIDDEN, "")
    encoded = build(alone).asked(lambda value: None if value == "b" else value)
    assert encoded.to_list() == ["a", None, "c", "a"]
    assert encoded.values.count("a") == 1
    assert build(alone).either(lambda value: value == "a", lambda value: value == "b").tolist() == [
        True,
        True,
        False,
        True,
    ]
