"""Rules of escaping."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masdeepflow.escape import TEXT_LIMIT, escape, json_string

ANY_TEXT = st.text(st.characters(exclude_categories=()))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("GET /caf\u00e9?q=\u65e5\u672c HTTP/1.1", "GET /caf\u00e9?q=\u65e5\u672c HTTP/1.1"),
        ("SELECT\n\t1", r"SELECT\x0a\x091"),
        ("\x1b[31mred", r"\x1b[31mred"),
        ("\x7f", r"\x7f"),
        ("\x85", r"\x85"),
        ("abc\u202edef", r"abc\u202edef"),
        ("\u2028", r"\u2028"),
        ("\ufeff", r"\ufeff"),
        ("\ud800", r"\ud800"),
        ("\U000e0001", r"\U000e0001"),
        (b"\xff\xfeok".decode(errors="surrogateescape"), r"\xff\xfeok"),
        (r"C:\n", r"C:\n"),
        ("", ""),
    ],
)
def test_escape_shows_what_is_not_printable_as_escapes(text: str, shown: str) -> None:
    """Printable text of any script stays, the rest becomes escapes, a byte that is not UTF-8 its own."""
    assert escape(text) == shown


@settings(deadline=None)
@given(ANY_TEXT)
def test_escaped_text_is_one_printable_line(text: str) -> None:
    """Whatever the text, nothing that a terminal obeys survives."""
    escaped = escape(text)
    assert escaped.isprintable()
    assert escaped.splitlines() in ([escaped], [])
    escaped.encode()


@settings(deadline=None)
@given(ANY_TEXT, st.integers(8, 64))
def test_escaped_text_is_cut_to_the_limit(text: str, limit: int) -> None:
    """A text is at most `limit` bytes of UTF-8, and ends in three dots when something was cut."""
    cut, whole = escape(text, limit), escape(text)
    assert len(cut.encode()) <= limit
    assert cut == whole or (cut.endswith("...") and whole.startswith(cut[:-3]))


def test_escaped_text_leaves_room_for_the_line_around_it() -> None:
    """However long a text, the line that it stands in stays below 16 KiB."""
    assert len(escape("\x00" * 100_000)) == TEXT_LIMIT < 16 * 1024


@settings(deadline=None)
@given(st.text(st.characters(exclude_categories=["Cs"])))
def test_json_string_is_parsed_back_to_the_same_text(text: str) -> None:
    """JSON loses nothing of a text without surrogates."""
    assert json.loads(json_string(text)) == text


@settings(deadline=None)
@given(ANY_TEXT)
def test_json_string_is_one_printable_line(text: str) -> None:
    """A JSON line is safe to look at in a terminal, too, and valid UTF-8."""
    string = json_string(text)
    assert string.isprintable()
    string.encode()


def test_json_string_shows_surrogates_as_the_text_log_does() -> None:
    """Strict readers refuse lone surrogates, so bytes that are not UTF-8 are shown as escapes."""
    assert json.loads(json_string("a\udcffb")) == r"a\xffb"
