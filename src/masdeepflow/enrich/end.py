"""One end as it was first seen: small, because with many new connections most are never looked at."""

from __future__ import annotations

from typing import TYPE_CHECKING

from masdeepflow.endpoint import Endpoint, Owner
from masdeepflow.schema import Role

if TYPE_CHECKING:
    from masdeepflow.enrich.flows import Flow
    from masdeepflow.enrich.identity import Attributes, Identity

__all__ = ["NOWHERE", "End", "Side", "owner_of"]

Side = tuple[str | None, int | None]
"""Address and port; a Unix path and None."""
NOWHERE: Side = (None, None)
"""The side of a Unix connection that has no name."""
_ROLE_NUMBERS = {"client": int(Role.CLIENT), "server": int(Role.SERVER)}


def owner_of(identity: Identity, role: str, transport: str) -> Owner:
    """Return what ends of this process have in common."""
    return Owner(identity.service, role, transport, identity.namespace, identity.pod, identity.container)


class End:
    """What an `Endpoint` is made of when somebody looks at it.

    flow: None where the other end can't be found by addresses. cookies: of a Unix socket and of its peer, 0
    where unknown. batch: in which it was first seen. peer: as in `Endpoint`; once the end was handed out,
    another peer or identity needs another object (`again`). subjects: what facts about it are about.
    service_key: PID, server port and role number, by which the kernel counts.
    """

    __slots__ = (
        "_made",
        "batch",
        "comm",
        "cookie",
        "cookies",
        "flow",
        "identity",
        "local",
        "opened_ns",
        "owner",
        "peer",
        "pid",
        "remote",
        "role",
        "service_key",
        "subjects",
        "transport",
    )

    def __init__(  # noqa: PLR0913, PLR0917  # the parts of an end; names would double what it costs
        self,
        cookie: int,
        pid: int,
        comm: str,
        transport: str,
        role: str,
        local: Side,
        remote: Side,
        flow: Flow | None,
        cookies: tuple[int, int],
        opened_ns: int,
        batch: int,
        identity: Identity,
        owner: Owner,
        peer: Attributes = (),
    ) -> None:
        self.cookie = cookie
        self.pid = pid
        self.comm = comm
        self.transport = transport
        self.role = role
        self.local = local
        self.remote = remote
        self.flow = flow
        self.cookies = cookies
        self.opened_ns = opened_ns
        self.batch = batch
        self.identity = identity
        self.owner = owner
        self.peer = peer
        server = remote if role == "client" else local
        self.service_key = pid, server[1] or 0, _ROLE_NUMBERS.get(role, 0)
        remote_address = remote[0]
        of_remote = () if flow is None or remote_address is None else (remote_address,)
        self.subjects: tuple[str, ...] = (*identity.subjects, *of_remote)
        self._made: Endpoint | None = None

    @property
    def server(self) -> Side:
        """The server's side."""
        return self.remote if self.role == "client" else self.local

    def likeness(self) -> tuple[Owner, int, str, int | None]:
        """Return what is equal for ends that no filter tells apart."""
        return self.owner, self.pid, self.comm, self.server[1]

    def again(
        self, identity: Identity | None = None, owner: Owner | None = None, peer: Attributes | None = None
    ) -> End:
        """Return the same end, of which more is known."""
        return End(
            self.cookie,
            self.pid,
            self.comm,
            self.transport,
            self.role,
            self.local,
            self.remote,
            self.flow,
            self.cookies,
            self.opened_ns,
            self.batch,
            identity or self.identity,
            owner or self.owner,
            self.peer if peer is None else peer,
        )

    def endpoint(self) -> Endpoint:
        """Return the endpoint, the same object each time."""
        if self._made is None:
            self._made = self._make()
        return self._made

    def _make(self) -> Endpoint:
        identity = self.identity
        client, server = (self.local, self.remote) if self.role == "client" else (self.remote, self.local)
        return Endpoint(
            cookie=self.cookie,
            pid=self.pid,
            comm=self.comm,
            transport=self.transport,
            role=self.role,
            local=self._shown(self.local, self.cookie),
            remote=self._shown(self.remote, self.cookies[1]),
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
            peer=self.peer,
        )

    def _shown(self, side: Side, cookie: int) -> str:
        address, port = side
        if address is None:
            return "*:*" if self.transport == "udp" else f"unix:{cookie or '*'}"
        if port is None:
            return address
        return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
