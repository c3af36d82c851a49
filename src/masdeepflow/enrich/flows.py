"""Which two ends on this host are those of one connection, found for whole columns at once."""

from __future__ import annotations

from collections import Counter
from itertools import islice, repeat
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from masdeepflow.enrich.addresses import are_loopback
from masdeepflow.schema import Role

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from masdeepflow.enrich.identity import Attributes

__all__ = ["NO_END", "Flows", "Met", "keys_of"]

NO_END = -1
"""In place of an end that is not known."""
_GONE_LIMIT = 2048  # of each role
_CLIENT, _SERVER = int(Role.CLIENT), int(Role.SERVER)
_ROLES = (_CLIENT, _SERVER)
_OTHER = {_CLIENT: _SERVER, _SERVER: _CLIENT}
_CLIENT_WORDS, _WORDS = 3, 6
_CLIENT_BYTES = 8 * _CLIENT_WORDS
_CELLS = {words: np.dtype((np.void, 8 * words)) for words in (_CLIENT_WORDS, _WORDS)}
_PORT, _TRANSPORT = np.uint64(32), np.uint64(48)


class Met(NamedTuple):
    """Whose peer is who: that of end codes[i] is end others[i], or if that is `NO_END`, gone[i].

    codes: int32 (m,), each once. others: int32 (m,). gone: object (m,), `Attributes` or None.
    """

    codes: NDArray[np.int32]
    others: NDArray[np.int32]
    gone: NDArray[np.object_]


def keys_of(facts: np.ndarray) -> NDArray[np.uint64]:
    """Return the flow (n, 6) of ends (n,), see `end.FACTS`: what tells connections apart.

    Three words of the client: address; port, transport and the end's network namespace if its addresses mean
    something there only, else 0. Three of the server: address; port.
    """
    client = facts["role"] == _CLIENT
    local, remote = facts["local"], facts["remote"]
    own = np.where(are_loopback(local) | are_loopback(remote), facts["netns"], 0).astype(np.uint64)
    ports = facts["local_port"].astype(np.uint64), facts["remote_port"].astype(np.uint64)
    keys = np.empty((len(facts), _WORDS), np.uint64)
    keys[:, :2] = np.where(client[:, None], local, remote)
    keys[:, 2] = own | np.where(client, *ports) << _PORT | facts["transport"].astype(np.uint64) << _TRANSPORT
    keys[:, 3:5] = np.where(client[:, None], remote, local)
    keys[:, 5] = np.where(client, *reversed(ports))
    return keys


class _Part(NamedTuple):
    """Ends (m,) of one role: their codes, and the bytes of their flows and of the clients' words in these."""

    role: int
    codes: list[int]
    flows: list[bytes]
    clients: list[bytes]


_Servers = dict[bytes, int]


class Flows:
    """Ends by their flows. An end is a number that its owner chose.

    Nearly always a client's port is used for one connection, and each of its ends by one process: such ends
    are added, found and removed in bulk. Others are a crowd, in which they are told apart one by one.
    """

    def __init__(self) -> None:
        self._keys = np.zeros((0, _WORDS), np.uint64)  # of each end
        self._roles = np.zeros(0, np.uint8)
        self._ends: dict[int, dict[bytes, int]] = {role: {} for role in _ROLES}  # by role and client
        self._crowds: dict[bytes, dict[int, _Servers]] = {}  # by client: role -> server -> end
        self._gone: dict[int, dict[bytes, Attributes]] = {role: {} for role in _ROLES}

    def add(self, codes: NDArray[np.int32], keys: NDArray[np.uint64], roles: NDArray[np.uint8]) -> Met:
        """Add ends (n,), in the order in which they were seen; return whose peers have changed.

        keys: (n, 6), see `keys_of`. roles: (n,), client or server.

        The other end is one that sees the same server, or else the only one that may be meant of those that
        see the same client at another server address: a Service, a published port. Where there is none it may
        be one that is no more.
        """
        self._keep(codes, keys, roles)
        parts = _parts(codes, keys, roles)
        crowded = self._crowded(parts)
        if not crowded:
            return self._add_alone(parts)
        alone = np.array([client not in crowded for client in _cells(keys[:, :_CLIENT_WORDS])], bool)
        met = self._add_alone(_parts(codes[alone], keys[alone], roles[alone]))
        return _joined(met, self._add_crowded(codes[~alone].tolist()))

    def _keep(self, codes: NDArray[np.int32], keys: NDArray[np.uint64], roles: NDArray[np.uint8]) -> None:
        more = int(codes.max(initial=NO_END)) + 1 - len(self._roles)
        if more > 0:
            more = max(more, len(self._roles))
            self._keys = np.concatenate((self._keys, np.zeros((more, _WORDS), np.uint64)))
            self._roles = np.concatenate((self._roles, np.zeros(more, np.uint8)))
        self._keys[codes], self._roles[codes] = keys, roles

    def _crowded(self, parts: list[_Part]) -> set[bytes]:
        """Return the clients that have several ends of one role, the new ones among them."""
        clients: set[bytes] = set()
        for part in parts:
            ends = self._ends[part.role]
            if not ends.keys().isdisjoint(part.clients):
                clients |= ends.keys() & part.clients
            if len(set(part.clients)) < len(part.clients):
                clients.update(client for client, ends in Counter(part.clients).items() if ends > 1)
            if self._crowds:
                clients |= self._crowds.keys() & part.clients
        return clients

    def _add_alone(self, parts: list[_Part]) -> Met:
        new = np.zeros(len(self._roles), bool)
        for part in parts:
            self._renew(part.role, part.flows)
            self._ends[part.role].update(zip(part.clients, part.codes, strict=True))
            new[part.codes] = True
        return _joined(*(self._meet(part, new) for part in parts))

    def _renew(self, role: int, flows: list[bytes]) -> None:
        """Forget the connections before these, of the same ports."""
        gone = self._gone[role]
        if not gone.keys().isdisjoint(flows):
            for flow in gone.keys() & flows:
                del gone[flow]
                self._gone[_OTHER[role]].pop(flow, None)

    def _meet(self, part: _Part, new: NDArray[np.bool_]) -> Met:
        """Return whom new ends meet, and those met who were there before; new: (c,), by code."""
        theirs = self._ends[_OTHER[part.role]]
        mine = np.array(part.codes, np.int32)
        others = np.fromiter(map(theirs.get, part.clients, repeat(NO_END)), np.int32, len(mine))
        gone = _nothing(len(mine))
        if self._gone[_OTHER[part.role]]:
            for row in np.flatnonzero(others == NO_END).tolist():
                gone[row] = self._gone[_OTHER[part.role]].get(part.flows[row])
        there = (others != NO_END) & ~new[others]
        met = Met(mine, others, gone)
        if not there.any():
            return met
        return _joined(met, Met(others[there], mine[there], _nothing(int(there.sum()))))

    def _add_crowded(self, codes: list[int]) -> Met:
        met: dict[int, tuple[int, Attributes | None]] = {}
        for code in codes:
            role, flow = int(self._roles[code]), self._flow(code)
            client, server = flow[:_CLIENT_BYTES], flow[_CLIENT_BYTES:]
            crowd = self._crowds.get(client)
            if crowd is None:
                crowd = self._crowds[client] = self._gather(client)
            if server not in crowd[role]:
                self._renew(role, [flow])
            crowd[role][server] = code
            self._introduce(code, _other(crowd, role, server), met)
        return _met(met)

    def _introduce(self, code: int, other: int, met: dict[int, tuple[int, Attributes | None]]) -> None:
        if other == NO_END:
            met[code] = NO_END, self._gone_of(code)
        else:
            met[code], met[other] = (other, None), (code, None)

    def _gather(self, client: bytes) -> dict[int, _Servers]:
        """Take the single ends of a client to where there may be more."""
        crowd: dict[int, _Servers] = {role: {} for role in _ROLES}
        for role in _ROLES:
            code = self._ends[role].pop(client, None)
            if code is not None:
                crowd[role][self._server(code)] = code
        return crowd

    def _server(self, code: int) -> bytes:
        return self._flow(code)[_CLIENT_BYTES:]

    def _flow(self, code: int) -> bytes:
        flow: bytes = self._keys[code].tobytes()
        return flow

    def _gone_of(self, code: int) -> Attributes | None:
        return self._gone[_OTHER[int(self._roles[code])]].get(self._flow(code))

    def again(self, codes: list[int]) -> Met:
        """Return what ends were found to be the peers of some, and these of theirs.

        An end that another process uses now is nobody's peer.
        """
        met: dict[int, tuple[int, Attributes | None]] = {}
        for code in codes:
            role = int(self._roles[code])
            server = self._server(code)
            crowd = self._around(self._flow(code)[:_CLIENT_BYTES])
            other = _other(crowd, role, server)
            if crowd[role].get(server) == code:
                self._introduce(code, other, met)
            else:
                met[code] = (other, None) if other != NO_END else (NO_END, self._gone_of(code))
        return _met(met)

    def _around(self, client: bytes) -> dict[int, _Servers]:
        """Return the ends of a client."""
        crowd = self._crowds.get(client)
        if crowd is not None:
            return crowd
        singles = {role: ends.get(client) for role, ends in self._ends.items()}
        return {role: {} if code is None else {self._server(code): code} for role, code in singles.items()}

    def remove(self, codes: NDArray[np.int32], as_peers: NDArray[np.object_]) -> None:
        """Remove ends (n,); what they were is kept for a while, for the other sides' last records.

        as_peers: `Attributes` (n,), each end as the other side names it.
        """
        roles = self._roles[codes]
        for role in _ROLES:
            mine = roles == role
            if mine.any():
                self._remove(_part(role, codes[mine], self._keys[codes[mine]]), as_peers[mine].tolist())

    def _remove(self, part: _Part, as_peers: list[Attributes]) -> None:
        ends, gone = self._ends[part.role], self._gone[part.role]
        if list(map(ends.get, part.clients)) == part.codes:
            for client in part.clients:
                del ends[client]
            gone.update(zip(part.flows, as_peers, strict=True))
        else:
            for code, client, flow, as_peer in zip(
                part.codes, part.clients, part.flows, as_peers, strict=True
            ):
                if self._leave(part.role, client, flow[_CLIENT_BYTES:], code):
                    gone[flow] = as_peer
        # None was there before: `add` has taken it out. So the first are the oldest.
        for flow in list(islice(gone, max(len(gone) - _GONE_LIMIT, 0))):
            del gone[flow]

    def _leave(self, role: int, client: bytes, server: bytes, code: int) -> bool:
        """Remove an end; return whether it was one, not replaced by another process's."""
        crowd = self._crowds.get(client)
        if crowd is None:
            return self._ends[role].get(client) == code and self._ends[role].pop(client) == code
        if crowd[role].get(server) != code:
            return False
        del crowd[role][server]
        if not any(crowd.values()):
            del self._crowds[client]
        return True


def _other(crowd: dict[int, _Servers], role: int, server: bytes) -> int:
    """Return the end that is at the other side of one in this role, `NO_END` if it is not known."""
    mine, theirs = crowd[role], crowd[_OTHER[role]]
    other = theirs.get(server)
    if other is not None:
        return other
    single = [end for address, end in theirs.items() if address not in mine]
    return single[0] if len(single) == 1 else NO_END


def _parts(codes: NDArray[np.int32], keys: NDArray[np.uint64], roles: NDArray[np.uint8]) -> list[_Part]:
    """Return the parts of ends (n,) that have any."""
    mine = ((role, roles == role) for role in _ROLES)
    return [_part(role, codes[rows], keys[rows]) for role, rows in mine if rows.any()]


def _part(role: int, codes: NDArray[np.int32], keys: NDArray[np.uint64]) -> _Part:
    return _Part(role, codes.tolist(), _cells(keys), _cells(keys[:, :_CLIENT_WORDS]))


def _cells(words: NDArray[np.uint64]) -> list[bytes]:
    """Return the bytes of each row of words (n, w)."""
    cells: list[bytes] = np.ascontiguousarray(words).view(_CELLS[words.shape[1]])[:, 0].tolist()
    return cells


def _nothing(count: int) -> NDArray[np.object_]:
    return np.full(count, None, np.object_)


def _met(met: dict[int, tuple[int, Attributes | None]]) -> Met:
    codes, others = np.array([*met], np.int32), np.array([other for other, _ in met.values()], np.int32)
    return Met(codes, others, np.fromiter((gone for _, gone in met.values()), np.object_, len(met)))


def _joined(*mets: Met) -> Met:
    if len(mets) < 2:  # noqa: PLR2004  # nothing to join
        return mets[0] if mets else _met({})
    return Met(*map(np.concatenate, zip(*mets, strict=True)))
