"""How many commands a request holds beyond what was captured of it, and what they show.

Only clients send commands without waiting for replies: batches of MariaDB Connector/J, queries of MariaDB's
connector for Node.js. They hand over each by a call of its own, so the number of calls tells how many there
are. Where it does not, the sizes of those that are captured do.
"""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import TYPE_CHECKING

from masdeepflow.protocols.mysql.commands import (
    HEADER_BYTES,
    HIDDEN,
    QUERY_LABEL,
    Answer,
    Code,
    Command,
    on_statement,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["TURN_MOST", "count", "hidden"]

TURN_MOST = 16384
"""Commands that one turn may stand for without being captured: sizes are the peer's."""

_CALL = 4
"""Commands of a call each are so many times larger or smaller than the largest captured, at most."""
_ALIKE = 2
"""What is alike is."""
_FEW = 2
_REMEMBERED = 1024


def count(
    commands: Sequence[tuple[Command, int]], left: int, calls: int, most: int = TURN_MOST
) -> int | None:
    """Return how many commands `left` bytes are behind those that are visible, None if that is not known.

    commands: and the size of each. calls: in which a client handed over all of them, 0 where that says
    nothing. The sizes of two of one kind tell, too: exactly where they are all the same. most: of them.
    """
    if not commands or left <= HEADER_BYTES:
        return None
    sizes = [size for _, size in commands]
    behind = calls - len(sizes)
    if behind > 0 and max(sizes) <= _CALL * left // behind and left // behind <= _CALL * max(sizes):
        return min(behind, most)
    first = commands[0][0]
    alike = all(command.code == first.code for command, _ in commands) and first.answer is not Answer.NONE
    if len(sizes) < _FEW or not alike:
        return None
    return min(max((2 * left * len(sizes) + sum(sizes)) // (2 * sum(sizes)), 1), most)


def hidden(
    commands: Sequence[tuple[Command, int]],
    left: int,
    number: int,
    with_statement: Callable[[Command], Command],
) -> list[tuple[Command, int]]:
    """Return what `number` commands of `left` bytes show that are behind visible ones, and the size of each.

    with_statement: from a command on a prepared statement to what is known of it.
    """
    share, rest = divmod(left, number)
    last = commands[-1][0] if commands else HIDDEN
    if last.code == Code.STMT_SEND_LONG_DATA:
        # What the data is for comes behind it.
        execute = with_statement(on_statement(Code.STMT_EXECUTE, last.statement))
        shown = [*[last] * (number - 1), replace(execute, code=0, truncated=True)]
    else:
        shown = [_like(commands, share)] * number
    return list(zip(shown, [*[share] * (number - 1), share + rest], strict=True))


def _like(commands: Sequence[tuple[Command, int]], size: int) -> Command:
    """Return what a command of `size` bytes shows behind these, which are repeated if they are all alike."""
    sizes = [size for _, size in commands]
    if len(sizes) < _FEW or not min(sizes) <= _ALIKE * size <= _ALIKE * _ALIKE * max(sizes):
        return HIDDEN
    whole = [command for command, _ in commands if not command.truncated]
    shown = whole if len(whole) >= _FEW else [command for command, _ in commands]
    last = shown[-1]
    first = (last.code, last.operation, last.summary, last.statement)
    if any((one.code, one.operation, one.summary, one.statement) != first for one in shown):
        return HIDDEN
    text = last.text if all(one.query == last.query for one in shown) else None
    label = QUERY_LABEL if last.code == Code.QUERY else ""
    return _repeated(text or label, last.answer, last.operation, last.query if text else None, last.summary)


@lru_cache(_REMEMBERED)
def _repeated(
    text: str, answer: Answer, operation: str | None, query: str | None, summary: str | None
) -> Command:
    """Return a command beyond the prefix that is like those before it."""
    shown = text.removesuffix("…") + "…" if text else None
    return Command(0, answer, shown, operation, query, summary, truncated=True)
