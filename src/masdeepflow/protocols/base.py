"""What a protocol is: a module of this package that binds a class that follows `Protocol` to `PROTOCOL`."""

from __future__ import annotations

import typing

if typing.TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from masdeepflow.table import Parsed

__all__ = ["CERTAIN", "LIKELY", "POSSIBLE", "Bounded", "Naming", "Patient", "Protocol", "Waiting"]

CERTAIN = 255
"""Score of bytes that no other protocol sends; the connection is this protocol's from then on."""
LIKELY = 128
"""Score of bytes that fit in every checked respect; the connection is this protocol's from then on."""
POSSIBLE = 1
"""Score of bytes that fit as far as they go; decides this turn only."""


class Protocol(typing.Protocol):
    """A protocol over turns.

    `slots` is always a structured array (n,) with the fields of `struct slot` in bpf/wire.h, kinds TURN and
    OPEN only, in ring order, which is the order of the turns on each connection. It may be a view into the
    ring: keep nothing of it beyond the call. Bytes of `request` beyond `request_length` are stale, those of
    `response` beyond `response_length` likewise.
    """

    name: str
    """Value of the `protocol` key, such as `http`."""

    def recognise(self, slots: np.ndarray) -> NDArray[np.uint8]:
        """Return a score (n,), uint8, for turns of connections not known yet: 0 is "not mine"."""

    def parse(self, slots: np.ndarray) -> Parsed:
        """Return the transactions of turns that are this protocol's. Must not raise, whatever the bytes.

        Rows of kind OPEN are turns in flight that come again later as a TURN: they give a request and must
        not change per-connection state.
        """

    def forget(self, cookies: Sequence[int]) -> None:
        """Drop what is kept for these closed connections."""


@typing.runtime_checkable
class Naming(typing.Protocol):
    """What a protocol has beside that whose answers name addresses, such as DNS."""

    def take_names(self) -> Sequence[tuple[str, str, int]]:
        """Return what was resolved since the last call, bounded: address, name, and until when.

        Until when: on the slots' clock, in ns.
        """


@typing.runtime_checkable
class Bounded(typing.Protocol):
    """What a protocol has beside that which keeps statements, or what waits for an answer, up to a bound."""

    @property
    def evicted(self) -> int:
        """How much of it had to be forgotten before its time; never less than before."""


@typing.runtime_checkable
class Patient(typing.Protocol):
    """What a protocol has beside that whose requests may wait for an answer beyond the turn they came in.

    When a response begins and pauses, its turn is written; if nothing follows until the connection closes, no
    turn tells of that.
    """

    def waiting(self, cookies: Sequence[int]) -> Sequence[int]:
        """Return those of these connections, which were closed, on which a request waits.

        For each, `parse` is given one more turn then, without bytes: `Flag.CONTINUED` and `Flag.CLOSED`.
        """


class Waiting(Protocol, typing.Protocol):
    """A protocol that pairs datagrams by an id: `slots` of kind DATAGRAM are given to it too."""

    datagram_ports: frozenset[int]
    """UDP ports that are followed datagram by datagram from the start; others once it is recognised there."""

    def overdue(self, now_ns: int) -> np.ndarray:
        """Return copies (m,) of slots that waited for an answer until `now_ns`, the slots' clock, in vain.

        They are forgotten, and given to `parse` again as turns with `Flag.IDLE` and no response.
        """
