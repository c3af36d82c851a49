"""Processes in a network namespace of their own, and the slots that the probes wrote about them.

What else runs on the host never mixes in: slots are told apart by the namespace.
"""

from __future__ import annotations

import ctypes
import fcntl
import os
import pickle
import signal
import socket
import struct
import time
import traceback
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NoReturn, Self

import numpy as np

from masdeepflow.schema import Flag, Kind, Role, Transport

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from numpy.typing import NDArray

    from masdeepflow.kernel.probes import Probes

__all__ = ["LOOPBACK", "PORT", "RING_BYTES", "Actor", "Gate", "Slot", "Stage", "listen", "read"]

LOOPBACK = "127.0.0.1"
RING_BYTES = 1 << 26
"""A ring that what else runs on the host does not fill between two looks."""

PORT = 8080
"""Free in every new namespace."""

WAIT_S = 30.0
_IDLE_S = 0.035  # IDLE_NS of bpf/turn.h, and a little
_PAUSE_S = 0.004
_CLONE_NEWNET = 0x40000000
_SIOCSIFFLAGS, _IFF_UP = 0x8914, 1
_libc = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Slot:
    """One slot, decoded. local, remote: (address, port). seen_ns: monotonic time at which it was read."""

    seen_ns: int
    kind: Kind
    role: Role
    transport: Transport
    family: int
    flags: Flag
    cookie: int
    turn: int
    pid: int
    tid: int
    comm: str
    local: tuple[str, int]
    remote: tuple[str, int]
    request: bytes
    response: bytes
    request_bytes: int
    response_bytes: int
    request_segments: int
    response_segments: int
    request_first_ns: int
    request_last_ns: int
    response_first_ns: int
    response_last_ns: int
    request_hash: int
    response_hash: int
    queue_ns: int
    service: int
    srtt_us: int
    retransmits: int
    error: int

    @classmethod
    def decode(cls, slot: np.void, seen_ns: int) -> Slot:
        """Copy a slot out of the ring."""
        special: dict[str, Any] = {
            "seen_ns": seen_ns,
            "kind": Kind(slot["kind"]),
            "role": Role(slot["role"]),
            "transport": Transport(slot["transport"]),
            "flags": Flag(int(slot["flags"])),
            "comm": slot["comm"].decode(),
            "local": (_address(slot, "local"), int(slot["local_port"])),
            "remote": (_address(slot, "remote"), int(slot["remote_port"])),
            "request": slot["request"][: slot["request_length"]].tobytes(),
            "response": slot["response"][: slot["response_length"]].tobytes(),
        }
        plain: dict[str, Any] = {name: int(slot[name]) for name in cls.__slots__ if name not in special}
        return cls(**special, **plain)

    @property
    def duration_ns(self) -> int:
        """First byte of the request to last byte of the response."""
        return self.response_last_ns - self.request_first_ns


def _address(slot: np.void, side: str) -> str:
    raw = slot[f"{side}_address"].tobytes()
    return socket.inet_ntop(
        *((socket.AF_INET, raw[:4]) if slot["family"] == socket.AF_INET else (socket.AF_INET6, raw))
    )


def _latest(slots: np.ndarray) -> NDArray[np.uint64]:
    latest: NDArray[np.uint64] = np.maximum(slots["request_first_ns"], slots["response_last_ns"])
    return latest


def read(sock: socket.socket, size: int) -> bytes:
    """Receive exactly `size` bytes."""
    data = b""
    while len(data) < size:
        more = sock.recv(size - len(data))
        assert more, f"the peer closed after {len(data)} of {size} bytes"
        data += more
    return data


def _family(host: str) -> socket.AddressFamily:
    if host.startswith(("/", "\0")):
        return socket.AF_UNIX
    return socket.AF_INET6 if ":" in host else socket.AF_INET


def _socket_address(host: str, port: int) -> str | tuple[str, int]:
    return host if _family(host) == socket.AF_UNIX else (host, port)


def listen(host: str = LOOPBACK, port: int = PORT, backlog: int = 128) -> socket.socket:
    """Return a listening stream socket; a path or an abstract name makes it a Unix socket."""
    listener = socket.socket(_family(host))
    if listener.family != socket.AF_UNIX:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(_socket_address(host, port))
    listener.listen(backlog)
    return listener


class Gate:
    """Lets one process wait until another opens it."""

    def __init__(self) -> None:
        self._read, self._write = os.pipe()

    def open(self) -> None:
        """Let one waiter pass."""
        os.write(self._write, b"!")

    def wait(self) -> None:
        """Wait until `open` is called, once for each call of it."""
        os.read(self._read, 1)

    def fileno(self) -> int:
        """Readable when open, for select."""
        return self._read

    def __del__(self) -> None:
        os.close(self._read)
        os.close(self._write)


class Actor:
    """A forked process that runs `act`; its error becomes that of `wait`."""

    def __init__(self, act: Callable[[], Any], namespace: int | None) -> None:
        answer, write = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            _play(act, namespace, write)
        os.close(write)
        self.may_be_killed = False
        self._answer: int | None = answer
        self._result: Any = None

    def ended(self) -> bool:
        """Return whether it has ended; raise AssertionError with its traceback if it failed."""
        if self._answer is None:
            return True
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if not pid:
            return False
        with os.fdopen(self._answer, "rb") as answer:
            self._answer = None
            data = answer.read()
        if data:
            failed, self._result = pickle.loads(data)  # noqa: S301  # from our own child
            assert not failed, self._result
        else:
            assert self.may_be_killed, f"ended with {status}"
        return True

    @property
    def result(self) -> Any:  # noqa: ANN401  # whatever the actor returned
        """What `act` returned, once it has ended."""
        return self._result

    def kill(self) -> None:
        """End it, if it still runs."""
        if self._answer is not None:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            os.close(self._answer)
            self._answer = None


def _play(act: Callable[[], Any], namespace: int | None, write: int) -> NoReturn:
    try:
        if namespace is not None:
            _enter(namespace)
        answer = (False, act())
    except BaseException:  # noqa: BLE001  # the parent raises it again
        answer = (True, traceback.format_exc())
    try:
        os.write(write, pickle.dumps(answer))
    finally:
        os._exit(0)


def _enter(namespace: int) -> None:
    if _libc.setns(namespace, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def _new_namespace() -> int:
    """Return a descriptor of a new network namespace whose loopback is up."""
    ready, go = Gate(), Gate()

    def hold() -> None:
        if _libc.unshare(_CLONE_NEWNET):
            raise OSError(ctypes.get_errno(), "unshare")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
            fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", _IFF_UP))
        ready.open()
        go.wait()

    holder = Actor(hold, None)
    ready.wait()
    namespace = os.open(f"/proc/{holder.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    go.open()
    while not holder.ended():
        time.sleep(_PAUSE_S / 4)
    return namespace


class Stage:
    """A context manager: starts actors in a namespace of their own and collects their slots.

    may_lose: whether it is no error that the ring was full.
    """

    def __init__(self, probes: Probes | None, *, may_lose: bool = False) -> None:
        self.probes = probes
        self._may_lose = may_lose
        self._lost_before = self._lost()
        self._started_ns = time.monotonic_ns()
        self._namespace = _new_namespace()
        self._netns = os.fstat(self._namespace).st_ino
        self.actors: list[Actor] = []
        self._slots: list[Slot] = []
        self._settled = False

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for actor in self.actors:
            actor.kill()
        os.close(self._namespace)

    @staticmethod
    def empty(probes: Probes) -> None:
        """Take all that is in the ring."""
        while count := len(probes.ring.read(1 << 16)):
            probes.ring.release(count)

    def enter(self) -> None:
        """Make the namespace that of the calling thread."""
        _enter(self._namespace)

    def start(self, act: Callable[[], Any]) -> Actor:
        """Start a process of the namespace."""
        actor = Actor(act, self._namespace)
        self.actors.append(actor)
        self._settled = False
        return actor

    def exchange(
        self,
        client: Callable[[socket.socket], object],
        server: Callable[[socket.socket], object],
        host: str = LOOPBACK,
        port: int = PORT,
        *,
        keep_listening: bool = True,
    ) -> tuple[Actor, Actor]:
        """Start a client and a server process, each with its end of one new stream connection."""
        ready = Gate()

        def serve() -> object:
            with listen(host, port) as listener:
                ready.open()
                connection, _ = listener.accept()
                if not keep_listening:
                    listener.close()
                with connection:
                    return server(connection)

        def ask() -> object:
            ready.wait()
            with socket.socket(_family(host)) as sock:
                sock.connect(_socket_address(host, port))
                return client(sock)

        serving = self.start(serve)
        return self.start(ask), serving

    def drain(self) -> list[Slot]:
        """Sweep, take what is in the ring, and return all the namespace's slots so far."""
        assert self.probes is not None
        self.probes.sweep()
        ring = self.probes.ring
        seen_ns = time.monotonic_ns()
        while count := len(batch := ring.read(1 << 16)):
            # Numbers of namespaces are used again: what is older than this one is of another.
            mine = (batch["netns"] == self._netns) & (_latest(batch) > self._started_ns)
            self._slots += [Slot.decode(slot, seen_ns) for slot in batch[mine]]
            del batch
            ring.release(count)
        return self._slots

    def until(self, found: Callable[[list[Slot]], object]) -> list[Slot]:
        """Drain until `found` is true of the slots; return them."""
        end = time.monotonic() + WAIT_S
        while not found(slots := self.drain()):
            self._check()
            assert time.monotonic() < end, f"not within {WAIT_S} s; {len(slots)} slots: {slots[-20:]}"
            time.sleep(_PAUSE_S)
        return slots

    def _lost(self) -> int:
        counters = self.probes.counters() if self.probes else {}
        return sum(counters.get(name, 0) for name in ("lost_ring_full", "lost_event_ring_full"))

    def _check(self) -> bool:
        return sum(actor.ended() for actor in self.actors) == len(self.actors)

    def settle(self) -> list[Slot]:
        """Wait until all actors have ended and their last turns are idle; return all slots."""
        if not self._settled:
            end = time.monotonic() + WAIT_S
            while not self._check():
                self.drain()
                assert time.monotonic() < end, f"an actor still runs after {WAIT_S} s"
                time.sleep(_PAUSE_S)
            time.sleep(_IDLE_S)
            self.drain()
            lost = self._lost() - self._lost_before
            assert self._may_lose or lost <= 0, f"{lost} slots lost: what else runs here fills the ring"
            self._settled = True
        return self._slots

    def counted(self) -> dict[int, int]:
        """Return how many turns the golden signals have of each actor, by PID."""
        assert self.probes is not None
        pids = {actor.pid for actor in self.actors}
        counts: Counter[int] = Counter()
        for service in self.probes.services():
            if service.pid in pids:
                counts[service.pid] += service.turns
        return dict(counts)

    def turns(self, role: Role | None = None) -> list[Slot]:
        """Settle; return the turns."""
        slots = self.settle()
        return [slot for slot in slots if slot.kind == Kind.TURN and role in (None, slot.role)]

    def turn(self, role: Role) -> Slot:
        """Settle; return the only turn of that role."""
        turns = self.turns(role)
        assert len(turns) == 1, turns
        return turns[0]

    def events(self, kind: Kind, role: Role | None = None) -> list[Slot]:
        """Settle; return the slots of that kind."""
        return [slot for slot in self.settle() if slot.kind == kind and role in (None, slot.role)]

    def event(self, kind: Kind, role: Role | None = None) -> Slot:
        """Settle; return the only slot of that kind and role."""
        events = self.events(kind, role)
        assert len(events) == 1, events
        return events[0]
