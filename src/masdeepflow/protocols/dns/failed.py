"""Queries that could not be sent, and those whose client learns that nobody can be reached there."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING

import numpy as np

from masdeepflow.protocols.dns.pairing import Over
from masdeepflow.schema import Flag

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["failed"]

_FAILED = int(Flag.FAILED)
_NEVER = 1 << 62


def failed(slots: np.ndarray, messages: np.ndarray, waiting: NDArray[np.intp]) -> Over:
    """Return which of the `waiting` (k,) of messages (n,) have failed, as slots tell.

    An error that a socket reads is of all that was asked on it before. So is a refusal that a send meets: an
    answer to what was sent before, and in its way.
    """
    rows = np.flatnonzero(slots["flags"] & _FAILED)
    if not len(rows):
        return Over.none()
    unsent = waiting[messages["errno"][waiting] > 0]
    own = Over(unsent, messages["row"][unsent], messages["first_ns"][unsent] + 1, messages["errno"][unsent])
    reads = slots["request_first_ns"][rows] == 0
    told = rows[reads | (slots["error"][rows] == errno.ECONNREFUSED)]
    return own.before(_next(slots, messages, waiting, told))


def _next(slots: np.ndarray, messages: np.ndarray, waiting: NDArray[np.intp], told: NDArray[np.intp]) -> Over:
    """Return which of the `waiting` have one of the slots `told` (j,) behind them on their socket."""
    stamps = np.maximum(slots["request_first_ns"][told], slots["response_first_ns"][told]).astype(np.int64)
    times = np.concatenate((messages["first_ns"][waiting], stamps))
    cookies = np.concatenate((messages["cookie"][waiting], slots["cookie"][told]))
    tells = np.arange(len(times)) >= len(waiting)
    order = np.lexsort((tells, times, cookies))
    places = np.where(tells[order], np.arange(len(order)), _NEVER)
    behind = np.minimum.accumulate(places[::-1])[::-1]
    queries = np.flatnonzero(~tells[order] & (behind < _NEVER))
    errors = order[behind[queries]]
    queries = order[queries]
    same = cookies[queries] == cookies[errors]
    queries, errors = queries[same], errors[same] - len(waiting)
    return Over(waiting[queries], told[errors], stamps[errors], slots["error"][told[errors]])
