"""Requests and replies in order, turn by turn in obvious code: what references have in common."""

from __future__ import annotations

import math
from copy import copy, deepcopy
from dataclasses import dataclass, field
from fractions import Fraction
from typing import TYPE_CHECKING, Any

from masdeepflow.schema import Flag, Kind

if TYPE_CHECKING:
    from collections.abc import Callable

    import numpy as np

MOST_WAITING = 1024


@dataclass
class Side:
    """Messages of one side: (start, end or None, bytes). good: nothing else is there."""

    messages: list[tuple[int, int | None, bytes]]
    good: bool
    ended: int

    @property
    def done(self) -> int:
        """How many have an end."""
        return sum(end is not None for _, end, _ in self.messages)

    def whole(self, length: int) -> int:
        """Return how many were captured whole."""
        return sum(end is not None and end <= length for _, end, _ in self.messages)

    def average(self, total: int, length: int) -> int:
        """Return how many there are if all are as large as those that have an end, 0 for nobody knows."""
        sizes = [end - start for start, end, _ in self.messages if end is not None]
        if not sizes or total <= self.ended or length - self.ended > max(sizes):
            return 0
        exact = Fraction((total - self.ended) * len(sizes), sum(sizes))
        return len(sizes) + max(math.floor(exact + Fraction(1, 2)), 1)

    def alike(self, asked: Callable[[bytes], Any]) -> bytes | None:
        """Return the first of several requests that were captured whole, if all of them show the same."""
        whole = [data for start, end, data in self.messages if end == start + len(data)]
        same = len(whole) > 1 and len({asked(data).text for data in whole}) == 1
        return whole[0] if same else None

    def fill(self, total: int) -> int:
        """Return how many of one size fill the side, 0 for none."""
        sizes = {end - start for start, end, _ in self.messages if end is not None}
        if len(sizes) != 1 or total % min(sizes):
            return 0
        return total // min(sizes)


@dataclass
class Language:
    """What a protocol adds.

    side: reads one side of a turn from a place on. asked, told: a message as shown. hidden: what is shown of
    those not captured. session: what is remembered of a new connection. plain: whether a turn can be alone.
    matches: whether a reply is that to a request, None where only their order tells. whole: turns with
    requests that were not captured are followed.
    """

    side: Callable[..., Side]
    asked: Callable[[bytes], Any]
    told: Callable[[bytes], Any]
    hidden: tuple[Any, Any]
    session: Callable[[str | None], Any]
    plain: Callable[[Side, Side], bool]
    matches: Callable[[Any, Any], bool] | None = None
    whole: bool = False


@dataclass
class Transaction:
    """One row of the parser's columns."""

    row: int
    asked: Any
    told: Any
    session: Any
    first_ns: int
    queue_ns: int
    request_bytes: int = 0
    response_bytes: int = 0
    answered: bool = True
    unanswered: bool = False
    truncated: bool = False
    early: bool = False
    response_ns: tuple[int, int] = (0, 0)


@dataclass
class Connection:
    """What is kept of a connection."""

    turn: int
    session: Any
    left: int = 0
    hidden: bool = False
    late: bool = False
    waiting: list[Transaction] = field(default_factory=list)


class Reference:
    """The parser, slowly."""

    def __init__(self, words: Language) -> None:
        self.words = words
        self.connections: dict[int, Connection] = {}

    def parse(self, slots: np.ndarray) -> list[Transaction]:
        """Return the transactions of turns in order."""
        found: list[Transaction] = []
        for row, slot in enumerate(slots):
            ended = self.turn(row, slot)
            for one in ended:
                one.row = row
                last = "response_first_ns" if one.early else "response_last_ns"
                one.response_ns = (int(slot["response_first_ns"]), int(slot[last]))
            found += ended
        return found

    def turn(self, row: int, slot: np.void) -> list[Transaction]:
        """Return what one turn ends."""
        cookie = int(slot["cookie"])
        asked = self.words.side(slot["request"][: slot["request_length"]].tobytes(), 0, requests=True)
        told = self.words.side(slot["response"][: slot["response_length"]].tobytes(), 0, requests=False)
        first = None if slot["flags"] & Flag.OLD_CONNECTION else "0"
        known = self.connections.get(cookie) or Connection(int(slot["turn"]), self.words.session(first))
        busy = bool(known.waiting or known.left or known.session.followed)
        if not busy and alone(self.words, slot, asked, told):
            return columns(self.words, row, slot, asked, told, copy(known.session))
        if slot["kind"] == Kind.OPEN:
            known = deepcopy(known)
        elif not slot["flags"] & Flag.CONTINUED or cookie in self.connections:
            self.connections[cookie] = known
        return self.follow(known, row, slot, asked, told)

    def follow(
        self, known: Connection, row: int, slot: np.void, asked: Side, told: Side
    ) -> list[Transaction]:
        """Follow a connection through a turn."""
        continued = bool(slot["flags"] & Flag.CONTINUED)
        if known.waiting and known.turn + (not continued) != slot["turn"]:
            known.waiting, known.left = [], 0
        if not known.waiting and not continued:
            known.hidden = False
        known.turn = int(slot["turn"])
        ended = [] if continued else requests(self.words, known, row, slot, asked, told)
        if slot["kind"] == Kind.OPEN:
            for one in known.waiting:
                one.answered = False
            return ended + known.waiting
        ended += replies(self.words, known, row, slot, told)
        closed = bool(slot["flags"] & Flag.CLOSED)
        while known.waiting and (closed or len(known.waiting) > MOST_WAITING):
            known.waiting[0].unanswered = closed
            known.waiting[0].answered = False
            ended.append(known.waiting.pop(0))
        if closed:
            self.connections.pop(int(slot["cookie"]), None)
        return ended


def count_silent(words: Language, asked: Side) -> int:
    """Return how many requests expect no reply."""
    return sum(words.asked(data).silent for _, _, data in asked.messages)


def alone(words: Language, slot: np.void, asked: Side, told: Side) -> bool:  # noqa: PLR0911  # one condition a line
    """Whether a turn needs nothing but itself."""
    if slot["kind"] != Kind.TURN or slot["flags"] & (Flag.CONTINUED | Flag.SERVER_FIRST):
        return False
    if not (asked.good and told.good and asked.messages and told.messages):
        return False
    if not words.plain(asked, told) or (words.whole and asked.ended < slot["request_bytes"]):
        return False
    silent = count_silent(words, asked)
    if silent:
        spoken = asked.done - silent
        whole = asked.ended == slot["request_bytes"] and told.ended >= slot["response_bytes"]
        return bool(whole and told.done == spoken == len(told.messages))
    rest, left = int(slot["request_bytes"]) - asked.ended, int(slot["response_bytes"]) - told.ended
    if rest < 0:
        return False
    if rest == 0:
        if left > 0:
            return told.done < asked.done and len(told.messages) <= asked.done
        return len(told.messages) <= asked.done and told.done >= len(asked.messages)
    return left > 0 or told.done >= max(len(asked.messages), asked.done + 1)


def columns(  # noqa: PLR0913, PLR0917  # a turn and all that is known
    words: Language,
    row: int,
    slot: np.void,
    asked: Side,
    told: Side,
    session: Any,  # noqa: ANN401
) -> list[Transaction]:
    """Return the transactions of a turn that is alone."""
    total, answer = int(slot["request_bytes"]), int(slot["response_bytes"])
    visible = max(asked.done, told.done) + 1
    sure = True
    if asked.ended == total:
        count = asked.done
    elif told.ended >= answer:
        count = told.done
    else:
        fills = [asked.fill(total), told.fill(answer)]
        sure = fills[0] == fills[1] and visible <= fills[0] <= max(16384, visible)
        count = fills[0] if fills[0] >= visible else fills[1]
        if count < visible:
            count = averaged(slot, asked, told)
        count = min(count, max(16384, visible)) if count >= visible else visible
    found: list[Transaction] = []
    spoken = count - count_silent(words, asked)
    answers = 0
    for number in range(count):
        one = Transaction(row, words.hidden[0], words.hidden[1], session, int(slot["request_first_ns"]), 0)
        one.queue_ns = int(slot["queue_ns"])
        one.truncated = not sure and number >= asked.done
        message, one.request_bytes = pick(asked, total, int(slot["request_length"]), number, count)
        one.truncated = one.truncated or message is None
        message = message or asked.alike(words.asked)
        one.asked = words.hidden[0] if message is None else words.asked(message)
        if one.asked.silent:
            one.told, one.answered = None, False
        else:
            if any(not other.answered for other in found):
                one.queue_ns = one.queue_ns if slot["request_last_ns"] == one.first_ns else 0
                one.first_ns = int(slot["request_last_ns"])
            message, one.response_bytes = pick(told, answer, int(slot["response_length"]), answers, spoken)
            one.told = words.hidden[1] if message is None else words.told(message)
            answers += 1
        found.append(one)
    return found


def averaged(slot: np.void, asked: Side, told: Side) -> int:
    """Return what the sizes of both sides make of a turn's number: the lower, or the only one."""
    numbers = [
        asked.average(int(slot["request_bytes"]), int(slot["request_length"])),
        told.average(int(slot["response_bytes"]), int(slot["response_length"])),
    ]
    return min(numbers) or max(numbers)


def pick(side: Side, total: int, length: int, number: int, count: int) -> tuple[bytes | None, int]:
    """Return the bytes that stand for a message, None if hidden, and its share of all bytes."""
    alike = side.fill(total) == count and total > side.ended
    message = None
    whole = side.whole(length)
    if number < whole or (number < len(side.messages) and not alike):
        message = side.messages[number][2]
    elif alike:
        message = side.messages[max(whole - 1, 0)][2]
    rest = total - side.ended
    size = 0
    if number < side.done:
        start, end, _ = side.messages[number]
        size = (end or 0) - start
    else:
        size = max(rest, 0) // (count - side.done)
        if number == count - 1:
            size += max(rest, 0) % (count - side.done)
    return message, size + (min(rest, 0) if number == count - 1 else 0)


def requests(  # noqa: C901, PLR0913, PLR0917  # told as it happens
    words: Language, known: Connection, row: int, slot: np.void, asked: Side, told: Side
) -> list[Transaction]:
    """Queue the requests of a turn; return those without a reply."""
    total = int(slot["request_bytes"])
    skipped = min(known.left, total)
    known.left -= skipped
    if total == skipped:
        return []

    def new(command: Any) -> Transaction:  # noqa: ANN401  # the protocol's own
        one = Transaction(row, command, None, copy(known.session), int(slot["request_first_ns"]), 0)
        one.queue_ns, one.answered = int(slot["queue_ns"]), False
        return one

    if skipped:
        data = slot["request"][: slot["request_length"]].tobytes()
        asked = words.side(data, skipped, requests=True) if skipped < len(data) else Side([], True, skipped)  # noqa: FBT003
    fresh = []
    for start, end, data in asked.messages:
        fresh.append(new(words.asked(data)))
        fresh[-1].request_bytes = 0 if end is None else min(end, total) - start
    rest = total - asked.ended
    known.left += max(-rest, 0)
    known.hidden = known.hidden or rest > 0
    if not fresh:
        fresh = [new(words.hidden[0])]
        fresh[0].truncated = True
    if rest > 0:
        fresh[-1].request_bytes += rest
    silent: list[Transaction] = []
    spoken: list[Transaction] = []

    def sort(one: Transaction, *, cut: bool = False) -> None:
        if known.session.expects(one.asked) and not cut:
            if silent:
                one.queue_ns = one.queue_ns if slot["request_last_ns"] == one.first_ns else 0
                one.first_ns = int(slot["request_last_ns"])
            spoken.append(one)
        else:
            silent.append(one)

    several = len(asked.messages) > 2 and asked.messages[-1][1] is None
    for number, one in enumerate(fresh):
        sort(one, cut=several and number == len(silent) == len(asked.messages) - 1)
    last = fresh[-1]
    if rest > 0 and not spoken:
        more_silent(words, slot, asked, silent, new)
    elif rest > 0 and not known.waiting and told.messages and told.ended < slot["response_bytes"]:
        fill, replied = asked.fill(total), told.fill(int(slot["response_bytes"]))
        name = asked.messages[0][2] if fill else asked.alike(words.asked)
        like = words.hidden[0] if name is None else words.asked(name)
        count = fill or replied or (0 if words.matches else averaged(slot, asked, told))
        for _ in range(len(fresh), min(count, MOST_WAITING)):
            last = new(like)
            last.truncated = not fill or fill != replied
            sort(last)
    known.late = bool(silent)
    if rest > 0 and silent:
        last.truncated = True
    known.waiting += spoken
    return silent


def more_silent(
    words: Language,
    slot: np.void,
    asked: Side,
    silent: list[Transaction],
    new: Callable[[Any], Transaction],
) -> None:
    """Add as many requests that get no reply as there are bytes for behind the visible ones."""
    likely = min(asked.average(int(slot["request_bytes"]), int(slot["request_length"])), MOST_WAITING)
    number = likely - len(silent)
    if number <= 0:
        return
    each = (int(slot["request_bytes"]) - asked.ended) // (number + 1)
    silent[-1].request_bytes -= number * each
    name = asked.alike(words.asked)
    for _ in range(number):
        silent.append(new(words.hidden[0] if name is None else words.asked(name)))
        silent[-1].truncated, silent[-1].request_bytes = True, each


def replies(  # noqa: C901  # told as it happens
    words: Language, known: Connection, row: int, slot: np.void, told: Side
) -> list[Transaction]:
    """Give the replies of a turn to what waits."""
    total = int(slot["response_bytes"])
    if not total or (slot["flags"] & Flag.CONTINUED and not known.waiting):
        return []
    found = []
    for start, end, data in told.messages:
        reply = words.told(data)
        if words.matches and known.waiting:
            right = [words.matches(reply, one.asked) for one in known.waiting]
            if True not in right:
                continue
            found += known.waiting[: right.index(True)]
            del known.waiting[: right.index(True)]
        oldest = known.waiting[0] if known.waiting else None
        if not known.session.answers(reply, oldest.asked if oldest else None):
            overtaken(found, start)
            continue
        if oldest:
            one = known.waiting.pop(0)
        elif known.hidden or slot["flags"] & Flag.SERVER_FIRST:
            one = Transaction(row, words.hidden[0] if known.hidden else None, None, None, 0, 0)
            one.first_ns, one.queue_ns = int(slot["request_first_ns"]), int(slot["queue_ns"])
            one.truncated = known.hidden
            if known.hidden and known.late:
                one.queue_ns = one.queue_ns if slot["request_last_ns"] == one.first_ns else 0
                one.first_ns = int(slot["request_last_ns"])
        else:
            overtaken(found, start)
            continue
        one.told, one.answered, one.session = reply, True, copy(known.session)
        one.response_bytes = (total if end is None else min(end, total)) - start
        found.append(one)
    if told.ended < total and not known.waiting and not known.hidden:
        overtaken(found, told.ended)
    if told.ended < total and not known.session.followed:
        for one in known.waiting:
            one.told, one.answered, one.truncated = words.hidden[1], True, True
        found += known.waiting
        known.waiting, known.hidden = [], False
    return found


def overtaken(found: list[Transaction], size: int) -> None:
    """Note that replies of `size` bytes ended before something came that answers nothing."""
    for one in found:
        if one.answered and size <= 16384:
            one.early = True
