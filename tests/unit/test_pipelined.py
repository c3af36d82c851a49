"""How many transactions a turn holds, and who is told what: rules that hold for any protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from masdeepflow.pipelined import Message, Messages, Ordered, merge, pair
from tests.support.slots import make_slots, turn

if TYPE_CHECKING:
    from collections.abc import Callable

    from masdeepflow.pipelined import Turn

HIDDEN = ("?", "!")


class Session:
    """Remembers nothing and expects a reply to everything but `quiet`."""

    kept = followed = False

    def expects(self, request: str) -> bool:
        """All but one."""
        return request != "quiet"

    def answers(self, reply: str, request: str | None) -> bool:
        """All but pushes."""
        return reply != "push" and request is not None


def side(*rows: list[tuple[int, int, str]]) -> Messages[str]:
    """Return the messages (start, end, value) of each turn."""
    flat = [(row, *message) for row, messages in enumerate(rows) for message in messages]
    ended = [max([message[1] for message in messages], default=0) for messages in rows]
    return Messages(
        np.array([row for row, *_ in flat], np.intp),
        np.array([start for _, start, _, _ in flat], np.int64),
        np.array([end for _, _, end, _ in flat], np.int64),
        np.arange(len(flat), dtype=np.int32),
        [value for *_, value in flat],
        np.array(ended, np.int64),
        np.ones(len(rows), bool),
    )


def messages(size: int, *values: str) -> list[tuple[int, int, str]]:
    """Return messages of one size, one behind the other."""
    return [(size * number, size * (number + 1), value) for number, value in enumerate(values)]


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


def ordered(matches: Callable[[str, str], bool] | None = None) -> Ordered[str, str, Session]:
    """Return one that reads nothing by itself."""

    def session(turn: Turn[str, str]) -> Session:
        del turn
        return Session()

    def read(data: bytes, at: int) -> Message[str]:
        return Message(at, len(data), "rest")

    return Ordered(read, session, HIDDEN, matches)


def test_first_in_first_out_over_turns() -> None:
    """Replies answer the oldest request; those without a reply are ended at once, pushes answer none."""
    slots = make_slots(turn(b"q" * 30, b"r" * 5), turn(b"q" * 10, b"r" * 10))
    asked = side(messages(10, "a", "quiet", "b"), messages(10, "c"))
    told = side(messages(5, "push"), messages(5, "x", "y"))
    following = ordered()
    alone, _ = pair(slots, asked, told, HIDDEN, "")
    chosen, rows = following.choose(slots, alone)
    assert not chosen.any()
    ended, left = following.follow(slots, rows, alone[rows], (asked, told))
    assert not left
    assert [(one.row, one.request, one.reply) for one in ended] == [
        (0, "quiet", None),
        (1, "a", "x"),
        (1, "b", "y"),
    ]
    assert following.evicted == 0


def test_replies_that_name_their_request() -> None:
    """What was asked before the request that is answered waits no longer; others answer nothing."""
    slots = make_slots(turn(b"q" * 30, b"r" * 5), turn(b"q" * 10, b"r" * 15))
    asked = side(messages(10, "a", "b", "c"), messages(10, "d"))
    told = side(messages(5, "B"), messages(5, "A", "C", "D"))
    following = ordered(lambda reply, request: reply.lower() == request)
    alone, _ = pair(slots, asked, told, HIDDEN, "")
    _, rows = following.choose(slots, alone & False)
    ended, _ = following.follow(slots, rows, np.zeros(2, bool), (asked, told))
    assert [(one.row, one.request, one.reply, one.answered) for one in ended] == [
        (0, "a", None, False),
        (0, "b", "B", True),
        (1, "c", "C", True),
        (1, "d", "D", True),
    ]


def test_merged_in_the_order_of_turns() -> None:
    """Columns and exchanges together, with the bytes and stamps of each."""
    slots = make_slots(turn(b"q" * 20, b"r" * 5, cookie=1), turn(b"q" * 10, b"r" * 5, cookie=2))
    asked, told = side(messages(10, "a", "b"), messages(10, "c")), side(messages(5, "x"), messages(5, "y"))
    following = ordered()
    alone, build = pair(slots, asked, told, HIDDEN, "")
    chosen, rows = following.choose(slots, alone)
    assert rows.tolist() == [0]
    one_turn = (side(messages(10, "a", "b")), side(messages(5, "x")))
    exchanges, _ = following.follow(slots[rows], rows, alone[rows], one_turn)
    pairs, base, places = merge(slots, build(chosen), exchanges, ("", ""))
    assert pairs.asked(str).to_list() == ["a", "c"]
    assert pairs.told(str).to_list() == ["x", "y"]
    assert places.tolist() == [0]
    assert base["request_bytes"].tolist() == [10, 10]


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
