"""Ends of connections as columns: with many new connections most are never looked at one by one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from masdeepflow.endpoint import Endpoint, Ends, Owner
from masdeepflow.enrich.addresses import text_of
from masdeepflow.schema import Role, Transport

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from masdeepflow.enrich.identity import Attributes, Identity

__all__ = [
    "FACTS",
    "End",
    "EndColumns",
    "Made",
    "Party",
    "SeenEnds",
    "made",
    "mixed",
    "owner_of",
    "server_ports",
]

FACTS = np.dtype(
    [
        ("cookie", np.uint64),
        ("peer_cookie", np.uint64),  # of a Unix socket's peer, 0 where unknown
        ("local", np.uint64, 2),  # canonical, see `addresses`
        ("remote", np.uint64, 2),
        ("opened_ns", np.int64),  # Unix time
        ("party", np.int64),  # its number
        ("pid", np.uint32),
        ("netns", np.uint32),
        ("local_port", np.uint16),
        ("remote_port", np.uint16),
        ("role", np.uint8),  # `Role`
        ("transport", np.uint8),  # `Transport`
        ("nowhere", np.bool_),  # whether nothing tells the remote side
    ],
    align=True,
)
"""What an end's first slot tells. Rows are to be had by `take`: an index copies them field by field."""
_WHOLE = np.dtype((np.void, FACTS.itemsize))
_ROLES: dict[int, str] = {Role.UNKNOWN: "", Role.CLIENT: "client", Role.SERVER: "server"}
_TRANSPORTS: dict[int, str] = {Transport.TCP: "tcp", Transport.UDP: "udp", Transport.UNIX: "unix"}
_CLIENT, _UNIX = int(Role.CLIENT), int(Transport.UNIX)
_PORTS = 1 << 16
_MIXERS = np.array([0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB], np.uint64)
_FOLD, _HALF = np.uint64(29), np.uint64(32)

_Side = tuple[str | None, int | None]
_NOWHERE: _Side = (None, None)


def owner_of(identity: Identity, role: int, transport: int) -> Owner:
    """Return what ends of this process have in common; role, transport: their numbers."""
    names = identity.namespace, identity.pod, identity.container
    return Owner(identity.service, _ROLES[role], _TRANSPORTS[transport], *names)


def server_ports(facts: np.ndarray) -> NDArray[np.uint16]:
    """Return the server's port (n,) of ends (n,), see `FACTS`; the local one where the role is unknown."""
    ports = np.where(facts["role"] == _CLIENT, facts["remote_port"], facts["local_port"])
    result: NDArray[np.uint16] = np.where(facts["transport"] == _UNIX, np.uint16(0), ports)
    return result


def mixed(words: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return a hash (n,) of words (n, w), w up to 3."""
    hashes = words[:, 0] * _MIXERS[0]
    for column, mixer in zip(words.T[1:], _MIXERS[1:], strict=False):
        hashes = (hashes ^ column ^ (hashes >> _FOLD)) * mixer
    result: NDArray[np.uint64] = hashes ^ (hashes >> _HALF)
    return result


@dataclass(frozen=True, slots=True, eq=False)
class Party:
    """What ends of one process in one role over one transport share. Compared by identity, or by number."""

    number: int
    comm: str
    identity: Identity
    owner: Owner
    role: int
    transport: int


class Made:
    """Where an endpoint is kept once it was made: shared by all that may be asked for the same one."""

    __slots__ = ("endpoint",)
    endpoint: Endpoint


def made(count: int) -> NDArray[np.object_]:
    """Return room for endpoints (count,)."""
    return np.fromiter((Made() for _ in range(count)), np.object_, count)


class End:
    """What an `Endpoint` is made of when somebody looks at it.

    facts: a row of `FACTS`. peer: what the other end is on this host, None if it is not known. remote: what
    its address tells. path: of a Unix server, None if it has none.
    """

    __slots__ = ("_facts", "_made", "_path", "_peer", "_remote", "party")

    def __init__(  # noqa: PLR0913, PLR0917  # the parts of an end, a column each
        self,
        facts: np.void,
        party: Party,
        peer: Attributes | None,
        remote: Attributes | None,
        path: str | None,
        room: Made,
    ) -> None:
        self._facts = facts
        self.party = party
        self._peer = peer
        self._remote = remote
        self._path = path
        self._made = room

    def endpoint(self) -> Endpoint:
        """Return the endpoint, the same object each time."""
        try:
            return self._made.endpoint
        except AttributeError:
            self._made.endpoint = self._make()
            return self._made.endpoint

    def _make(self) -> Endpoint:
        facts, party = self._facts, self.party
        identity, owner = party.identity, party.owner
        local, remote = self._sides()
        client, server = (local, remote) if owner.role == "client" else (remote, local)
        cookie = int(facts["cookie"])
        return Endpoint(
            cookie=cookie,
            pid=int(facts["pid"]),
            comm=party.comm,
            transport=owner.transport,
            role=owner.role,
            local=_shown(local, owner.transport, cookie),
            remote=_shown(remote, owner.transport, int(facts["peer_cookie"])),
            client_address=client[0],
            client_port=client[1],
            server_address=server[0],
            server_port=server[1],
            executable=identity.executable,
            command=identity.command,
            service=identity.service,
            pod=identity.pod,
            namespace=identity.namespace,
            container=identity.container,
            attributes=identity.attributes,
            peer=_peer(self._peer, self._remote),
        )

    def _sides(self) -> tuple[_Side, _Side]:
        facts = self._facts
        if facts["transport"] == _UNIX:
            server = (self._path, None)
            return (_NOWHERE, server) if facts["role"] == _CLIENT else (server, _NOWHERE)
        local = text_of(*facts["local"].tolist()), int(facts["local_port"])
        if facts["nowhere"]:
            return local, _NOWHERE
        return local, (text_of(*facts["remote"].tolist()), int(facts["remote_port"]))


def _shown(side: _Side, transport: str, cookie: int) -> str:
    address, port = side
    if address is None:
        return "*:*" if transport == "udp" else f"unix:{cookie or '*'}"
    if port is None:
        return address
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


def _peer(local: Attributes | None, remote: Attributes | None) -> Attributes:
    if not local or not remote:
        return local or remote or ()
    return tuple({**dict(remote), **dict(local)}.items())


class SeenEnds(Ends):
    """Ends (n,) as they were known at one time, whatever becomes of them."""

    def __init__(  # noqa: PLR0913, PLR0917  # a column each
        self,
        facts: np.ndarray,
        parties: NDArray[np.object_],
        peers: NDArray[np.object_],
        remotes: NDArray[np.object_],
        paths: NDArray[np.object_],
        rooms: NDArray[np.object_],
    ) -> None:
        self._facts = facts
        self._parties = parties
        self._peers = peers
        self._remotes = remotes
        self._paths = paths
        self._rooms = rooms

    def __len__(self) -> int:
        return len(self._facts)

    def end(self, index: int) -> End:
        """Return one of them."""
        columns = self._parties, self._peers, self._remotes, self._paths, self._rooms
        return End(self._facts[index], *(column[index] for column in columns))

    def endpoint(self, index: int) -> Endpoint:
        """Return an endpoint, the same object each time; index: from 0."""
        # Most were made for an earlier batch: then its parts need not be looked up.
        made: Endpoint | None = getattr(self._rooms[index], "endpoint", None)
        return made or self.end(index).endpoint()

    def owners(self) -> tuple[list[Owner], NDArray[np.intp]]:
        """Return owners in the order in which they come, and which of them is that of each endpoint (n,)."""
        _, first, numbers = np.unique(self._facts["party"], return_index=True, return_inverse=True)
        order = np.argsort(first)
        places = np.empty(len(order), np.intp)
        places[order] = np.arange(len(order))
        return [party.owner for party in self._parties[first[order]].tolist()], places[numbers]

    def services(self) -> list[tuple[int, int, int]]:
        """Return PID, server's port and role of each, by which the kernel counts."""
        columns = self._facts["pid"], server_ports(self._facts), self._facts["role"]
        return list(zip(*(column.tolist() for column in columns), strict=True))

    def likenesses(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return examples (m,) of owner and server's port, and which of them each endpoint (n,) is like."""
        alike = self._facts["party"] * _PORTS + server_ports(self._facts)
        _, examples, like = np.unique(alike, return_index=True, return_inverse=True)
        return examples, like


class EndColumns:
    """A row for each end, by its code. Ends come and go, and codes with them.

    facts: `FACTS`. as_peer: what the other end's records call it. made: where its endpoint is kept. The
    others as in `End`.
    """

    facts: np.ndarray
    party: NDArray[np.object_]
    as_peer: NDArray[np.object_]
    peer: NDArray[np.object_]
    remote: NDArray[np.object_]
    path: NDArray[np.object_]
    made: NDArray[np.object_]
    _OBJECTS = ("party", "as_peer", "peer", "remote", "path", "made")

    def __init__(self) -> None:
        self.facts = np.zeros(0, FACTS)
        for name in self._OBJECTS:
            setattr(self, name, np.zeros(0, np.object_))
        self._used = 0  # rows so far, those behind were never
        self._free: list[int] = []

    def __len__(self) -> int:
        """Number of rows, those that are free among them."""
        return len(self.facts)

    def new(self, facts: np.ndarray, parties: list[Party], whose: NDArray[np.intp]) -> NDArray[np.int32]:
        """Put new ends into the table; return the code (n,) of each.

        facts: (n,). whose: (n,), which of the parties each is of.
        """
        kept = max(len(self._free) - len(facts), 0)
        reused = self._free[kept:]
        del self._free[kept:]
        more = len(facts) - len(reused)
        codes = np.array([*reused, *range(self._used, self._used + more)], np.int32)
        self._used += more
        if self._used > len(self):
            self._grow(self._used - len(self))
        self.facts.view(_WHOLE)[codes] = facts.view(_WHOLE)  # field by field it takes ten times as long
        self.name(codes, parties, whose)
        return codes

    def name(self, codes: NDArray[np.int32], parties: list[Party], whose: NDArray[np.intp]) -> None:
        """Say which of the parties ends `codes` (n,) are of; whose: (n,)."""
        self.facts["party"][codes] = np.array([party.number for party in parties], np.int64)[whose]
        self.party[codes] = np.fromiter(parties, np.object_, len(parties))[whose]
        as_peers = (party.identity.peer for party in parties)
        self.as_peer[codes] = np.fromiter(as_peers, np.object_, len(parties))[whose]
        self.made[codes] = made(len(codes))

    def drop(self, codes: NDArray[np.int32]) -> None:
        """Let rows `codes` (n,) be used again."""
        for name in self._OBJECTS:
            getattr(self, name)[codes] = None
        self._free += codes.tolist()

    def take(self, codes: NDArray[np.integer]) -> SeenEnds:
        """Return the ends `codes` (n,) as they are now."""
        columns = self.party, self.peer, self.remote, self.path, self.made
        return SeenEnds(self.facts.take(codes), *(column.take(codes) for column in columns))

    def _grow(self, more: int) -> None:
        more = max(more, len(self))
        self.facts = np.concatenate((self.facts, np.zeros(more, FACTS)))
        for name in self._OBJECTS:
            setattr(self, name, np.concatenate((getattr(self, name), np.full(more, None, np.object_))))
