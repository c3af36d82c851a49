"""One end of a connection as a process uses it: addresses, role and the process's names."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Protocol, overload

__all__ = ["Endpoint", "Ends", "Owner", "Seen", "likenesses_of", "owners_of"]


@dataclass(frozen=True, slots=True, eq=False)
class Endpoint:
    """What stays the same over the transactions of one process on one connection.

    Compared by identity and hashable, so sinks may cache what they render of it (weakly or bounded).

    transport: `tcp`, `udp` or `unix`. role: `client`, `server` or `` where unknown.
    local, remote: the text log's form, `127.0.0.1:80`, `[::1]:80`, or a Unix path.
    client_address, server_address: address without port; None where unknown.
    client_port, server_port: None for Unix.
    comm: the process's short name. executable: base name of its executable, None where unknown.
    command: its argv[0], None where unknown. service: the name that golden signals go under.
    pod, namespace, container: names, empty where unknown.
    attributes: what else is known of the process, its container and its pod: OpenTelemetry name -> value.
    peer: what is known of the other end, under names that start with `peer.`.
    """

    cookie: int
    pid: int
    comm: str
    transport: str
    role: str
    local: str
    remote: str
    client_address: str | None
    client_port: int | None
    server_address: str | None
    server_port: int | None
    executable: str | None
    command: str | None
    service: str
    pod: str = ""
    namespace: str = ""
    container: str = ""
    attributes: tuple[tuple[str, str | int], ...] = ()
    peer: tuple[tuple[str, str | int], ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Owner:
    """What all endpoints have in common that a process has in one role over one transport.

    Compared by identity: one object stands for many endpoints, though there may be equal ones.
    """

    service: str
    role: str
    transport: str
    namespace: str = ""
    pod: str = ""
    container: str = ""


class Seen(Protocol):
    """An end that was seen; what there is to tell of it is put together only for whoever asks."""

    owner: Owner
    """Shared by many."""

    def likeness(self) -> Hashable:
        """Return what is equal for ends that no filter tells apart."""

    def endpoint(self) -> Endpoint:
        """Return the endpoint, the same object each time."""


class Ends(Sequence[Endpoint]):
    """Endpoints, each made when it is looked at: with many new connections most never are."""

    def __init__(self, seen: list[Seen]) -> None:
        self._seen = seen

    @overload
    def __getitem__(self, index: int) -> Endpoint: ...
    @overload
    def __getitem__(self, index: slice) -> list[Endpoint]: ...
    def __getitem__(self, index: int | slice) -> Endpoint | list[Endpoint]:
        if isinstance(index, slice):
            return [seen.endpoint() for seen in self._seen[index]]
        return self._seen[index].endpoint()

    def __len__(self) -> int:
        return len(self._seen)

    def owners(self) -> list[Owner]:
        """Return the owner of each, without making any."""
        return [seen.owner for seen in self._seen]

    def likenesses(self) -> list[Hashable]:
        """Return what is equal for those that no filter tells apart, without making any."""
        return [seen.likeness() for seen in self._seen]


def likenesses_of(endpoints: Sequence[Endpoint]) -> list[Hashable]:
    """Return for each endpoint what is equal for those that no filter tells apart."""
    return endpoints.likenesses() if isinstance(endpoints, Ends) else list(endpoints)


def owners_of(endpoints: Sequence[Endpoint]) -> list[Owner]:
    """Return the owner of each endpoint."""
    if isinstance(endpoints, Ends):
        return endpoints.owners()
    return [
        Owner(end.service, end.role, end.transport, end.namespace, end.pod, end.container)
        for end in endpoints
    ]
