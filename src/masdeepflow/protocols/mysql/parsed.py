"""From commands and replies to columns."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from masdeepflow.protocols.mysql.commands import QUERY_LABEL
from masdeepflow.protocols.mysql.replies import NO_ANSWER
from masdeepflow.table import ABSENT, Parsed

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
    base = {}
    order = np.arange(len(commons.rows))
    if transactions:
        commons, order = _joined(commons, transactions)
    if transactions or commons.silent.any():
        base = _base(slots, commons, order, transactions)
    rows, commands, replies, states, own, texts, *_ = commons
    lines = commands.strings(lambda command: command.text)
    queries = commands.strings(lambda command: command.query)
    if texts is not None:
        lines, queries = texts.column(lines, own, QUERY_LABEL), texts.column(queries, own)
    truncated = commands.flags(lambda command: command.truncated)
    return Parsed(
        rows,
        lines,
        replies.strings(lambda reply: reply.text),
        replies.flags(lambda reply: reply.error),
        truncated | replies.flags(lambda reply: reply.truncated),
        {
            "db.system.name": states.strings(lambda state: state[0]),
            "db.query.text": queries,
            "db.query.summary": commands.strings(lambda command: command.summary),
            "db.operation.name": commands.strings(lambda command: command.operation),
            "db.namespace": states.strings(lambda state: state[1]),
            "db.response.status_code": replies.strings(lambda reply: reply.code),
            "db.response.message": replies.strings(lambda reply: reply.message),
        },
        base,
        opaque,
    )


def _joined(commons: Commons, transactions: list[Transaction]) -> tuple[Commons, NDArray[np.intp]]:
    """Return all transactions (m + k,) in the order of their turns, and that order."""
    rows = np.concatenate([commons.rows, np.array([found.row for found in transactions], np.intp)])
    # The order of several transactions of one turn is kept.
    order = np.argsort(rows, kind="stable")
    others = len(transactions)
    own = np.concatenate([commons.own, np.full(others, ABSENT, np.int32)])
    together = commons._replace(
        rows=rows[order],
        commands=commons.commands.joined((found.command for found in transactions), order),
        replies=commons.replies.joined((found.reply for found in transactions), order),
        states=commons.states.joined(((found.system, found.namespace) for found in transactions), order),
        own=own[order],
        sizes=np.append(commons.sizes, np.zeros(others, np.int64))[order],
        silent=np.append(commons.silent, np.zeros(others, bool))[order],
    )
    return together, order


def _base(
    slots: np.ndarray, commons: Commons, order: NDArray[np.intp], transactions: list[Transaction]
) -> dict[str, NDArray[np.int64]]:
    """Return the columns of which a transaction has a share only, none, or the value of an earlier turn."""
    rows = commons.rows
    others = np.flatnonzero(order >= len(rows) - len(transactions))
    base = {name: slots[name][rows].astype(np.int64) for name in _BASE + _RESPONSE_STAMPS}
    base["request_bytes"] = commons.sizes.copy()
    base["response_bytes"][commons.silent] = 0
    for name in _BASE:
        base[name][others] = [getattr(found, name) for found in transactions]
    unanswered = commons.silent.copy()
    unanswered[others] = [found.reply in NO_ANSWER for found in transactions]
    for name in _RESPONSE_STAMPS:
        base[name][unanswered] = 0
    return base
