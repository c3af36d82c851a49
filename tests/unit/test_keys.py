"""What of a key is shown: its words, never what makes it one user's."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from masdeepflow.keys import key_pattern, mask_variable

PATTERNS = {
    b"user:1234": "user:*",
    b"user:1234:profile": "user:*:profile",
    b"user1234": "user*",
    b"v2:session:9f86d081884c7d65": "v*:session:*",
    b"session:550e8400-e29b-41d4-a716-446655440000": "session:*",
    b"session:550e8400-abcd-41d4-beef-446655440000": "session:*",
    b"cache/page/2024-01-31": "cache/page/*",
    b"peer:10.0.0.1": "peer:*",
    b"{shop}.cart.77": "{shop}.cart.*",
    b"mylist": "mylist",
    b"token:AbCdEfGhIjKlMnOpQrStUvWxYz": "token:*",
    b"mail:alice@example.com": "mail:*.com",
    "straße:1".encode(): "*:*",
    b"user:\x00\xff": "user:*",
    b"a b": "*",
    b"": "",
    b"123": "*",
    b"deadbeef01": "*",
    b"face": "face",
    b"news:*": "news:*",
}


@pytest.mark.parametrize(("key", "pattern"), PATTERNS.items(), ids=map(repr, PATTERNS))
def test_pattern(key: bytes, pattern: str) -> None:
    """Digits, UUIDs, hexadecimal and long tokens, and what is no ASCII word, are a star."""
    assert key_pattern(key) == pattern


def test_a_cut_key_ends_in_an_ellipsis() -> None:
    """What was captured of its last token is not shown: it may be half a name."""
    assert key_pattern(b"user:alic", cut=True) == "user:*…"
    assert key_pattern(b"alic", cut=True) == "*…"


def test_a_pattern_is_bounded() -> None:
    """However many words a key has."""
    assert len(key_pattern(b"word:" * 1000)) <= 81


KEYS = st.one_of(
    st.binary(max_size=60),
    st.text("ab9fFzZ0:-_.@é", max_size=40).map(str.encode),
    st.uuids().map(lambda uuid: b"s:" + str(uuid).encode()),
)


@given(st.lists(KEYS, min_size=1, max_size=8), st.integers(0, 5))
def test_masked_keys_have_the_pattern_of_the_whole(keys: list[bytes], start: int) -> None:
    """Masking changes nothing before the key and behind it, and no pattern."""
    stale = 0x31
    rows = np.full((len(keys), 72), stale, np.uint8)
    for row, key in zip(rows, keys, strict=True):
        row[start : start + len(key)] = np.frombuffer(key, np.uint8)
    starts, lengths = np.full(len(keys), start), np.array([start + len(key) for key in keys])
    mask_variable(rows, starts, lengths)
    for row, key in zip(rows, keys, strict=True):
        assert key_pattern(row[start : start + len(key)].tobytes()) == key_pattern(key)
        assert (row[:start] == stale).all()
        assert (row[start + len(key) :] == stale).all()


def test_keys_that_differ_in_what_is_not_shown_become_equal() -> None:
    """Such as UUIDs: they are parsed once."""
    uuids = [b"s:550e8400-e29b-41d4-a716-446655440000", b"s:9b1deb4d-3b7d-4bad-9bdd-2b0d7b3dcb6d"]
    rows = np.array([np.frombuffer(uuid + b"  ", np.uint8) for uuid in uuids])
    mask_variable(rows, np.array([0, 0]), np.array([38, 38]))
    assert (rows[0] == rows[1]).mean() > 0.9
