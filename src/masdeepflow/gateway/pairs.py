"""The kernel's table of pairs as NumPy columns: one row for each connection that both ends of are local."""

from __future__ import annotations

import ipaddress
import mmap
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from masdeepflow.kernel import libbpf
from masdeepflow.kernel.layout import Layout, from_btf

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

__all__ = [
    "MAX_PAIRS",
    "REASONS",
    "SIDES",
    "STATES",
    "Awake",
    "Pairs",
    "Totals",
    "address_text",
    "awake_of",
    "layout_of",
    "pair_dtype",
]

STRUCTS = ("pair_head", "end", "gateway_counters", "gateway_shared", "port")
ENUMS = ("pair_state", "pair_reason")
MAX_PAIRS = 32768
"""Rows of the table: bpf/gateway.h."""
STATES = ("free", "waiting", "redirected", "leaving", "tcp")
"""enum pair_state."""
SIDES = ("client", "server")
"""enum pair_side: the index of an end in its pair."""
REASONS = (
    "none",
    "first byte sent before both ends were in the hash",
    "slow reader",
    "urgent data",
    "MSG_WAITALL",
    "MSG_TRUNC",
    "socket option",
    "splice",
    "peer left",
    "gateway stopped",
    "watchdog",
    "program",
    "brief connections",
)
"""enum pair_reason as users read it."""
_LEAVING = STATES.index("leaving")
_MAPPED = b"\0" * 10 + b"\xff\xff"


def layout_of(path: Path) -> Layout:
    """Return the layouts of the compiled object's structs."""
    loaded = libbpf.BpfObject(path)
    try:
        return from_btf(loaded.btf(), STRUCTS, ENUMS)
    finally:
        loaded.close()


def pair_dtype(layout: Layout) -> np.dtype[np.void]:
    """Return `struct pair`: the members of its head, and `ends`, two of `struct end`."""
    head, end = layout.dtype("pair_head"), layout.dtype("end")
    fields: Mapping[str, Any] = head.fields or {}
    return np.dtype(
        {
            "names": [*fields, "ends"],
            "formats": [*(kind for kind, *_ in fields.values()), (end, (2,))],
            "offsets": [*(offset for _, offset, *_ in fields.values()), head.itemsize],
            "itemsize": head.itemsize + 2 * end.itemsize,
        }
    )


def address_text(raw: bytes) -> str:
    """Return an address of 16 bytes as text, one that is a mapped IPv4 address as such."""
    if raw.startswith(_MAPPED):
        return str(ipaddress.IPv4Address(raw[12:]))
    return str(ipaddress.IPv6Address(raw))


class Awake(NamedTuple):
    """CPUs kept from halting: how many now, for how many seconds so far, and the CPU seconds that this took.

    The last are those of all CPUs together in which nothing else ran.
    """

    cpus: int
    seconds: float
    cpu_seconds: float

    def __str__(self) -> str:
        """Tell it in one line."""
        now = f"{self.cpus} now" if self.cpus else "none now"
        return (
            f"CPUs kept awake: {now}, {self.seconds:.1f} s so far, "
            f"which took {self.cpu_seconds:.1f} s of CPU time"
        )


def awake_of(shared: np.void) -> Awake | None:
    """Return what a row of `struct gateway_shared` says of it, None if no CPU was kept awake yet."""
    if not shared["awake_ns"] and not shared["awake"]:
        return None
    return Awake(int(shared["awake"]), int(shared["awake_ns"]) / 1e9, int(shared["awake_cpu_ns"]) / 1e9)


class Totals(NamedTuple):
    """Sums since the gateway started, bytes of both directions. pairs: connections that began redirected."""

    pairs: int
    redirected_bytes: int
    tcp_bytes: int
    not_local: int
    no_free_pair: int
    reset: int
    left: dict[str, int]
    awake: Awake | None = None

    def lines(self) -> list[str]:
        """Return them as lines for people."""
        lines = [
            f"connections redirected: {self.pairs}",
            f"bytes redirected: {self.redirected_bytes}",
            f"bytes by TCP of connections that were to be redirected: {self.tcp_bytes}",
        ]
        lines += [f"left to TCP, {reason}: {count}" for reason, count in self.left.items()]
        if self.not_local:
            lines.append(f"connections to other hosts: {self.not_local}")
        if self.reset:
            lines.append(f"connections reset, splice() from redirected bytes: {self.reset}")
        if self.no_free_pair:
            lines.append(f"connections beyond the table's size: {self.no_free_pair}")
        if self.awake is not None:
            lines.append(str(self.awake))
        return lines


def _attributes(row: np.void, queued: int) -> dict[str, str | int]:
    client, server = (_endpoint(bytes(row[f"{side}_address"]), int(row[f"{side}_port"])) for side in SIDES)
    return {
        "client": client,
        "server": server,
        "state": STATES[row["state"]],
        "reason": REASONS[row["reason"]],
        "redirected_bytes": int(row["ends"]["redirected"].sum()),
        "tcp_bytes": int(row["ends"]["by_tcp"].sum()),
        "queued_bytes": queued,
    }


def _endpoint(address: bytes, port: int) -> str:
    text = address_text(address)
    return f"[{text}]:{port}" if ":" in text else f"{text}:{port}"


class Pairs:
    """A window on the kernel's table; rows change while one looks. Close it."""

    def __init__(self, pairs_fd: int, counters_fd: int, layout: Layout) -> None:
        dtype = pair_dtype(layout)
        self._map = mmap.mmap(pairs_fd, MAX_PAIRS * dtype.itemsize, access=mmap.ACCESS_READ)
        self._counters_fd = counters_fd
        self._counters = layout.dtype("gateway_counters")
        self.rows = np.frombuffer(self._map, dtype, MAX_PAIRS)

    def close(self) -> None:
        """Unmap; no row may be held any more."""
        del self.rows
        self._map.close()

    def used(self) -> np.ndarray:
        """Return the indices of rows in use, int64 (n,)."""
        return np.flatnonzero(self.rows["state"])

    def count(self, *states: str) -> int:
        """Return how many pairs are in one of the states."""
        return int(np.isin(self.rows["state"], [STATES.index(state) for state in states]).sum())

    def queued(self, rows: np.ndarray) -> np.ndarray:
        """Return the bytes that wait for each end of rows of the table, int64 (n, 2)."""
        sent = rows["ends"]["redirected"][:, ::-1].astype(np.int64)
        waiting: np.ndarray = sent - rows["ends"]["received"].astype(np.int64)
        return np.where(rows["ends"]["left"] == 0, waiting, 0)

    def leaving(self) -> tuple[np.ndarray, np.ndarray]:
        """Return the pairs that are leaving: rows, intp (n,), and which of their ends have left, (n, 2)."""
        rows = np.flatnonzero(self.rows["state"] == _LEAVING)
        return rows, self.rows["ends"]["left"][rows]

    def left_since(self, before: tuple[np.ndarray, np.ndarray]) -> set[int]:
        """Return the network namespaces of pairs of which an end has left since `leaving` was asked."""
        rows, left = before
        ends = self.rows["ends"][rows]
        return set(ends["netns"][(ends["left"] != left).any(axis=1)].ravel().tolist())

    def describe(self, most: int) -> list[dict[str, str | int]]:
        """Return rows in use as attributes, the `most` that had most bytes redirected."""
        rows = self.rows[self.used()]
        sent = rows["ends"]["redirected"].sum(axis=1)
        chosen = rows[np.argsort(sent)[::-1][:most]]
        queued = self.queued(chosen).sum(axis=1)
        return [_attributes(row, int(waiting)) for row, waiting in zip(chosen, queued, strict=True)]

    def totals(self) -> Totals:
        """Return the sums over all pairs there are and were."""
        raw = libbpf.lookup(self._counters_fd, bytes(4), self._counters.itemsize * libbpf.possible_cpus())
        gone = np.frombuffer(raw or b"", self._counters)
        ends = self.rows[self.used()]["ends"]
        left = gone["left"].sum(axis=0) if len(gone) else np.zeros(len(REASONS), np.int64)
        return Totals(
            pairs=int(gone["pairs"].sum()),
            redirected_bytes=int(gone["redirected"].sum() + ends["redirected"].sum()),
            tcp_bytes=int(gone["by_tcp"].sum() + ends["by_tcp"].sum()),
            not_local=int(gone["not_local"].sum()),
            no_free_pair=int(gone["no_free_pair"].sum()),
            reset=int(gone["reset"].sum()),
            left={REASONS[index]: int(count) for index, count in enumerate(left) if count},
        )
