"""Requests that were never answered: why, when they ended, and how long they waited. Knows no protocol."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from masdeepflow.schema import ERROR_TYPE, WAITED
from masdeepflow.table import ABSENT, Encoded

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from masdeepflow.table import Attribute

__all__ = ["CLOSED", "RETRIED", "TIMEOUT", "Ends", "explain"]

CLOSED = "closed"
"""`error.type` of a request whose connection was closed before its response came."""
RETRIED = "retried"
"""`error.type` of a request that was asked again before its response came."""
TIMEOUT = "timeout"
"""`error.type` of a request that nothing came for in time."""


class Ends(NamedTuple):
    """How m transactions ended, on the slots' clock, int64 (m,).

    first_ns: the first request byte. last_ns: the last byte, or what the protocol says. closed_ns: the close
    that ended the turn, 0 if its time is not known, `ABSENT` where none did.
    """

    first_ns: NDArray[np.int64]
    last_ns: NDArray[np.int64]
    closed_ns: NDArray[np.int64]


def explain(
    told: Attribute | None, lost: NDArray[np.bool_], ends: Ends
) -> tuple[NDArray[np.int64], dict[str, Attribute]]:
    """Return when transactions (m,) ended, and what tells why no response came and how long they waited.

    told: `error.type` (m,) by the protocol; where it has none the close is the reason. lost: bool (m,), which
    have failed without a response.
    """
    reasons = told if isinstance(told, Encoded) else Encoded.absent(len(lost))
    by_close = lost & (ends.closed_ns != ABSENT) & (reasons.codes == ABSENT)
    if by_close.any():
        codes = np.where(by_close, len(reasons.values), reasons.codes).astype(np.int32)
        reasons = Encoded(codes, [*reasons.values, CLOSED])
    ended = np.where(by_close, ends.closed_ns, ends.last_ns)
    known = lost & (reasons.codes != ABSENT) & (ended > ends.first_ns)
    waited = np.where(known, ended - ends.first_ns, ABSENT)
    return np.where(known, ended, ends.last_ns), {ERROR_TYPE: reasons, WAITED: waited}
