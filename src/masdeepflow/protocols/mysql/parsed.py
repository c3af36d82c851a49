"""From commands and replies to columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from masdeepflow.protocols.mysql.replies import NO_ANSWER
from masdeepflow.table import Parsed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from masdeepflow.protocols.mysql.common import Commons
    from masdeepflow.protocols.mysql.connection import Transaction

__all__ = ["to_parsed"]

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
    commands = commons.commands.joined((found.command for found in transactions), order)
    replies = commons.replies.joined((found.reply for found in transactions), order)
    states = commons.states.joined(((found.system, found.namespace) for found in transactions), order)
    truncated = commands.flags(lambda command: command.truncated)
    return Parsed(
        rows,
        commands.strings(lambda command: command.text),
        replies.strings(lambda reply: reply.text),
        replies.flags(lambda reply: reply.error),
        truncated | replies.flags(lambda reply: reply.truncated),
        {
            "db.system.name": states.strings(lambda state: state[0]),
            "db.query.text": commands.strings(lambda command: command.query),
            "db.query.summary": commands.strings(lambda command: command.summary),
            "db.operation.name": commands.strings(lambda command: command.operation),
            "db.namespace": states.strings(lambda state: state[1]),
            "db.response.status_code": replies.strings(lambda reply: reply.code),
            "db.response.message": replies.strings(lambda reply: reply.message),
        },
        _base(slots, rows, order, transactions),
        opaque,
    )


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
