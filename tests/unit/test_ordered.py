"""Who is told what where turns are followed one by one: rules that hold for any protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from masdeepflow.ordered import Message, Ordered, merge
from masdeepflow.pipelined import pair
from tests.support.messages import HIDDEN, messages, side
from tests.support.slots import make_slots, turn

if TYPE_CHECKING:
    from collections.abc import Callable

    from masdeepflow.ordered import Turn


class Session:
    """Remembers nothing and expects a reply to everything but `quiet`."""

    kept = followed = False

    def expects(self, request: str) -> bool:
        """All but one."""
        return request != "quiet"

    def answers(self, reply: str, request: str | None) -> bool:
        """All but pushes."""
        return reply != "push" and request is not None


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
