"""The connections in sight: one end per process and connection, found for whole columns at once."""

from __future__ import annotations

from collections import deque
from itertools import islice, repeat
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from masdeepflow.batch import word
from masdeepflow.direct_mapped import DirectMapped
from masdeepflow.enrich.addresses import words_of
from masdeepflow.enrich.end import EndColumns, mixed, server_ports
from masdeepflow.enrich.first_seen import FirstSeen, Parties, UnixPaths
from masdeepflow.enrich.peers import Peers, have_flow
from masdeepflow.enrich.sockets import COOKIE_BITS, Sockets
from masdeepflow.schema import MAX_SERVICES, Transport

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from masdeepflow.endpoint import Ends
    from masdeepflow.enrich.directory import Directory
    from masdeepflow.enrich.end import End, Party

__all__ = ["NO_PROTOCOL", "Endpoints"]

NO_PROTOCOL = -1
"""Protocol number of a connection that none was recognised on yet."""
_LIMIT = 32768
_AT_ONCE = 4096  # named anew in one batch: some 30 ms; half the connections may have one busy address
_SERVICES_LIMIT = 2 * MAX_SERVICES  # of processes that are gone the kernel keeps none
_UNCLOSED_LIMIT = 4096  # UDP and Unix sockets, whose end nothing tells; the kernel side knows no more of them
_PID_SHIFT = np.uint64(COOKIE_BITS)  # PIDs have 22 bits: the pair fits in 64
_PORT_BITS, _ROLE_BITS = 16, 8
_TCP, _UDP = int(Transport.TCP), int(Transport.UDP)


class _Compacted(NamedTuple):
    """Ends in use. used: bool (c,), which codes. numbers: int32 (c,), where each stands in `ends`."""

    used: NDArray[np.bool_]
    numbers: NDArray[np.int32]
    ends: Ends


class Endpoints:
    """Bounded table of ends, with the protocol that each connection was recognised as."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._parties = Parties()
        self._unix_paths = UnixPaths()
        self._ends = EndColumns()
        self._peers = Peers(self._ends, directory)
        self._keys = np.zeros(0, np.uint64)  # ascending
        self._codes = np.zeros(0, np.int32)
        self._near = DirectMapped()
        # Of each code: its key, the number of the batch that used it last, its protocol.
        self._key_of = np.zeros(0, np.uint64)
        self._seen = np.zeros(0, np.int64)
        self._protocols = np.zeros(0, np.int16)
        self._batch = 0
        self._stale: dict[int, None] = {}  # codes to be named anew, in this order
        self._compacted: dict[int, _Compacted] = {}  # what was asked for last, by who asks
        self._sockets = Sockets()
        self._by_cookie: dict[int, int] = {}  # protocols
        self._evicted = 0
        self.services: dict[tuple[int, int, int], tuple[End, int]] = {}
        """(PID, server port, role) -> end and protocol seen last, `NO_PROTOCOL` if none was recognised there:
        names what only the kernel counted.
        """

    def __len__(self) -> int:
        return len(self._keys)

    def evictions(self) -> dict[str, int]:
        """Return how many open connections were forgotten: their protocol and names. Never less than before.

        TCP only: of other sockets nothing tells which are still there.
        """
        return {"connections": self._evicted}

    def codes(self, slots: np.ndarray, offset_ns: int = 0) -> NDArray[np.int32]:
        """Return each slot's endpoint (n,), int32: valid until the next `forget`.

        offset_ns: Unix time minus the slots' clock.
        """
        self._batch += 1
        keys = slots["cookie"] ^ (_pids(slots) << _PID_SHIFT)
        udp = slots["transport"] == _UDP
        if udp.any():
            keys[udp] ^= _peers(slots["remote_port"][udp], slots["remote_address"][udp])
        codes, missing = self._near.find(keys)
        if missing is not None:
            codes = self._far(keys, slots, offset_ns)
        self._seen[codes] = self._batch
        return codes

    def _far(self, keys: NDArray[np.uint64], slots: np.ndarray, offset_ns: int) -> NDArray[np.int32]:
        """Return the codes (n,) of keys (n,) from the whole table, those that are new added to it."""
        missing = np.ones(len(keys), bool)
        if len(self._keys):
            places = self._places(keys)
            missing = self._keys[places] != keys
            self._seen[self._codes[places[~missing]]] = self._batch
        if missing.any():
            self._add(keys, np.flatnonzero(missing), slots, offset_ns)
        codes = self._codes[self._places(keys)]
        self._near.keep(keys, codes)
        return codes

    def _places(self, keys: NDArray[np.uint64]) -> NDArray[np.intp]:
        return np.minimum(np.searchsorted(self._keys, keys), max(len(self._keys) - 1, 0))

    def _add(
        self, keys: NDArray[np.uint64], rows: NDArray[np.intp], slots: np.ndarray, offset_ns: int
    ) -> None:
        distinct, first = np.unique(keys[rows], return_index=True)
        if len(self._codes) > _UNCLOSED_LIMIT:
            self._evict(self._ends.facts["transport"][self._codes] != _TCP, _UNCLOSED_LIMIT)
        if len(self._codes) > _LIMIT - len(distinct):
            self._evict(np.ones(len(self._codes), bool), _LIMIT - len(distinct))
        # In the order of the ring, so that a peer that came first is there already.
        order = np.argsort(first)
        found = FirstSeen(slots, rows[first[order]], offset_ns)
        codes = self._place(found, distinct[order])
        if self._peers.meet(codes):
            self._changed()
        self._name_new_services(codes)
        keys = np.concatenate((self._keys, distinct[order]))
        sorted_ = np.argsort(keys, kind="stable")
        self._keys, self._codes = keys[sorted_], np.concatenate((self._codes, codes))[sorted_]

    def _evict(self, mask: NDArray[np.bool_], limit: int) -> None:
        """Drop half of `mask` (len,) if it has more than `limit`: not seen for longest, not in this batch."""
        if int(mask.sum()) > max(limit, 0):
            seen = self._seen[self._codes]
            codes = self._codes[mask & (seen <= np.median(seen[mask])) & (seen < self._batch)]
            facts = self._ends.facts.take(codes)
            self._evicted += int(np.count_nonzero(facts["transport"] == _TCP))
            self._sockets.remove(codes, facts)
            self._drop(codes)
            self._forget_protocols(facts["cookie"].tolist())

    def _place(self, found: FirstSeen, keys: NDArray[np.uint64]) -> NDArray[np.int32]:
        """Put new ends into the table; return the code (n,) of each. keys: (n,)."""
        codes = self._ends.new(found.facts, *found.parties(self._directory, self._parties))
        for row, path in found.paths(self._unix_paths):
            self._ends.path[codes[row]] = path
        self._changed()
        self._make_room()
        self._key_of[codes], self._seen[codes] = keys, self._batch
        cookies = found.facts["cookie"].tolist()
        self._protocols[codes] = list(map(self._by_cookie.get, cookies, repeat(NO_PROTOCOL)))
        self._sockets.add(codes, found.facts)
        return codes

    def _make_room(self) -> None:
        more = len(self._ends) - len(self._seen)
        if more > 0:
            self._key_of = np.concatenate((self._key_of, np.zeros(more, np.uint64)))
            self._seen = np.concatenate((self._seen, np.zeros(more, np.int64)))
            self._protocols = np.concatenate((self._protocols, np.full(more, NO_PROTOCOL, np.int16)))

    def _name_new_services(self, codes: NDArray[np.int32]) -> None:
        """Let services of which nothing is known yet be named by the first of these ends (n,)."""
        keys, rows = self._service_keys(codes)
        new = [(key, row) for key, row in zip(keys, rows.tolist(), strict=True) if key not in self.services]
        if not new:
            return
        ends = self._ends.take(codes[[row for _, row in new]])
        for place, (key, _) in enumerate(new):
            self._name_service(key, ends.end(place), NO_PROTOCOL)

    def _service_keys(self, codes: NDArray[np.int32]) -> tuple[list[tuple[int, int, int]], NDArray[np.intp]]:
        """Return the distinct services of ends (n,) in order, and the first end of each."""
        facts = self._ends.facts.take(codes)
        pids, ports = facts["pid"].astype(np.int64), server_ports(facts).astype(np.int64)
        firsts = np.sort(
            np.unique((pids << _PORT_BITS | ports) << _ROLE_BITS | facts["role"], return_index=True)[1]
        )
        columns = pids[firsts], ports[firsts], facts["role"][firsts]
        return list(zip(*(column.tolist() for column in columns), strict=True)), firsts

    def _name_service(self, key: tuple[int, int, int], end: End, protocol: int) -> None:
        if self.services.pop(key, None) is None and len(self.services) >= _SERVICES_LIMIT:
            del self.services[next(iter(self.services))]
        self.services[key] = (end, protocol)

    def refresh(self, subjects: set[str]) -> None:
        """Name anew what facts about these subjects concern. Codes stay, endpoints are new objects.

        So many at once that the ring is read in time; `freshen` goes on with the rest.
        """
        self._stale.update(dict.fromkeys(self._about(subjects).tolist()))
        self.freshen()

    def _about(self, subjects: set[str]) -> NDArray[np.int32]:
        """Return the ends (n,) whose names depend on facts about these subjects, ascending."""
        if not subjects:
            return np.zeros(0, np.int32)
        codes = np.sort(self._codes)
        facts = self._ends.facts.take(codes)
        numbers, examples = np.unique(facts["party"], return_index=True)
        parties: list[Party] = self._ends.party[codes[examples]].tolist()
        concerned = [not subjects.isdisjoint(party.identity.subjects) for party in parties]
        about = np.isin(facts["party"], numbers[concerned])
        words = np.array([found for found in map(words_of, subjects) if found], np.uint64).reshape(-1, 2)
        if len(words):
            # Two addresses with one hash would be named anew both.
            about |= have_flow(facts) & np.isin(mixed(facts["remote"]), mixed(words))
        return codes[about]

    def freshen(self) -> None:
        """Go on with what `refresh` has left."""
        codes = list(islice(self._stale, _AT_ONCE))
        for code in codes:
            del self._stale[code]
        self._refresh(codes)

    def refresh_all(self) -> None:
        """Name all endpoints anew, however many."""
        self._stale.clear()
        self._refresh(np.sort(self._codes).tolist())

    def _refresh(self, codes: list[int]) -> None:
        if not codes:
            return
        present = [code for code in codes if self._ends.party[code] is not None]
        self._name(present)
        if self._peers.again(present):
            self._changed()

    def _name(self, codes: list[int]) -> None:
        now: dict[Party, Party] = {}
        for party in self._ends.party[codes].tolist():
            if party not in now:
                now[party] = self._again(party)
        new = [code for code in codes if now[party := self._ends.party[code]] is not party]
        if not new:
            return
        self._changed()
        renamed = np.array(new, np.int32)
        old: list[Party] = self._ends.party[renamed].tolist()
        parties = list(dict.fromkeys(now[party] for party in old))
        places = {party: place for place, party in enumerate(parties)}
        self._ends.name(renamed, parties, np.array([places[now[party]] for party in old], np.intp))
        self._name_services_anew(renamed, old)

    def _again(self, party: Party) -> Party:
        identity = self._directory.again(party.identity, party.comm)
        return party if identity is party.identity else self._parties.again(party, identity)

    def _name_services_anew(self, codes: NDArray[np.int32], before: list[Party]) -> None:
        """Let services that were named by these parties be named by the same ends (n,) as they are now."""
        ends = self._ends.take(codes)
        for place, (key, party) in enumerate(zip(ends.services(), before, strict=True)):
            service = self.services.get(key)
            if service is not None and service[0].party.identity is party.identity:
                self._name_service(key, ends.end(place), service[1])

    def compact(self, codes: NDArray[np.int32], asker: int = 0) -> tuple[NDArray[np.int32], Ends]:
        """Return codes (n,) into a sequence of the endpoints that they use, and that sequence.

        asker: a protocol's number. It is given the same object as long as that would be an equal one, so that
        what is made of it can be kept.
        """
        used = np.zeros(len(self._ends), bool)
        used[codes] = True
        last = self._compacted.get(asker)
        if last is None or not np.array_equal(used, last.used):
            last = self._compacted[asker] = self._compact(used)
        return last.numbers[codes], last.ends

    def _compact(self, used: NDArray[np.bool_]) -> _Compacted:
        present = np.flatnonzero(used)
        numbers = np.zeros(len(used), np.int32)
        numbers[present] = np.arange(len(present), dtype=np.int32)
        return _Compacted(used, numbers, self._ends.take(present))

    def _changed(self) -> None:
        """To be called whenever a code stands for another endpoint than before."""
        self._compacted.clear()

    def protocols(self, codes: NDArray[np.int32]) -> NDArray[np.int16]:
        """Return the protocol number (n,) that each connection was recognised as, `NO_PROTOCOL` if none."""
        return self._protocols[codes]

    def recognise(self, codes: NDArray[np.int32], protocols: NDArray[np.int16]) -> None:
        """Remember the protocol numbers (n,) of connections `codes` (n,), for all processes that use them."""
        self._protocols[codes] = protocols
        distinct, first = np.unique(codes, return_index=True)
        cookies, numbers = self._ends.facts["cookie"][distinct], protocols[first]
        self._by_cookie.update(zip(cookies.tolist(), numbers.tolist(), strict=True))
        self._name_recognised(distinct, numbers)
        for cookie in self._sockets.shared(cookies):
            self._protocols[self._sockets.users(cookie)] = self._by_cookie[cookie]

    def _name_recognised(self, codes: NDArray[np.int32], protocols: NDArray[np.int16]) -> None:
        """Let services be named by these ends (n,), each by the last that is its."""
        backwards, numbers = codes[::-1], protocols[::-1]
        keys, rows = self._service_keys(backwards)
        ends = self._ends.take(backwards[rows])
        for place in range(len(keys) - 1, -1, -1):
            self._name_service(keys[place], ends.end(place), int(numbers[rows[place]]))

    def set_protocol(self, cookie: int, protocol: int) -> None:
        """Change a connection's protocol number for all its processes: an upgrade, TLS, compression."""
        self._by_cookie[cookie] = protocol
        self._protocols[self._sockets.users(cookie)] = protocol

    def forget(self, cookies: list[int]) -> None:
        """Drop closed connections. Codes handed out before are void."""
        self._drop(self._sockets.take(cookies))
        self._forget_protocols(cookies)

    def _forget_protocols(self, cookies: list[int]) -> None:
        deque(map(self._by_cookie.pop, cookies, repeat(None)), maxlen=0)
        self._unix_paths.forget(cookies)

    def _drop(self, codes: NDArray[np.int32]) -> None:
        """Take ends (n,) out of the table."""
        if not len(codes):
            return
        kept = np.ones(len(self._keys), bool)
        kept[self._places(self._key_of[codes])] = False
        codes = self._codes[~kept]
        self._peers.leave(codes)
        self._keys, self._codes = self._keys[kept], self._codes[kept]
        self._protocols[codes] = NO_PROTOCOL
        self._ends.drop(codes)
        self._near.clear()
        self._changed()


def _pids(slots: np.ndarray) -> NDArray[np.uint64]:
    """Return the 8 bytes that start with the PID (n,): the shift drops what is behind it."""
    return word(slots, "pid").view(np.uint64)


def _peers(ports: NDArray[np.uint16], addresses: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return a hash (n,) of who is at the other end: a UDP socket has many peers, each an endpoint."""
    return mixed(np.column_stack((ports.astype(np.uint64), addresses.view(np.uint64))))
