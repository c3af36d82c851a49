"""Requests on columns: one command, and the statements that the client closes before it."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from masdeepflow.columns import prefix
from masdeepflow.protocols.mysql.commands import HEADER_BYTES, Code

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["CLOSE_BYTES", "Requests", "read_requests"]

CLOSE_BYTES = 9
"""Of a COM_STMT_CLOSE, with its header."""

_CLOSE = np.uint64(CLOSE_BYTES - HEADER_BYTES | Code.STMT_CLOSE << 32)
_START = np.uint64((1 << 40) - 1)
_MOST = 3
"""Closes in front of a command; with more of them the turn is followed."""


class Requests(NamedTuple):
    """What n requests hold behind the COM_STMT_CLOSE in front, which have no replies.

    payload: uint8 (n, w), from the header of the command on. lengths: (n,), valid bytes. sizes: (n,), all
    bytes. hashes: (n,), as the kernel has them, 0 where something was closed. closes: uint8 (n,), how many
    statements. closed: uint32 (n, 3), their ids.
    """

    payload: NDArray[np.uint8]
    lengths: NDArray[np.int64]
    sizes: NDArray[np.int64]
    hashes: NDArray[np.uint64]
    closes: NDArray[np.uint8]
    closed: NDArray[np.uint32]


def read_requests(slots: np.ndarray) -> Requests:
    """Return the requests of slots (n,)."""
    payload = slots["request"]
    lengths = np.minimum(slots["request_length"], payload.shape[1]).astype(np.int64)
    sizes, hashes = slots["request_bytes"].astype(np.int64), slots["request_hash"]
    closes, closed = np.zeros(len(slots), np.uint8), np.zeros((len(slots), _MOST), np.uint32)
    rows = np.flatnonzero((prefix(payload, 8) & _START == _CLOSE) & (lengths >= CLOSE_BYTES))
    if not len(rows):
        return Requests(payload, lengths, sizes, hashes, closes, closed)
    payload, hashes = payload.copy(), hashes.copy()
    hashes[rows] = 0
    for place in range(_MOST):
        closed[rows, place] = payload[rows, HEADER_BYTES + 1 : CLOSE_BYTES].copy().view("<u4")[:, 0]
        payload[rows, :-CLOSE_BYTES] = payload[rows, CLOSE_BYTES:]
        lengths[rows] -= CLOSE_BYTES
        sizes[rows] -= CLOSE_BYTES
        closes[rows] += 1
        rows = rows[(prefix(payload[rows], 8) & _START == _CLOSE) & (lengths[rows] >= CLOSE_BYTES)]
        if not len(rows):
            break
    return Requests(payload, lengths, sizes, hashes, closes, closed)
