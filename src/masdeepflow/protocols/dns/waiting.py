"""Queries that wait for their responses, from batch to batch; bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from masdeepflow.protocols.dns.glances import MESSAGE, joined
from masdeepflow.protocols.dns.names import as_objects
from masdeepflow.protocols.dns.reading import put_payload
from masdeepflow.schema import Flag, Kind

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from masdeepflow.protocols.dns.reading import Batch

__all__ = ["OVERDUE_TURN", "Queries", "is_doubtful"]

_LIMIT = 8192
_COUNTED = 0xFFFFFFFF  # no service: its bytes were counted when the query came
OVERDUE_TURN = 0
"""Number of the turns that `Queries.overdue` returns; the kernel counts from 1."""


_DOUBTFUL = np.uint32(Flag.NO_PAYLOAD)


def is_doubtful(due: np.ndarray) -> NDArray[np.bool_]:
    """Return which of the slots (n,) that `Queries.overdue` gave may have been answered out of sight."""
    doubtful: NDArray[np.bool_] = due["flags"] & _DOUBTFUL > 0
    return doubtful


class Queries:
    """Queries in order of arrival, with copies of the slots that they came in.

    messages: (n,), of dtype `MESSAGE`. names: object (n,). evicted: how many were forgotten because there
    were more than `limit`. timeout_ns: how long one waits.
    """

    def __init__(self, timeout_ns: int, limit: int = _LIMIT) -> None:
        self.messages, self.names = np.zeros(0, MESSAGE), as_objects([])
        self.evicted = 0
        self._slots: np.ndarray | None = None
        self._timeout_ns = timeout_ns
        self._limit = limit

    def __len__(self) -> int:
        return len(self.messages)

    def ends(self, places: NDArray[np.intp], slots: np.ndarray, messages: np.ndarray) -> np.ndarray:
        """Return the slots (m,) of queries at `places` (m,) of messages (n,), of which these come first."""
        old = places < len(self)
        found: np.ndarray = slots[np.where(old, 0, messages["row"][places])]
        if self._slots is not None:
            found[old] = self._slots[places[old]]
        return found

    def keep(self, left: NDArray[np.intp], slots: np.ndarray, batch: Batch, fresh: NDArray[np.intp]) -> None:
        """Keep of the old ones those `left` (m,), and of the messages (n,) of a batch the `fresh` (k,)."""
        if not len(fresh) and len(left) == len(self):
            return
        messages = batch.messages.take(fresh)
        more = slots[messages["row"]].copy()
        self._normalise(more, messages, batch)
        names = as_objects(batch.names.some(messages["place"]))
        self._set(
            more if self._slots is None else np.concatenate((self._slots[left], more)),
            joined(self.messages.take(left), messages),
            np.concatenate((self.names[left], names)),
        )

    @staticmethod
    def _normalise(copies: np.ndarray, messages: np.ndarray, batch: Batch) -> None:
        """Make each copy a turn of its own, the query its payload as a datagram's."""
        if batch.streamed:
            for number, place in enumerate(messages["place"].tolist()):
                data = batch.data(place)
                if data is not None:
                    put_payload(copies[number : number + 1], data)
        copies["kind"], copies["turn"], copies["flags"] = Kind.TURN, OVERDUE_TURN, int(Flag.IDLE)
        for name in "response_first_ns", "response_last_ns", "response_bytes", "response_segments":
            copies[name] = 0
        copies["request_first_ns"] = copies["request_last_ns"] = messages["first_ns"]
        copies["request_bytes"], copies["service"] = messages["size"], _COUNTED

    def _set(self, slots: np.ndarray, messages: np.ndarray, names: NDArray[np.object_]) -> None:
        surplus = max(len(slots) - self._limit, 0)
        self.evicted += surplus
        self._slots, self.messages, self.names = slots[surplus:], messages[surplus:], names[surplus:]

    def overdue(self, now_ns: int) -> np.ndarray:
        """Return those (m,) that have waited too long at `now_ns`, and forget them."""
        if self._slots is None or not len(self):
            return np.zeros(0)
        late = self.messages["first_ns"] <= now_ns - self._timeout_ns
        if not late.any():
            return self._slots[:0]
        due, left = self._slots[late], np.flatnonzero(~late)
        due["flags"][self.messages["doubtful"][late]] |= _DOUBTFUL
        self._set(self._slots[left], self.messages.take(left), self.names[left])
        return due
