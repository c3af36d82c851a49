"""Queries that wait for their responses, from batch to batch; bounded."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from masdeepflow.protocols.dns.glances import ASKED_ANEW, MESSAGE, joined
from masdeepflow.protocols.dns.names import as_objects
from masdeepflow.protocols.dns.pairing import mixed
from masdeepflow.protocols.dns.reading import put_payload
from masdeepflow.schema import Flag, Kind, Role

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from masdeepflow.protocols.dns.reading import Batch

__all__ = ["OVERDUE_TURN", "Queries", "is_doubtful", "is_elsewhere"]

_LIMIT, _SERVERS = 8192, 1024
_NEVER = -(1 << 62)
_COUNTED = 0xFFFFFFFF  # no service: its bytes were counted when the query came
OVERDUE_TURN = 0
"""Number of the turns that `Queries.overdue` returns; the kernel counts from 1."""


_DOUBTFUL, _ELSEWHERE = np.uint32(Flag.NO_PAYLOAD), np.uint32(Flag.UNREAD)
_PATIENCE_NS = 500_000_000  # resolv.conf(5): a second at least; who asks at once goes on waiting for all


def is_doubtful(due: np.ndarray) -> NDArray[np.bool_]:
    """Return which of the slots (n,) that `Queries.overdue` gave may have been answered out of sight."""
    doubtful: NDArray[np.bool_] = due["flags"] & _DOUBTFUL > 0
    return doubtful


def is_elsewhere(due: np.ndarray) -> NDArray[np.bool_]:
    """Return which of the slots (n,) that `Queries.overdue` gave were answered by another server."""
    elsewhere: NDArray[np.bool_] = due["flags"] & _ELSEWHERE > 0
    return elsewhere


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
        self._heard: dict[int, int] = {}

    def __len__(self) -> int:
        return len(self.messages)

    def ends(self, places: NDArray[np.intp], slots: np.ndarray, messages: np.ndarray) -> np.ndarray:
        """Return the slots (m,) of queries at `places` (m,) of messages (n,), of which these come first."""
        old = places < len(self)
        found: np.ndarray = slots[np.where(old, 0, messages["row"][places])]
        if self._slots is not None:
            found[old] = self._slots[places[old]]
        return found

    def leave(self, slots: np.ndarray, asked: np.ndarray) -> None:
        """Give up those of clients that go on to another server, by messages (n,) `asked` in slots."""
        if self._slots is None or not len(asked):
            return
        late = np.flatnonzero(self.messages["first_ns"] <= int(asked["first_ns"].max()) - _PATIENCE_NS)
        late = late[(self._slots["role"][late] == Role.CLIENT) & (self.messages["key"][late] > 0)]
        late = late[(self.messages["errno"][late] == 0) & ~self.messages["doubtful"][late]]
        if not len(late):
            return
        asked = asked[slots["role"][asked["row"]] == Role.CLIENT]
        mine, theirs = self._slots[late], slots[asked["row"]]
        waiting, again = _of_process(self.messages[late], mine), _of_process(asked, theirs)
        for place in np.flatnonzero(np.isin(waiting, again)).tolist():
            later = np.flatnonzero(again == waiting[place])
            stamps = asked["first_ns"][later]
            later = later[stamps >= mine["request_first_ns"][place] + _PATIENCE_NS]
            others = (theirs["remote_address"][later] != mine["remote_address"][place]).any(axis=1)
            others |= theirs["remote_port"][later] != mine["remote_port"][place]
            if others.any():
                self.messages["last_ns"][late[place]] = asked["first_ns"][later[others]].min()
                self.messages["errno"][late[place]] = ASKED_ANEW

    def hear(self, slots: np.ndarray, told: np.ndarray) -> None:
        """Note which servers live: clients have heard of them, by messages (n,) `told` in slots."""
        told = told[slots["role"][told["row"]] == Role.CLIENT]
        told = told[np.argsort(told["first_ns"], kind="stable")]
        self._heard.update(zip(_servers(slots[told["row"]]).tolist(), told["first_ns"].tolist(), strict=True))
        while len(self._heard) > _SERVERS:
            del self._heard[next(iter(self._heard))]

    def _are_alive(self, places: NDArray[np.intp]) -> NDArray[np.bool_]:
        """Return whether the servers of queries at `places` (k,) were heard since these came, or just before.

        Not every answer that nobody reads is told of.
        """
        if self._slots is None or not len(places):
            return np.zeros(len(places), bool)
        heard = [self._heard.get(key, _NEVER) for key in _servers(self._slots[places]).tolist()]
        return np.array(heard, np.int64) >= self.messages["first_ns"][places] - self._timeout_ns

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
        copies["error"] = 0
        for name in "response_first_ns", "response_last_ns", "response_bytes", "response_segments":
            copies[name] = 0
        copies["request_first_ns"] = copies["request_last_ns"] = messages["first_ns"]
        copies["request_bytes"], copies["service"] = messages["size"], _COUNTED

    def _set(self, slots: np.ndarray, messages: np.ndarray, names: NDArray[np.object_]) -> None:
        surplus = max(len(slots) - self._limit, 0)
        self.evicted += surplus
        self._slots, self.messages, self.names = slots[surplus:], messages[surplus:], names[surplus:]

    def overdue(self, now_ns: int) -> np.ndarray:
        """Return those (m,) that have waited too long at `now_ns`, or were given up, and forget them.

        Of the latter `error` is `ASKED_ANEW`, and `request_last_ns` when that was.
        """
        if self._slots is None or not len(self):
            return np.zeros(0)
        late = self.messages["first_ns"] <= now_ns - self._timeout_ns
        late |= self.messages["errno"] == ASKED_ANEW
        if not late.any():
            return self._slots[:0]
        due, left = self._slots[late], np.flatnonzero(~late)
        due["flags"][self.messages["doubtful"][late]] |= _DOUBTFUL
        elsewhere = self.messages["elsewhere"][late]
        unheard = np.flatnonzero(late & self.messages["unheard"])
        elsewhere[np.searchsorted(np.flatnonzero(late), unheard)] = self._are_alive(unheard)
        due["flags"][elsewhere] |= _ELSEWHERE
        due["error"], due["request_last_ns"] = self.messages["errno"][late], self.messages["last_ns"][late]
        self._set(self._slots[left], self.messages.take(left), self.names[left])
        return due


def _of_process(messages: np.ndarray, slots: np.ndarray) -> NDArray[np.uint64]:
    """Return keys (n,) of what a process asks, whomever; the C library's second try has the same id."""
    return mixed(messages["id"], messages["key"], slots["pid"].astype(np.uint64))


def _servers(slots: np.ndarray) -> NDArray[np.uint64]:
    """Return keys (n,) of the servers that clients' slots are of."""
    words = np.ascontiguousarray(slots["remote_address"]).view(np.uint64)
    return mixed(words[:, 0], words[:, 1], slots["remote_port"].astype(np.uint64))
