"""The connections in sight: one `Endpoint` per process and connection, found for whole columns at once."""

from __future__ import annotations

import dataclasses
import functools
import socket
import sys
from itertools import repeat
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from masdeepflow.batch import word_of, words
from masdeepflow.endpoint import Endpoint
from masdeepflow.enrich.flows import Flow, Flows
from masdeepflow.schema import Kind, Role, Transport

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from masdeepflow.enrich.directory import Directory
    from masdeepflow.enrich.identity import Attributes, Identity

__all__ = ["NO_PROTOCOL", "Endpoints"]

NO_PROTOCOL = -1
"""Protocol number of a connection that none was recognised on yet."""
_LIMIT = 32768
_UNCLOSED_LIMIT = 4096  # UDP and Unix sockets, whose end nothing tells; the kernel side knows no more of them
# Socket cookies count up from 1, a few down from 2^64 (include/linux/cookie.h), and PIDs have 22 bits: the
# pair fits in 64.
_PID_SHIFT = np.uint64(42)
_COOKIE_MASK = np.uint64((1 << 42) - 1)
_NO_COOKIES = (0, 0)
_IPV4_MAPPED = b"\0" * 10 + b"\xff\xff"
_ROLES: dict[int, str] = {Role.CLIENT: "client", Role.SERVER: "server"}
_OPENING = frozenset((int(Kind.CONNECT), int(Kind.ACCEPT)))
_ROLE_NUMBERS = {name: int(role) for role, name in _ROLES.items()}
_TRANSPORTS: dict[int, str] = {Transport.TCP: "tcp", Transport.UDP: "udp", Transport.UNIX: "unix"}


class _End(NamedTuple):
    """What an endpoint was made of.

    flow: None where the other end can't be found by addresses. cookies: of a Unix socket and of its peer, 0
    where unknown.
    """

    identity: Identity
    flow: Flow | None
    cookies: tuple[int, int]
    remote: tuple[str, int] | None
    opened_ns: int


class Endpoints:
    """Bounded table of endpoints, with the protocol that each connection was recognised as."""

    def __init__(self, directory: Directory) -> None:
        self._directory = directory
        self._flows = Flows()
        self._ends: dict[int, _End] = {}
        self._by_subject: dict[str, set[int]] = {}
        self._by_socket: dict[int, int] = {}
        self._keys = np.zeros(0, np.uint64)
        self._codes = np.zeros(0, np.int32)
        self._all: list[Endpoint | None] = []
        self._free: list[int] = []
        self._protocols = np.full(256, NO_PROTOCOL, np.int16)
        self._seen = np.zeros(256, np.int64)  # number of the batch that used each code last
        self._unclosed = np.zeros(
            256, bool
        )  # whether the connection of each code will never be told to close
        self._batch = 0
        self._by_cookie: dict[int, int] = {}
        self._unix_paths: dict[int, str] = {}
        self.services: dict[tuple[int, int, int], tuple[Endpoint, int]] = {}
        """(PID, server port, role) -> endpoint and protocol seen last: names turns that the ring lost."""

    def __len__(self) -> int:
        return len(self._keys)

    def codes(self, slots: np.ndarray, offset_ns: int = 0) -> NDArray[np.int32]:
        """Return each slot's endpoint (n,), int32: valid until the next `forget`.

        offset_ns: Unix time minus the slots' clock.
        """
        self._batch += 1
        keys = slots["cookie"] ^ (_pids(slots) << _PID_SHIFT)
        missing = np.ones(len(keys), bool)
        if len(self._keys):
            places = self._places(keys)
            missing = self._keys[places] != keys
            codes = self._codes[places]
            if not missing.any():
                self._seen[codes] = self._batch
                return codes
            self._seen[codes[~missing]] = self._batch
        self._add(keys, np.flatnonzero(missing), slots, offset_ns)
        return self._codes[self._places(keys)]

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
        fresh = map(self._describe, _read(slots[positions]), positions.tolist(), repeat(offset_ns))
        codes = np.array([self._put(*described) for described in fresh], np.int32)
        keys, codes = np.concatenate((self._keys, distinct)), np.concatenate((self._codes, codes))
        order = np.argsort(keys)
        self._keys, self._codes = keys[order], codes[order]

    def _evict(self, mask: NDArray[np.bool_], limit: int) -> None:
        """Drop half of `mask` (len,) if it has more than `limit`: not seen for longest, not in this batch."""
        if int(mask.sum()) > max(limit, 0):
            seen = self._seen[self._codes]
            self._drop(mask & (seen <= np.median(seen[mask])) & (seen < self._batch))

    def _put(self, endpoint: Endpoint, end: _End) -> int:
        code = self._place(endpoint)
        self._ends[code] = end
        for subject in _subjects(end):
            self._by_subject.setdefault(subject, set()).add(code)
        self._meet(code, end)
        return code

    def _meet(self, code: int, end: _End) -> None:
        """Make two ends on this host each other's peers; an end elsewhere is named by its address."""
        other = self._other(code, end)
        if other is not None:
            self._set_peer(code, self._ends[other].identity.peer)
            self._set_peer(other, end.identity.peer)
        elif end.flow is not None:
            self._set_peer(code, self._flows.gone(end.flow))

    def _other(self, code: int, end: _End) -> int | None:
        if end.flow is not None:
            return self._flows.add(end.flow, code)
        own, peer = end.cookies
        if not own:
            return None
        self._by_socket[own] = code
        other = self._by_socket.get(peer)
        if other is not None:
            # Of two ends of a Unix connection, only the one that comes second knows the first.
            self._ends[other] = self._ends[other]._replace(cookies=(peer, own))
        return other

    def _remote(self, end: _End, flow: Flow) -> Attributes:
        if end.remote is None:
            return ()
        return self._directory.remote(*end.remote, flow.transport, end.opened_ns)

    def _set_peer(self, code: int, local: Attributes) -> None:
        """Name the other end of `code` by what it is on this host, and by what its address tells beside."""
        end, endpoint = self._ends[code], self._all[code]
        remote = self._remote(end, end.flow) if end.flow is not None else ()
        peer = tuple({**dict(remote), **dict(local)}.items()) if remote else local
        if endpoint is not None and endpoint.peer != peer:
            self._all[code] = dataclasses.replace(endpoint, peer=peer)

    def refresh(self, subjects: set[str]) -> None:
        """Name anew what facts about these subjects concern. Codes stay, endpoints are new objects."""
        self._refresh(sorted(set().union(*(self._by_subject.get(subject, ()) for subject in subjects))))

    def refresh_all(self) -> None:
        """Name all endpoints anew."""
        self._refresh(sorted(self._ends))

    def _refresh(self, codes: list[int]) -> None:
        for code in codes:
            self._name(code)
        for code in codes:
            self._meet(code, self._ends[code])

    def _name(self, code: int) -> None:
        endpoint, end = self._all[code], self._ends[code]
        if endpoint is None:
            return
        identity = self._directory.again(end.identity, endpoint.comm)
        if identity is not end.identity:
            self._forget_subjects(code, end)
            end = self._ends[code] = end._replace(identity=identity)
            for subject in _subjects(end):
                self._by_subject.setdefault(subject, set()).add(code)
            self._all[code] = dataclasses.replace(endpoint, **_names(identity))

    def _forget_subjects(self, code: int, end: _End) -> None:
        for subject in _subjects(end):
            codes = self._by_subject.get(subject)
            if codes is not None:
                codes.discard(code)
                if not codes:
                    del self._by_subject[subject]

    def _place(self, endpoint: Endpoint) -> int:
        if self._free:
            code = self._free.pop()
            self._all[code] = endpoint
        else:
            code = len(self._all)
            self._all.append(endpoint)
        if code >= len(self._protocols):
            self._protocols = np.concatenate((self._protocols, np.full(code, NO_PROTOCOL, np.int16)))
            self._seen = np.concatenate((self._seen, np.zeros(code, np.int64)))
            self._unclosed = np.concatenate((self._unclosed, np.zeros(code, bool)))
        self._seen[code], self._unclosed[code] = self._batch, endpoint.transport != "tcp"
        self._protocols[code] = self._by_cookie.get(endpoint.cookie, NO_PROTOCOL)
        return code

    def compact(self, codes: NDArray[np.int32]) -> tuple[NDArray[np.int32], list[Endpoint]]:
        """Return codes (n,) into a list of the endpoints that they use, and that list."""
        used = np.zeros(len(self._all), bool)
        used[codes] = True
        present = np.flatnonzero(used)
        renumbered = np.zeros(len(self._all), np.int32)
        renumbered[present] = np.arange(len(present), dtype=np.int32)
        endpoints = [endpoint for code in present.tolist() if (endpoint := self._all[code]) is not None]
        return renumbered[codes], endpoints

    def protocols(self, codes: NDArray[np.int32]) -> NDArray[np.int16]:
        """Return the protocol number (n,) that each connection was recognised as, `NO_PROTOCOL` if none."""
        return self._protocols[codes]

    def recognise(self, codes: NDArray[np.int32], protocols: NDArray[np.int16]) -> None:
        """Remember the protocol numbers (n,) of connections `codes` (n,), for all processes that use them."""
        self._protocols[codes] = protocols
        distinct, first = np.unique(codes, return_index=True)
        for code, protocol in zip(distinct.tolist(), protocols[first].tolist(), strict=True):
            endpoint = self._all[code]
            if endpoint is not None:
                self._by_cookie[endpoint.cookie] = protocol
                self._name_service(endpoint, protocol)
        self._pass_on(distinct)

    def _pass_on(self, codes: NDArray[np.int32]) -> None:
        """Give the protocol of connections `codes` (n,) to other processes that have them too: it is rare."""
        cookies = np.array([end.cookie for code in codes.tolist() if (end := self._all[code])], np.uint64)
        theirs = self._codes[np.isin(self._keys & _COOKIE_MASK, cookies & _COOKIE_MASK)]
        if len(theirs) > len(codes):
            for code in theirs.tolist():
                endpoint = self._all[code]
                if endpoint is not None:
                    self._protocols[code] = self._by_cookie[endpoint.cookie]

    def _name_service(self, endpoint: Endpoint, protocol: int) -> None:
        if len(self.services) > _LIMIT:
            self.services.clear()
        key = (endpoint.pid, endpoint.server_port or 0, _ROLE_NUMBERS.get(endpoint.role, 0))
        self.services[key] = (endpoint, protocol)

    def set_protocol(self, cookie: int, protocol: int) -> None:
        """Change a connection's protocol number for all its processes: an upgrade, TLS, compression."""
        self._by_cookie[cookie] = protocol
        mine = (self._keys & _COOKIE_MASK) == (np.uint64(cookie) & _COOKIE_MASK)
        self._protocols[self._codes[mine]] = protocol

    def forget(self, cookies: list[int]) -> None:
        """Drop closed connections. Codes handed out before are void."""
        gone = np.array(cookies, np.uint64)
        self._drop(np.isin(self._keys & _COOKIE_MASK, gone & _COOKIE_MASK))
        for cookie in cookies:
            self._by_cookie.pop(cookie, None)
            self._unix_paths.pop(cookie, None)

    def _drop(self, mask: NDArray[np.bool_]) -> None:
        for code in self._codes[mask].tolist():
            endpoint = self._all[code]
            if endpoint is not None:
                self._by_cookie.pop(endpoint.cookie, None)
                self._unix_paths.pop(endpoint.cookie, None)
            self._all[code] = None
            self._leave(code)
            self._free.append(code)
            self._protocols[code] = NO_PROTOCOL
        self._keys, self._codes = self._keys[~mask], self._codes[~mask]

    def _leave(self, code: int) -> None:
        end = self._ends.pop(code)
        self._forget_subjects(code, end)
        if end.flow is not None:
            self._flows.remove(end.flow, code, end.identity.peer)
        elif self._by_socket.get(end.cookies[0]) == code:
            del self._by_socket[end.cookies[0]]

    def _describe(self, seen: _Seen, position: int, offset_ns: int) -> tuple[Endpoint, _End]:
        comm = sys.intern(seen.comm.decode("utf-8", "backslashreplace"))
        identity = self._directory.identity(seen.pid, comm, position)
        transport = _TRANSPORTS.get(seen.transport, "tcp")
        role = _ROLES.get(seen.role, "")
        ends = self._unix_ends(seen, role) if transport == "unix" else _inet_ends(seen)
        client, server = ends if role == "client" else ends[::-1]
        endpoint = Endpoint(
            cookie=seen.cookie,
            pid=seen.pid,
            comm=comm,
            transport=transport,
            role=role,
            local=ends[0].shown,
            remote=ends[1].shown,
            client_address=client.address,
            client_port=client.port,
            server_address=server.address,
            server_port=server.port,
            **_names(identity),
        )
        end = _End(
            identity,
            _flow(endpoint, seen.netns),
            _cookies(seen) if transport == "unix" else _NO_COOKIES,
            _remote_of(ends[1]),
            _opened(seen) + offset_ns,
        )
        return endpoint, end

    def _unix_ends(self, seen: _Seen, role: str) -> tuple[_Side, _Side]:
        if seen.kind in _OPENING and seen.request_length:
            raw = seen.request[: seen.request_length]
            # An abstract name starts with a NUL, which ss(8) and others show as @.
            path = raw.rstrip(b"\0").decode("utf-8", "backslashreplace") if raw[0] else _abstract(raw)
            self._unix_paths[seen.cookie] = path
        named, unnamed = self._unix_paths.get(seen.cookie), f"unix:{seen.cookie}"
        server, client = _Side(named or unnamed, named, None), _Side(unnamed, None, None)
        return (client, server) if role == "client" else (server, client)


class _Seen(NamedTuple):
    """What a slot tells of its endpoint, as Python objects."""

    cookie: int
    pid: int
    comm: bytes
    kind: int
    transport: int
    role: int
    family: int
    local_port: int
    remote_port: int
    request_length: int
    netns: int
    request_first_ns: int
    response_first_ns: int
    local_address: bytes
    remote_address: bytes
    request: bytes


_SCALARS = _Seen._fields.index("local_address")


def _read(slots: np.ndarray) -> Iterator[_Seen]:
    """Yield the slots (n,) one by one; taking their fields singly would be ten times dearer."""
    scalars = [slots[name].tolist() for name in _Seen._fields[:_SCALARS]]
    return map(
        _Seen._make, zip(*scalars, *(_cells(slots[name]) for name in _Seen._fields[_SCALARS:]), strict=True)
    )


def _cells(column: NDArray[np.uint8]) -> list[bytes]:
    data, width = column.tobytes(), column.shape[1]
    return [data[start : start + width] for start in range(0, len(data), width)]


class _Side(NamedTuple):
    shown: str
    address: str | None
    port: int | None


def _names(identity: Identity) -> dict[str, Any]:
    """Return the fields of an endpoint that its process's identity gives."""
    return {
        "executable": identity.executable,
        "command": identity.command,
        "service": identity.service,
        "pod": identity.pod,
        "namespace": identity.namespace,
        "container": identity.container,
        "attributes": identity.attributes,
    }


def _flow(endpoint: Endpoint, netns: int) -> Flow | None:
    if endpoint.client_address is None or endpoint.server_address is None or not endpoint.role:
        return None
    return Flow.of(
        endpoint.role,
        endpoint.transport,
        endpoint.client_address,
        endpoint.client_port or 0,
        endpoint.server_address,
        endpoint.server_port or 0,
        netns,
    )


def _remote_of(side: _Side) -> tuple[str, int] | None:
    return None if side.address is None or side.port is None else (side.address, side.port)


def _cookies(seen: _Seen) -> tuple[int, int]:
    return seen.cookie, int.from_bytes(seen.remote_address[:8], "little")


def _opened(seen: _Seen) -> int:
    return seen.request_first_ns or seen.response_first_ns


def _subjects(end: _End) -> Iterator[str]:
    yield from end.identity.subjects
    if end.remote is not None:
        yield end.remote[0]


def _pids(slots: np.ndarray) -> NDArray[np.uint64]:
    """Return the 8 bytes that start with the PID (n,): the shift drops what is behind it."""
    return words(slots)[:, word_of(slots, "pid")].view(np.uint64)


def _abstract(raw: bytes) -> str:
    return "@" + raw[1:].decode("utf-8", "backslashreplace")


def _inet_ends(seen: _Seen) -> tuple[_Side, _Side]:
    return (
        _inet_end(seen.local_address, seen.local_port, seen.family),
        _inet_end(seen.remote_address, seen.remote_port, seen.family),
    )


def _inet_end(raw: bytes, port: int, family: int) -> _Side:
    address, shown = _address(raw, family)
    return _Side(f"{shown}:{port}", address, port)


@functools.lru_cache(maxsize=4096)
def _address(raw: bytes, family: int) -> tuple[str, str]:
    """Return an address and how it stands before a port."""
    if family == socket.AF_INET6 and raw[:12] != _IPV4_MAPPED:
        address = socket.inet_ntop(socket.AF_INET6, raw)
        return address, f"[{address}]"
    address = socket.inet_ntop(socket.AF_INET, raw[12:] if family == socket.AF_INET6 else raw[:4])
    return address, address
