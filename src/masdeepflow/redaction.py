"""`--redact`: literals leave every column of a table before any sink sees it."""

from __future__ import annotations

import re
from functools import cache, partial
from typing import TYPE_CHECKING

from masdeepflow.redact import redact_message, redact_query, redact_sql
from masdeepflow.table import Encoded

if TYPE_CHECKING:
    from collections.abc import Callable

    from masdeepflow.table import Attribute, Table

__all__ = ["redact_table"]

_STATEMENTS = {"db.query.text", "db.response.message"}
_STANDARD_SQL = {"postgresql"}
"""Systems whose strings, comments and operators are the SQL standard's."""
_QUERY = re.compile(r"\?[^ ]*")  # nothing but a space ends a request's target


def redact_table(table: Table) -> None:
    """Have SQL literals and URL query values replaced, in each distinct text when somebody asks for it."""
    if not _STATEMENTS.isdisjoint(table.attributes):
        standard = cache(partial(_is_standard, table.attributes.get("db.system.name")))
        _change(table, "db.query.text", lambda text: redact_sql(text, standard=standard()))
        _change(table, "db.response.message", redact_message)
        table.request_text = table.request_text.mapped(lambda line: _sql_line(line, standard=standard()))
        table.response_text = table.response_text.mapped(lambda line: _sql_line(line, standard=standard()))
    if "url.query" in table.attributes:
        _change(table, "url.query", redact_query)
        table.request_text = table.request_text.mapped(_url_line)


def _change(table: Table, name: str, change: Callable[[str], str]) -> None:
    column = table.attributes.get(name)
    if isinstance(column, Encoded):
        table.attributes[name] = column.mapped(change)


def _is_standard(system: Attribute | None) -> bool:
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
