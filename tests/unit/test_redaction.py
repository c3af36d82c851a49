"""`--redact`: nothing that a user or an application filled in reaches a sink."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masdeepflow import redaction
from masdeepflow.redaction import redact_table
from masdeepflow.sinks.metrics import Metrics
from masdeepflow.table import ABSENT, Encoded, Table
from tests.support.tables import make_output, make_table

SECRETS = st.from_regex(r"s3cret[a-z']{1,8}", fullmatch=True)


def _redacted(**row: object) -> Table:
    table = make_table(row)
    redact_table(table)
    return table


def _shown(table: Table) -> str:
    """Return everything of a table that is text."""
    columns = [table.request_text, table.response_text, *table.attributes.values()]
    return "\n".join(value for column in columns if isinstance(column, Encoded) for value in column.values)


def _sql(statement: str) -> Table:
    return _redacted(**{"db.query.text": statement, "request_text": f"MySQL Query: {statement}"})


def _error(message: str) -> Table:
    return _redacted(
        **{
            "db.response.message": message,
            "db.response.status_code": "1062",
            "response_text": f"MySQL Response: ERR 1062 (23000): {message}",
        }
    )


def test_literals_leave_statement_and_line() -> None:
    """Attribute and text log show the same statement, its shape kept."""
    table = _sql("SELECT * FROM users WHERE name = 'bob' AND id = 7")
    assert table.attributes["db.query.text"].values == ["SELECT * FROM users WHERE name = ? AND id = ?"]  # type: ignore[union-attr]
    assert table.request_text.values == ["MySQL Query: SELECT * FROM users WHERE name = ? AND id = ?"]


def test_the_system_tells_how_its_strings_end() -> None:
    """PostgreSQL's end at a quote behind a backslash, MySQL's do not."""
    statement = r"SELECT 'a\', 'secret'"
    line = {"request_text": f"PostgreSQL Query: {statement}", "db.query.text": statement}
    table = _redacted(**line, **{"db.system.name": "postgresql"})
    assert "secret" not in _shown(table)
    assert table.request_text.values == ["PostgreSQL Query: SELECT ?"]


def test_a_colon_in_a_statement_is_part_of_it() -> None:
    """Only the label in front of the line is not the statement."""
    assert _sql("SELECT 'a: b', 5").request_text.values == ["MySQL Query: SELECT ?, ?"]


def test_error_keeps_its_code_and_loses_what_it_quotes() -> None:
    """The code tells what went wrong; the message may quote a value with any quote in it."""
    table = _error("Duplicate entry 'bob's@example.org' for key 'users.email'")
    assert "bob" not in _shown(table)
    assert "example.org" not in _shown(table)
    assert table.response_text.values[0].startswith("MySQL Response: ERR 1062 (23000): Duplicate entry ?")


def test_error_of_a_table_without_statements_is_redacted_too() -> None:
    """A failed login has no statement, but a user's name in its message."""
    assert "bob" not in _shown(_error("Access denied for user 'bob'@'10.0.0.1' (using password: YES)"))


def test_plain_responses_stay() -> None:
    """What quotes nothing is shown as it is."""
    table = _redacted(
        **{"db.query.text": "SELECT 1", "response_text": "MySQL Response: Result set, 3 columns"}
    )
    assert table.response_text.values == ["MySQL Response: Result set, 3 columns"]


@pytest.mark.parametrize(
    ("target", "redacted"),
    [
        ("/a?user=bob&x=1", "/a?user=REDACTED&x=REDACTED"),
        ("/a?user=bob\x0b\xa0bobby", "/a?user=REDACTED"),
        ("/a?a=b?c=d", "/a?a=REDACTED"),
        ("/a", "/a"),
    ],
)
def test_query_values_leave_attribute_and_line(target: str, redacted: str) -> None:
    """Keys and path stay; nothing but a space ends a target, whatever else looks like one."""
    path, _, query = target.partition("?")
    row = {
        "url.path": path,
        "url.query": query or None,
        "request_text": f"HTTP Request: GET {target} HTTP/1.1",
    }
    table = _redacted(**row)
    assert table.request_text.values == [f"HTTP Request: GET {redacted} HTTP/1.1"]
    assert "bob" not in _shown(table)


def test_other_columns_are_left_alone() -> None:
    """Names, codes and numbers are no literals."""
    table = _redacted(
        **{
            "db.query.text": "SELECT 1",
            "db.namespace": "shop",
            "db.operation.name": "SELECT",
            "http.response.status_code": 200,
        }
    )
    assert table.attributes["db.namespace"].values == ["shop"]  # type: ignore[union-attr]
    assert table.attributes["http.response.status_code"].tolist() == [200]  # type: ignore[union-attr]


def test_tables_without_anything_to_redact_are_unchanged() -> None:
    """A protocol that this module does not know keeps its lines."""
    table = _redacted(request_text="Redis Request: GET ?x=1", response_text="Redis Response: 'bob'")
    assert table.request_text.values == ["Redis Request: GET ?x=1"]
    assert table.response_text.values == ["Redis Response: 'bob'"]


def test_rows_without_a_value_stay_absent() -> None:
    """Redaction works on distinct values: rows keep their codes, and shared lists are not written to."""
    table = make_table({"db.query.text": "SELECT 1"}, {"request_text": None}, {"db.query.text": "SELECT 1"})
    before = table.attributes["db.query.text"]
    assert isinstance(before, Encoded)
    values = list(before.values)
    redact_table(table)
    after = table.attributes["db.query.text"]
    assert isinstance(after, Encoded)
    assert after.codes.tolist() == [0, ABSENT, 0]
    assert before.values == values
    assert table.request_text.to_list()[1] is None


@given(SECRETS)
def test_no_secret_survives_anywhere(secret: str) -> None:
    """As a string of a statement, in an error that quotes it, or as the value of a query."""
    quoted = secret.replace("'", "''")
    for table in (
        _sql(f"CALL register('{quoted}', 1)"),
        _error(f"Data too long: '{secret}' for column 'c'"),
        _redacted(
            **{
                "url.query": f"token={secret}",
                "request_text": f"HTTP Request: GET /?token={secret} HTTP/1.1",
            }
        ),
    ):
        assert "s3cret" not in _shown(table)


def test_texts_that_nobody_looks_at_are_not_redacted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Metrics want labels only: those are there, and no statement, message or line was looked at for them."""
    monkeypatch.setattr(redaction, "redact_sql", None)
    monkeypatch.setattr(redaction, "redact_message", None)
    monkeypatch.setattr(redaction, "redact_query", None)
    sql = {"db.query.text": "SELECT 1", "db.operation.name": "SELECT", "db.response.message": "no"}
    tables = [
        make_table(sql),
        make_table({"url.query": "a=1", "request_text": "HTTP Request: GET /?a=1 HTTP/1.1"}),
    ]
    metrics = Metrics()
    for table in tables:
        redact_table(table)
    metrics.write(make_output(*tables))
    labels = [series.labels for series in metrics.snapshot().series]
    assert any("SELECT" in values for values in labels)
    with pytest.raises(TypeError):
        _shown(tables[0])
