"""Which two ends on this host are those of one connection."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from masdeepflow.enrich.identity import Attributes

__all__ = ["Flow", "Flows"]

_GONE_LIMIT = 4096
_OTHER = {"client": "server", "server": "client"}


class Flow(NamedTuple):
    """One end's view of a connection. netns: the end's, if its addresses mean something there only, or 0."""

    role: str
    transport: str
    client: str
    client_port: int
    server: str
    server_port: int
    netns: int

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
        return cls(role, transport, client, client_port, server, server_port, own)


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
        self._ends: dict[Flow, int] = {}
        self._by_client: dict[tuple[str, str, str, int, int], list[Flow]] = {}
        self._gone: dict[Flow, Attributes] = {}

    def add(self, flow: Flow, end: int) -> int | None:
        """Add an end; return the one at the other side, None if it is not known."""
        if flow not in self._ends:
            self._by_client.setdefault(_client_side(flow, flow.role), []).append(flow)
        self._ends[flow] = end
        other = self._ends.get(flow._replace(role=_OTHER[flow.role]))
        return other if other is not None else self._translated(flow)

    def _translated(self, flow: Flow) -> int | None:
        """Return the end that sees the same client at another server address: a Service, a published port."""
        candidates = self._by_client.get(_client_side(flow, _OTHER[flow.role]), ())
        single = [other for other in candidates if other._replace(role=flow.role) not in self._ends]
        return self._ends[single[0]] if len(single) == 1 else None

    def remove(self, flow: Flow, end: int, as_peer: Attributes) -> None:
        """Remove an end; what it was is kept for a while, for the other side's last records.

        as_peer: the end as the other side names it.
        """
        if self._ends.get(flow) != end:
            return
        del self._ends[flow]
        side = _client_side(flow, flow.role)
        others = self._by_client[side]
        others.remove(flow)
        if not others:
            del self._by_client[side]
        self._gone.pop(flow, None)
        if len(self._gone) >= _GONE_LIMIT:
            del self._gone[next(iter(self._gone))]
        self._gone[flow] = as_peer

    def gone(self, flow: Flow) -> Attributes:
        """Return what the other side of a flow was that is no more."""
        return self._gone.get(flow._replace(role=_OTHER[flow.role]), ())


def _client_side(flow: Flow, role: str) -> tuple[str, str, str, int, int]:
    return (role, flow.transport, flow.client, flow.client_port, flow.netns)
