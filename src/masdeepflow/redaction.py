"""`--redact`: literals leave every column of a table before any sink sees it."""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING

from masdeepflow.redact import redact_message, redact_query, redact_sql
from masdeepflow.table import Encoded

if TYPE_CHECKING:
    from collections.abc import Callable

    from masdeepflow.table import Table

__all__ = ["redact_table"]

_STATEMENTS = {"db.query.text", "db.response.message"}
_STANDARD_SQL = {"postgresql"}
"""Systems whose strings, comments and operators are the SQL standard's."""
_QUERY = re.compile(r"\?[^ ]*")  # nothing but a space ends a request's target


def redact_table(table: Table) -> None:
    """Replace SQL literals and URL query values in place, once per distinct value."""
    if not _STATEMENTS.isdisjoint(table.attributes):
        standard = _is_standard(table)
        _change(table, "db.query.text", partial(redact_sql, standard=standard))
        _change(table, "db.response.message", redact_message)
        line = partial(_sql_line, standard=standard)
        table.request_text = _mapped(table.request_text, line)
        table.response_text = _mapped(table.response_text, line)
    if "url.query" in table.attributes:
        _change(table, "url.query", redact_query)
        table.request_text = _mapped(table.request_text, _url_line)


def _change(table: Table, name: str, change: Callable[[str], str]) -> None:
    column = table.attributes.get(name)
    if isinstance(column, Encoded):
        table.attributes[name] = _mapped(column, change)


def _mapped(column: Encoded, change: Callable[[str], str]) -> Encoded:
    return Encoded(column.codes, [change(value) for value in column.values])


def _is_standard(table: Table) -> bool:
    system = table.attributes.get("db.system.name")
    return isinstance(system, Encoded) and bool(system.values) and _STANDARD_SQL.issuperset(system.values)


def _sql_line(line: str, *, standard: bool) -> str:
    label, separator, statement = line.partition(": ")
    if label.endswith("Response"):
        # An error's code is not the user's data, its message may quote it.
        code, colon, message = statement.partition(": ")
        return f"{label}{separator}{code}{colon}{redact_message(message)}"
    return f"{label}{separator}{redact_sql(statement, standard=standard)}"


def _url_line(line: str) -> str:
    return _QUERY.sub(lambda match: "?" + redact_query(match[0][1:]), line, count=1)
