"""What slots tell of the ends that are seen in them first: as columns, each process looked up once."""

from __future__ import annotations

import socket
import sys
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from masdeepflow.batch import word_of, words
from masdeepflow.enrich.addresses import canonical
from masdeepflow.enrich.end import FACTS, Party, mixed, owner_of
from masdeepflow.schema import Kind, Role, Transport

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from masdeepflow.enrich.directory import Directory
    from masdeepflow.enrich.identity import Identity

__all__ = ["FirstSeen", "Parties", "UnixPaths"]

_PARTIES_LIMIT = 1024
_AF_INET6 = int(socket.AF_INET6)
_TCP, _UDP, _UNIX = (int(each) for each in (Transport.TCP, Transport.UDP, Transport.UNIX))
_CLIENT, _SERVER = int(Role.CLIENT), int(Role.SERVER)
_OPENING = (int(Kind.CONNECT), int(Kind.ACCEPT))
_ROLES, _KINDS = 4, 16  # room for the numbers of roles, and of roles and transports


class Parties:
    """The parties of processes, each made once as long as it is remembered."""

    def __init__(self) -> None:
        self._known: dict[tuple[tuple[Identity, str], int, int], Party] = {}
        self._numbers = count()

    def again(self, party: Party, identity: Identity) -> Party:
        """Return the party that is now known to be of another identity."""
        return self.of((identity, party.comm), party.role, party.transport)

    def of(self, named: tuple[Identity, str], role: int, transport: int) -> Party:
        """Return what ends of a process have in common.

        named: who it is, and its short name. role, transport: their numbers.
        """
        key = (named, role, transport)
        party = self._known.get(key)
        if party is None:
            if len(self._known) >= _PARTIES_LIMIT:
                self._known.clear()
            identity, comm = named
            owner = owner_of(identity, role, transport)
            party = self._known[key] = Party(next(self._numbers), comm, identity, owner, role, transport)
        return party


class UnixPaths:
    """Paths of Unix connections by socket cookie: only the opening tells them."""

    def __init__(self) -> None:
        self._paths: dict[int, str] = {}

    def __len__(self) -> int:
        return len(self._paths)

    def of(self, slot: np.void) -> str | None:
        """Return the path of a slot's connection, None where it has none."""
        cookie, length = int(slot["cookie"]), int(slot["request_length"])
        if int(slot["kind"]) in _OPENING and length:
            raw = slot["request"].tobytes()[:length]
            # An abstract name starts with a NUL, which ss(8) and others show as @.
            self._paths[cookie] = _decoded(raw.rstrip(b"\0")) if raw[0] else "@" + _decoded(raw[1:])
        return self._paths.get(cookie)

    def forget(self, cookies: list[int]) -> None:
        """Drop what is known of closed sockets."""
        if self._paths:
            for cookie in cookies:
                self._paths.pop(cookie, None)


class FirstSeen:
    """Slots (n,) of as many ends, in the order of the ring, with the columns that are made of them.

    facts: `FACTS` (n,), the party still missing. positions: intp (n,), the slots' places in their batch.
    """

    def __init__(self, slots: np.ndarray, positions: NDArray[np.intp], offset_ns: int) -> None:
        self.positions = positions
        self._slots = slots
        self._comms = _words(slots, positions, "comm")
        self.facts = self._facts(offset_ns)

    def _facts(self, offset_ns: int) -> np.ndarray:
        slots, positions = self._slots, self.positions
        facts = np.zeros(len(positions), FACTS)
        for name in ("cookie", "pid", "netns", "local_port", "remote_port"):
            facts[name] = slots[name][positions]
        role, transport = slots["role"][positions], slots["transport"][positions]
        facts["role"] = np.where(role <= _SERVER, role, 0)
        facts["transport"] = np.where((transport == _UDP) | (transport == _UNIX), transport, _TCP)
        opened = slots["request_first_ns"][positions].astype(np.int64)
        answered = slots["response_first_ns"][positions].astype(np.int64)
        facts["opened_ns"] = np.where(opened > 0, opened, answered) + offset_ns
        ipv6 = slots["family"][positions] == _AF_INET6
        local, remote = (_words(slots, positions, f"{side}_address") for side in ("local", "remote"))
        facts["local"], facts["remote"] = canonical(local, ipv6), canonical(remote, ipv6)
        unix = facts["transport"] == _UNIX
        facts["peer_cookie"] = np.where(unix, remote[:, 0], 0)
        # No call tells who sent a datagram to a socket that is not connected.
        facts["nowhere"] = unix | ((facts["remote_port"] == 0) & ~remote.any(axis=1))
        return facts

    def parties(self, directory: Directory, parties: Parties) -> tuple[list[Party], NDArray[np.intp]]:
        """Return whose ends these are: parties, and which of them each end (n,) is of."""
        examples, who = self._processes()
        settled = directory.processes.is_settled
        changing = [not settled(pid) for pid in self.facts["pid"][examples].tolist()]
        if any(changing):
            # What such a process is depends on the place in the batch: each of its ends is a question.
            single = np.array(changing)[who]
            who = np.where(single, len(examples) + np.arange(len(who)), who)
            examples, who = _numbered(who)
        names = self._named(directory, examples)
        kinds = who * _KINDS + self.facts["role"] * np.intp(_ROLES) + self.facts["transport"]
        firsts, whose = _numbered(kinds)
        numbers = who[firsts].tolist()
        roles, transports = (self.facts[name][firsts].tolist() for name in ("role", "transport"))
        found = [
            parties.of(names[number], role, transport)
            for number, role, transport in zip(numbers, roles, transports, strict=True)
        ]
        return found, whose

    def _processes(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return an end (m,) of each process by its name, in order, and which of them each end (n,) is of."""
        names = np.column_stack((self.facts["pid"].astype(np.uint64), self._comms))
        examples, who = _numbered(mixed(names))
        if not (names[examples][who] == names).all():  # of a name that was made for this hash
            return np.arange(len(names)), np.arange(len(names))
        return examples, who

    def _named(self, directory: Directory, examples: NDArray[np.intp]) -> list[tuple[Identity, str]]:
        positions = self.positions[examples]
        pids, comms = self.facts["pid"][examples].tolist(), self._slots["comm"][positions].tolist()
        named = []
        for pid, raw, position in zip(pids, comms, positions.tolist(), strict=True):
            comm = sys.intern(_decoded(raw))
            named.append((directory.identity(pid, comm, position), comm))
        return named

    def paths(self, known: UnixPaths) -> list[tuple[int, str]]:
        """Return the paths of Unix connections, each with which of the ends has it."""
        rows = np.flatnonzero(self.facts["transport"] == _UNIX)
        found = (
            (row, known.of(slot))
            for row, slot in zip(rows.tolist(), self._slots[self.positions[rows]], strict=True)
        )
        return [(row, path) for row, path in found if path is not None]


def _numbered(values: NDArray[np.generic]) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
    """Return an example (m,) of each distinct value, in order, and which of them each value (n,) is."""
    _, firsts, numbers = np.unique(values, return_index=True, return_inverse=True)
    order = np.argsort(firsts)
    places = np.empty(len(order), np.intp)
    places[order] = np.arange(len(order))
    return firsts[order], places[numbers]


def _words(slots: np.ndarray, positions: NDArray[np.intp], name: str) -> NDArray[np.uint64]:
    """Return the two words (m, 2) of a 16-byte field of some slots."""
    first = word_of(slots, name)
    found: NDArray[np.uint64] = words(slots)[positions, first : first + 2].view(np.uint64)
    return found


def _decoded(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
