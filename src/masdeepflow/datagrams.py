"""What the kernel side is to be told about UDP: ports to follow datagram by datagram, and sockets not to."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from masdeepflow.schema import Role

if TYPE_CHECKING:
    from collections.abc import Iterable

__all__ = ["Datagrams"]

_PORTS = 16
_SOCKETS = 4096
_STRANGE = 64


class Datagrams:
    """Learns from what was recognised; `take` hands over what is new.

    ports: those to start with. port_limit: ports learnt at most, so that nobody can have all of a host's UDP
    written to the ring. patience: datagrams of a socket that may be nobody's.
    """

    def __init__(self, ports: Iterable[int], port_limit: int = _PORTS, patience: int = _STRANGE) -> None:
        self._ports = set(ports)
        self._limit = len(self._ports) + port_limit
        self._patience = patience
        self._strange: dict[int, int] = {}
        self._follow, self._leave = sorted(self._ports), list[int]()

    def recognised(self, turns: np.ndarray) -> None:
        """Learn the server's ports of UDP turns (n,) of a protocol that pairs datagrams by an id."""
        serves = turns["role"] == Role.SERVER
        ports = np.where(serves, turns["local_port"], turns["remote_port"])
        for port in np.unique(ports).tolist():
            if port and port not in self._ports and len(self._ports) < self._limit:
                self._ports.add(port)
                self._follow.append(port)

    def strange(self, datagrams: np.ndarray) -> None:
        """Count datagrams (n,) that are nobody's: a socket with too many of them is to have turns again."""
        cookies, counts = np.unique(datagrams["cookie"], return_counts=True)
        for cookie, count in zip(cookies.tolist(), counts.tolist(), strict=True):
            before = self._strange.pop(cookie, 0)
            self._strange[cookie] = before + count
            if before <= self._patience < before + count:
                self._leave.append(cookie)
        while len(self._strange) > _SOCKETS:
            del self._strange[next(iter(self._strange))]
        del self._leave[:-_SOCKETS]

    def take(self) -> tuple[list[int], list[int]]:
        """Return ports to follow and cookies of sockets to leave alone, each once."""
        taken = self._follow, self._leave
        self._follow, self._leave = [], []
        return taken
