"""How many statements a pipeline holds beyond what was captured of it, and where a pipeline goes on.

Clients that send many rows repeat one Bind and one Execute (`executemany`, batches of JDBC and pgx), a few
that do not wait repeat queries. What one of them takes is visible, and how many bytes are behind it is known;
so is how much each answer takes.
"""

from __future__ import annotations

import re
from itertools import pairwise
from typing import TYPE_CHECKING, NamedTuple

from masdeepflow.protocols.postgresql.requests import HEADER_BYTES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from masdeepflow.protocols.postgresql import replies, requests

__all__ = ["Repeated", "answered", "begin", "going_on", "repeated"]

_BIND_BYTES, _EXECUTE_BYTES, _DESCRIBE_BYTES, _SYNC_BYTES, _READY_BYTES = 13, 10, 7, 5, 6
_ENDS = (0, _SYNC_BYTES, 2 * _SYNC_BYTES)
"""What may be behind the last of them: nothing, a Sync or a Flush, both."""
_BUFFER = 8192
"""A server sends so many bytes once it has them, wherever a message ends."""
_NAME = rb"[^\0-\x1f\x7f]{0,63}\0"
_TEXT = rb"[\s(;/A-Za-z-][\s -~]"
_START = re.compile(
    rb"B\x00.{3}" + _NAME + _NAME + rb"|P\0.{3}" + _NAME + _TEXT + rb"|Q\0.{3}" + _TEXT + rb"|[SHX]\0{3}\x04",
    re.DOTALL,
)
_TYPES = frozenset(b"BCDEFHPQSXcdfp")
_MIDST = frozenset({b"D", b"E"})
"""What does not begin a statement."""


class Repeated(NamedTuple):
    """Statements that are not captured. number: how many; an estimate, unless `exact`. size: bytes of each.

    synced: whether each has a Sync of its own, None if that is not known.
    """

    number: int
    size: int
    synced: bool | None
    exact: bool


class _Units(NamedTuple):
    """Statements that are captured. ends: of those that are whole. begun: the messages behind them."""

    ends: list[int]
    begun: list[requests.Message]
    synced: bool


def repeated(messages: Sequence[requests.Message], total: int) -> Repeated | None:
    """Return what follows the visible messages of a request of `total` bytes, None if that is not known."""
    units = _units(messages)
    known = _bound_upto(units, messages)
    # A BEGIN before a statement that is cut is not repeated, nor is a COPY before its data.
    least = 2 if units.begun or any(message.kind == "Q" for message in messages[:1]) else 1
    if len(units.ends) < least and not known:
        return None
    ends = [*units.ends, known] if known else units.ends
    first = ends[0] - _first_start(messages)
    gaps = [end - start for start, end in pairwise(ends)] or [first]
    size = sum(gaps) // len(gaps)
    upto = known or units.ends[-1]
    if units.begun and not known:
        upto = max(upto + size, units.begun[-1].end + _BIND_BYTES + _EXECUTE_BYTES)
    alike = len(ends) > 1 and len(set(gaps)) == 1 and (len(gaps) > 1 or first == size)
    synced = units.synced if units.ends else None
    return _count(total - upto, size, synced=synced, alike=alike)


def _bound_upto(units: _Units, messages: Sequence[requests.Message]) -> int:
    """Return where the statement ends whose Bind is the last that is visible; 0 if that is not known."""
    if not any(message.kind == "B" for message in units.begun):
        return 0
    described = any(message.kind == "D" for message in messages) and units.begun[-1].kind == "B"
    missing = _DESCRIBE_BYTES * described + _EXECUTE_BYTES + _SYNC_BYTES * units.synced
    return units.begun[-1].end + missing


def going_on(size: int, total: int, *, synced: bool | None) -> Repeated | None:
    """Return what a request of `total` bytes is, of which nothing is visible but the values of a Bind."""
    return _count(total, size, synced=synced, alike=False)


def _count(rest: int, size: int, *, synced: bool | None, alike: bool) -> Repeated | None:
    if rest <= 0 or size <= 0:
        return None
    count, left = divmod(rest, size)
    if alike:
        # One that begins in this turn belongs to it, wherever it ends.
        count += left not in _ENDS
    else:
        count = max(2 * (rest - _SYNC_BYTES) + size, 0) // (2 * size)
    return Repeated(count, size, synced, exact=alike and left in _ENDS) if count else None


def _units(messages: Iterable[requests.Message]) -> _Units:
    ends: list[int] = []
    begun: list[requests.Message] = []
    synced = False
    for message in messages:
        if message.kind in "EQ":
            ends.append(message.end)
            begun = []
            synced |= message.kind == "Q"
        elif ends and not begun and message.kind in "SH":
            ends[-1] = message.end
            synced |= message.kind == "S"
        else:
            begun.append(message)
    return _Units(ends, begun, synced)


def _first_start(messages: Sequence[requests.Message]) -> int:
    """Return where the first Bind begins, or the Parse without a name before it."""
    at, parsed = 0, -1
    for message in messages:
        if message.kind == "B":
            return parsed if parsed >= 0 else at
        parsed = at if message.kind == "P" and not message.name else -1
        at = message.end
    return 0


def answered(messages: Iterable[replies.Message], total: int) -> int | None:
    """Return how many statements a response of `total` bytes answers behind the last tag that is visible.

    None if it is not known: answers differ in size, or go on in the next turn.
    """
    ends = [message.end for message in messages if message.kind in "CIs"]
    gaps = {end - start for start, end in pairwise(ends)}
    if len(gaps) != 1 or not total % _BUFFER:
        return None
    count, left = divmod(total - ends[-1], gaps.pop())
    return count if left == _READY_BYTES else None


def begin(data: bytes, total: int) -> int | None:
    """Return where the first statement begins in a request that may begin within a message, else None.

    What is before it belongs to a statement that began in an earlier turn.
    """
    if data[:1] not in _MIDST and _is_framed(data, 0, total):
        return 0
    starts = (match.start() for match in _START.finditer(data))
    return next((at for at in starts if _is_framed(data, at, total)), None)


def _is_framed(data: bytes, at: int, total: int) -> bool:
    """Whether what is at `at` has a length that fits, and another message behind it, as far as captured."""
    end = at + 1 + int.from_bytes(data[at + 1 : at + HEADER_BYTES], "big")
    fits = at + HEADER_BYTES <= min(end, len(data)) and end <= total
    return fits and data[at] in _TYPES and (end >= len(data) or data[end] in _TYPES)
