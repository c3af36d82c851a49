"""Queries and responses of streams of which the kernel captured no byte.

A turn shows the first bytes of either side. Behind them the queries that wait may have been answered, and
more may have been asked: to call these lost, or to leave them out, would be worse than to say "unknown".
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from masdeepflow.protocols.dns.glances import MESSAGE, joined
from masdeepflow.protocols.dns.reading import LEAST_BYTES
from masdeepflow.table import ABSENT

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from masdeepflow.protocols.dns.pairing import Pairs
    from masdeepflow.protocols.dns.reading import Unseen

__all__ = ["Hidden", "match_unseen"]


class Hidden(NamedTuple):
    """m queries that were answered out of sight, or asked there. rows: intp, of the slots that hide that.

    asked, answered: (m,), of dtype `MESSAGE`; the code of all that are answered is `ABSENT`.
    """

    rows: NDArray[np.intp]
    asked: np.ndarray
    answered: np.ndarray


_NONE = Hidden(np.zeros(0, np.intp), np.zeros(0, MESSAGE), np.zeros(0, MESSAGE))


def match_unseen(
    slots: np.ndarray, unseen: Sequence[Unseen], messages: np.ndarray, pairs: Pairs
) -> tuple[Hidden, Pairs]:
    """Return the transactions that slots (n,) hide, and pairs of which their queries do not wait any more.

    Responses go to the queries of their connection that wait longest, each taken to be as long as its query;
    those left over become doubtful.
    """
    if not unseen:
        return _NONE, pairs
    waiting = _by_connection(messages, pairs.waiting)
    taken, taken_rows, more, more_rows = [], [], [], []
    until: dict[int, int] = {}
    for row, queries, behind in unseen:
        left = behind
        told_ns, queue = int(slots["response_first_ns"][row]), waiting.get(int(slots["cookie"][row]), [])
        while left >= LEAST_BYTES and queue and messages["first_ns"][queue[-1]] <= told_ns:
            left -= int(messages["size"][queue[-1]])
            taken.append(queue.pop())
            taken_rows.append(row)
        if behind:
            cookie = int(slots["cookie"][row])
            until[cookie] = max(until.get(cookie, 0), told_ns)
        if queries and slots["response_bytes"][row]:
            more.append(queries)
            more_rows.append(row)
    for cookie, told_ns in until.items():
        left_over = np.array(waiting.get(cookie, []), np.intp)
        messages["doubtful"][left_over] |= messages["first_ns"][left_over] <= told_ns
    rows = np.concatenate((np.array(taken_rows, np.intp), np.repeat(np.array(more_rows, np.intp), more)))
    asked = joined(messages.take(np.array(taken, np.intp)), _not_captured(slots, rows[len(taken) :]))
    left_waiting = np.setdiff1d(pairs.waiting, np.array(taken, np.intp))
    return Hidden(rows, asked, _out_of_sight(slots, rows)), pairs._replace(waiting=left_waiting)


def _by_connection(messages: np.ndarray, waiting: NDArray[np.intp]) -> dict[int, list[int]]:
    """Return the queries that wait, by cookie, the oldest last."""
    queues: dict[int, list[int]] = {}
    order = np.argsort(messages["first_ns"][waiting], kind="stable")
    for place in waiting[order][::-1].tolist():
        queues.setdefault(int(messages["cookie"][place]), []).append(place)
    return queues


def _not_captured(slots: np.ndarray, rows: NDArray[np.intp]) -> np.ndarray:
    """Return a query for each of `rows` (m,), of which nothing is known but when."""
    asked = np.zeros(len(rows), MESSAGE)
    asked["valid"] = True
    asked["kind"] = asked["code"] = ABSENT
    asked["first_ns"] = asked["last_ns"] = slots["request_last_ns"][rows]
    asked["cookie"], asked["queue_ns"], asked["row"] = slots["cookie"][rows], slots["queue_ns"][rows], rows
    return asked


def _out_of_sight(slots: np.ndarray, rows: NDArray[np.intp]) -> np.ndarray:
    answered = np.zeros(len(rows), MESSAGE)
    answered["valid"] = answered["response"] = True
    answered["code"] = answered["answers"] = ABSENT
    answered["first_ns"], answered["last_ns"] = (
        slots["response_first_ns"][rows],
        slots["response_last_ns"][rows],
    )
    answered["row"] = rows
    return answered
