"""From paired messages to columns."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple, TypeVar

import numpy as np

from masdeepflow.table import ABSENT, Encoded, Parsed

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from masdeepflow.protocols.dns.message import Message
    from masdeepflow.protocols.dns.reading import Found

__all__ = ["TIMEOUT", "Transactions", "timed_out", "to_parsed"]

T = TypeVar("T")

_BASE = (
    *("request_first_ns", "queue_ns", "request_bytes"),
    *("response_first_ns", "response_last_ns", "response_bytes"),
)
TIMEOUT = "timeout"
"""`error.type` of a query that was not answered."""


class Transactions(NamedTuple):
    """m queries with their responses, if any.

    rows: intp, the slot of the response, or that of the query while it waits. asked, answered: int64, indices
    into `values`, `ABSENT` without a response. The rest: int64, of query and response.
    """

    values: list[Message]
    rows: NDArray[np.intp]
    asked: NDArray[np.int64]
    answered: NDArray[np.int64]
    request_first_ns: NDArray[np.int64]
    queue_ns: NDArray[np.int64]
    request_bytes: NDArray[np.int64]
    response_first_ns: NDArray[np.int64]
    response_last_ns: NDArray[np.int64]
    response_bytes: NDArray[np.int64]

    def with_open(self, found: list[Found]) -> Transactions:
        """Return these and the queries of turns in flight, which come again."""
        asking = [message for message in found if not message.message.response]
        if not asking:
            return self
        none = np.zeros(len(asking), np.int64)
        more = (
            np.array([message.row for message in asking], np.intp),
            len(self.values) + np.arange(len(asking)),
            none + ABSENT,
            np.array([message.first_ns for message in asking], np.int64),
            none,
            np.array([message.size for message in asking], np.int64),
            none,
            none,
            none,
        )
        columns = (np.concatenate(pair) for pair in zip(self[1:], more, strict=True))
        return Transactions([*self.values, *(message.message for message in asking)], *columns)


def _column(
    values: list[Message], codes: NDArray[np.int64], show: Callable[[Message], str | None]
) -> Encoded:
    """Return the column of what the values show, in which equal strings have one code; ABSENT stays so."""
    encoded = Encoded.from_list([*map(show, values), None])
    return Encoded(encoded.codes[codes], encoded.values)


def _numbers(values: list[Message], codes: NDArray[np.int64], show: Callable[[Message], int]) -> np.ndarray:
    return np.array([*map(show, values), ABSENT], np.int64)[codes]


def _is_cut(message: Message) -> bool:
    return message.name is None


def to_parsed(slots: np.ndarray, found: Transactions) -> Parsed:
    """Return the transactions in the order of their slots.

    One that waits is not shown while nothing tells who asks: its response will.
    """
    waiting = found.answered == ABSENT
    unknown = waiting & (slots["remote_port"][found.rows] == 0)
    order = np.argsort(found.rows, kind="stable")
    if unknown.any():
        order = order[~unknown[order]]
    waiting, asked, answered = waiting[order], found.asked[order], found.answered[order]
    values = found.values
    failed = np.array([*(message.failed for message in values), False], bool)
    cut = np.array([*map(_is_cut, values), False], bool)
    return Parsed(
        found.rows[order],
        _column(values, asked, lambda message: None if message.response else message.text()),
        _column(values, answered, lambda message: message.text() if message.response else None),
        failed[answered],
        cut[asked],
        _attributes(values, asked, answered, Encoded.absent(len(order))),
        {name: getattr(found, name)[order] for name in _BASE},
        still_open=waiting,
    )


def _attributes(
    values: list[Message], asked: NDArray[np.int64], answered: NDArray[np.int64], error: Encoded
) -> dict[str, Encoded | np.ndarray]:
    return {
        "dns.question.name": _column(values, asked, lambda message: message.name),
        "dns.question.type": _column(values, asked, lambda message: message.type),
        "dns.response_code": _column(values, answered, lambda message: message.code),
        "dns.answer_count": _numbers(values, answered, lambda message: message.answers),
        "error.type": error,
    }


def timed_out(
    slots: np.ndarray, codes: NDArray[np.int64], values: list[Message | None], timeout_ns: int
) -> Parsed:
    """Return a transaction for each query in slots (n,), as nobody has answered it for `timeout_ns`."""
    known = [value for value in values if value is not None]
    places = np.cumsum([value is not None for value in values]) - 1
    rows = np.flatnonzero(np.array([value is not None for value in values], bool)[codes])
    asked = places[codes[rows]]
    nothing = np.full(len(rows), ABSENT, np.int64)
    same = np.zeros(len(rows), np.int32)
    return Parsed(
        rows,
        _column(known, asked, lambda message: message.text()),
        Encoded(same, [f"DNS Response: {TIMEOUT}"]),
        np.ones(len(rows), bool),
        np.array([*map(_is_cut, known), False], bool)[asked],
        _attributes(known, asked, nothing, Encoded(same, [TIMEOUT])),
        {"request_last_ns": slots["request_first_ns"][rows].astype(np.int64) + timeout_ns},
    )
