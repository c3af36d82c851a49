"""From commands and replies to columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from masdeepflow.protocols.mysql.common import Coded
from masdeepflow.protocols.mysql.replies import NO_ANSWER
from masdeepflow.table import Encoded, Parsed

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from numpy.typing import NDArray

    from masdeepflow.protocols.mysql.common import Commons
    from masdeepflow.protocols.mysql.connection import Transaction

__all__ = ["to_parsed"]

Shown = TypeVar("Shown")

_BASE = ("request_first_ns", "queue_ns", "request_bytes", "response_bytes")
_RESPONSE_STAMPS = ("response_first_ns", "response_last_ns")


def to_parsed(
    slots: np.ndarray,
    commons: Commons,
    transactions: list[Transaction],
    opaque: list[int],
) -> Parsed:
    """Return the transactions of the common turns, and the others, in the order of their turns."""
    rows = np.concatenate([commons.rows, np.array([found.row for found in transactions], np.intp)])
    # The order of several transactions of one turn is kept.
    order = np.argsort(rows, kind="stable") if transactions else np.arange(len(rows))
    rows = rows[order]
    commands = _join(commons.commands, (found.command for found in transactions), order)
    replies = _join(commons.replies, (found.reply for found in transactions), order)
    states = _join(commons.states, ((found.system, found.namespace) for found in transactions), order)
    truncated = _flags(commands, lambda command: command.truncated)
    return Parsed(
        rows,
        _column(commands, lambda command: command.text),
        _column(replies, lambda reply: reply.text),
        _flags(replies, lambda reply: reply.error),
        truncated | _flags(replies, lambda reply: reply.truncated),
        {
            "db.system.name": _column(states, lambda state: state[0]),
            "db.query.text": _column(commands, lambda command: command.query),
            "db.query.summary": _column(commands, lambda command: command.summary),
            "db.operation.name": _column(commands, lambda command: command.operation),
            "db.namespace": _column(states, lambda state: state[1]),
            "db.response.status_code": _column(replies, lambda reply: reply.code),
            "db.response.message": _column(replies, lambda reply: reply.message),
        },
        _base(slots, rows, order, transactions),
        opaque,
    )


def _join(common: Coded[Shown], others: Iterable[Shown], order: NDArray[np.intp]) -> Coded[Shown]:
    """Return the values of the common turns and of the other transactions, put in `order` (m,)."""
    places: dict[Shown, int] = {}
    codes = [places.setdefault(value, len(places)) for value in others]
    if not codes:
        return common
    joined = np.concatenate([common.codes, np.array(codes, np.int32) + len(common.values)])
    return Coded(joined[order], common.values + list(places))


def _column(coded: Coded[Shown], show: Callable[[Shown], str | None]) -> Encoded:
    """Return the column of what the values show, in which equal strings have one code."""
    encoded = Encoded.from_list([show(value) for value in coded.values])
    return Encoded(encoded.codes[coded.codes], encoded.values)


def _flags(coded: Coded[Shown], show: Callable[[Shown], bool]) -> NDArray[np.bool_]:
    flags: NDArray[np.bool_] = np.array([show(value) for value in coded.values], bool)[coded.codes]
    return flags


def _base(
    slots: np.ndarray, rows: NDArray[np.intp], order: NDArray[np.intp], transactions: list[Transaction]
) -> dict[str, NDArray[np.int64]]:
    """Return the columns of which a transaction has a share only, none, or the value of an earlier turn."""
    if not transactions:
        return {}
    others = np.flatnonzero(order >= len(rows) - len(transactions))
    base = {name: slots[name][rows].astype(np.int64) for name in _BASE + _RESPONSE_STAMPS}
    for name in _BASE:
        base[name][others] = [getattr(found, name) for found in transactions]
    unanswered = others[[found.reply in NO_ANSWER for found in transactions]]
    for name in _RESPONSE_STAMPS:
        base[name][unanswered] = 0
    return base
