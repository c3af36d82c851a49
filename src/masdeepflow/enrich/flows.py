"""Which two ends on this host are those of one connection."""

from __future__ import annotations

import ipaddress
from collections import OrderedDict
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from masdeepflow.enrich.identity import Attributes

__all__ = ["Flow", "Flows"]

_GONE_LIMIT = 2048  # of each role
_OTHER = {"client": "server", "server": "client"}


_ClientSide = tuple[str, str, int, int]
_ServerSide = tuple[str, int]


class Flow(NamedTuple):
    """One end's view of a connection.

    client: transport, address, port, and the end's network namespace if its addresses mean something there
    only, else 0. server: address and port.
    """

    role: str
    client: _ClientSide
    server: _ServerSide

    @classmethod
    def of(  # noqa: PLR0913, PLR0917  # the parts of a flow
        cls,
        role: str,
        transport: str,
        client: str,
        client_port: int,
        server: str,
        server_port: int,
        netns: int,
    ) -> Flow:
        """Return the flow of an end in network namespace `netns`."""
        own = netns if is_loopback(server) or is_loopback(client) else 0
        # As `cls(...)`, at half the cost: there is one for each end of each connection.
        return tuple.__new__(cls, (role, (transport, client, client_port, own), (server, server_port)))


@lru_cache(maxsize=4096)
def is_loopback(address: str) -> bool:
    """Return whether an address is one of the network namespace's own."""
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


class Flows:
    """Ends by their flows. An end is a number that its owner chose."""

    def __init__(self) -> None:
        # By role, client and server: a client's port is nearly always used for one server.
        self._ends: dict[str, dict[_ClientSide, dict[_ServerSide, int]]] = {role: {} for role in _OTHER}
        self._gone: dict[str, OrderedDict[_Key, Attributes]] = {role: OrderedDict() for role in _OTHER}

    def add(self, flow: Flow, end: int) -> int | None:
        """Add an end; return the one at the other side, None if it is not known."""
        role, client, server = flow
        servers = self._ends[role].setdefault(client, {})
        if server not in servers:
            key = client, server
            if self._gone[role].pop(key, None) is not None:  # of a connection before this one
                self._gone[_OTHER[role]].pop(key, None)
        servers[server] = end
        return self.other(flow)

    def other(self, flow: Flow) -> int | None:
        """Return the end at the other side, None if it is not known.

        That is one that sees the same server, or else the only one that may be meant of those that see the
        same client at another server address: a Service, a published port.
        """
        role, client, server = flow
        theirs = self._ends[_OTHER[role]].get(client)
        if theirs is None:
            return None
        other = theirs.get(server)
        if other is not None:
            return other
        mine = self._ends[role].get(client, ())
        single = [end for address, end in theirs.items() if address not in mine]
        return single[0] if len(single) == 1 else None

    def end(self, flow: Flow) -> int | None:
        """Return the end that was added last, as far as it was not removed."""
        servers = self._ends[flow.role].get(flow.client)
        return None if servers is None else servers.get(flow.server)

    def remove(self, flow: Flow, end: int, as_peer: Attributes) -> None:
        """Remove an end; what it was is kept for a while, for the other side's last records.

        as_peer: the end as the other side names it.
        """
        role, client, server = flow
        servers = self._ends[role].get(client)
        if servers is None or servers.get(server) != end:
            return
        del servers[server]
        if not servers:
            del self._ends[role][client]
        gone = self._gone[role]
        # Not in `gone`: `add` has taken it out.
        if len(gone) >= _GONE_LIMIT:
            gone.popitem(last=False)
        gone[client, server] = as_peer

    def gone(self, flow: Flow) -> Attributes:
        """Return what the other side of a flow was that is no more."""
        return self._gone[_OTHER[flow.role]].get((flow.client, flow.server), ())


_Key = tuple[_ClientSide, _ServerSide]
