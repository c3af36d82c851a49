"""What slots tell of the ends that are seen in them first: as columns, each process looked up once."""

from __future__ import annotations

import socket
import sys
from functools import lru_cache
from itertools import count
from typing import TYPE_CHECKING

import numpy as np

from masdeepflow.batch import word_of, words
from masdeepflow.enrich.addresses import canonical
from masdeepflow.enrich.end import FACTS, Party, mixed, owner_of
from masdeepflow.schema import Kind, Role, Transport

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from masdeepflow.enrich.directory import Directory
    from masdeepflow.enrich.identity import Identity

__all__ = ["FirstSeen", "Parties", "UnixPaths"]

_PARTIES_LIMIT = 1024
_AF_INET6 = int(socket.AF_INET6)
_TCP, _UDP, _UNIX = (int(each) for each in (Transport.TCP, Transport.UDP, Transport.UNIX))
_SERVER = int(Role.SERVER)
_OPENING = (int(Kind.CONNECT), int(Kind.ACCEPT))
_ROLES, _PIDS = np.uint64(4), np.uint64(16)  # room for the numbers of transports, and of roles and these


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
        self._heads = _heads(slots, positions)
        self.facts = _facts(self._heads, offset_ns)

    def parties(self, directory: Directory, parties: Parties) -> tuple[list[Party], NDArray[np.intp]]:
        """Return whose ends these are: parties, and which of them each end (n,) is of."""
        examples, whose = self._alike()
        settled = directory.processes.is_settled
        changing = [not settled(pid) for pid in self.facts["pid"][examples].tolist()]
        if any(changing):
            # What such a process is depends on the place in the batch: each of its ends is a question.
            single = np.array(changing)[whose]
            examples, whose = _numbered(np.where(single, len(whose) + np.arange(len(whose)), whose))
        return list(self._parties(examples, directory, parties)), whose

    def _alike(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Return an end (m,) of each party, by what slots tell, and which of them each end (n,) is like."""
        facts = self.facts
        words = np.empty((len(facts), 3), np.uint64)
        words[:, 0] = facts["pid"] * _PIDS + facts["role"] * _ROLES + facts["transport"]
        words[:, 1:] = _words(self._heads, "comm")
        examples, like = _numbered(mixed(words))
        if not (words[examples][like] == words).all():  # of a name that was made for this hash
            return np.arange(len(words)), np.arange(len(words))
        return examples, like

    def _parties(self, examples: NDArray[np.intp], directory: Directory, parties: Parties) -> Iterator[Party]:
        known: dict[tuple[int, bytes], tuple[Identity, str]] = {}
        facts = self.facts.take(examples)
        columns = facts["pid"], self._heads["comm"][examples], facts["role"], facts["transport"]
        positions = self.positions[examples].tolist()
        for position, (pid, raw, role, transport) in zip(
            positions, zip(*(column.tolist() for column in columns), strict=True), strict=True
        ):
            named = known.get((pid, raw))
            if named is None:
                comm = sys.intern(_decoded(raw))
                named = directory.identity(pid, comm, position), comm
                if directory.processes.is_settled(pid):
                    known[pid, raw] = named
            yield parties.of(named, role, transport)

    def paths(self, known: UnixPaths) -> list[tuple[int, str]]:
        """Return the paths of Unix connections, each with which of the ends has it."""
        rows = np.flatnonzero(self.facts["transport"] == _UNIX)
        if not len(rows):
            return []
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


def _heads(slots: np.ndarray, positions: NDArray[np.intp]) -> np.ndarray:
    """Return the fields of some slots (m,) that lie before their payloads."""
    dtype = _head(slots.dtype)
    rows = words(slots)[positions, : dtype.itemsize // 8]
    return np.ascontiguousarray(rows).view(dtype)[:, 0]


@lru_cache(maxsize=8)
def _head(dtype: np.dtype[np.void]) -> np.dtype[np.void]:
    end = 8 * word_of(np.zeros(0, dtype), "request")
    fields = {name: kind[:2] for name, kind in (dtype.fields or {}).items() if kind[1] < end}
    names = [*fields]
    formats, offsets = [fields[name][0] for name in names], [fields[name][1] for name in names]
    return np.dtype({"names": names, "formats": formats, "offsets": offsets, "itemsize": end})


def _words(heads: np.ndarray, name: str) -> NDArray[np.uint64]:
    """Return the two words (m, 2) of a 16-byte field."""
    first = word_of(heads, name)
    found: NDArray[np.uint64] = words(heads)[:, first : first + 2].view(np.uint64)
    return found


def _facts(heads: np.ndarray, offset_ns: int) -> np.ndarray:
    facts = np.zeros(len(heads), FACTS)
    for name in ("cookie", "pid", "netns", "local_port", "remote_port"):
        facts[name] = heads[name]
    role, transport = heads["role"], heads["transport"]
    facts["role"] = np.where(role <= _SERVER, role, 0)
    unix = transport == _UNIX
    facts["transport"] = np.where((transport == _UDP) | unix, transport, _TCP)
    opened, answered = (heads[name].astype(np.int64) for name in ("request_first_ns", "response_first_ns"))
    facts["opened_ns"] = np.where(opened > 0, opened, answered) + offset_ns
    ipv6 = heads["family"] == _AF_INET6
    remote = _words(heads, "remote_address")
    facts["local"], facts["remote"] = canonical(_words(heads, "local_address"), ipv6), canonical(remote, ipv6)
    if unix.any():
        facts["peer_cookie"] = np.where(unix, remote[:, 0], 0)
    # No call tells who sent a datagram to a socket that is not connected.
    facts["nowhere"] = unix | ((facts["remote_port"] == 0) & ~remote.any(axis=1))
    return facts


def _decoded(raw: bytes) -> str:
    return raw.decode("utf-8", "backslashreplace")
