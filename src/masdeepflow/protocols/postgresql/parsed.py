"""From commands and replies to columns."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from masdeepflow.protocols.postgresql.requests import NOTHING
from masdeepflow.schema import Kind
from masdeepflow.table import ABSENT, Encoded, Parsed

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from masdeepflow.coded import Coded
    from masdeepflow.protocols.postgresql.connection import Transaction
    from masdeepflow.protocols.postgresql.replies import Reply
    from masdeepflow.protocols.postgresql.requests import Command
    from masdeepflow.statements import Texts

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
    """Transactions of m turns.

    rows: intp (m,), ascending. own: int32 (m,), index into `texts` where a command's text is not that of its
    value, else `ABSENT`. shares: base columns of which a transaction does not have all of its turn's.
    """

    rows: NDArray[np.intp]
    commands: Coded[Command]
    replies: Coded[Reply]
    namespaces: Coded[str | None]
    own: NDArray[np.int32]
    texts: Texts | None
    shares: dict[str, NDArray[np.int64]]

    def joined(self, transactions: list[Transaction]) -> tuple[Commons, NDArray[np.intp]]:
        """Return these and others (k,), in the order of their turns, and that order (m + k,)."""
        rows = np.concatenate([self.rows, np.array([found.row for found in transactions], np.intp)])
        # The order of several transactions of one turn is kept.
        order = np.argsort(rows, kind="stable")
        own = np.concatenate([self.own, np.full(len(transactions), ABSENT, np.int32)])
        together = Commons(
            rows[order],
            self.commands.joined([found.command or NOTHING for found in transactions], order),
            self.replies.joined([found.reply for found in transactions], order),
            self.namespaces.joined([found.namespace for found in transactions], order),
            own[order],
            self.texts,
            {
                name: np.append(share, [getattr(found, name) for found in transactions])[order]
                for name, share in self.shares.items()
            },
        )
        return together, order


def to_parsed(
    slots: np.ndarray, commons: Commons, transactions: list[Transaction], opaque: list[int]
) -> Parsed:
    """Return the transactions of the common turns, and the others, in the order of their turns."""
    base, still_open = commons.shares, None
    if transactions:
        commons, order = commons.joined(transactions)
        base = _base(slots, commons.rows, order, transactions) | commons.shares
        still_open = _still_open(slots, commons.rows, order, transactions)
    rows, commands, replies, namespaces, own, texts, _ = commons
    lines, queries = commands.strings(attrgetter("text")), commands.strings(attrgetter("query"))
    if texts is not None:
        lines, queries = texts.column(lines, own, "PostgreSQL Query: "), texts.column(queries, own)
    return Parsed(
        rows,
        lines,
        replies.strings(attrgetter("text")),
        replies.flags(attrgetter("error")),
        commands.flags(attrgetter("truncated")) | replies.flags(attrgetter("truncated")),
        {
            "db.system.name": Encoded(np.zeros(len(rows), np.int32), ["postgresql"]),
            "db.query.text": queries,
            "db.query.summary": commands.strings(attrgetter("summary")),
            "db.operation.name": commands.strings(attrgetter("operation")),
            "db.namespace": namespaces.strings(_itself),
            "db.response.status_code": replies.strings(attrgetter("code")),
            "db.response.message": replies.strings(attrgetter("message")),
        },
        base,
        opaque,
        still_open,
    )


def _still_open(
    slots: np.ndarray, rows: NDArray[np.intp], order: NDArray[np.intp], transactions: list[Transaction]
) -> NDArray[np.bool_] | None:
    """Return which transactions (n,) have not ended; None if turns in flight tell."""
    if not any(one.still_open for one in transactions):
        return None
    paused = np.zeros(len(order), bool)
    paused[len(order) - len(transactions) :] = [one.still_open for one in transactions]
    in_flight: NDArray[np.bool_] = slots["kind"][rows] == int(Kind.OPEN)
    return in_flight | paused[order]


def _itself(name: str | None) -> str | None:
    return name


def _base(
    slots: np.ndarray, rows: NDArray[np.intp], order: NDArray[np.intp], transactions: list[Transaction]
) -> dict[str, NDArray[np.int64]]:
    """Return the columns of which a transaction has a share only, none, or the value of an earlier turn."""
    others = np.flatnonzero(order >= len(rows) - len(transactions))
    base = {name: slots[name][rows].astype(np.int64) for name in _BASE}
    for name in _BASE:
        base[name][others] = [getattr(one, name) for one in transactions]
    return base
