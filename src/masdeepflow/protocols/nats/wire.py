"""The lines of the NATS client protocol, found on columns: where messages begin and end, and what ties them.

Source: https://docs.nats.io/reference/reference-protocols/nats-protocol.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from masdeepflow.columns import cut_out, row_hash

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

__all__ = ["ADDRESSED", "CLIENT_PONG", "CONNECT", "ERR", "HMSG", "HPUB", "INFO", "MSG", "OK", "PING", "PONG"]
__all__ += ["PONG_KEY", "PUB", "SUB", "UNKNOWN_KEY", "Seen", "read_sides", "statuses"]

_ASKED = ("CONNECT", "PING", "PONG", "SUB", "UNSUB", "PUB", "HPUB")
_TOLD = ("INFO", "MSG", "HMSG", "PING", "PONG", "+OK", "-ERR")
CONNECT, PING, CLIENT_PONG, SUB, UNSUB, PUB, HPUB = range(len(_ASKED))
INFO, MSG, HMSG, SERVER_PING, PONG, OK, ERR = range(len(_TOLD))
"""Verbs of clients and of servers."""
_WORDS = {
    "CONNECT": (2, 999),
    "INFO": (2, 999),
    "-ERR": (2, 999),
    "PING": (1, 1),
    "PONG": (1, 1),
    "+OK": (1, 1),
    "SUB": (3, 4),
    "UNSUB": (2, 3),
    "PUB": (3, 4),
    "HPUB": (4, 5),
    "MSG": (4, 5),
    "HMSG": (5, 6),
}
"""Verb -> fewest and most words of its line; the most of PUB and HPUB are with a subject for the reply."""
_SIZED = {"PUB", "HPUB", "MSG", "HMSG"}
ADDRESSED = {"SUB", "PUB", "HPUB"}
"""Verbs of clients with a subject."""
_NUMBER_MOST = 9  # digits of a size that is believed
_STATUS_AT, _STATUS_DIGITS = len("NATS/1.0 "), 3
_STATUS = np.frombuffer(b"NATS/1.0 ", np.uint8)
PONG_KEY, UNKNOWN_KEY = 2, 3
"""What ties a PONG to its PING, and nothing to a request whose subject for the reply was not captured."""
_LF, _CR, _SPACE = ord("\n"), ord("\r"), ord(" ")
_VERB_MOST = 8  # bytes that are compared at once: CONNECT and one behind it
_UPPER = np.frombuffer(bytes(range(256)).upper(), np.uint8)


class _Side(NamedTuple):
    """How one side of a connection is read. fewest, most: words of a line, by verb."""

    words: NDArray[np.uint64]
    order: NDArray[np.intp]
    fewest: NDArray[np.int64]
    most: NDArray[np.int64]
    sized: NDArray[np.bool_]

    @classmethod
    def of(cls, verbs: Sequence[str]) -> _Side:
        words = np.array([int.from_bytes(verb.encode(), "little") for verb in verbs], np.uint64)
        order = np.argsort(words)
        fewest, most = np.array([_WORDS[verb] for verb in verbs]).T
        return cls(
            words[order],
            order,
            fewest,
            most,
            np.array([verb in _SIZED for verb in verbs]),
        )

    def verbs(self, words: NDArray[np.uint64]) -> NDArray[np.intp]:
        """Return the verb (n,) that each word is, -1 for none."""
        places = np.minimum(np.searchsorted(self.words, words), len(self.words) - 1)
        return np.where(self.words[places] == words, self.order[places], -1)


_REQUESTS, _REPLIES = _Side.of(_ASKED), _Side.of(_TOLD)


class Seen(NamedTuple):
    """What one side of n turns shows: m messages, in the order of turns and bytes.

    row, verb: (m,). start, end: int64 (m,), bytes; end is -1 where it is not known. subject: where it begins,
    0 without one. word_end: where it ends, or the verb where there is none. line_end: behind the line.
    key: uint64 (m,), what ties a reply to its request, 0 for none. ended: int64 (n,), end of the last message
    whose end is known. good: bool (n,), nothing that is no message was seen.
    bytes, width: the rows, one behind the other.
    """

    row: NDArray[np.intp]
    verb: NDArray[np.intp]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    subject: NDArray[np.int64]
    word_end: NDArray[np.int64]
    line_end: NDArray[np.int64]
    key: NDArray[np.uint64]
    ended: NDArray[np.int64]
    good: NDArray[np.bool_]
    bytes: NDArray[np.uint8]
    width: int

    def cut(
        self, chosen: NDArray[np.intp], starts: NDArray[np.int64], lengths: NDArray[np.int64]
    ) -> NDArray[np.uint8]:
        """Return `lengths` (m,) bytes from `starts` (m,) on in the rows of messages `chosen` (m,).

        (m, v), v a multiple of 8; bytes behind the length are stale.
        """
        return _cut(self.bytes, self.row[chosen] * self.width + starts, lengths)


class _Walk:
    """Rows on their way through their messages, one a step."""

    def __init__(
        self,
        side: _Side,
        payload: NDArray[np.uint8],
        lengths: NDArray[np.integer],
        start: int = 0,
    ) -> None:
        count, width = len(payload), min(int(lengths.max(initial=0)), payload.shape[1])
        self._side, self._width = side, width + 1
        lengths = np.minimum(lengths, width).astype(np.int64)
        rows = np.arange(count)
        self._flat = np.zeros((count + 1) * self._width + _VERB_MOST, np.uint8)
        body = self._flat[: count * self._width].reshape(count, self._width)
        body[:, start:width] = payload[:, start:width]
        # What is stale is behind the end of a line; what is before `start` is space.
        self._flat[rows * self._width + lengths] = _LF
        self._feeds, edges = _edges(self._flat)
        end = len(self._flat)
        # Words begin and end in turn; behind the last come as many that are beyond everything.
        self._begins = np.append(edges[::2], [end] * 8)
        self._ends = np.append(edges[1::2], [end] * 8)
        self.ended, self.good = np.full(count, start), np.ones(count, bool)
        self._found: list[NDArray[np.int64]] = []
        rows = np.flatnonzero(lengths > start)
        self._state = np.stack([rows, rows * self._width + lengths[rows], rows * self._width + start])

    def run(self) -> Seen:
        """Go on until no row has more to be seen; return the messages."""
        while self._state.shape[1]:
            self._step()
        found = np.concatenate([np.zeros((8, 0), np.int64), *self._found], axis=1)
        found = found[:, np.argsort(found[0], kind="stable")]
        row, verb, start, end, subject, word_end, line_end, tie = found
        keys = self._keys(row, tie)
        sides = (self.ended, self.good, self._flat, self._width)
        return Seen(row, verb, start, end, subject, word_end, line_end, keys, *sides)

    def _keys(self, row: NDArray[np.int64], tie: NDArray[np.int64]) -> NDArray[np.uint64]:
        """Return hashes (m,) of words from `tie // 1024` on, `tie % 1024` long; below that it is the key."""
        keys = tie.astype(np.uint64)
        rows = np.flatnonzero(tie >= _TIE)
        if len(rows):
            at, lengths = tie[rows] // _TIE - 1, tie[rows] % _TIE
            texts = _cut(self._flat, row[rows] * self._width + at, lengths)
            keys[rows] = row_hash(texts, lengths) | np.uint64(4)
        return keys

    def _step(self) -> None:
        side, flat = self._side, self._flat
        row, limit, at = self._state
        feed = self._feeds[np.searchsorted(self._feeds, at)]
        whole = feed < limit
        first = np.searchsorted(self._begins, at)
        verb_end = np.minimum(self._ends[first], limit)
        verb = self._verbs(at, verb_end - at)
        verb[(self._begins[first] != at) | (verb_end == limit)] = -1
        count = np.searchsorted(self._begins, np.minimum(feed, limit)) - first
        known = verb >= 0
        fine = known & (count >= side.fewest[verb]) & (count <= side.most[verb]) & (flat[feed - 1] == _CR)
        size, number = self._numbers(np.maximum(first + count - 1, 0), side.sized[verb] & whole)
        end = feed + 1 + np.where(side.sized[verb], size + 2, 0)
        inside = side.sized[verb] & (end <= limit)
        last = np.minimum(end, len(flat))
        closed = ~inside | ((flat[last - 2] == _CR) & (flat[last - 1] == _LF))
        good = np.where(whole, fine & number & closed, known | (verb_end == limit))
        good &= self._begins[first] == at
        self.good[row[~good]] = False
        kept = np.flatnonzero(good & known)
        subject, word_end, tie = self._words(first, count, verb, limit, whole)
        base = row * self._width
        shown = [
            row,
            verb,
            at - base,
            np.where(whole, end - base, -1),
            np.where(subject > 0, subject - base, 0),
            word_end - base,
            np.minimum(feed + 1, limit) - base,
            tie,
        ]
        self._found.append(np.stack(shown)[:, kept])
        done = good & whole
        self.ended[row[done]] = (end - base)[done]
        go = np.flatnonzero(done & (end < limit))
        self._state = np.stack([row[go], limit[go], end[go]])

    def _verbs(self, at: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.intp]:
        words = _UPPER[self._flat[at[:, None] + np.arange(_VERB_MOST)]]
        words[np.arange(_VERB_MOST) >= lengths[:, None]] = 0
        verbs = self._side.verbs(words.view(np.uint64)[:, 0])
        verbs[lengths >= _VERB_MOST] = -1
        return verbs

    def _words(
        self,
        first: NDArray[np.intp],
        count: NDArray[np.intp],
        verb: NDArray[np.intp],
        limit: NDArray[np.int64],
        whole: NDArray[np.bool_],
    ) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
        """Return where subjects begin (0: none) and end, and what ties replies to requests, all (m,)."""
        begin, stop = self._begins[first + 1], np.minimum(self._ends[first + 1], limit)
        if self._side is _REPLIES:
            sized = self._side.sized[verb]
            some = sized & whole
            tied = np.where(some, _tie(begin, stop, self._width), 0)
            return (
                np.where(sized, begin, 0),
                stop,
                np.where(verb == PONG, PONG_KEY, tied),
            )
        addressed = (verb == SUB) | (verb == PUB) | (verb == HPUB)
        addressed &= count > 1
        reply = self._side.sized[verb] & whole & (count == self._side.most[verb])
        tied = np.where(reply, _tie(self._begins[first + 2], self._ends[first + 2], self._width), 0)
        tied = np.where(verb == PING, PONG_KEY, tied)
        verb_end = np.minimum(self._ends[first], limit)
        return np.where(addressed, begin, 0), np.where(addressed, stop, verb_end), tied

    def _numbers(
        self, word: NDArray[np.intp], due: NDArray[np.bool_]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """Return the numbers (m,) that words are where they are `due`, and whether they are any."""
        begin, digits = self._begins[word], self._ends[word] - self._begins[word]
        number, fine = np.zeros(len(word), np.int64), ~due | (digits <= _NUMBER_MOST)
        for place in range(min(int(digits.max(initial=0, where=due)), _NUMBER_MOST)):
            inside = due & (place < digits)
            digit = self._flat[np.minimum(begin + place, len(self._flat) - 1)].astype(np.int64) - ord("0")
            fine &= ~inside | ((digit >= 0) & (digit <= 9))  # noqa: PLR2004  # digits
            number = np.where(inside, number * 10 + digit, number)
        return np.where(fine, number, 0), fine


_BLOCK = 1 << 17  # larger temporary arrays are given back to the system, and faulted in again
_TIE = 1 << 13  # more than a payload prefix holds


def _edges(flat: NDArray[np.uint8]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return where line feeds are, and where words begin and end in turn, with small temporary arrays."""
    feeds, edges = [], [np.zeros(int(flat[0] > _SPACE), np.intp)]
    for first in range(0, len(flat), _BLOCK):
        block = flat[first : first + _BLOCK + 1]
        space = block <= _SPACE
        feeds.append(np.flatnonzero(block[:_BLOCK] == _LF) + first)
        edges.append(np.flatnonzero(space[1:] != space[:-1]) + first + 1)
    return np.concatenate(feeds), np.concatenate(edges)


def _cut(flat: NDArray[np.uint8], at: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.uint8]:
    width = (int(lengths.max(initial=0)) + 7) // 8 * 8
    windows = np.lib.stride_tricks.as_strided(flat, (len(flat) - width, width), (1, 1), writeable=False)
    texts: NDArray[np.uint8] = windows[at]
    return texts


def _tie(begin: NDArray[np.int64], stop: NDArray[np.int64], width: int) -> NDArray[np.int64]:
    """Return where a word begins in its row and how long it is, in one number."""
    tied: NDArray[np.int64] = (begin % width + 1) * _TIE + np.maximum(stop - begin, 0)
    return tied


def read_sides(slots: np.ndarray, asked_from: int = 0, told_from: int = 0) -> tuple[Seen, Seen]:
    """Return what both sides of slots (n,) show, from these bytes on."""
    return (
        _Walk(_REQUESTS, slots["request"], slots["request_length"], asked_from).run(),
        _Walk(_REPLIES, slots["response"], slots["response_length"], told_from).run(),
    )


def statuses(slots: np.ndarray, row: NDArray[np.int64], at: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the status (m,) that headers `at` (m,) in `row` (m,) begin with, 0: none, -1: not captured."""
    size = np.full(len(row), _STATUS_AT + _STATUS_DIGITS)
    cut = at + size > slots["response_length"][row]
    at = np.where(cut, 0, at)
    head = cut_out(slots["response"], row, at, size)
    digits = head[:, _STATUS_AT : _STATUS_AT + _STATUS_DIGITS].astype(np.int64) - ord("0")
    some = (head[:, :_STATUS_AT] == _STATUS).all(axis=1) & ((digits >= 0) & (digits <= 9)).all(axis=1)  # noqa: PLR2004  # digits
    found: NDArray[np.int64] = np.where(cut, -1, np.where(some, digits @ np.array([100, 10, 1]), 0))
    return found
