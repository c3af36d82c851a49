"""The loaded and attached kernel side of the gateway."""

from __future__ import annotations

import mmap
import os
import select
import time
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Self

import numpy as np

from masdeepflow.gateway import namespaces, pins
from masdeepflow.gateway.pairs import MAX_PAIRS, REASONS, Pairs, awake_of, layout_of
from masdeepflow.kernel import libbpf

if TYPE_CHECKING:
    from collections.abc import Iterable
    from types import TracebackType

    from masdeepflow.gateway.pairs import Totals

__all__ = ["Gateway", "default_budget", "default_room", "object_path"]

_MAPS = ("sockets", "pairs", "free_pairs", "ports", "counters", "events", "flowing", ".bss")
_PROGRAMS = (
    "gateway_connections",
    "gateway_send",
    "gateway_hold",
    "gateway_receive",
    "gateway_splice",
    "gateway_option",
    "gateway_evict",
    "gateway_kick",
)
_KEPT = ("sockets", "pairs", "counters", ".bss")
_RMEM = Path("/proc/sys/net/ipv4/tcp_rmem")
_MEM = Path("/proc/sys/net/ipv4/tcp_mem")
_MOST_ROOM = 32 << 20
_LEAST_BUDGET = 32 << 20
_SOFT_ROOM = 1 << 20
_BRAKE_NS = 50_000
_BRAKE_MOST_NS = 500_000
_BRIEF_LIMIT = 256
_EVENTS_BYTES = 65536


def object_path() -> Path:
    """Return where the compiled object lies."""
    return Path(str(resources.files("masdeepflow"))) / "bpf" / "gateway.bpf.o"


def default_room() -> int:
    """Return how many redirected bytes may wait for a reader: what TCP lets a receive buffer grow to."""
    try:
        return min(int(_RMEM.read_text().split()[2]), _MOST_ROOM)
    except (OSError, ValueError, IndexError):
        return _MOST_ROOM


def default_budget() -> int:
    """Return how many redirected bytes may wait for all readers: half of what TCP has without pressure.

    Beyond tcp_mem's limit the kernel refuses to queue, and send() would fail with ENOMEM.
    """
    try:
        return int(_MEM.read_text().split()[0]) * mmap.PAGESIZE // 2
    except (OSError, ValueError, IndexError):
        return _LEAST_BUDGET


class Gateway:
    """The kernel side, attached: new connections to `ports` are redirected from the first byte on.

    cgroup: only sockets below this cgroup v2 directory. kept: pin all, so that connections go on when this
    process is killed; without it, redirected bytes that are unread then are lost. Raises libbpf.BpfError or
    OSError.
    """

    def __init__(
        self, ports: Iterable[int], cgroup: Path, *, kept: bool = True, room: int | None = None
    ) -> None:
        self._descriptors: dict[str, int] = {}
        self._links: dict[str, int] = {}
        self._iterators: dict[str, int] = {}
        self.directory: Path | None = None
        self._netns = namespaces.own()
        try:
            self._load()
            self._shared_map = mmap.mmap(self._descriptors[".bss"], mmap.PAGESIZE)
            self._shared = np.frombuffer(self._shared_map, self.layout.dtype("gateway_shared"), 1)
            self.pairs = Pairs(self._descriptors["pairs"], self._descriptors["counters"], self.layout)
            for index in range(MAX_PAIRS):
                libbpf.push(self._descriptors["free_pairs"], index.to_bytes(4, "little"))
            for port in ports:
                self.trust(port)
            self._shared[0]["room"] = room or default_room()
            self._shared[0]["budget"] = default_budget()
            self._shared[0]["brief_limit"] = _BRIEF_LIMIT
            self._shared[0]["soft_room"] = _SOFT_ROOM
            self._shared[0]["brake_ns"], self._shared[0]["brake_most_ns"] = _BRAKE_NS, _BRAKE_MOST_NS
            self._attach(cgroup)
            if kept:
                self._keep()
            self._poll = select.epoll()
            for name in ("events", "flowing"):
                self._poll.register(self._descriptors[name], select.EPOLLIN)
            self.beat()
            self._shared[0]["accepting"] = 1
        except BaseException:
            self._close_descriptors()
            raise

    def _load(self) -> None:
        self.layout = layout_of(object_path())
        self._port = self.layout.dtype("port")
        loaded = libbpf.BpfObject(object_path())
        try:
            loaded.load()
            self._descriptors |= {name: loaded.map_fd(name) for name in _MAPS}
            self._descriptors |= {name: loaded.program_fd(name) for name in _PROGRAMS}
        finally:
            loaded.close()

    def _attach(self, cgroup: Path) -> None:
        programs, links = self._descriptors, self._links
        libbpf.attach_messages(programs["gateway_send"], programs["sockets"])
        links["receive"] = libbpf.attach_tracepoint(programs["gateway_receive"])
        links["splice"] = libbpf.attach_tracepoint(programs["gateway_splice"])
        directory = os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY)
        try:
            # What makes new pairs comes last, when all that they need is there.
            for name, program, where in (
                ("hold", "gateway_hold", libbpf.EGRESS),
                ("option", "gateway_option", libbpf.SET_SOCKET_OPTION),
                ("connections", "gateway_connections", libbpf.SOCK_OPS),
            ):
                links[name] = libbpf.attach_cgroup(programs[program], directory, where)
        finally:
            os.close(directory)
        self._iterators["evict"] = libbpf.attach_iterator(programs["gateway_evict"], programs["sockets"])
        self._iterators["kick"] = libbpf.attach_iterator(programs["gateway_kick"])

    def _keep(self) -> None:
        names = {name.lstrip("."): self._descriptors[name] for name in _KEPT}
        self.directory = pins.keep({**names, **self._links, **self._iterators})

    def beat(self) -> None:
        """Tell the kernel side that somebody watches it: without that for 3 s it makes no new pairs."""
        self._shared[0]["heartbeat_ns"] = time.monotonic_ns()

    def trust(self, port: int) -> None:
        """Accelerate new connections to this port, whatever its server was seen to do before."""
        libbpf.update(self._descriptors["ports"], port.to_bytes(2, "little"), bytes(self._port.itemsize))

    def limit(self, room: int | None = None, budget: int | None = None, brief: int | None = None) -> None:
        """Let no more than `room` redirected bytes wait for a reader, or `budget` for all readers together.

        The room is that of connections made from now on. brief: once so many connections to a port were too
        brief to gain, only some 1,000 a second are redirected; 0 redirects all.
        """
        if brief is not None:
            self._shared[0]["brief_limit"] = brief
        self._shared[0]["room"] = room or self._shared[0]["room"]
        self._shared[0]["budget"] = budget or self._shared[0]["budget"]

    def distrusted(self) -> dict[int, str]:
        """Return the ports that are accelerated no more, with the call that their server was seen to make."""
        reasons = {}
        for key in list(libbpf.keys(self._descriptors["ports"], 2)):
            raw = libbpf.lookup(self._descriptors["ports"], key, self._port.itemsize)
            reason = int(np.frombuffer(raw, self._port)[0]["reason"]) if raw else 0
            if reason:
                reasons[int.from_bytes(key, "little")] = REASONS[reason]
        return reasons

    def refuse_new(self) -> None:
        """Make no new pairs; those that there are go on."""
        self._shared[0]["accepting"] = 0

    @property
    def accepting(self) -> bool:
        """Whether new pairs are made."""
        return bool(self._shared[0]["accepting"])

    def wait(self, seconds: float) -> bool:
        """Wait until a pair begins to leave, at most so long; return whether one did.

        Bytes that flow end it too, after `tell_of_flow`.
        """
        ready = {descriptor for descriptor, _ in self._poll.poll(seconds)}
        if self._descriptors["flowing"] in ready:
            self._drain("flowing")
        return self._descriptors["events"] in ready

    def flowed(self) -> bool:
        """Return whether bytes were redirected since this was last asked."""
        if not self._shared[0]["flows"]:
            return False
        self._shared[0]["flows"] = 0
        return True

    def tell_of_flow(self) -> None:
        """Let the next bytes that are redirected end a `wait`; ask `flowed` then, and once after this."""
        self._shared[0]["to_be_told"] = 1

    def note_awake(self, now: int, held_ns: int, cpu_ns: int) -> None:
        """Let `accelerate status` know: CPUs kept awake now, for how long so far, and what it took."""
        shared = self._shared[0]
        shared["awake"], shared["awake_ns"], shared["awake_cpu_ns"] = now, held_ns, cpu_ns

    def totals(self) -> Totals:
        """Return the sums since it started."""
        return self.pairs.totals()._replace(awake=awake_of(self._shared[0]))

    def evict(self) -> int:
        """Take out of the hash what may leave, push what was held back; return how many ends have to wait."""
        self._drain("events")
        shared = self._shared[0]
        shared["members"] = shared["unfinished"] = 0
        leaving = self.pairs.leaving()
        libbpf.run_iterator(self._iterators["evict"])
        libbpf.run_iterator(self._iterators["kick"])
        for netns in self.pairs.left_since(leaving) - {0, self._netns}:
            if (path := namespaces.find(netns)) is not None:
                namespaces.call_in(path, lambda: libbpf.run_iterator(self._iterators["kick"]))
        return int(shared["unfinished"])

    def members(self) -> int:
        """Return how many sockets the last `evict` found in the hash."""
        return int(self._shared[0]["members"])

    def _drain(self, name: str) -> None:
        """Give a ring of events back: that there was one is all that is asked of it."""
        page, ring = mmap.PAGESIZE, self._descriptors[name]
        with (
            mmap.mmap(ring, page) as consumer,
            mmap.mmap(ring, page, access=mmap.ACCESS_READ, offset=page) as producer,
        ):
            consumer[:8] = producer[:8]

    def stop(self, patience_s: float = 2.0) -> int:
        """Bring every pair back to TCP; return how many ends could not leave in time.

        An end leaves as soon as its application has read what was redirected to it.
        """
        self._shared[0]["accepting"] = 0
        self._shared[0]["stopping"] = 1
        end = time.monotonic() + patience_s
        while True:
            self.evict()
            if not self.members() or time.monotonic() > end:
                return self.members()
            time.sleep(0.002)

    def close(self) -> None:
        """Free this process's side. What is pinned stays if sockets are still in the hash."""
        if self.directory is not None and not self.members():
            pins.remove(self.directory)
        self._poll.close()
        self.pairs.close()
        del self._shared
        self._shared_map.close()
        self._close_descriptors()

    def _close_descriptors(self) -> None:
        for group in (self._iterators, self._links, self._descriptors):
            for descriptor in group.values():
                os.close(descriptor)
            group.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        self.close()
