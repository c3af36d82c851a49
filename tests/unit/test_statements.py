"""Statements on columns: each does what it would be said to do if it were read by itself."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from masdeepflow import statements
from masdeepflow.statements import Statements, Summary, Texts, summary_of
from masdeepflow.table import ABSENT, Encoded

HEAD, ROOM = 5, 64
VERBS = [
    "SELECT ",
    "select a, count(*) FROM ",
    "DELETE FROM ",
    "INSERT INTO ",
    "UPDATE ",
    "CREATE TABLE ",
    "LOAD DATA INFILE ",
    "WITH x AS (",
    "SET ",
    "/*!40101 SET ",
    "",
]
PIECES = [
    "'",
    "''",
    '"',
    "`",
    "\\",
    "(",
    ")",
    "--",
    "/*",
    "*/",
    "#",
    " FROM ",
    " INTO TABLE ",
    " SELECT ",
    " WHERE a = ",
    " t ",
    " t1 ",
    ".b2",
    "7",
    "42",
    "é",
    "\0",
    ", ",
    "x" * 20,
]
STATEMENTS = st.builds(
    lambda verb, pieces: verb + "".join(pieces),
    st.sampled_from(VERBS),
    st.lists(st.sampled_from(PIECES), max_size=9),
)
SAME_BUT_FOR_DIGITS = bytes.maketrans(b"0123456789", b"1357902468")


def decode(data: bytes, cut: bool) -> str:  # noqa: FBT001  # as `Statements` calls it
    """Return what is shown of a statement."""
    return data.decode("utf-8", "backslashreplace") + "…" * cut


def columns(texts: list[bytes]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return payloads of any heads and stale bytes, their lengths, and which are cut."""
    payload = np.random.default_rng(len(texts)).integers(0, 256, (len(texts), ROOM), np.uint8)
    for row, text in zip(payload, texts, strict=True):
        row[HEAD : HEAD + len(text)] = np.frombuffer(text[: ROOM - HEAD], np.uint8)
    lengths = np.array([min(HEAD + len(text), ROOM) for text in texts], np.int64)
    return payload, lengths, np.array([HEAD + len(text) > ROOM for text in texts], bool)


def read(reader: Statements, texts: list[bytes]) -> list[Summary]:
    """Return what statements do, by columns."""
    codes, values = reader.read(*columns(texts))
    return [values[code] for code in codes.tolist()]


def alone(texts: list[bytes]) -> list[Summary]:
    """Return the same, each read by itself."""
    room = ROOM - HEAD
    return [summary_of(decode(text[:room], len(text) > room)) for text in texts]


@settings(max_examples=400, deadline=None)
@given(st.lists(STATEMENTS, max_size=12))
@example(["SELECT a FROM t1 WHERE b = 1", "SELECT a FROM t2 WHERE b = 1", "SELECT a FROM t2 WHERE b = 2"])
@example(["SELECT (SELECT a FROM t WHERE b = 'x') FROM u", "SELECT (SELECT a FROM t WHERE b = 'x') FROM v"])
@example(["SELECT '\"' FROM t", "SELECT '\"' FROM u", "SELECT \"'\" FROM t WHERE '1'", 'SELECT "\'" FROM u'])
@example(["LOAD DATA INFILE 'a' INTO TABLE t", "LOAD DATA INFILE 'a' INTO TABLE u"])
@example(["SELECT -- it's\n a FROM t", "SELECT -- it's\n a FROM u", "SELECT `'` FROM t", "SELECT `'` FROM u"])
def test_columns_equal_statements_read_alone(texts: list[str]) -> None:
    """Whatever is in them, in any order, read for the first time or known; and with other digits."""
    encoded = [text.encode() for text in texts]
    encoded += [text.translate(SAME_BUT_FOR_DIGITS) for text in encoded]
    reader = Statements(HEAD, decode)
    assert read(reader, encoded) == alone(encoded)
    assert read(reader, encoded[::-2]) == alone(encoded[::-2])
    assert read(reader, encoded) == alone(encoded)


@given(st.lists(st.binary(max_size=2 * ROOM), max_size=6))
def test_any_bytes(texts: list[bytes]) -> None:
    """Bytes that are no text, and no statement, are read as if alone."""
    assert read(Statements(HEAD, decode), texts) == alone(texts)


@pytest.mark.parametrize(
    ("text", "readings"),
    [
        ("SELECT abalance FROM pgbench_accounts WHERE aid = {0}", 1),
        ("SELECT c FROM sbtest1 WHERE id = {0}", 1),
        ("SELECT * FROM users WHERE name = '{1}'", 1),
        ('SELECT count(*) FROM "users" WHERE "users"."name" = \'{1}\'', 1),
        ("INSERT INTO `users` (name) VALUES ('{1}', {0})", 1),
        ("UPDATE users SET name = '{1}' WHERE id = {0}", 1),
        ("WITH x AS (SELECT '{1}') SELECT a FROM t", 500),
    ],
)
def test_literals_cost_nothing(text: str, readings: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of statements that differ in literals one is read, but where those may hide what decides."""
    texts = [text.format(1000 + number, "x" * (number % 20) + f"-{number}").encode() for number in range(500)]
    expected = alone(texts)
    counted = []

    def count(text: str) -> Summary:
        counted.append(text)
        return summary_of(text)

    monkeypatch.setattr(statements, "summary_of", count)
    assert read(Statements(HEAD, decode), texts) == expected
    assert readings <= len(counted) < readings + 12 + 5 * (readings > 1) * readings


def test_texts_are_made_when_asked_for() -> None:
    """Beside those that others have; equal ones once, cut ones marked."""
    long = b"y" * ROOM
    texts = Texts(*columns([b"a", b"b", b"a", long]), HEAD, decode)
    others = Encoded(np.array([0, ABSENT, ABSENT, ABSENT, ABSENT, 1], np.int32), ["> b", "z"])
    own = np.array([ABSENT, 0, 1, 2, 3, ABSENT], np.int32)
    column = texts.column(others, own, "> ")
    assert column.to_list() == ["> b", "> a", "> b", "> a", "> " + "y" * (ROOM - HEAD) + "…", "z"]
    assert len(column.values) == 4
    assert column.take(np.array([5, 1])).to_list() == ["z", "> a"]
