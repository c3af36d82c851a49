"""Why a request was never answered, when it ended and for how long it waited."""

from __future__ import annotations

import errno
from typing import Any

import numpy as np
import pytest

from masdeepflow.schema import CLOSED_BY, ERROR_TYPE, WAITED, Flag, Role
from masdeepflow.table import ABSENT, Encoded
from masdeepflow.unanswered import Closes, Ends, explain


def _explain(
    *rows: tuple[bool, int, int, int], told: list[str | None] | None = None
) -> tuple[list[int], list[Any], list[Any]]:
    """Return ends, reasons and waits of rows: lost, first, last and closed stamps."""
    lost, first, last, closed = (np.array(column) for column in zip(*rows, strict=True))
    encoded = None if told is None else Encoded.from_list(told)
    size = len(lost)
    closes = Closes(np.zeros(size, np.uint32), np.full(size, Role.CLIENT, np.uint8), np.zeros(size, np.int32))
    ended, attributes = explain(encoded, lost.astype(bool), Ends(first, last, closed), closes)
    reasons, waited = attributes[ERROR_TYPE], attributes[WAITED]
    assert isinstance(reasons, Encoded)
    assert isinstance(waited, np.ndarray)
    return ended.tolist(), reasons.to_list(), waited.tolist()


def test_a_close_ends_what_waits() -> None:
    """It waited up to the close, not only up to its own last byte."""
    assert _explain((True, 100, 110, 150)) == ([150], ["closed"], [50])


def test_what_the_protocol_says_goes_first() -> None:
    """Its own end counts then, whatever became of the connection."""
    rows = (True, 100, 170, 150), (True, 100, 110, ABSENT), (True, 100, 110, 150)
    assert _explain(*rows, told=["timeout", "timeout", None]) == (
        [170, 110, 150],
        ["timeout", "timeout", "closed"],
        [70, 10, 50],
    )


def test_nothing_is_told_of_others() -> None:
    """Not of what was answered or has not failed, nor of what failed without a known reason."""
    rows = (False, 100, 110, 150), (True, 100, 110, ABSENT)
    assert _explain(*rows) == ([110, 110], [None, None], [ABSENT, ABSENT])


def test_a_close_of_unknown_time_is_a_reason_all_the_same() -> None:
    """As in recordings of an earlier version: how long it waited is unknown, its end is its last byte."""
    assert _explain((True, 100, 110, 0)) == ([110], ["closed"], [ABSENT])


def _closer(*rows: tuple[Flag, Role, int]) -> list[tuple[Any, Any]]:
    """Return the reason, and who closed the connection, of lost requests: flags, role and errno."""
    flags, roles, errors = (np.array(column) for column in zip(*rows, strict=True))
    stamps = np.full(len(rows), 100)
    closes = Closes(flags.astype(np.uint32), roles.astype(np.uint8), errors.astype(np.int32))
    ends = Ends(stamps, stamps, stamps + 50)
    attributes = explain(None, np.ones(len(rows), bool), ends, closes)[1]
    reasons, closers = attributes[ERROR_TYPE], attributes[CLOSED_BY]
    assert isinstance(reasons, Encoded)
    assert isinstance(closers, Encoded)
    return list(zip(reasons.to_list(), closers.to_list(), strict=True))


def test_it_is_told_which_end_closed_first() -> None:
    """A client that gives up and a server that hangs up look the same but for this."""
    here, there = Flag.CLOSED | Flag.SELF_CLOSED, Flag.CLOSED | Flag.PEER_CLOSED
    ends = Role.CLIENT, Role.SERVER
    assert _closer(*((flag, role, 0) for flag in (here, there) for role in ends)) == [
        ("closed", "client"),
        ("closed", "server"),
        ("closed", "server"),
        ("closed", "client"),
    ]


def test_who_closed_is_unknown_where_nobody_saw_it() -> None:
    """As in recordings of an earlier version, and of connections whose ends are not known."""
    assert _closer((Flag.CLOSED, Role.CLIENT, 0), (Flag.CLOSED | Flag.SELF_CLOSED, Role.UNKNOWN, 0)) == [
        ("closed", None),
        ("closed", None),
    ]


@pytest.mark.parametrize(
    ("error", "flag", "told"),
    [
        (errno.ECONNRESET, Flag.PEER_CLOSED, ("reset", "server")),
        (errno.EPIPE, Flag.PEER_CLOSED, ("reset", "server")),
        (errno.ETIMEDOUT, Flag.SELF_CLOSED, ("timeout", None)),
        (errno.EHOSTUNREACH, Flag.SELF_CLOSED, ("EHOSTUNREACH", None)),
        (9999, Flag.SELF_CLOSED, ("9999", None)),
    ],
)
def test_what_broke_the_connection_is_the_reason(
    error: int, flag: Flag, told: tuple[str, str | None]
) -> None:
    """A reset is the other end's; a connection that the kernel gave up on is nobody's doing."""
    assert _closer((Flag.CLOSED | flag, Role.CLIENT, error)) == [told]


def test_each_request_has_its_own_reason() -> None:
    """Reasons of one batch are not mixed up, nor those that the protocol gave."""
    size = 4
    stamps = np.full(size, 100)
    told = Encoded.from_list([None, "timeout", None, None])
    closes = Closes(
        np.full(size, Flag.CLOSED | Flag.PEER_CLOSED, np.uint32),
        np.full(size, Role.SERVER, np.uint8),
        np.array([errno.ECONNRESET, errno.ECONNRESET, 0, errno.ECONNRESET], np.int32),
    )
    lost = np.array([True, True, True, False])
    attributes = explain(told, lost, Ends(stamps, stamps, stamps + 1), closes)[1]
    reasons, closers = attributes[ERROR_TYPE], attributes[CLOSED_BY]
    assert isinstance(reasons, Encoded)
    assert isinstance(closers, Encoded)
    assert reasons.to_list() == ["reset", "timeout", "closed", None]
    assert closers.to_list() == ["client", None, "client", None]
