"""Requests that were never answered: why, when they ended, and how long they waited. Knows no protocol."""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from masdeepflow.schema import CLOSED_BY, ERROR_TYPE, WAITED, Flag, Role
from masdeepflow.table import ABSENT, Encoded

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from masdeepflow.table import Attribute

__all__ = ["ANSWERED_ELSEWHERE", "CLOSED", "RESET", "RETRIED", "TIMEOUT", "Closes", "Ends", "explain"]

ANSWERED_ELSEWHERE = "answered_elsewhere"
"""`error.type` of a request whose answer nobody waited for: another server gave one. No error."""
CLOSED = "closed"
"""`error.type` of a request whose connection was closed before its response came."""
RESET = "reset"
"""`error.type` of a request whose connection the other end has reset before its response came."""
RETRIED = "retried"
"""`error.type` of a request that was asked again before its response came."""
TIMEOUT = "timeout"
"""`error.type` of a request that nothing came for in time."""

_ENDS = ["client", "server"]
# EPIPE is a reset that came behind the other end's FIN: tcp_reset(), net/ipv4/tcp_input.c.
_REASONS = {0: CLOSED, errno.ECONNRESET: RESET, errno.EPIPE: RESET, errno.ETIMEDOUT: TIMEOUT}
_PEER, _SELF = int(Flag.PEER_CLOSED), int(Flag.SELF_CLOSED)
_CLIENT, _SERVER = int(Role.CLIENT), int(Role.SERVER)


class Ends(NamedTuple):
    """How m transactions ended, on the slots' clock, int64 (m,).

    first_ns: the first request byte. last_ns: the last byte, or what the protocol says. closed_ns: the close
    that ended the turn, 0 if its time is not known, `ABSENT` where none did.
    """

    first_ns: NDArray[np.int64]
    last_ns: NDArray[np.int64]
    closed_ns: NDArray[np.int64]


class Closes(NamedTuple):
    """What slots tell of the closes that ended m turns, each (m,).

    flags: uint32, `Flag`. roles: uint8, `Role`. errors: int32, the errno of what broke the connection, or 0.
    """

    flags: NDArray[np.uint32]
    roles: NDArray[np.uint8]
    errors: NDArray[np.int32]


def explain(
    told: Attribute | None, lost: NDArray[np.bool_], ends: Ends, closes: Closes
) -> tuple[NDArray[np.int64], dict[str, Attribute]]:
    """Return when transactions (m,) ended, and what tells why no response came and how long they waited.

    told: `error.type` (m,) by the protocol; where it has none the close is the reason. lost: bool (m,), which
    have failed without a response.
    """
    reasons = told if isinstance(told, Encoded) else Encoded.absent(len(lost))
    by_close = lost & (ends.closed_ns != ABSENT) & (reasons.codes == ABSENT)
    closed: dict[str, Attribute] = {}
    rows = np.flatnonzero(by_close)
    if len(rows):
        # Of these rows alone: every other slot's `errors` is another cache line.
        errors = closes.errors[rows]
        reasons = _with_errors(reasons, rows, errors)
        closed[CLOSED_BY] = _closers(rows, errors, closes)
    ended = np.where(by_close, ends.closed_ns, ends.last_ns)
    known = lost & (reasons.codes != ABSENT) & (ended > ends.first_ns)
    waited = np.where(known, ended - ends.first_ns, ABSENT)
    return np.where(known, ended, ends.last_ns), {ERROR_TYPE: reasons, WAITED: waited, **closed}


def _with_errors(reasons: Encoded, rows: NDArray[np.intp], errors: NDArray[np.int32]) -> Encoded:
    """Return the reasons (m,), those of `rows` (k,) by what broke their connections, `errors` (k,)."""
    found, which = np.unique(errors, return_inverse=True)
    codes = reasons.codes.copy()
    codes[rows] = len(reasons.values) + which
    return Encoded(codes, [*reasons.values, *map(_reason, found.tolist())])


def _reason(error: int) -> str:
    return _REASONS.get(error) or errno.errorcode.get(error, str(error))


def _closers(rows: NDArray[np.intp], errors: NDArray[np.int32], closes: Closes) -> Encoded:
    """Return which end closed (m,), known of some of `rows` (k,); errors: of each of those."""
    flags, roles = closes.flags[rows], closes.roles[rows]
    there = flags & _PEER > 0
    here = (flags & _SELF > 0) & (errors == 0)
    known = (here | there) & ((roles == _CLIENT) | (roles == _SERVER))
    codes = np.full(len(closes.flags), ABSENT, np.int32)
    codes[rows] = np.where(known, there == (roles == _CLIENT), ABSENT)
    return Encoded(codes, _ENDS)
