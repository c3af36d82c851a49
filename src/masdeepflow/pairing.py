"""Turns paired by kind: those whose sides say the same, and are as long, hold the same transactions.

Most turns of a batch are of few kinds. Each kind is paired once, by `pipelined.pair`, and its transactions
are given to all its turns; turns of no kind that is kept are paired one by one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, NamedTuple, TypeVar

import numpy as np

from masdeepflow.direct_mapped import DirectMapped
from masdeepflow.pipelined import BATCH_MOST, Messages, Pairs, in_one_turn, pair
from masdeepflow.recall import renumber
from masdeepflow.sides import SIDES, Sides
from masdeepflow.table import ABSENT

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from masdeepflow.outlines import Outline

__all__ = ["Pairing", "Reader"]

Q = TypeVar("Q")
R = TypeVar("R")
T = TypeVar("T")

_SIDE_BITS = SIDES.bit_length() - 1
_BYTE_BITS = 32 - _SIDE_BITS
_KINDS = 4096
_TRANSACTIONS = 1 << 16
_LONG = 256  # transactions; longer kinds are not kept


class Reader(NamedTuple, Generic[T]):
    """How one side is read: as `masdeepflow.sides.Sides` takes it."""

    read: Callable[[NDArray[np.uint8], NDArray[np.integer]], Messages[T]]
    outline: Callable[[bytes], Outline | None]


class Pairing(Generic[Q, R]):
    """Pairs the turns of a protocol; bounded.

    hidden, no_reply: as `pipelined.pair` takes them. rule_out: clears, for n turns, those whose messages say
    that they are not to be paired by themselves.
    """

    def __init__(
        self,
        requests: Reader[Q],
        replies: Reader[R],
        hidden: tuple[Q, R],
        no_reply: R,
        rule_out: Callable[[NDArray[np.bool_], Messages[Q], Messages[R]], None],
    ) -> None:
        self._requests, self._replies = Sides(*requests), Sides(*replies)
        self._hidden, self._no_reply, self._rule_out = hidden, no_reply, rule_out
        self._near = DirectMapped()
        self._clear()

    def _clear(self) -> None:
        self._requests.clear()
        self._replies.clear()
        self._near.clear()
        self._alone, self._counts = np.zeros(0, bool), np.zeros(0, np.int64)
        # codes of request and reply, bytes of both, truncated, answered
        self._transactions = np.zeros((6, 0), np.int64)
        self._known: dict[int, int] = {}
        self._asked: dict[Q, int] = {}
        self._told: dict[R, int] = {}

    def pair(self, slots: np.ndarray) -> tuple[NDArray[np.bool_], Callable[[NDArray[np.bool_]], Pairs[Q, R]]]:
        """Return what `pipelined.pair` does."""
        if self._full:
            self._clear()
        asked = self._requests.encode(slots["request"], slots["request_length"], slots["request_hash"])
        told = self._replies.encode(slots["response"], slots["response_length"], slots["response_hash"])
        fits = in_one_turn(slots)
        kinds = self._kinds(slots, asked, told, fits)
        known = kinds >= 0
        alone = fits & known
        alone[known] = self._alone[kinds[known]]
        others = np.flatnonzero(fits & ~known)
        if not len(others):
            return alone, lambda chosen: self._expand(kinds, np.flatnonzero(chosen))
        found, build = self._pair(slots, others, asked, told)
        alone[others] = found

        def build_all(chosen: NDArray[np.bool_]) -> Pairs[Q, R]:
            one_by_one = build(chosen[others])
            one_by_one = one_by_one._replace(rows=others[one_by_one.rows])
            by_kind = np.flatnonzero(chosen & known)
            return self._expand(kinds, by_kind).joined(one_by_one) if len(by_kind) else one_by_one

        return alone, build_all

    @property
    def _full(self) -> bool:
        kinds = len(self._counts) > _KINDS or self._transactions.shape[1] > _TRANSACTIONS
        return kinds or self._requests.full or self._replies.full

    def _pair(
        self, slots: np.ndarray, rows: NDArray[np.intp], asked: NDArray[np.int32], told: NDArray[np.int32]
    ) -> tuple[NDArray[np.bool_], Callable[[NDArray[np.bool_]], Pairs[Q, R]]]:
        """Pair `rows` (m,) of the slots one by one; asked, told: codes (n,) of their sides."""
        if len(rows) < len(slots):
            slots, asked, told = slots[rows], asked[rows], told[rows]
        requests = self._requests.messages(slots["request"], slots["request_length"], asked)
        replies = self._replies.messages(slots["response"], slots["response_length"], told)
        alone, build = pair(slots, requests, replies, self._hidden, self._no_reply)
        self._rule_out(alone, requests, replies)
        return alone, build

    def _kinds(
        self,
        slots: np.ndarray,
        asked: NDArray[np.int32],
        told: NDArray[np.int32],
        fits: NDArray[np.bool_],
    ) -> NDArray[np.int32]:
        """Return the kinds (n,) of turns; `ABSENT` for those that are of none."""
        sizes = slots["request_bytes"] | slots["response_bytes"]
        plain = fits & ((asked | told) >= 0) & (sizes >> _BYTE_BITS == 0)
        sides = asked.astype(np.uint64) << np.uint64(_SIDE_BITS) | told.astype(np.uint64)
        keys: NDArray[np.uint64] = sides << np.uint64(2 * _BYTE_BITS) | slots["response_bytes"]
        keys |= slots["request_bytes"] << np.uint64(_BYTE_BITS)
        kinds, missing = self._near.find(keys)
        if missing is not None:
            rows = np.flatnonzero(missing & plain)
            if len(rows):
                kinds[rows] = self._learn(slots, asked, told, keys[rows], rows)
        kinds[~plain] = ABSENT
        if len(kinds) * _LONG > BATCH_MOST and int(self._counts[kinds[kinds >= 0]].sum()) > BATCH_MOST:
            kinds[:] = ABSENT  # `pipelined.pair` knows what to do
        return kinds

    def _learn(
        self,
        slots: np.ndarray,
        asked: NDArray[np.int32],
        told: NDArray[np.int32],
        keys: NDArray[np.uint64],
        rows: NDArray[np.intp],
    ) -> NDArray[np.int32]:
        """Return the kinds (k,) of `rows` with these keys (k,), none of which is at hand."""
        new, first, inverse = np.unique(keys, return_index=True, return_inverse=True)
        kinds = np.array([self._known.get(key, ABSENT) for key in new.tolist()], np.int32)
        fresh = np.flatnonzero(kinds == ABSENT)
        if len(fresh):
            examples = rows[first[fresh]]
            order = np.argsort(examples)
            kinds[fresh[order]] = self._keep(
                new[fresh[order]], self._pair(slots, examples[order], asked, told)
            )
        kept = kinds >= 0
        self._near.keep(new[kept], kinds[kept])
        return kinds[inverse]

    def _keep(
        self,
        keys: NDArray[np.uint64],
        paired: tuple[NDArray[np.bool_], Callable[[NDArray[np.bool_]], Pairs[Q, R]]],
    ) -> NDArray[np.int32]:
        """Return the kinds (k,) of examples, of which those that are long are not kept."""
        alone, build = paired
        pairs = build(alone)
        counts = np.bincount(pairs.rows, minlength=len(keys))
        short = counts <= _LONG
        kinds = np.where(short, len(self._counts) + np.cumsum(short) - 1, ABSENT).astype(np.int32)
        which = pairs.which[short[pairs.rows]]
        columns = (
            _interned(self._asked, pairs.request_values, pairs.requests),
            _interned(self._told, pairs.reply_values, pairs.replies),
            pairs.request_bytes,
            pairs.response_bytes,
            pairs.truncated,
            pairs.answered,
        )
        self._transactions = np.hstack([self._transactions, np.stack([column[which] for column in columns])])
        self._alone, self._counts = (
            np.append(self._alone, alone[short]),
            np.append(self._counts, counts[short]),
        )
        self._known.update(zip(keys[short].tolist(), kinds[short].tolist(), strict=True))
        return kinds

    def _expand(self, kinds: NDArray[np.int32], rows: NDArray[np.intp]) -> Pairs[Q, R]:
        """Return the transactions of `rows` (m,) of turns of these kinds (n,)."""
        chosen = kinds if len(rows) == len(kinds) else kinds[rows]
        codes, present = renumber(chosen, len(self._counts))
        each = self._counts[present]
        firsts = (np.cumsum(self._counts) - self._counts)[present]
        requests, replies, request_bytes, response_bytes, truncated, answered = self._transactions[
            :, _ranges(firsts, each)
        ]
        which = codes.astype(np.intp)
        if (each != 1).any():
            counts = each[codes]
            rows = np.repeat(rows, counts)
            which = _ranges((np.cumsum(each) - each)[codes], counts)
        return Pairs(
            rows,
            which,
            *_compact(requests, self._asked),
            *_compact(replies, self._told),
            request_bytes,
            response_bytes,
            truncated > 0,
            answered > 0,
        )


def _ranges(starts: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return `counts` (n,) places from each of `starts` (n,) on, one range behind the other."""
    ends = np.cumsum(counts)
    return np.repeat(starts - ends + counts, counts) + np.arange(ends[-1] if len(ends) else 0)


def _interned(known: dict[T, int], values: list[T], codes: NDArray[np.int32]) -> NDArray[np.int64]:
    """Return numbers in `known`, which grows, for the codes (d,) of values."""
    own, present = renumber(codes, len(values))
    numbers = [known.setdefault(values[code], len(known)) for code in present]
    return np.array(numbers, np.int64)[own]


def _compact(numbers: NDArray[np.int64], known: dict[T, int]) -> tuple[NDArray[np.int32], list[T]]:
    """Return codes (d,) of the values that these numbers in `known` stand for, and those values."""
    codes, present = renumber(numbers, len(known))
    values = list(known)
    return codes, [values[number] for number in present]
