"""Who is at the other end of each connection: a process on this host, or whoever has the address."""

from __future__ import annotations

from itertools import compress
from typing import TYPE_CHECKING

import numpy as np

from masdeepflow.enrich.addresses import text_of
from masdeepflow.enrich.end import made
from masdeepflow.enrich.flows import NO_END, Flows, Met, keys_of
from masdeepflow.schema import Role, Transport

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from masdeepflow.enrich.directory import Directory
    from masdeepflow.enrich.end import EndColumns

__all__ = ["Peers", "have_flow"]

_UNKNOWN_ROLE, _UNIX = int(Role.UNKNOWN), int(Transport.UNIX)
_TRANSPORTS: dict[int, str] = {Transport.TCP: "tcp", Transport.UDP: "udp"}


def have_flow(facts: np.ndarray) -> NDArray[np.bool_]:
    """Return which ends (n,) can be found by addresses, see `end.FACTS`."""
    flows: NDArray[np.bool_] = (facts["role"] != _UNKNOWN_ROLE) & ~facts["nowhere"]
    return flows


class Peers:
    """Names both ends of connections on this host after each other, ends elsewhere by their addresses."""

    def __init__(self, ends: EndColumns, directory: Directory) -> None:
        self._ends = ends
        self._directory = directory
        self._flows = Flows()
        self._by_socket: dict[int, int] = {}

    def meet(self, codes: NDArray[np.int32]) -> bool:
        """Make new ends (n,) and those that they meet each other's peers.

        Two ends on this host are told by flow, those of a Unix connection by their cookies. Return whether an
        end that is not new has another peer than before.
        """
        facts = self._ends.facts.take(codes)
        new = np.zeros(len(self._ends), bool)
        new[codes] = True
        flows = have_flow(facts)
        some = facts.take(np.flatnonzero(flows))
        changed = self._set(self._flows.add(codes[flows], keys_of(some), some["role"]), new)
        unix = facts["transport"] == _UNIX
        return (
            bool(
                unix.any()
                and self._set(self._meet_by_cookie(codes[unix], facts.take(np.flatnonzero(unix))), new)
            )
            or changed
        )

    def _meet_by_cookie(self, codes: NDArray[np.int32], facts: np.ndarray) -> Met:
        """Return which Unix sockets (n,) are each other's peers."""
        met: dict[int, int] = {}
        for code, own, peer in zip(
            codes.tolist(), facts["cookie"].tolist(), facts["peer_cookie"].tolist(), strict=True
        ):
            if own:
                self._by_socket[own] = code
                self._introduce(code, own, peer, met)
        return _met(met)

    def _introduce(self, code: int, own: int, peer: int, met: dict[int, int]) -> None:
        other = self._by_socket.get(peer)
        if other is not None:
            # Of two ends of a Unix connection, only the one that comes second knows the first.
            self._ends.facts["peer_cookie"][other] = own
            met[code], met[other] = other, code

    def again(self, codes: list[int]) -> bool:
        """Have ends meet again of which more is known; return whether one has another peer than before.

        Where another process uses the same socket now, that one is the other's peer.
        """
        facts = self._ends.facts
        met: dict[int, int] = {}
        for code in codes:
            own = int(facts["cookie"][code])
            if facts["transport"][code] == _UNIX and self._by_socket.get(own) == code:
                self._introduce(code, own, int(facts["peer_cookie"][code]), met)
        new = np.zeros(len(facts), bool)
        flows = have_flow(facts.take(codes)).tolist()
        changed = self._set(self._flows.again(list(compress(codes, flows))), new)
        return self._set(_met(met), new) or changed

    def leave(self, codes: NDArray[np.int32]) -> None:
        """Forget ends (n,); what they were is kept for a while, for the other sides' last records."""
        facts = self._ends.facts.take(codes)
        flows = codes[have_flow(facts)]
        self._flows.remove(flows, self._ends.as_peer[flows])
        unix = facts["transport"] == _UNIX
        if unix.any():
            for code, own in zip(codes[unix].tolist(), facts["cookie"][unix].tolist(), strict=True):
                if self._by_socket.get(own) == code:
                    del self._by_socket[own]

    def _set(self, met: Met, new: NDArray[np.bool_]) -> bool:
        """Name the peer of each end; those that are not new become others if that changes anything."""
        codes, ends = met.codes, self._ends
        peers = met.gone
        there = met.others != NO_END
        peers[there] = ends.as_peer[met.others[there]]
        remotes = self._remotes(codes)
        others = [
            code
            for row in np.flatnonzero(~new[codes]).tolist()
            if (ends.peer[code := codes[row]], ends.remote[code]) != (peers[row], remotes[row])
        ]
        ends.peer[codes], ends.remote[codes] = peers, remotes
        ends.made[others] = made(len(others))
        return bool(others)

    def _remotes(self, codes: NDArray[np.int32]) -> NDArray[np.object_]:
        """Return what the addresses of the other ends tell of them: `Attributes` (n,) or None."""
        remotes = np.full(len(codes), None, np.object_)
        if not self._directory.knows_addresses or not len(codes):
            return remotes
        facts = self._ends.facts.take(codes)
        rows = np.flatnonzero(have_flow(facts))
        some = facts.take(rows)
        columns = (some[name].tolist() for name in ("remote", "remote_port", "transport", "opened_ns"))
        for row, (words, port, transport, opened_ns) in zip(
            rows.tolist(), zip(*columns, strict=True), strict=True
        ):
            told = self._directory.remote(text_of(*words), port, _TRANSPORTS[transport], opened_ns)
            remotes[row] = told or None
        return remotes


def _met(met: dict[int, int]) -> Met:
    codes, others = np.array([*met], np.int32), np.array([*met.values()], np.int32)
    return Met(codes, others, np.full(len(met), None, np.object_))
