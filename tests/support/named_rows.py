"""Transactions as dictionaries, for tests that name a column or two of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from masdeepflow.table import ABSENT
from tests.support.slots import make_slots
from tests.unit.protocols.http_reference import rows_of

if TYPE_CHECKING:
    from masdeepflow.protocols.base import Protocol

__all__ = ["BASE", "NAMES", "Row", "named_rows", "shown_as"]

NAMES = ["row", "request", "response", "error", "truncated"]
BASE = ["request_first_ns", "queue_ns", "request_bytes", "response_bytes"]
BASE += ["response_first_ns", "response_last_ns"]

Row = dict[str, Any]


def named_rows(parser: Protocol, *turns: dict[str, object]) -> list[Row]:
    """Parse turns as one batch; return each transaction's columns by name, absent ones left out."""
    slots = make_slots(*turns)
    parsed = parser.parse(slots)
    names = [*NAMES, *parsed.attributes, *BASE]
    rows = [dict(zip(names, row, strict=False)) for row in rows_of(slots, parsed)]
    return [{name: value for name, value in row.items() if value not in (None, ABSENT)} for row in rows]


def shown_as(product: str, rows: list[Row]) -> list[tuple[str | None, str | None]]:
    """Return command and reply of each transaction, as the text log has them."""
    return [
        (
            row.get("request", "").removeprefix(f"{product} Command: ") or None,
            row.get("response", "").removeprefix(f"{product} Response: ") or None,
        )
        for row in rows
    ]
