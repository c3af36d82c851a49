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
        # As `cls(...)`, at half the cost: there is one for each end of each connection.
        return tuple.__new__(cls, (role, transport, client, client_port, server, server_port, own))


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
        # By role, then by all else: what the other side of a flow is needs no flow of its own to be found.
        self._ends: dict[str, dict[_Key, int]] = {role: {} for role in _OTHER}
        self._by_client: dict[str, dict[_Client, list[_Key]]] = {role: {} for role in _OTHER}
        self._gone: dict[str, OrderedDict[_Key, Attributes]] = {role: OrderedDict() for role in _OTHER}

    def add(self, flow: Flow, end: int) -> int | None:
        """Add an end; return the one at the other side, None if it is not known."""
        role, key = flow[0], flow[1:]
        ends = self._ends[role]
        if key not in ends:
            if self._gone[role].pop(key, None) is not None:  # of a connection before this one
                self._gone[_OTHER[role]].pop(key, None)
            self._by_client[role].setdefault(_client_side(key), []).append(key)
        ends[key] = end
        return self.other(flow)

    def other(self, flow: Flow) -> int | None:
        """Return the end at the other side, None if it is not known."""
        role, key = flow[0], flow[1:]
        other = self._ends[_OTHER[role]].get(key)
        return other if other is not None else self._translated(role, key)

    def end(self, flow: Flow) -> int | None:
        """Return the end that was added last, as far as it was not removed."""
        return self._ends[flow[0]].get(flow[1:])

    def _translated(self, role: str, key: _Key) -> int | None:
        """Return the end that sees the same client at another server address: a Service, a published port."""
        candidates = self._by_client[_OTHER[role]].get(_client_side(key), ())
        single = [other for other in candidates if other not in self._ends[role]]
        return self._ends[_OTHER[role]][single[0]] if len(single) == 1 else None

    def remove(self, flow: Flow, end: int, as_peer: Attributes) -> None:
        """Remove an end; what it was is kept for a while, for the other side's last records.

        as_peer: the end as the other side names it.
        """
        role, key = flow[0], flow[1:]
        if self._ends[role].get(key) != end:
            return
        del self._ends[role][key]
        side = _client_side(key)
        others = self._by_client[role][side]
        others.remove(key)
        if not others:
            del self._by_client[role][side]
        gone = self._gone[role]
        gone.pop(key, None)
        if len(gone) >= _GONE_LIMIT:
            gone.popitem(last=False)
        gone[key] = as_peer

    def gone(self, flow: Flow) -> Attributes:
        """Return what the other side of a flow was that is no more."""
        return self._gone[_OTHER[flow[0]]].get(flow[1:], ())


_Key = tuple[str, str, int, str, int, int]
"""A flow but for its role."""
_Client = tuple[str, str, int, int]


def _client_side(key: _Key) -> _Client:
    return (key[0], key[1], key[2], key[5])
