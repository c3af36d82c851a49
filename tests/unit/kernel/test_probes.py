"""The kernel side as one thing, over a libbpf that is made of files: what needs no kernel to be shown."""

from __future__ import annotations

import mmap
import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

from masdeepflow.cli import run
from masdeepflow.kernel import libbpf, probes
from masdeepflow.kernel.layout import committed
from masdeepflow.kernel.probes import SLOT_SIZES, Probes, object_path, slot_bytes_for
from masdeepflow.schema import MAX_SERVICES

if TYPE_CHECKING:
    from collections.abc import Iterator

CPUS = 3
RING = mmap.PAGESIZE
LAYOUT = committed()


@pytest.mark.parametrize(
    ("payload", "slot"),
    [(1, 512), (208, 512), (209, 1024), (560, 1024), (561, 2048), (1328, 2048), (1329, 4096), (2864, 4096)],
)
def test_the_smallest_slot_that_holds_the_payload_is_taken(payload: int, slot: int) -> None:
    """A larger slot than needed would make the ring shorter for nothing."""
    assert slot_bytes_for(payload) == slot


def test_more_payload_than_the_largest_slot_is_refused() -> None:
    """The error tells how much there can be."""
    most = max(SLOT_SIZES.values())
    with pytest.raises(ValueError, match=f"at most {most} payload bytes.* not {most + 1}"):
        slot_bytes_for(most + 1)


def test_payload_option_goes_as_far_as_the_slots() -> None:
    """`--payload-bytes` takes what a slot holds, and no more."""
    option = next(parameter for parameter in run.command.params if parameter.name == "payload_bytes")
    assert option.type.max == max(SLOT_SIZES.values())  # type: ignore[attr-defined]
    assert option.default == min(SLOT_SIZES.values())


def test_there_is_one_object_for_each_slot_size() -> None:
    """Objects lie in the package, under names that tell their slot size."""
    paths = {object_path(size) for size in SLOT_SIZES}
    assert len(paths) == len(SLOT_SIZES)
    assert all(path.parent.name == "bpf" and path.suffix == ".o" for path in paths)


@pytest.mark.parametrize("name", ["counters", "service_signals"])
def test_per_cpu_values_are_whole_words(name: str) -> None:
    """The kernel rounds each CPU's value up to 8 bytes: other sizes would shift those of later CPUs."""
    assert LAYOUT.dtype(name).itemsize % 8 == 0


class Kernel:
    """A stand-in for libbpf: maps are memory files, links are duplicates, iterators only note that they ran.

    fail: name of the call that the kernel refuses, and how often it is let through before.
    """

    def __init__(self) -> None:
        self.fail: tuple[str, int] | None = None
        self.ran: list[tuple[int, dict[str, int]]] = []
        self.free: list[int] = []
        self.values: dict[tuple[int, bytes], bytes] = {}
        self.maps: dict[str, int] = {}
        self.skipped: list[str] = []
        self.shared: np.ndarray | None = None

    def _call(self, name: str) -> None:
        if self.fail is not None and self.fail[0] == name:
            if not self.fail[1]:
                raise libbpf.BpfError(22, name)
            self.fail = (name, self.fail[1] - 1)

    def possible_cpus(self) -> int:
        """Return how many CPUs there are."""
        return CPUS

    def attach_tracepoint(self, program: int) -> int:
        """Return a duplicate of the program's descriptor for a link."""
        self._call("attach_tracepoint")
        return os.dup(program)

    def attach_iterator(self, program: int, map_fd: int | None = None) -> int:
        """Return a duplicate of the program's descriptor for a link."""
        self._call("attach_iterator" if map_fd is None else "attach_sweep")
        return os.dup(program)

    def run_iterator(self, link: int) -> bytes:
        """Note which link ran, and what the shared memory held then."""
        self._call("run_iterator")
        flags = (
            {}
            if self.shared is None
            else {name: int(self.shared[0][name]) for name in self.shared.dtype.names or ()}
        )
        self.ran.append((link, flags))
        return b""

    def lookup(self, map_fd: int, key: bytes, size: int) -> bytes | None:
        """Return what a test put there."""
        value = self.values.get((map_fd, key))
        assert value is None or len(value) == size
        return value

    def keys(self, map_fd: int, size: int) -> Iterator[bytes]:
        """Yield the keys of a map."""
        yield from [key for fd, key in self.values if fd == map_fd and len(key) == size]

    def delete(self, map_fd: int, key: bytes) -> bool:
        """Forget a key."""
        return self.values.pop((map_fd, key), None) is not None

    def push(self, map_fd: int, value: bytes) -> None:  # noqa: ARG002
        """Note what is free."""
        self.free.append(int.from_bytes(value, "little"))


class Loaded:
    """A stand-in for a loaded object."""

    def __init__(self, kernel: Kernel) -> None:
        self._kernel = kernel

    def set_max_entries(self, name: str, entries: int) -> None:
        """Take the size of the ring."""
        assert (name, entries) == ("ring", RING)

    def skip_program(self, name: str) -> None:
        """Note what is left out."""
        self._kernel.skipped.append(name)

    def load(self) -> None:
        """Be refused, or do nothing."""
        self._kernel._call("load")

    def map_fd(self, name: str) -> int:
        """Make a map."""
        fd = os.memfd_create(name)
        os.ftruncate(fd, 2 * mmap.PAGESIZE + RING)
        if name == ".bss":
            self._kernel.shared = np.frombuffer(mmap.mmap(fd, mmap.PAGESIZE), LAYOUT.dtype("shared"), 1)
        self._kernel.maps[name] = fd
        return fd

    def program_fd(self, name: str) -> int:
        """Make a program."""
        assert name not in self._kernel.skipped
        return os.memfd_create(name)

    def btf(self) -> bytes:
        """Return nothing: the committed layout is used."""
        return b""

    def close(self) -> None:
        """Do nothing."""


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Kernel:
    """Put the stand-in where libbpf was."""
    kernel = Kernel()
    for name in ("possible_cpus", "attach_tracepoint", "attach_iterator", "run_iterator", "lookup", "keys"):
        monkeypatch.setattr(libbpf, name, getattr(kernel, name))
    monkeypatch.setattr(libbpf, "delete", kernel.delete)
    monkeypatch.setattr(libbpf, "push", kernel.push)
    monkeypatch.setattr(libbpf, "BpfObject", lambda _path: Loaded(kernel))
    monkeypatch.setattr(probes, "from_btf", lambda *_: LAYOUT)
    return kernel


def _open_descriptors() -> set[str]:
    return set(os.listdir("/proc/self/fd"))  # noqa: PTH208  # names are all that counts


@pytest.mark.parametrize(
    ("call", "after"),
    [
        ("load", 0),
        ("attach_iterator", 0),
        ("run_iterator", 0),
        ("attach_tracepoint", 0),
        ("attach_tracepoint", 3),
        ("run_iterator", 1),
        ("attach_sweep", 0),
        ("attach_sweep", 1),
    ],
)
def test_whatever_is_refused_nothing_stays_behind(kernel: Kernel, call: str, after: int) -> None:
    """Each descriptor left open would keep a program or a map in the kernel."""
    before = _open_descriptors()
    kernel.fail = (call, after)
    with pytest.raises(libbpf.BpfError):
        Probes(ring_bytes=RING)
    kernel.shared = None
    assert _open_descriptors() - before == set()


def test_leaving_closes_everything(kernel: Kernel) -> None:
    """Links, programs, maps and mappings go with the context, also after an error in it."""
    before = _open_descriptors()
    with pytest.raises(RuntimeError), Probes(ring_bytes=RING):
        raise RuntimeError
    kernel.shared = None
    assert _open_descriptors() - before == set()


def test_connections_are_found_before_and_after_attaching(kernel: Kernel) -> None:
    """What looks for sockets runs twice, so that a connection that comes in between is not missed."""
    with Probes(ring_bytes=RING):
        assert [flags["adopting"] for _, flags in kernel.ran] == [0, 0, 1, 1]


def test_payload_hashes_have_a_key_before_anything_runs(kernel: Kernel) -> None:
    """Without a secret, odd key anybody could send two texts that are taken for one."""
    with Probes(ring_bytes=RING):
        keys = [flags["hash_key"] for _, flags in kernel.ran]
    assert keys[0] % 2 == 1
    assert keys[0] > 2**32
    with Probes(ring_bytes=RING):
        assert kernel.ran[-1][1]["hash_key"] != keys[0]


def test_every_service_index_but_that_of_the_overflow_is_free_at_first(kernel: Kernel) -> None:
    """Index 0 is never given away: there all services beyond the limit are counted."""
    with Probes(ring_bytes=RING):
        assert kernel.free == list(range(1, MAX_SERVICES))


def test_queue_time_can_be_left_out(kernel: Kernel) -> None:
    """What is not measured is not loaded."""
    with Probes(ring_bytes=RING, queue_time=False):
        assert kernel.skipped == ["on_data_ready"]


def test_sweep_runs_only_where_a_turn_is_unfinished(kernel: Kernel) -> None:
    """An idle host is not swept, and TCP and the others are told apart."""
    with Probes(ring_bytes=RING) as probe:
        assert kernel.shared is not None
        del kernel.ran[:]
        assert not probe.sweep()
        assert kernel.ran == []
        kernel.shared["unfinished_tcp"] = 1
        assert probe.sweep()
        kernel.shared["unfinished_other"] = 1
        assert probe.sweep()
        first, second = kernel.ran
        assert first[0] != second[0]


@pytest.mark.parametrize("name", ["unfinished_tcp", "unfinished_other"])
def test_sweep_clears_the_flag_before_it_looks(kernel: Kernel, name: str) -> None:
    """I/O that comes while the iterator runs sets the flag again: clearing it then would lose a turn."""
    with Probes(ring_bytes=RING) as probe:
        assert kernel.shared is not None
        kernel.shared[name] = 1
        probe.sweep()
        assert kernel.ran[-1][1][name] == 0


def test_counters_are_summed_over_cpus(kernel: Kernel) -> None:
    """Every member of `struct counters` by its name; all 0 when the map can't be read."""
    with Probes(ring_bytes=RING) as probe:
        assert set(probe.counters().values()) == {0}
        values = np.zeros(CPUS, LAYOUT.dtype("counters"))
        values["lost_ring_full"], values["payload_missing"] = [1, 2, 4], [0, 0, 2**63]
        kernel.values[kernel.maps["counters"], bytes(4)] = values.tobytes()
        counters = probe.counters()
    assert (counters["lost_ring_full"], counters["payload_missing"]) == (7, 2**63)
    assert set(counters) == {member.name for member in LAYOUT.structs["counters"][1]}


def _add_service(kernel: Kernel, index: int, comm: bytes = b"nginx") -> bytes:
    key = np.zeros(1, LAYOUT.dtype("service_key"))
    key["pid"], key["port"], key["role"], key["transport"] = 42, 80, 2, 1
    info = np.zeros(1, LAYOUT.dtype("service_info"))
    info["index"], info["comm"] = index, comm
    signals = np.zeros(CPUS, LAYOUT.dtype("service_signals"))
    signals["turns"], signals["lost"] = [10, 20, 30], [1, 0, 2]
    signals["lost_histogram"][0, 7], signals["lost_histogram"][2, 7] = 2**32 - 1, 2
    kernel.values[kernel.maps["services"], key.tobytes()] = info.tobytes()
    kernel.values[kernel.maps["signals"], index.to_bytes(4, "little")] = signals.tobytes()
    return key.tobytes()


def test_services_come_with_their_signals_summed_over_cpus(kernel: Kernel) -> None:
    """Who it is, how many turns, how many of them were lost; sums are wider than one CPU's counts."""
    with Probes(ring_bytes=RING) as probe:
        key = _add_service(kernel, 5, b"caf\xe9")
        service, other = probe.services()
    assert (service.key, service.index, service.pid, service.port, service.role) == (key, 5, 42, 80, 2)
    assert (service.comm, service.turns, service.lost) == ("caf\\xe9", 60, 3)
    assert service.lost_histogram[7] == 2**32 + 1
    assert (other.key, other.index, other.pid, other.comm, other.turns) == (b"", 0, 0, "(other)", 0)


def test_a_service_that_goes_meanwhile_is_left_out(kernel: Kernel) -> None:
    """Keys are listed first and looked up then: one that is gone by then is no error."""
    with Probes(ring_bytes=RING) as probe:
        _add_service(kernel, 5)
        keys = probe.service_keys()
        probe.forget_service(keys[0])
        assert [service.index for service in probe.services()] == [0]
        assert probe._service(keys[0]) is None


def test_a_forgotten_service_gives_its_index_back_once(kernel: Kernel) -> None:
    """An index that two services got would mix up their counts."""
    with Probes(ring_bytes=RING) as probe:
        key = _add_service(kernel, 5)
        del kernel.free[:]
        assert probe.forget_service(key) == 5
        assert probe.forget_service(key) is None
        assert kernel.free == [5]
