"""One end of a connection as a process uses it: addresses, role and the process's names."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["Endpoint", "Ends", "Owner", "likenesses_of", "owners_of"]


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


class Ends(Sequence[Endpoint], ABC):
    """Endpoints, each made when it is looked at: with many new connections most never are."""

    @overload
    def __getitem__(self, index: int) -> Endpoint: ...
    @overload
    def __getitem__(self, index: slice) -> list[Endpoint]: ...
    def __getitem__(self, index: int | slice) -> Endpoint | list[Endpoint]:
        if isinstance(index, slice):
            return [self.endpoint(each) for each in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(index)
        return self.endpoint(index % len(self))

    @abstractmethod
    def endpoint(self, index: int) -> Endpoint:
        """Return an endpoint, the same object each time; index: from 0."""

    @abstractmethod
    def owners(self) -> tuple[list[Owner], NDArray[np.intp]]:
        """Return owners in the order in which they come, and which of them is that of each endpoint (n,).

        No endpoint is made for it.
        """

    @abstractmethod
    def likenesses(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return examples (m,) of what a filter may tell apart, and which of them each endpoint (n,) is like.

        No endpoint is made for it.
        """


def likenesses_of(endpoints: Sequence[Endpoint]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return examples (m,) of what a filter may tell apart, and which of them each endpoint (n,) is like."""
    if isinstance(endpoints, Ends):
        return endpoints.likenesses()
    each = np.arange(len(endpoints))
    return each, each


def owners_of(endpoints: Sequence[Endpoint]) -> tuple[list[Owner], NDArray[np.intp]]:
    """Return owners, and which of them is that of each endpoint (n,)."""
    if isinstance(endpoints, Ends):
        return endpoints.owners()
    owners = [
        Owner(end.service, end.role, end.transport, end.namespace, end.pod, end.container)
        for end in endpoints
    ]
    return owners, np.arange(len(owners))
