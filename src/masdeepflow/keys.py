"""Patterns of keys: what the keys of a cache or store have in common, without what makes each its own.

Keys hold user ids, session tokens and addresses; only the words of a key are shown. A key that holds names
(`session:alice`) shows them: what is a name and what a noun can't be told from one key.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["VARIABLE", "key_pattern", "mask_keys", "mask_variable"]

VARIABLE = "*"
"""Stands for what differs from key to key."""

_WORD_MOST = 20  # letters; longer ones are tokens, as words of schemas are shorter
_PATTERN_MOST = 80
_ELLIPSIS = "…"
_ZERO, _DIGITS = np.uint8(ord("0")), 10
_DIGIT, _AFTER, _OTHER = np.uint8(1), np.uint8(2), np.uint8(4)
"""What a run of letters and digits has: a digit, a letter behind one, a letter that is not hexadecimal."""
_A, _LOWER_CASE, _LETTERS, _HEXADECIMAL = np.uint8(ord("a")), np.uint8(0x20), 26, 6

_TOKEN = re.compile(r"[^:/.|,;#{}()<>&?_\-\[\]]+")
_WORD = re.compile(rf"[A-Za-z]{{1,{_WORD_MOST}}}\Z")
_NUMBERED = re.compile(rf"([A-Za-z]{{1,{_WORD_MOST}}})[0-9]+\Z")
_HEX_WORD = re.compile(r"[A-Fa-f]+\Z")
# Dates, addresses, UUIDs: parts that vary, joined; a group of a UUID can be all letters.
_JOINED = re.compile(r"\*(?:[-_.](?:\*|[A-Fa-f]{4}(?![A-Za-z0-9*])))+")


def key_pattern(key: bytes, *, cut: bool = False) -> str:
    """Return a key with `*` for digits, UUIDs, hexadecimal and long tokens, and whatever is no ASCII word.

    `user:1234` gives `user:*`, `v2:session:9f86d081` gives `v*:session:*`. Words of up to 20 letters stay,
    also before a number, unless they might be hexadecimal. Which digits they are never matters. cut: the key
    goes on, so that its last token is not known; the pattern then ends in an ellipsis.
    """
    text = key[: 2 * _PATTERN_MOST].decode("latin-1")
    cut = cut or len(key) > 2 * _PATTERN_MOST
    pattern = _JOINED.sub(VARIABLE, _TOKEN.sub(_replacement, text))
    if cut:
        last = max(map(pattern.rfind, ":/.|,;#{}()<>&?_-[]")) + 1
        pattern = pattern[:last] + VARIABLE
    return pattern[:_PATTERN_MOST] + _ELLIPSIS if cut or len(pattern) > _PATTERN_MOST else pattern


def _replacement(token: re.Match[str]) -> str:
    text = token[0]
    if _WORD.match(text):
        return text
    numbered = _NUMBERED.match(text)
    if numbered and not _HEX_WORD.match(numbered[1]):
        return numbered[1] + VARIABLE
    return VARIABLE


def mask_variable(text: NDArray[np.uint8], starts: NDArray[np.integer], lengths: NDArray[np.integer]) -> None:
    """Zero what `key_pattern` does not tell apart in rows (n, w), from `starts` to `lengths` (n,), in place.

    These are digits, and the letters of tokens that are shown as `*`: keys that differ only there become
    equal, and are parsed once. `starts` is where a key begins.
    """
    places = np.arange(text.shape[1])
    inside = (places >= starts[:, None]) & (places < lengths[:, None])
    digit, letter = _digits_and_letters(text)
    _mask(text, digit & inside, letter & inside)


def mask_keys(text: NDArray[np.uint8]) -> None:
    """Do the same to rows (n, w) that are keys from one end to the other, with a zero behind each."""
    _mask(text, *_digits_and_letters(text))


def _digits_and_letters(text: NDArray[np.uint8]) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    return text - _ZERO < _DIGITS, (text | _LOWER_CASE) - _A < _LETTERS


def _mask(text: NDArray[np.uint8], digit: NDArray[np.bool_], letter: NDArray[np.bool_]) -> None:
    np.copyto(text, _ZERO, where=digit)
    mixed = np.flatnonzero((digit[:, :-1] & letter[:, 1:] | letter[:, :-1] & digit[:, 1:]).any(axis=1))
    if len(mixed) == len(text):
        text[:] = _masked(text, digit, letter)
    elif len(mixed):
        text[mixed] = _masked(text[mixed], digit[mixed], letter[mixed])


def _masked(
    text: NDArray[np.uint8], digit: NDArray[np.bool_], letter: NDArray[np.bool_]
) -> NDArray[np.uint8]:
    """Return rows (m, w) with zeros for letters in runs where letters follow digits or are hexadecimal."""
    other = letter & ((text | _LOWER_CASE) - _A >= _HEXADECIMAL)
    found = digit * _DIGIT | other * _OTHER
    found[:, 1:] |= (letter[:, 1:] & digit[:, :-1]) * _AFTER
    runs = _over_runs(found, digit | letter)
    wild = (runs & _DIGIT > 0) & ((runs & _AFTER > 0) | (runs & _OTHER == 0))
    return np.where(wild & letter, _ZERO, text)


def _over_runs(flags: NDArray[np.uint8], inside: NDArray[np.bool_]) -> NDArray[np.uint8]:
    """Return all flags (m, w) of the run that a place belongs to: runs are what is `inside`."""
    # One place of all rows after the other: there and back again.
    spread = np.ascontiguousarray(flags.T)
    every = np.ascontiguousarray(inside.T) * np.uint8(255)
    for place in range(1, len(spread)):
        spread[place] |= spread[place - 1] & every[place]
    for place in range(len(spread) - 2, -1, -1):
        spread[place] |= spread[place + 1] & every[place]
    return spread.T
