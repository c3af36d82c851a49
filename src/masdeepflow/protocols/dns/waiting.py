"""Queries that wait for their responses, from batch to batch; bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from masdeepflow.protocols.dns.reading import put_payload
from masdeepflow.schema import Flag, Kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from masdeepflow.protocols.dns.message import Message
    from masdeepflow.protocols.dns.reading import Messages

__all__ = ["OVERDUE_TURN", "Queries"]

_LIMIT = 8192
_COUNTED = 0xFFFFFFFF  # no service: its bytes were counted when the query came
OVERDUE_TURN = 0
"""Number of the turns that `Queries.overdue` returns; the kernel counts from 1."""


class Queries:
    """Queries in order of arrival, with copies of the slots that they came in.

    messages: (n,). cookies, ids: uint64 (n,). first_ns, queue_ns, size: int64 (n,). evicted: how many were
    forgotten because there were more than `limit`. timeout_ns: how long one waits.
    """

    def __init__(self, timeout_ns: int, limit: int = _LIMIT) -> None:
        self.messages: list[Message] = []
        self.cookies, self.ids = np.zeros(0, np.uint64), np.zeros(0, np.uint64)
        self.first_ns, self.queue_ns, self.size = (np.zeros(0, np.int64) for _ in range(3))
        self.evicted = 0
        self._slots: np.ndarray | None = None
        self._timeout_ns = timeout_ns
        self._limit = limit

    def __len__(self) -> int:
        return len(self.messages)

    def keep(
        self, left: NDArray[np.intp], slots: np.ndarray, messages: Messages, fresh: NDArray[np.intp]
    ) -> None:
        """Keep of the old ones those `left` (m,), and of the messages (n,) in `slots` the `fresh` (k,)."""
        if not len(fresh) and len(left) == len(self):
            return
        more = slots[messages.rows[fresh]].copy()
        self._normalise(more, messages, fresh)
        kept = more if self._slots is None else np.concatenate((self._slots[left], more))
        cookies = (self.cookies[left], more["cookie"])
        self._set(
            kept,
            [self.messages[place] for place in left.tolist()]
            + [messages.values[code] for code in messages.codes[fresh].tolist()],
            np.concatenate(cookies),
            np.concatenate((self.ids[left], messages.ids[fresh])),
        )

    @staticmethod
    def _normalise(copies: np.ndarray, messages: Messages, fresh: NDArray[np.intp]) -> None:
        """Make each copy a turn of its own, the query its payload as a datagram's."""
        datagrams = len(messages.rows) - len(messages.streamed)
        for number in np.flatnonzero(fresh >= datagrams).tolist():
            put_payload(copies[number : number + 1], messages.streamed[int(fresh[number]) - datagrams])
        copies["kind"], copies["turn"], copies["flags"] = Kind.TURN, OVERDUE_TURN, int(Flag.IDLE)
        for name in "response_first_ns", "response_last_ns", "response_bytes", "response_segments":
            copies[name] = 0
        copies["request_first_ns"] = copies["request_last_ns"] = messages.first_ns[fresh]
        copies["request_bytes"], copies["service"] = messages.size[fresh], _COUNTED

    def _set(
        self,
        slots: np.ndarray,
        messages: list[Message],
        cookies: NDArray[np.uint64],
        ids: NDArray[np.uint64],
    ) -> None:
        surplus = max(len(slots) - self._limit, 0)
        self.evicted += surplus
        self._slots, self.messages = slots[surplus:], messages[surplus:]
        self.cookies, self.ids = cookies[surplus:], ids[surplus:]
        self.first_ns, self.queue_ns, self.size = (
            self._slots[name].astype(np.int64) for name in ("request_first_ns", "queue_ns", "request_bytes")
        )

    def overdue(self, now_ns: int) -> np.ndarray:
        """Return those (m,) that have waited too long at `now_ns`, and forget them."""
        if self._slots is None or not len(self):
            return np.zeros(0)
        late = self.first_ns <= now_ns - self._timeout_ns
        if not late.any():
            return self._slots[:0]
        due = self._slots[late]
        left = np.flatnonzero(~late)
        self._set(
            self._slots[left],
            [self.messages[place] for place in left.tolist()],
            self.cookies[left],
            self.ids[left],
        )
        return due
