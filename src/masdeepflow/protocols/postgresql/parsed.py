"""From commands and replies to columns."""

from __future__ import annotations

from operator import attrgetter
from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import numpy as np

from masdeepflow.protocols.postgresql.requests import NOTHING
from masdeepflow.table import Encoded, Parsed

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Iterable, Sequence

    from numpy.typing import NDArray

    from masdeepflow.protocols.postgresql.connection import Transaction
    from masdeepflow.protocols.postgresql.replies import Reply
    from masdeepflow.protocols.postgresql.requests import Command

__all__ = ["Coded", "Commons", "to_parsed"]

T = TypeVar("T")
H = TypeVar("H", bound="Hashable")

_BASE = (
    "request_first_ns",
    "queue_ns",
    "request_bytes",
    "response_bytes",
    "response_first_ns",
    "response_last_ns",
)


class Coded(NamedTuple, Generic[T]):
    """codes: int32 (m,), index into `values`, which are objects with more than one string to show."""

    codes: NDArray[np.int32]
    values: list[T]


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
    commands = _join(commons.commands, [found.command or NOTHING for found in transactions], order)
    replies = _join(commons.replies, [found.reply for found in transactions], order)
    namespaces = _join(commons.namespaces, [found.namespace for found in transactions], order)
    system = np.zeros(len(rows), np.int32)
    return Parsed(
        rows,
        _column(commands, attrgetter("text")),
        _column(replies, attrgetter("text")),
        _flags(replies, attrgetter("error")),
        _flags(commands, attrgetter("truncated")) | _flags(replies, attrgetter("truncated")),
        {
            "db.system.name": Encoded(system, ["postgresql"]),
            "db.query.text": _column(commands, attrgetter("query")),
            "db.query.summary": _column(commands, attrgetter("summary")),
            "db.operation.name": _column(commands, attrgetter("operation")),
            "db.namespace": _spread(namespaces),
            "db.response.status_code": _column(replies, attrgetter("code")),
            "db.response.message": _column(replies, attrgetter("message")),
        },
        _base(slots, rows, order, transactions),
        opaque,
    )


def _join(common: Coded[H], others: Sequence[H], order: NDArray[np.intp]) -> Coded[H]:
    """Return the values of the common turns and of the other transactions, put in `order` (m,)."""
    places: dict[H, int] = {}
    codes = [places.setdefault(value, len(places)) for value in others]
    if not codes:
        return common
    joined = np.concatenate([common.codes, np.array(codes, np.int32) + len(common.values)])
    return Coded(joined[order], common.values + list(places))


def _column(coded: Coded[T], show: Callable[[T], str | None]) -> Encoded:
    """Return the column of what the values show, in which equal strings have one code."""
    encoded = Encoded.from_list(list(map(show, coded.values)))
    return Encoded(encoded.codes[coded.codes], encoded.values)


def _spread(names: Coded[str | None]) -> Encoded:
    encoded = Encoded.from_list(names.values)
    return Encoded(encoded.codes[names.codes], encoded.values)


def _flags(coded: Coded[T], show: Callable[[T], bool]) -> NDArray[np.bool_]:
    flags: NDArray[np.bool_] = np.fromiter(map(show, coded.values), bool, len(coded.values))[coded.codes]
    return flags


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
