"""The rules of redaction: what leaves a statement, a URL's query and an error message, and what stays."""

from __future__ import annotations

import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from masdeepflow.redact import redact_message, redact_query, redact_sql, summarize_sql


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("SELECT 1;", "SELECT ?;"),
        ("SELECT * FROM t WHERE a = 'x' AND b = \"y\"", "SELECT * FROM t WHERE a = ? AND b = ?"),
        ("SELECT 'it''s', 'it\\'s', 'a\\\\', 'b'", "SELECT ?, ?, ?, ?"),
        ('SELECT "say ""x""", "\\""', "SELECT ?, ?"),
        ("VALUES (1, -2, +3.5, .5, 5., 1e5, 1.5E-3)", "VALUES (?, -?, +?, ?, ?, ?, ?)"),
        ("VALUES (0x1F, 0XAB, X'1f', x'00', 0b01, b'01', B'1')", "VALUES (?, ?, ?, ?, ?, ?, ?)"),
        ("SELECT N'text', _utf8mb4'text', E'a\\n'", "SELECT ?, _utf8mb4?, ?"),
        ("SELECT DATE '2020-01-02', TIMESTAMP'2020-01-02 03:04:05'", "SELECT DATE ?, TIMESTAMP?"),
        ("SELECT 2020-01-02", "SELECT ?-?-?"),
        ("SELECT 192.0.2.1, 1e5.5, .0.0, 0x1.5", "SELECT ?, ?, ?, ?"),
        ("WHERE a IN (1,2,3) LIMIT 10,20", "WHERE a IN (?,?,?) LIMIT ?,?"),
        (
            "SELECT t1.c2, col_3, 4ever FROM db5.t6, 2023_logs",
            "SELECT t1.c2, col_3, 4ever FROM db5.t6, 2023_logs",
        ),
        ("SELECT `a 'quoted' 1`, `b``2` FROM `t`", "SELECT `a 'quoted' 1`, `b``2` FROM `t`"),
        ("SELECT @a1, @@b2, $1, :name", "SELECT @a1, @@b2, $1, :name"),
        ("SELECT a FROM t WHERE b IS NULL AND c = TRUE", "SELECT a FROM t WHERE b IS NULL AND c = TRUE"),
        ("CREATE USER 'bob'@'%' IDENTIFIED BY 'pw'", "CREATE USER ?@? IDENTIFIED BY ?"),
        ("SELECT $$secret$$, $tag$it's$tag$", "SELECT ?, ?"),
        ("", ""),
    ],
)
def test_literals_are_replaced(text: str, redacted: str) -> None:
    """Strings, numbers, hex and bit values and dates go; identifiers, keywords and placeholders stay."""
    assert redact_sql(text) == redacted


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("/* user=bob's */ SELECT 1", "/* ? */ SELECT ?"),
        ("SELECT 1 -- it's bob\nFROM t", "SELECT ? -- ?\nFROM t"),
        ("SELECT 1 # it's bob\nFROM t", "SELECT ? # ?\nFROM t"),
        ("SELECT /*+ MAX_EXECUTION_TIME(1000) */ a FROM t", "SELECT /*+ MAX_EXECUTION_TIME(?) */ a FROM t"),
        ("/*!40101 SET NAMES 'utf8' */", "/*!40101 SET NAMES ? */"),
        ("SELECT a /* bob", "SELECT a /* ? */"),
        ("SELECT a#>>'{b}' FROM t", "SELECT a#>>? FROM t"),
    ],
)
def test_comments_are_emptied(text: str, redacted: str) -> None:
    """Clients put ids into comments; hints are code."""
    assert redact_sql(text) == redacted


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("SELECT 'secr…", "SELECT ?…"),
        ("SELECT 'secr\\…", "SELECT ?…"),
        ("SELECT \"it's…", "SELECT ?…"),
        ("WHERE id = 12…", "WHERE id = ?…"),
        ("WHERE id = 0x…", "WHERE id = ?…"),
        ("WHERE id = 1.5e…", "WHERE id = ?…"),
        ("SELECT a FROM us…", "SELECT a FROM us…"),
        ("SELECT `us…", "SELECT `us…"),
        ("SELECT a -- bo…", "SELECT a -- ?…"),
        ("SELECT 'open", "SELECT ?"),
    ],
)
def test_a_literal_that_is_cut_off(text: str, redacted: str) -> None:
    """The start of a literal is as personal as all of it; the mark of the cut stays."""
    assert redact_sql(text) == redacted


quoted = st.sampled_from(["'", '"']).flatmap(
    lambda quote: st.lists(
        st.sampled_from([quote * 2, "\\" + quote, "\\\\", "SECRET", "--", "/*", "`", "#", "$$"])
    ).map(lambda parts: quote + "".join(parts) + quote)
)
number = st.sampled_from(["4711", "0x4711", "4711.4711", ".4711", "4711e4711"])
plain = st.sampled_from(
    [
        "SELECT",
        "a1",
        "`b 2`",
        ",",
        "(",
        ")",
        "=",
        "-",
        "/* SECRET 's */",
        "-- SECRET '\n",
        '# SECRET "\n',
        "\n",
        "t.c",
    ]
)


@given(st.lists(st.one_of(quoted, number, plain)))
def test_no_literal_survives(tokens: list[str]) -> None:
    """Whatever stands around it, and however it is escaped, nothing of a literal or comment is left."""
    redacted = redact_sql(" ".join(tokens))
    assert "SECRET" not in redacted
    assert "4711" not in redacted


@given(st.lists(st.one_of(quoted, number, plain)), st.integers(0, 60))
def test_no_cut_literal_survives(tokens: list[str], length: int) -> None:
    """Cut anywhere, a statement shows no more than the whole one."""
    text = " ".join(tokens)[:length]
    assert "SECR" not in redact_sql(text + "…")
    assert "471" not in redact_sql(text + "…")


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("SELECT 'a', 'it''s', 7, 1.5e3 FROM t1", "SELECT ?, ?, ?, ? FROM t1"),
        (r"SELECT 'C:\dir', 'b'", "SELECT ?, ?"),
        (r"SELECT 'C:\', 's3cret'", "SELECT ?"),
        (r"SELECT E'a\'s3cret', 'b', e'\\', 5", "SELECT ?, ?, ?, ?"),
        ("SELECT U&'s3cret', B'01', x'ff'", "SELECT U&?, ?, ?"),
        ("SELECT $1, $$s3cret$$, $x$s3cret $y$ $x$, $x$s3cr", "SELECT $1, ?, ?, ?"),
        ("SELECT a # 's3cret\n', b #> '{s3cret}'", "SELECT a # ?, b #> ?"),
        ("SELECT 1 /* a /* b */ s3cret */, 2", "SELECT ? /* ? */"),
        ("SELECT 1 /* a */, 2 -- s3cret\n, 3", "SELECT ? /* ? */, ? -- ?\n, ?"),
        (
            """SELECT "id", "a ""b'" FROM "users" WHERE "x" = 's3cret'""",
            """SELECT "id", "a ""b'" FROM "users" WHERE "x" = ?""",
        ),
        ("SELECT `'s3cret'", "SELECT `?"),
        ("SELECT 's3cr…", "SELECT ?…"),
    ],
)
def test_statements_of_standard_sql(text: str, redacted: str) -> None:
    """A backslash escapes only in E'', `#` is an operator, comments nest; where it is open, the rest goes."""
    assert redact_sql(text, standard=True) == redacted


@given(st.text(alphabet="01.eExX+-a_$@'\"\\`/*#!? \n…"))
def test_any_text_can_be_redacted(text: str) -> None:
    """Nothing raises, and the mark of a cut neither goes nor comes."""
    assert redact_sql(text).endswith("…") == text.endswith("…")


@pytest.mark.parametrize(
    "text",
    [
        "SELECT " + "/*" * 2000,
        "/*!*/ " * 1000 + "1",
        "/**/(;" * 1000 + "1",
        "UPDATE " + "/**/" * 1000 + "=",
        "SELECT a FROM" + " /***/" * 1000 + "=",
        "SELECT '" * 2000,
        "INSERT " + "IGNORE " * 500 + "=",
        "CREATE " + "a=b " * 1000,
        "SELECT " + "(" * 3000,
        "LOAD " + " into" * 1000,
        "WITH " + "a AS (SELECT 1)," * 300,
        "$a$" * 1000,
        "FROM " * 1000,
        " " * 3000,
    ],
)
def test_no_text_takes_long(text: str) -> None:
    """Time grows with the length, not with a power that text from outside could use."""
    start = time.process_time()
    redact_sql(text)
    summarize_sql(text)
    redact_message(text)
    assert time.process_time() - start < 0.5


@pytest.mark.parametrize(
    ("text", "operation", "summary"),
    [
        ("SELECT 1", "SELECT", "SELECT"),
        ("select name from users where id = 'x'", "SELECT", "SELECT users"),
        ("  SELECT\n*\nFROM\n\t`my db`.`users` u", "SELECT", "SELECT my db.users"),
        ("SELECT DISTINCT a, b FROM shop.users, other", "SELECT", "SELECT shop.users"),
        ('SELECT a FROM "Users"', "SELECT", "SELECT Users"),
        ("SELECT 'x FROM y', \"FROM z\" FROM users", "SELECT", "SELECT users"),
        ("SELECT EXTRACT(YEAR FROM born) FROM users", "SELECT", "SELECT users"),
        ("SELECT TRIM(LEADING 'x' FROM a) FROM (SELECT a FROM users) t", "SELECT", "SELECT users"),
        ("SELECT (SELECT MAX(a) FROM other) FROM users", "SELECT", "SELECT users"),
        ("SELECT a FROM /* all */ users", "SELECT", "SELECT users"),
        ("SELECT a /* FROM x */ -- FROM y\nFROM users", "SELECT", "SELECT users"),
        ("SELECT afrom, xselect FROM users", "SELECT", "SELECT users"),
        ("(SELECT a FROM t) UNION (SELECT b FROM u)", "SELECT", "SELECT t"),
        ("/* app's */ -- it's\n# it's\nSELECT a FROM t", "SELECT", "SELECT t"),
        ("/*!40101 SET NAMES utf8 */", "SET", "SET"),
        ("INSERT INTO users (name) VALUES ('x')", "INSERT", "INSERT users"),
        ("insert ignore users values (1)", "INSERT", "INSERT users"),
        ("REPLACE DELAYED INTO users VALUES (1)", "REPLACE", "REPLACE users"),
        ("UPDATE LOW_PRIORITY users SET a = 1", "UPDATE", "UPDATE users"),
        ("DELETE FROM users WHERE a = 1", "DELETE", "DELETE users"),
        ("DELETE u FROM users u JOIN t", "DELETE", "DELETE users"),
        ("WITH a AS (SELECT 1 FROM x), b AS (SELECT 2) UPDATE users SET a = 1", "UPDATE", "UPDATE users"),
        ("WITH a AS (SELECT 1", "WITH", "WITH"),
        ("CREATE TABLE IF NOT EXISTS users (id INT)", "CREATE", "CREATE TABLE users"),
        ("CREATE OR REPLACE TEMPORARY TABLE t (id INT)", "CREATE", "CREATE TABLE t"),
        ("CREATE UNIQUE INDEX i ON users (a)", "CREATE", "CREATE INDEX i"),
        ("CREATE USER 'bob'@'%'", "CREATE", "CREATE USER"),
        ("DROP DATABASE IF EXISTS shop", "DROP", "DROP DATABASE shop"),
        ("ALTER TABLE users ADD a INT", "ALTER", "ALTER TABLE users"),
        ("TRUNCATE users", "TRUNCATE", "TRUNCATE users"),
        ("LOAD DATA LOCAL INFILE '/tmp/x' INTO TABLE users", "LOAD", "LOAD users"),
        ("CALL shop.refill(1)", "CALL", "CALL shop.refill"),
        ("USE `shop`;", "USE", "USE shop"),
        ("SET autocommit = 0", "SET", "SET"),
        ("BEGIN", "BEGIN", "BEGIN"),
        ("SHOW TABLES", "SHOW", "SHOW"),
        ("SELECT a FROM us…", "SELECT", "SELECT"),
        ("UPDATE us…", "UPDATE", "UPDATE"),
        ("INSERT INTO 4711", "INSERT", "INSERT"),
        ("SELECT a FROM 4711", "SELECT", "SELECT"),
        ("UPDATE 'secret'", "UPDATE", "UPDATE"),
        ("SELEC 1", "", ""),
        ("4711", "", ""),
        ("'SELECT'", "", ""),
        ("SELECT1", "", ""),
        ("", "", ""),
    ],
)
def test_summary(text: str, operation: str, summary: str) -> None:
    """Operation and first target of a statement, without literals; nothing for what is no statement."""
    assert summarize_sql(text) == (operation, summary)


@given(st.text())
def test_a_summary_starts_with_its_operation(text: str) -> None:
    """Whatever the text is."""
    for statement in (text, f"SELECT {text}", f"WITH {text}"):
        operation, summary = summarize_sql(statement)
        assert summary.startswith(operation)
        assert bool(summary) == bool(operation)


@pytest.mark.parametrize(
    ("query", "redacted"),
    [
        ("a=1&b=2", "a=REDACTED&b=REDACTED"),
        ("a=1=2&b=", "a=REDACTED&b=REDACTED"),
        ("flag&a=x;y", "flag&a=REDACTED"),
        ("a=secr…", "a=REDACTED…"),
        ("a=1&ke…", "a=REDACTED&ke…"),
        ("", ""),
    ],
)
def test_values_of_a_url_query(query: str, redacted: str) -> None:
    """Keys stay, values go, and so does the start of a value that is cut off."""
    assert redact_query(query) == redacted


@pytest.mark.parametrize(
    ("message", "redacted"),
    [
        ("Duplicate entry 'bob' for key 'users.email'", "Duplicate entry ?"),
        ("Duplicate entry 'o'neil' for key 'users.name'", "Duplicate entry ?"),
        (
            "Access denied for user 'bob'@'localhost' (using password: YES)",
            "Access denied for user ? (using password: YES)",
        ),
        ("syntax to use near 'selec 'x'' at line 1", "syntax to use near ? at line 1"),
        ("Incorrect value: 'bo…", "Incorrect value: ?…"),
        ("Key (email)=(bob@example.com) already exists.", "Key (email)=(?) already exists."),
        ("Commands out of sync; you can't run this", "Commands out of sync; you can't run this"),
        ("Too many connections", "Too many connections"),
    ],
)
def test_quotations_of_an_error_message(message: str, redacted: str) -> None:
    """What a message quotes may be the user's data, with quotes of its own."""
    assert redact_message(message) == redacted
