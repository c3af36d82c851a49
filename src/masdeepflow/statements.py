"""SQL statements on columns: of those that differ in literals only, one is read.

What is looked at of each is its outline: digits aside, its bytes up to the first quoted literal. That decides
the operation and the summary of nearly all. Where it does not, some of the digits count, or every byte.
"""

from __future__ import annotations

import re
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from masdeepflow.coded import Coded
from masdeepflow.columns import row_hash
from masdeepflow.recall import Recall
from masdeepflow.redact import summarize_sql
from masdeepflow.table import ABSENT, Encoded

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["Statements", "Summary", "Texts", "summary_of"]

_QUOTE, _ZERO, _DIGITS = np.uint8(ord("'")), np.uint8(ord("0")), np.uint8(10)
_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_OTHER_DIGITS = bytes.maketrans(b"0123456789", b"1000000000")
_RUN = re.compile(rb"[0-9]+")
_MOST_RUNS = 32
_WHOLE = -1
# What may begin before a quote and hold it, or leave unsure whether something does.
_OPENERS = re.compile(r"[\\#]|--|/\*|`[^`\"]*\"|\"[^`\"]*`")
_FAR = frozenset({"", "LOAD", "WITH"})
"""Operations of which what is behind a literal may decide the summary."""
_SOUGHT = frozenset({"SELECT", "DELETE"})
"""Those whose summary is that of the first FROM outside of parentheses, or of the first within them."""


class Summary(NamedTuple):
    """What a statement does. operation: `QUERY` where it is unknown. summary: None if there is none."""

    operation: str
    summary: str | None


class Texts:
    """The statements of k requests, as bytes until somebody asks for them.

    payload: (k, w), not changed any more: each has its statement from `start` to its length (k,). cut: bool
    (k,). decode: as in `Statements`.
    """

    def __init__(
        self,
        payload: NDArray[np.uint8],
        lengths: NDArray[np.integer],
        cut: NDArray[np.bool_],
        start: int,
        decode: Callable[[bytes, bool], str],
    ) -> None:
        self._payload = payload
        self._lengths = lengths
        self._cut = cut
        self._start = start
        self._decode = decode

    def column(self, others: Encoded, own: NDArray[np.int32], label: str = "") -> Encoded:
        """Return a column (n,) of these texts, and the strings of `others` (n,) where `own` (n,) is `ABSENT`.

        own: index into the texts. label: what is put in front of each text.
        """

        def make() -> tuple[NDArray[np.int32], list[str]]:
            known = len(others.values)
            together = Encoded.from_list([*others.values, *(label + text for text in self._strings)])
            places = np.where(own == ABSENT, others.codes, own + np.int32(known))
            return np.append(together.codes, np.int32(ABSENT))[places], together.values

        return Encoded.later(np.arange(len(own)), make)

    @cached_property
    def _strings(self) -> list[str]:
        texts = _texts(self._payload, self._lengths, np.arange(len(self._lengths)), self._start)
        return list(map(self._decode, texts, self._cut.tolist()))


class _Outline(NamedTuple):
    """What statements of one outline have in common.

    found: of one of them. upto: bytes, digits included, that decide it too; 0 if the outline does, `_WHOLE`
    if nothing less than the statement.
    """

    found: Summary
    upto: int


def summary_of(text: str) -> Summary:
    """Return what a statement does."""
    operation, summary = summarize_sql(text)
    return Summary(operation or "QUERY", summary or None)


class Statements:
    """Reads what statements do, each distinct outline once; bounded.

    start: bytes in front of each statement, all of one number. decode: from the bytes of a statement, and
    whether it is cut, to what is shown of it; `'` and what is before it must not depend on what is behind it.
    """

    def __init__(self, start: int, decode: Callable[[bytes, bool], str]) -> None:
        self._start = start
        self._decode = decode
        self._outlines: Recall[_Outline] = Recall()
        self._others: Recall[Summary] = Recall()

    def read(
        self, payload: NDArray[np.uint8], lengths: NDArray[np.integer], cut: NDArray[np.bool_]
    ) -> Coded[Summary]:
        """Return what statements (n,) do.

        payload: (n, w), w a multiple of 8, contiguous: each has its statement from `start` to lengths (n,).
        cut: bool (n,), whether there was more of it.
        """
        ends, quoted = self._ends(payload, lengths)
        hashes = row_hash(self._without_digits(payload), ends)
        hashes[cut & ~quoted] += _SPREAD

        def read(missing: NDArray[np.intp]) -> tuple[NDArray[np.int32], list[_Outline]]:
            first, codes = _distinct(hashes[missing])
            texts = _texts(payload, lengths, missing[first], self._start)
            return codes, list(map(self._read_outline, texts, cut[missing[first]].tolist()))

        codes, outlines = self._outlines.encode(hashes, read)
        found = Coded(codes, [outline.found for outline in outlines])
        upto = np.array([outline.upto for outline in outlines], np.int64)
        if not upto.any():
            return found
        rows = np.flatnonzero(upto[codes])
        others = self._read_others(payload[rows], lengths[rows], cut[rows], upto[codes[rows]], hashes[rows])
        codes = codes.copy()
        codes[rows] = others.codes + np.int32(len(found.values))
        return Coded(codes, found.values + others.values)

    def _ends(
        self, payload: NDArray[np.uint8], lengths: NDArray[np.integer]
    ) -> tuple[NDArray[np.integer], NDArray[np.bool_]]:
        """Return where the outlines (n,) end, and whether (n,) that is behind a quote."""
        quotes = payload == _QUOTE
        quotes[:, : self._start] = False
        if not quotes.any():
            return lengths, np.zeros(len(payload), bool)
        first = quotes.argmax(axis=1)
        quoted = quotes[np.arange(len(quotes)), first] & (first < lengths)
        return np.where(quoted, first + 1, lengths), quoted

    def _without_digits(self, payload: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return payloads (n, w) with one byte for all digits, and without what is in front of statements."""
        masked: NDArray[np.uint8] = payload - _ZERO
        masked *= masked >= _DIGITS
        masked[:, : self._start] = 0
        return masked

    def _read_outline(self, statement: bytes, cut: bool) -> _Outline:  # noqa: FBT001  # a column
        """Return what all statements have in common that have the outline of this one."""
        found = summary_of(self._decode(statement, cut))
        before, quote, _ = statement.partition(b"'")
        if b"\0" in before or (quote and not _is_decided(self._decode(before, False), found)):  # noqa: FBT003  # not cut
            return _Outline(found, _WHOLE)
        upto = self._last_digit(before, found, cut=cut and not quote)
        return _Outline(found, upto + self._start if upto > 0 else upto)

    def _last_digit(self, statement: bytes, found: Summary, *, cut: bool) -> int:
        """Return where the digits end that the summary has of the statement, `_WHOLE` if that is unknown."""
        ends = [0, *(run.end() for run in _RUN.finditer(statement))]
        for end in ends[:_MOST_RUNS]:
            other = statement[:end] + statement[end:].translate(_OTHER_DIGITS)
            if summary_of(self._decode(other, cut)) == found:
                return end
        return _WHOLE

    def _read_others(
        self,
        payload: NDArray[np.uint8],
        lengths: NDArray[np.integer],
        cut: NDArray[np.bool_],
        upto: NDArray[np.int64],
        outlines: NDArray[np.uint64],
    ) -> Coded[Summary]:
        """Return what statements (k,) do whose outlines, hashed (k,), do not decide it. payload: a copy."""
        payload[:, : self._start] = 0
        whole = upto == _WHOLE
        hashes = row_hash(payload, np.where(whole, lengths, upto))
        # Where not all is looked at, the outline counts too; where all is, whether it is cut.
        hashes += np.where(whole, cut, outlines) * _SPREAD

        def read(missing: NDArray[np.intp]) -> tuple[NDArray[np.int32], list[Summary]]:
            first, codes = _distinct(hashes[missing])
            rows = missing[first]
            texts = map(self._decode, _texts(payload, lengths, rows, self._start), cut[rows].tolist())
            return codes, list(map(summary_of, texts))

        return Coded(*self._others.encode(hashes, read))


def _is_decided(before: str, found: Summary) -> bool:
    """Return whether a statement that goes on with a quote has this summary, whatever is behind the quote."""
    if found.operation in _FAR or _OPENERS.search(before) or before.count('"') % 2 or before.count("`") % 2:
        return False
    if summary_of(before + "'") != found:
        return False
    if found.operation not in _SOUGHT:
        return True
    # Were it not decided yet, this would decide it.
    name = "z" * (len(before) + 1)
    return summary_of(f"{before}''{')' * before.count('(')} FROM {name}") == found


def _distinct(hashes: NDArray[np.uint64]) -> tuple[NDArray[np.intp], NDArray[np.int32]]:
    """Return where (k,) the first of each of hashes (n,) is, and which of them (n,) each is."""
    _, first, codes = np.unique(hashes, return_index=True, return_inverse=True)
    return first, codes.astype(np.int32)


def _texts(
    payload: NDArray[np.uint8], lengths: NDArray[np.integer], rows: NDArray[np.intp], start: int
) -> list[bytes]:
    data, width = payload[rows].tobytes(), payload.shape[1]
    ends = (lengths[rows] + width * np.arange(len(rows))).tolist()
    return [data[at + start : end] for at, end in zip(range(0, len(data), width), ends, strict=True)]
