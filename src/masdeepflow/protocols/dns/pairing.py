"""Queries and responses put together by socket, id and question, whatever their order."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Over", "Pairs", "again", "mixed", "pair", "settled_elsewhere"]

_ROUNDS = 16
_MIXERS = np.array([0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB], np.uint64)


class Pairs(NamedTuple):
    """queries, responses: intp (m,), what belongs together. waiting: intp (k,), queries left, in order.

    earlier, later: intp (j,), queries and those of the same key that come next, with no response between.
    """

    queries: NDArray[np.intp]
    responses: NDArray[np.intp]
    waiting: NDArray[np.intp]
    earlier: NDArray[np.intp]
    later: NDArray[np.intp]


class Over(NamedTuple):
    """m queries that are over without a response.

    queries: intp, among the messages. rows: intp, the slot that tells. ended_ns: int64. errno: int32, 0 where
    it was asked again.
    """

    queries: NDArray[np.intp]
    rows: NDArray[np.intp]
    ended_ns: NDArray[np.int64]
    errno: NDArray[np.int32]

    @classmethod
    def none(cls) -> Over:
        """Return no queries."""
        return cls(np.zeros(0, np.intp), np.zeros(0, np.intp), np.zeros(0, np.int64), np.zeros(0, np.int32))

    def before(self, others: Over) -> Over:
        """Return these, and those of the others that are not among them."""
        if not len(self.queries):
            return others
        left = ~np.isin(others.queries, self.queries)
        return Over(
            np.concatenate((self.queries, others.queries[left])),
            np.concatenate((self.rows, others.rows[left])),
            np.concatenate((self.ended_ns, others.ended_ns[left])),
            np.concatenate((self.errno, others.errno[left])),
        )


def mixed(*columns: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return one 64-bit key (n,) of up to three columns (n,)."""
    key = np.zeros(len(columns[0]), np.uint64)
    for column, mixer in zip(columns, _MIXERS, strict=False):
        key = (key ^ column) * mixer
        key ^= key >> np.uint64(31)
    return key


def pair(keys: NDArray[np.uint64], stamps: NDArray[np.int64], queries: NDArray[np.bool_]) -> Pairs:
    """Return which of the messages (n,) belong together.

    A response answers the last query of its key that came before it and is not answered yet: one that is
    asked again was mostly lost the first time. Of responses that nobody asked for, nothing is said.
    """
    left = np.lexsort((~queries, stamps, keys))
    asked, answered = [], []
    earlier = later = left[:0]
    # Each round pairs neighbours; only retries that are all answered take more than one.
    for number in range(_ROUNDS):
        same, query = keys[left], queries[left]
        follows = (same[1:] == same[:-1]) & query[:-1]
        found = np.flatnonzero(follows & ~query[1:])
        if not number:
            again = np.flatnonzero(follows & query[1:])
            earlier, later = left[again], left[again + 1]
        if not len(found):
            break
        asked.append(left[found])
        answered.append(left[found + 1])
        rest = np.ones(len(left), bool)
        rest[found] = rest[found + 1] = False
        left = left[rest]
    none = [np.zeros(0, np.intp)]
    return Pairs(
        np.concatenate(asked or none),
        np.concatenate(answered or none),
        np.sort(left[queries[left]]),
        earlier,
        later,
    )


def again(
    pairs: Pairs,
    keys: NDArray[np.uint64],
    stamps: NDArray[np.int64],
    queries: NDArray[np.bool_],
    responses: NDArray[np.bool_] | None = None,
) -> Pairs:
    """Return pairs, and those that other keys (n,) give among what they have left.

    responses: bool (n,), of which responses; None for all.
    """
    free = ~queries if responses is None else responses.copy()
    free[pairs.responses] = False
    left = np.concatenate((pairs.waiting, np.flatnonzero(free)))
    more = pair(keys[left], stamps[left], queries[left])
    return pairs._replace(
        queries=np.concatenate((pairs.queries, left[more.queries])),
        responses=np.concatenate((pairs.responses, left[more.responses])),
        waiting=np.sort(left[more.waiting]),
    )


def settled_elsewhere(
    pairs: Pairs, keys: NDArray[np.uint64], own: NDArray[np.uint64], stamps: NDArray[np.int64]
) -> NDArray[np.intp]:
    """Return which of the waiting (m,) were asked of another server too, which has answered since.

    keys, own: (n,), without and with the server.
    """
    answered, waiting = keys[pairs.queries], pairs.waiting
    order = np.lexsort((stamps[pairs.responses], answered))
    last = np.searchsorted(answered[order], keys[waiting], side="right") - 1
    if not len(order):
        return waiting[:0]
    told = (last >= 0) & (answered[order][last] == keys[waiting])
    told &= stamps[pairs.responses][order][last] >= stamps[waiting]
    settled: NDArray[np.intp] = waiting[told & ~np.isin(own[waiting], own[pairs.queries])]
    return settled
