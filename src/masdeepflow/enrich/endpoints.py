"""The connections in sight: one `Endpoint` per process and connection, found for whole columns at once."""

from __future__ import annotations

import functools
import socket
import sys
from collections import defaultdict
from itertools import islice
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from masdeepflow.batch import word
from masdeepflow.direct_mapped import DirectMapped
from masdeepflow.endpoint import Ends
from masdeepflow.enrich.end import NOWHERE, End, Side, owner_of
from masdeepflow.enrich.flows import Flow, Flows
from masdeepflow.schema import MAX_SERVICES, Kind, Role, Transport

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from masdeepflow.endpoint import Owner, Seen
    from masdeepflow.enrich.directory import Directory
    from masdeepflow.enrich.identity import Attributes, Identity

__all__ = ["NO_PROTOCOL", "Endpoints"]

NO_PROTOCOL = -1
"""Protocol number of a connection that none was recognised on yet."""
_LIMIT = 32768
_AT_ONCE = 4096  # named anew in one batch: some 30 ms; half the connections may have one busy address
_OWNERS_LIMIT = 1024
_SERVICES_LIMIT = 2 * MAX_SERVICES  # of processes that are gone the kernel keeps none
_UNCLOSED_LIMIT = 4096  # UDP and Unix sockets, whose end nothing tells; the kernel side knows no more of them
# Socket cookies count up from 1, a few down from 2^64 (include/linux/cookie.h), and PIDs have 22 bits: the
# pair fits in 64.
_PID_SHIFT = np.uint64(42)
_COOKIE_MASK = np.uint64((1 << 42) - 1)
_MIXERS = np.array([0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB], np.uint64)
_NO_COOKIES = (0, 0)
_IPV4_MAPPED = b"\0" * 10 + b"\xff\xff"
_ROLES: dict[int, str] = {Role.CLIENT: "client", Role.SERVER: "server"}
_OPENING = frozenset((int(Kind.CONNECT), int(Kind.ACCEPT)))
_UDP = int(Transport.UDP)
_TRANSPORTS: dict[int, str] = {Transport.TCP: "tcp", Transport.UDP: "udp", Transport.UNIX: "unix"}


class _Compacted(NamedTuple):
    """Endpoints in use. used: bool (c,), which codes. numbers: int32 (c,), where each stands in `ends`."""

    used: NDArray[np.bool_]
    numbers: NDArray[np.int32]
    ends: Ends


class Endpoints:
    """Bounded table of endpoints, with the protocol that each connection was recognised as."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._flows = Flows()
        self._owners: dict[tuple[Identity, str, str], Owner] = {}
        self._by_subject: defaultdict[str, set[int]] = defaultdict(set)
        self._by_socket: dict[int, int] = {}
        self._keys = np.zeros(0, np.uint64)
        self._codes = np.zeros(0, np.int32)
        self._near = DirectMapped()
        self._all: list[End | None] = []
        self._free: list[int] = []
        self._protocols = np.full(256, NO_PROTOCOL, np.int16)
        self._seen = np.zeros(256, np.int64)  # number of the batch that used each code last
        self._unclosed = np.zeros(
            256, bool
        )  # whether the connection of each code will never be told to close
        self._batch = 0
        self._stale: dict[int, None] = {}  # codes to be named anew, in this order
        self._compacted: dict[int, _Compacted] = {}  # what was asked for last, by who asks
        self._fresh = False  # whether ends of this batch were not handed out yet
        self._by_cookie: dict[int, int] = {}
        self._unix_paths: dict[int, str] = {}
        self.services: dict[tuple[int, int, int], tuple[End, int]] = {}
        """(PID, server port, role) -> end and protocol seen last, `NO_PROTOCOL` if none was recognised there:
        names what only the kernel counted.
        """

    def __len__(self) -> int:
        return len(self._keys)

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
        self._evict(self._unclosed[self._codes], _UNCLOSED_LIMIT)
        self._evict(np.ones(len(self._codes), bool), _LIMIT - len(distinct))
        positions = rows[first]
        # In the order of the ring, so that a peer that came first is there already.
        order = np.argsort(positions)
        distinct, positions = distinct[order], positions[order]
        ends = self._describe(slots[positions], positions.tolist(), offset_ns)
        codes = self._place(ends)
        self._fresh = True
        for code, end in zip(codes, ends, strict=True):
            self._enter(code, end)
        self._fresh = False
        keys = np.concatenate((self._keys, distinct))
        codes_ = np.concatenate((self._codes, np.array(codes, np.int32)))
        order = np.argsort(keys)
        self._keys, self._codes = keys[order], codes_[order]

    def _evict(self, mask: NDArray[np.bool_], limit: int) -> None:
        """Drop half of `mask` (len,) if it has more than `limit`: not seen for longest, not in this batch."""
        if int(mask.sum()) > max(limit, 0):
            seen = self._seen[self._codes]
            ends = self._drop(mask & (seen <= np.median(seen[mask])) & (seen < self._batch))
            self._forget_sockets([end.cookie for end in ends])

    def _place(self, ends: list[End]) -> list[int]:
        """Put new ends into the table; return the code of each."""
        reused = self._free[len(self._free) - len(ends) :] if len(ends) < len(self._free) else self._free[:]
        del self._free[len(self._free) - len(reused) :]
        for code, end in zip(reused, ends, strict=False):
            self._all[code] = end
        self._changed()
        codes = [*reused, *range(len(self._all), len(self._all) + len(ends) - len(reused))]
        self._all += ends[len(reused) :]
        self._make_room()
        self._seen[codes] = self._batch
        self._unclosed[codes] = [end.transport != "tcp" for end in ends]
        self._protocols[codes] = [self._by_cookie.get(end.cookie, NO_PROTOCOL) for end in ends]
        return codes

    def _make_room(self) -> None:
        more = len(self._all) - len(self._protocols)
        if more > 0:
            more = max(more, len(self._protocols))
            self._protocols = np.concatenate((self._protocols, np.full(more, NO_PROTOCOL, np.int16)))
            self._seen = np.concatenate((self._seen, np.zeros(more, np.int64)))
            self._unclosed = np.concatenate((self._unclosed, np.zeros(more, bool)))

    def _enter(self, code: int, end: End) -> None:
        for subject in end.subjects:
            self._by_subject[subject].add(code)
        if end.service_key not in self.services:
            self._name_service(end, NO_PROTOCOL)
        self._meet(code, end)

    def _meet(self, code: int, end: End) -> None:
        """Make two ends on this host each other's peers; an end elsewhere is named by its address."""
        other = self._other(code, end)
        met = None if other is None else self._all[other]
        if other is not None and met is not None:
            self._set_peer(code, end, met.identity.peer)
            self._set_peer(other, met, end.identity.peer)
        elif end.flow is not None:
            self._set_peer(code, end, self._flows.gone(end.flow))

    def _meet_again(self, code: int, end: End) -> None:
        """Meet, unless another process uses the same socket now: then that one is the other's peer."""
        if end.flow is None:
            if self._by_socket.get(end.cookies[0]) == code:
                self._meet(code, end)
        elif self._flows.end(end.flow) == code:
            self._meet(code, end)
        else:
            other = self._flows.other(end.flow)
            met = None if other is None else self._all[other]
            self._set_peer(code, end, self._flows.gone(end.flow) if met is None else met.identity.peer)

    def _other(self, code: int, end: End) -> int | None:
        if end.flow is not None:
            return self._flows.add(end.flow, code)
        own, peer = end.cookies
        if not own:
            return None
        self._by_socket[own] = code
        other = self._by_socket.get(peer)
        if other is not None and (met := self._all[other]) is not None:
            # Of two ends of a Unix connection, only the one that comes second knows the first.
            met.cookies = (peer, own)
        return other

    def _set_peer(self, code: int, end: End, local: Attributes) -> None:
        """Name the other end of `code` by what it is on this host, and by what its address tells beside."""
        remote = self._remote(end)
        peer = tuple({**dict(remote), **dict(local)}.items()) if remote else local
        if end.peer is peer or end.peer == peer:
            return
        if self._fresh and end.batch == self._batch:
            end.peer = peer
        else:
            self._all[code] = end.again(peer=peer)
            self._changed()

    def _remote(self, end: End) -> Attributes:
        if not self._directory.knows_addresses:
            return ()
        address, port = end.remote
        if end.flow is None or address is None or port is None:
            return ()
        return self._directory.remote(address, port, end.transport, end.opened_ns)

    def refresh(self, subjects: set[str]) -> None:
        """Name anew what facts about these subjects concern. Codes stay, endpoints are new objects.

        So many at once that the ring is read in time; `freshen` goes on with the rest.
        """
        codes = sorted(set().union(*(self._by_subject.get(subject, ()) for subject in subjects)))
        self._stale.update(dict.fromkeys(codes))
        self.freshen()

    def freshen(self) -> None:
        """Go on with what `refresh` has left."""
        codes = list(islice(self._stale, _AT_ONCE))
        for code in codes:
            del self._stale[code]
        self._refresh(codes)

    def refresh_all(self) -> None:
        """Name all endpoints anew, however many."""
        self._stale.clear()
        self._refresh([code for code, end in enumerate(self._all) if end is not None])

    def _refresh(self, codes: list[int]) -> None:
        for code in codes:
            self._name(code)
        for code in codes:
            if (end := self._all[code]) is not None:
                self._meet_again(code, end)

    def _name(self, code: int) -> None:
        end = self._all[code]
        if end is None:
            return
        identity = self._directory.again(end.identity, end.comm)
        if identity is not end.identity:
            self._forget_subjects(code, end)
            new = end.again(identity, self._owner(identity, end.role, end.transport))
            self._all[code] = new
            self._changed()
            for subject in new.subjects:
                self._by_subject[subject].add(code)
            service = self.services.get(end.service_key)
            if service is not None and service[0].identity is end.identity:
                self._name_service(new, service[1])

    def _owner(self, identity: Identity, role: str, transport: str) -> Owner:
        key = (identity, role, transport)
        owner = self._owners.get(key)
        if owner is None:
            if len(self._owners) >= _OWNERS_LIMIT:
                self._owners.clear()
            owner = self._owners[key] = owner_of(identity, role, transport)
        return owner

    def _forget_subjects(self, code: int, end: End) -> None:
        for subject in end.subjects:
            codes = self._by_subject[subject]
            codes.discard(code)
            if not codes:
                del self._by_subject[subject]

    def compact(self, codes: NDArray[np.int32], asker: int = 0) -> tuple[NDArray[np.int32], Ends]:
        """Return codes (n,) into a sequence of the endpoints that they use, and that sequence.

        asker: a protocol's number. It is given the same object as long as that would be an equal one, so that
        what is made of it can be kept.
        """
        used = np.zeros(len(self._all), bool)
        used[codes] = True
        last = self._compacted.get(asker)
        if last is None or not np.array_equal(used, last.used):
            last = self._compacted[asker] = self._compact(used)
        return last.numbers[codes], last.ends

    def _compact(self, used: NDArray[np.bool_]) -> _Compacted:
        present = np.flatnonzero(used)
        numbers = np.zeros(len(used), np.int32)
        numbers[present] = np.arange(len(present), dtype=np.int32)
        ends: list[Seen] = [end for code in present.tolist() if (end := self._all[code]) is not None]
        return _Compacted(used, numbers, Ends(ends))

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
        for code, protocol in zip(distinct.tolist(), protocols[first].tolist(), strict=True):
            end = self._all[code]
            if end is not None:
                self._by_cookie[end.cookie] = protocol
                self._name_service(end, protocol)
        self._pass_on(distinct)

    def _pass_on(self, codes: NDArray[np.int32]) -> None:
        """Give the protocol of connections `codes` (n,) to other processes that have them too: it is rare."""
        cookies = np.array([end.cookie for code in codes.tolist() if (end := self._all[code])], np.uint64)
        theirs = self._codes[np.isin(self._keys & _COOKIE_MASK, cookies & _COOKIE_MASK)]
        if len(theirs) > len(codes):
            for code in theirs.tolist():
                end = self._all[code]
                if end is not None:
                    self._protocols[code] = self._by_cookie[end.cookie]

    def _name_service(self, end: End, protocol: int) -> None:
        key = end.service_key
        if self.services.pop(key, None) is None and len(self.services) >= _SERVICES_LIMIT:
            del self.services[next(iter(self.services))]
        self.services[key] = (end, protocol)

    def set_protocol(self, cookie: int, protocol: int) -> None:
        """Change a connection's protocol number for all its processes: an upgrade, TLS, compression."""
        self._by_cookie[cookie] = protocol
        mine = (self._keys & _COOKIE_MASK) == (np.uint64(cookie) & _COOKIE_MASK)
        self._protocols[self._codes[mine]] = protocol

    def forget(self, cookies: list[int]) -> None:
        """Drop closed connections. Codes handed out before are void."""
        gone = np.array(cookies, np.uint64)
        self._drop(np.isin(self._keys & _COOKIE_MASK, gone & _COOKIE_MASK))
        self._forget_sockets(cookies)

    def _forget_sockets(self, cookies: list[int]) -> None:
        for cookie in cookies:
            self._by_cookie.pop(cookie, None)
        if self._unix_paths:
            for cookie in cookies:
                self._unix_paths.pop(cookie, None)

    def _drop(self, mask: NDArray[np.bool_]) -> list[End]:
        """Take the ends of `mask` (len,) out of the table; return them."""
        codes = self._codes[mask].tolist()
        ends = []
        for code in codes:
            end = self._all[code]
            if end is not None:
                self._leave(code, end)
                ends.append(end)
            self._all[code] = None
        self._free += codes
        self._protocols[codes] = NO_PROTOCOL
        self._keys, self._codes = self._keys[~mask], self._codes[~mask]
        if codes:
            self._near.clear()
            self._changed()
        return ends

    def _leave(self, code: int, end: End) -> None:
        self._forget_subjects(code, end)
        if end.flow is not None:
            self._flows.remove(end.flow, code, end.identity.peer)
        elif self._by_socket.get(end.cookies[0]) == code:
            del self._by_socket[end.cookies[0]]

    def _describe(self, slots: np.ndarray, positions: list[int], offset_ns: int) -> list[End]:
        """Return what slots (n,), at places of the batch, tell of their ends."""
        who = self._identified(slots, positions)
        unix = slots["transport"] == Transport.UNIX
        sides = _inet_sides(slots)
        for row in np.flatnonzero(unix).tolist():
            sides[row] = self._unix_sides(slots[row])
        opened = slots["request_first_ns"].astype(np.int64)
        opened = np.where(opened > 0, opened, slots["response_first_ns"].astype(np.int64)) + offset_ns
        columns = (
            slots["cookie"].tolist(),
            slots["pid"].tolist(),
            who,
            slots["transport"].tolist(),
            slots["role"].tolist(),
            sides,
            slots["netns"].tolist(),
            opened.tolist(),
            _peer_cookies(slots, unix),
        )
        return [self._end(*row) for row in zip(*columns, strict=True)]

    def _identified(self, slots: np.ndarray, positions: list[int]) -> list[tuple[str, Identity]]:
        """Return the name and the identity of each slot's process, looked up once where it can't change."""
        known: dict[tuple[int, bytes], tuple[str, Identity]] = {}
        who = []
        for pid, raw, position in zip(slots["pid"].tolist(), slots["comm"].tolist(), positions, strict=True):
            found = known.get((pid, raw))
            if found is None:
                comm = sys.intern(raw.decode("utf-8", "backslashreplace"))
                found = comm, self._directory.identity(pid, comm, position)
                if self._directory.processes.is_settled(pid):
                    known[pid, raw] = found
            who.append(found)
        return who

    def _end(  # noqa: PLR0913, PLR0917  # what a slot tells of its end
        self,
        cookie: int,
        pid: int,
        who: tuple[str, Identity],
        transport_number: int,
        role_number: int,
        sides: tuple[Side, Side],
        netns: int,
        opened_ns: int,
        peer_cookie: int,
    ) -> End:
        comm, identity = who
        transport, role = _TRANSPORTS.get(transport_number, "tcp"), _ROLES.get(role_number, "")
        local, remote = sides
        flow, cookies = None, _NO_COOKIES
        if transport == "unix":
            cookies = (cookie, peer_cookie)
        elif role:
            flow = _flow(role, transport, local, remote, netns)
        owner = self._owner(identity, role, transport)
        return End(
            cookie,
            pid,
            comm,
            transport,
            role,
            local,
            remote,
            flow,
            cookies,
            opened_ns,
            self._batch,
            identity,
            owner,
        )

    def _unix_sides(self, slot: np.void) -> tuple[Side, Side]:
        cookie, length = int(slot["cookie"]), int(slot["request_length"])
        if int(slot["kind"]) in _OPENING and length:
            raw = slot["request"].tobytes()[:length]
            # An abstract name starts with a NUL, which ss(8) and others show as @.
            path = raw.rstrip(b"\0").decode("utf-8", "backslashreplace") if raw[0] else _abstract(raw)
            self._unix_paths[cookie] = path
        server: Side = (self._unix_paths.get(cookie), None)
        return (NOWHERE, server) if int(slot["role"]) == Role.CLIENT else (server, NOWHERE)


def _inet_sides(slots: np.ndarray) -> list[tuple[Side, Side]]:
    """Return the local and the remote address and port of slots (n,)."""
    local, remote = (_inet_side(slots, side) for side in ("local", "remote"))
    sides = list(zip(local, remote, strict=True))
    # No call tells who sent a datagram to a socket that is not connected.
    for row in np.flatnonzero((slots["remote_port"] == 0) & ~slots["remote_address"].any(axis=1)).tolist():
        sides[row] = sides[row][0], NOWHERE
    return sides


def _inet_side(slots: np.ndarray, side: str) -> Iterator[Side]:
    addresses = map(_address, _cells(slots[f"{side}_address"]), slots["family"].tolist())
    return zip(addresses, slots[f"{side}_port"].tolist(), strict=True)


def _peer_cookies(slots: np.ndarray, unix: NDArray[np.bool_]) -> list[int]:
    """Return the cookie of the other end of Unix sockets among slots (n,), 0 where it is unknown."""
    if not unix.any():
        return [0] * len(slots)
    words_ = np.ascontiguousarray(slots["remote_address"]).view(np.uint64)[:, 0]
    cookies: list[int] = np.where(unix, words_, 0).tolist()
    return cookies


def _cells(column: NDArray[np.uint8]) -> list[bytes]:
    data, width = column.tobytes(), column.shape[1]
    return [data[start : start + width] for start in range(0, len(data), width)]


def _flow(role: str, transport: str, local: Side, remote: Side, netns: int) -> Flow | None:
    (client, client_port), (server, server_port) = (local, remote) if role == "client" else (remote, local)
    if client is None or server is None:
        return None
    return Flow.of(role, transport, client, client_port or 0, server, server_port or 0, netns)


def _pids(slots: np.ndarray) -> NDArray[np.uint64]:
    """Return the 8 bytes that start with the PID (n,): the shift drops what is behind it."""
    return word(slots, "pid").view(np.uint64)


def _peers(ports: NDArray[np.uint16], addresses: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """Return a hash (n,) of who is at the other end: a UDP socket has many peers, each an endpoint."""
    peer = ports.astype(np.uint64) * _MIXERS[0]
    for half, mixer in zip(addresses.view(np.uint64).T, _MIXERS[1:], strict=True):
        peer = (peer ^ half ^ (peer >> np.uint64(29))) * mixer
    result: NDArray[np.uint64] = peer ^ (peer >> np.uint64(32))
    return result


def _abstract(raw: bytes) -> str:
    return "@" + raw[1:].decode("utf-8", "backslashreplace")


@functools.lru_cache(maxsize=16384)
def _address(raw: bytes, family: int) -> str:
    if family == socket.AF_INET6 and raw[:12] != _IPV4_MAPPED:
        return socket.inet_ntop(socket.AF_INET6, raw)
    return socket.inet_ntop(socket.AF_INET, raw[12:] if family == socket.AF_INET6 else raw[:4])
