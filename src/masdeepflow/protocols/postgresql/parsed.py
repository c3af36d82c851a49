"""From commands and replies to columns."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from masdeepflow.protocols.postgresql.requests import NOTHING
from masdeepflow.table import Encoded, Parsed

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from masdeepflow.coded import Coded
    from masdeepflow.protocols.postgresql.connection import Transaction
    from masdeepflow.protocols.postgresql.replies import Reply
    from masdeepflow.protocols.postgresql.requests import Command

__all__ = ["Commons", "to_parsed"]

_BASE = (
    "request_first_ns",
    "queue_ns",
    "request_bytes",
    "response_bytes",
    "response_first_ns",
    "response_last_ns",
)


class Commons(NamedTuple):
    """Transactions of m turns. rows: intp (m,), ascending."""

    rows: NDArray[np.intp]
    commands: Coded[Command]
    replies: Coded[Reply]
    namespaces: Coded[str | None]


def to_parsed(
    slots: np.ndarray, commons: Commons, transactions: list[Transaction], opaque: list[int]
) -> Parsed:
    """Return the transactions of the common turns, and the others, in the order of their turns."""
    rows = np.concatenate([commons.rows, np.array([found.row for found in transactions], np.intp)])
    # The order of several transactions of one turn is kept.
    order = np.argsort(rows, kind="stable") if transactions else np.arange(len(rows))
    rows = rows[order]
    commands = commons.commands.joined([found.command or NOTHING for found in transactions], order)
    replies = commons.replies.joined([found.reply for found in transactions], order)
    namespaces = commons.namespaces.joined([found.namespace for found in transactions], order)
    system = np.zeros(len(rows), np.int32)
    return Parsed(
        rows,
        commands.strings(attrgetter("text")),
        replies.strings(attrgetter("text")),
        replies.flags(attrgetter("error")),
        commands.flags(attrgetter("truncated")) | replies.flags(attrgetter("truncated")),
        {
            "db.system.name": Encoded(system, ["postgresql"]),
            "db.query.text": commands.strings(attrgetter("query")),
            "db.query.summary": commands.strings(attrgetter("summary")),
            "db.operation.name": commands.strings(attrgetter("operation")),
            "db.namespace": namespaces.strings(_itself),
            "db.response.status_code": replies.strings(attrgetter("code")),
            "db.response.message": replies.strings(attrgetter("message")),
        },
        _base(slots, rows, order, transactions),
        opaque,
    )


def _itself(name: str | None) -> str | None:
    return name


def _base(
    slots: np.ndarray, rows: NDArray[np.intp], order: NDArray[np.intp], transactions: Iterable[Transaction]
) -> dict[str, NDArray[np.int64]]:
    """Return the columns of which a transaction has a share only, none, or the value of an earlier turn."""
    found = list(transactions)
    if not found:
        return {}
    others = np.flatnonzero(order >= len(rows) - len(found))
    base = {name: slots[name][rows].astype(np.int64) for name in _BASE}
    for name in _BASE:
        base[name][others] = [getattr(one, name) for one in found]
    return base
