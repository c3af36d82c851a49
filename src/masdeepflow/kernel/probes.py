"""The loaded and attached kernel side: started, swept, read and closed as one."""

from __future__ import annotations

import mmap
import os
import sys
import time
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from masdeepflow.kernel import libbpf
from masdeepflow.kernel.layout import Layout, from_btf, slot_dtype
from masdeepflow.kernel.ring import Ring
from masdeepflow.schema import MAX_SERVICES

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["ENUMS", "SLOT_SIZES", "STRUCTS", "Probes", "ServiceSignals", "object_path", "slot_bytes_for"]

STRUCTS = ("slot", "service_key", "service_info", "service_signals", "counters", "shared")
ENUMS = ("slot_kind", "slot_role", "slot_transport", "slot_flag")
SLOT_SIZES = {512: 208, 1024: 560, 2048: 1328, 4096: 2864}
"""Size of a ring record in bytes -> bytes of request payload that it holds (bpf/wire.h)."""

_TRACEPOINTS = (
    "on_fork",
    "on_exec",
    "on_send",
    "on_receive",
    "on_state",
    "on_destroy",
    "on_error",
    "on_data_ready",
)
_COARSE = 6  # CLOCK_MONOTONIC_COARSE of linux/time.h, whose resolution is a jiffy
_WHEN_SPLICING = "on_splice"  # costs every read of a TCP socket, so only hosts that need it pay
_WHEN_ASKING_SEVERAL = "on_drop"  # costs every packet that is dropped, likewise
_FINDERS = ("find_sockets", "find_files")
_SWEEPS = ("sweep_tcp", "sweep_other")
_MAPS = (
    "ring",
    "counters",
    "services",
    "free_services",
    "signals",
    "datagram_ports",
    "other_datagrams",
    "tcp_connections",
    "other_connections",
    ".bss",
)


def slot_bytes_for(payload_bytes: int) -> int:
    """Return the smallest slot that holds `payload_bytes` of a request. Raises ValueError if none does."""
    for size, room in SLOT_SIZES.items():
        if payload_bytes <= room:
            return size
    raise ValueError(f"at most {max(SLOT_SIZES.values())} payload bytes can be captured, not {payload_bytes}")


def object_path(slot_bytes: int) -> Path:
    """Return where the compiled object for this slot size lies."""
    return Path(str(resources.files("masdeepflow"))) / "bpf" / f"agent-{slot_bytes}.bpf.o"


@dataclass(frozen=True, slots=True)
class ServiceSignals:
    """Golden signals of one service since the agent started, summed over CPUs.

    turns, lost: counts. lost_histogram: int64 (208,), see `histogram_bucket` in bpf/ring.h.
    moved_bytes: all that its sockets sent and received, up to the last finished turn of each.
    """

    key: bytes
    index: int
    pid: int
    port: int
    role: int
    comm: str
    turns: int
    lost: int
    lost_histogram: np.ndarray
    moved_bytes: int = 0


class Probes:
    """The kernel side. A context manager: leaving it, or the process's end however it comes, detaches all.

    slot_bytes: size of a ring record. ring_bytes: size of the ring, a power of two. queue_time: whether to
    measure how long requests wait in the socket buffer. Raises libbpf.BpfError when the kernel refuses.
    """

    def __init__(self, slot_bytes: int = 512, ring_bytes: int = 1 << 24, *, queue_time: bool = True) -> None:
        self._descriptors: dict[str, int] = {}
        self._links: list[int] = []
        self._splicing = False
        self._ring_bytes = ring_bytes
        self._skip = () if queue_time else ("on_data_ready",)
        self._cpus = libbpf.possible_cpus()
        try:
            self.layout = self._load(slot_bytes)
            self._dtypes = {name: self.layout.dtype(name) for name in STRUCTS[1:]}
            self.ring = Ring(self._descriptors["ring"], ring_bytes, slot_dtype(self.layout))
            self._shared_map = mmap.mmap(self._descriptors[".bss"], mmap.PAGESIZE)
            self._shared = np.frombuffer(self._shared_map, self._dtypes["shared"], 1)
            self._attach()
        except BaseException:
            self._close_descriptors()
            raise

    def _load(self, slot_bytes: int) -> Layout:
        loaded = libbpf.BpfObject(object_path(slot_bytes))
        try:
            loaded.set_max_entries("ring", self._ring_bytes)
            for name in self._skip:
                loaded.skip_program(name)
            loaded.load()
            for name in _MAPS:
                self._descriptors[name] = loaded.map_fd(name)
            for name in (*_TRACEPOINTS, _WHEN_SPLICING, _WHEN_ASKING_SEVERAL, *_FINDERS, *_SWEEPS):
                if name not in self._skip:
                    self._descriptors[name] = loaded.program_fd(name)
            return from_btf(loaded.btf(), STRUCTS, ENUMS)
        finally:
            loaded.close()

    def _attach(self) -> None:
        # Not `secrets`: it loads OpenSSL.
        self._shared[0]["hash_key"] = int.from_bytes(os.urandom(8), "little") | 1
        self._shared[0]["jiffy_ns"] = round(time.clock_getres(_COARSE) * 1e9)
        for index in range(1, MAX_SERVICES):
            libbpf.push(self._descriptors["free_services"], index.to_bytes(4, "little"))
        # First, because it tells the programs which process is the agent's own, and then the listening ports.
        self._find()
        for name in _TRACEPOINTS:
            if name not in self._skip:
                self._links.append(libbpf.attach_tracepoint(self._descriptors[name]))
        # Again, for connections: now the listeners tell their roles, and none can come unseen.
        self._shared[0]["adopting"] = 1
        self._find()
        self._sweep_tcp = self._attach_sweep("sweep_tcp", "tcp_connections")
        self._sweep_other = self._attach_sweep("sweep_other", "other_connections")

    def _find(self) -> None:
        for name in _FINDERS:
            link = libbpf.attach_iterator(self._descriptors[name])
            try:
                libbpf.run_iterator(link)
            finally:
                os.close(link)

    def _attach_sweep(self, program: str, connections: str) -> int:
        link = libbpf.attach_iterator(self._descriptors[program], self._descriptors[connections])
        self._links.append(link)
        return link

    def sweep(self) -> bool:
        """Write turns that are idle into the ring; return whether there was anything to look at."""
        shared = self._shared[0]
        if shared["splicing"] and not self._splicing:
            self._splicing = True
            self._links.append(libbpf.attach_tracepoint(self._descriptors[_WHEN_SPLICING]))
        if shared["asks_several"] and not shared["watching"]:
            self._links.append(libbpf.attach_tracepoint(self._descriptors[_WHEN_ASKING_SEVERAL]))
            shared["watching"] = 1
        tcp, other = bool(shared["unfinished_tcp"]), bool(shared["unfinished_other"])
        if tcp:
            shared["unfinished_tcp"] = 0
            libbpf.run_iterator(self._sweep_tcp)
        if other:
            shared["unfinished_other"] = 0
            libbpf.run_iterator(self._sweep_other)
        return tcp or other

    def follow_datagrams(self, port: int) -> None:
        """Write a slot for each datagram from or to `port` from now on, in place of turns."""
        word, bit = divmod(port, 64)
        key = word.to_bytes(4, sys.byteorder)
        ports = libbpf.lookup(self._descriptors["datagram_ports"], key, 8) or bytes(8)
        value = int.from_bytes(ports, sys.byteorder) | 1 << bit
        libbpf.update(self._descriptors["datagram_ports"], key, value.to_bytes(8, sys.byteorder))

    def leave_datagrams(self, cookie: int) -> None:
        """Write turns of this socket soon, as nobody makes sense of its datagrams."""
        libbpf.update(self._descriptors["other_datagrams"], cookie.to_bytes(8, sys.byteorder), b"\1")

    def counters(self) -> dict[str, int]:
        """Return the members of `struct counters`, summed over CPUs."""
        values = self._per_cpu("counters", 0)
        return {name: int(values[name].sum()) for name in values.dtype.names or ()}

    def service_keys(self) -> list[bytes]:
        """Return the keys of the kernel's services, each a `struct service_key`."""
        return list(libbpf.keys(self._descriptors["services"], self._dtypes["service_key"].itemsize))

    def services(self) -> list[ServiceSignals]:
        """Return the golden signals of every service, those of turns that found no free service last."""
        known = (self._service(key) for key in self.service_keys())
        overflow = self._signals(b"", 0, np.zeros(1, self._dtypes["service_key"])[0], "(other)")
        return [*(service for service in known if service is not None), overflow]

    def _service(self, key: bytes) -> ServiceSignals | None:
        value = libbpf.lookup(self._descriptors["services"], key, self._dtypes["service_info"].itemsize)
        if value is None:
            return None
        info = np.frombuffer(value, self._dtypes["service_info"])[0]
        who = np.frombuffer(key, self._dtypes["service_key"])[0]
        return self._signals(key, int(info["index"]), who, info["comm"].decode("utf-8", "backslashreplace"))

    def _signals(self, key: bytes, index: int, who: np.void, comm: str) -> ServiceSignals:
        values = self._per_cpu("signals", index)
        histogram = values["lost_histogram"].sum(axis=0, dtype=np.int64)
        names = ("turns", "lost", "request_bytes", "response_bytes")
        turns, lost, requests, responses = (int(values[name].sum()) for name in names)
        return ServiceSignals(
            key=key,
            index=index,
            pid=int(who["pid"]),
            port=int(who["port"]),
            role=int(who["role"]),
            comm=comm,
            turns=turns,
            lost=lost,
            lost_histogram=histogram,
            moved_bytes=requests + responses,
        )

    def forget_service(self, key: bytes) -> int | None:
        """Free the index of a service whose process is gone; return it."""
        value = libbpf.lookup(self._descriptors["services"], key, self._dtypes["service_info"].itemsize)
        if value is None or not libbpf.delete(self._descriptors["services"], key):
            return None
        libbpf.push(self._descriptors["free_services"], value[:4])
        return int.from_bytes(value[:4], "little")

    def own_pid(self) -> int:
        """Return the agent's PID as the kernel numbers it."""
        return int(self._shared[0]["own_pid"])

    def _per_cpu(self, name: str, index: int) -> np.ndarray:
        dtype = self._dtypes["service_signals" if name == "signals" else name]
        raw = libbpf.lookup(self._descriptors[name], index.to_bytes(4, "little"), dtype.itemsize * self._cpus)
        return np.frombuffer(raw or b"\0" * dtype.itemsize * self._cpus, dtype)

    def close(self) -> None:
        """Detach and free everything. Views into the ring must be gone."""
        self.ring.close()
        del self._shared
        self._shared_map.close()
        self._close_descriptors()

    def _close_descriptors(self) -> None:
        for descriptor in (*self._links, *self._descriptors.values()):
            os.close(descriptor)
        self._links, self._descriptors = [], {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
