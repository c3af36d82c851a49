"""`bypass`: what passing TCP by can gain on this machine at all, without an interpreter in between.

Two processes in C exchange bytes: by plain TCP; redirected by two programs that do nothing else, which no
gateway can be faster than; through the gateway; and by what has no TCP to begin with, Unix sockets and pipes.
This on one CPU, on two, and on two that something of idle priority keeps from falling asleep.
"""

from __future__ import annotations

import mmap
import os
import re
import shutil
import subprocess
import tempfile
from contextlib import ExitStack, contextmanager
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

from bench.report import Detail, Outcome, row_of
from masdeepflow.gateway import pins
from masdeepflow.gateway.service import Service
from masdeepflow.kernel import libbpf
from tests.support.ports import free_port

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.plan import Plan

__all__ = ["measure"]

_HERE = Path(__file__).parent
_SOURCES = _HERE.parent.parent / "bpf"
_WAYS = ("plain", "redirection alone", "gateway", "Unix socket", "pipe")
_KINDS = {"Unix socket": "unix", "pipe": "pipe"}
_MIB = 1 << 20
_SPINS = "import os\nos.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0))\nwhile True: pass"


class _Case(NamedTuple):
    """mode, size: of bench/bypass/exchange.c. awake: whether the CPUs are kept from falling asleep."""

    name: str
    mode: str
    size: int
    cpus: tuple[int, int]
    awake: bool = False


_CASES = tuple(
    _Case(f"{what}, {where}", mode, size, cpus, awake)
    for what, mode, size in (
        ("round trip of 64 B", "trip", 64),
        ("writes of 1 MiB", "stream", _MIB),
        ("writes of 4 KiB", "stream", 4096),
    )
    for where, cpus, awake in (
        ("one CPU", (0, 0), False),
        ("two CPUs", (0, 1), False),
        ("two CPUs awake", (0, 1), True),
    )
)


def measure(plan: Plan) -> Outcome:
    """Measure all cases."""
    outcome = Outcome()
    with tempfile.TemporaryDirectory(prefix="masdeepflow-bench-") as temporary:
        built = Path(temporary)
        _build(built)
        for case in _CASES:
            if plan.wants(case.name):
                _measure(case, built, plan, outcome)
    return outcome


def _build(directory: Path) -> None:
    """Compile what is measured. Raises CalledProcessError."""
    machine = {"x86_64": "x86", "aarch64": "arm64"}[os.uname().machine]
    headers = ("-I", _SOURCES, "-idirafter", f"/usr/include/{os.uname().machine}-linux-gnu")
    bpf = ("clang", "-target", "bpf", "-mcpu=v3", "-O2", "-g", f"-D__TARGET_ARCH_{machine}", *headers)
    _run(*bpf, "-c", _HERE / "redirect.bpf.c", "-o", directory / "redirect.bpf.o")
    compiler = next(filter(shutil.which, ("cc", "gcc", "clang")), "cc")
    _run(compiler, "-O2", "-o", directory / "exchange", _HERE / "exchange.c")


def _run(*command: object) -> str:
    return subprocess.run(list(map(str, command)), check=True, capture_output=True, text=True).stdout


def _measure(case: _Case, built: Path, plan: Plan, outcome: Outcome) -> None:
    samples: dict[str, list[list[float]]] = {way: [] for way in _WAYS}
    with ExitStack() as stack:
        for cpu in case.cpus if case.awake else ():
            stack.enter_context(_kept_awake(cpu))
        for _ in range(plan.pairs):
            for way in _WAYS:
                samples[way].append(_values(case, way, built, max(plan.seconds / 4, 0.5)))
    figures = ("p50", "p99") if case.mode == "trip" else ("MB/s",)
    for index, figure in enumerate(figures):
        for way in _WAYS[1:]:
            pairs = zip(samples[way], samples["plain"], strict=True)
            ratios = [other[index] / plain[index] for other, plain in pairs]
            outcome.rows.append(row_of("bypass", f"{case.name}, {figure}, {way}", ratios))
    rows = [(way, [median(column) for column in zip(*samples[way], strict=True)]) for way in _WAYS]
    unit = ["p50 µs", "p99 µs"] if case.mode == "trip" else ["MB/s"]
    outcome.details.append(Detail(f"bypass, {case.name}", unit, rows))


def _values(case: _Case, way: str, built: Path, seconds: float) -> list[float]:
    port = free_port()
    with ExitStack() as stack:
        if way == "gateway":
            service = stack.enter_context(Service([port], print, prove=False))
        elif way == "redirection alone":
            stack.enter_context(_redirecting(built, port))
        cpus = map(str, case.cpus)
        kind = _KINDS.get(way, "tcp")
        told = _run(built / "exchange", kind, port, case.mode, case.size, seconds, *cpus)
        if way == "gateway":
            assert service.totals().redirected_bytes, case.name
    return [float(number) for number in re.findall(r"(?:p50|p99|MB/s) ([\d.]+)", told)]


@contextmanager
def _kept_awake(cpu: int) -> Iterator[None]:
    command = ["taskset", "--cpu-list", str(cpu), "python3", "-c", _SPINS]
    with subprocess.Popen(command) as spinning:
        try:
            yield
        finally:
            spinning.kill()


@contextmanager
def _redirecting(built: Path, port: int) -> Iterator[None]:
    """Redirect what connections to this port send, whatever that breaks."""
    cgroup = pins.cgroup_root()
    assert cgroup is not None
    loaded = libbpf.BpfObject(built / "redirect.bpf.o")
    with ExitStack() as stack:
        stack.callback(loaded.close)
        loaded.load()

        def own(descriptor: int) -> int:
            stack.callback(os.close, descriptor)
            return descriptor

        with mmap.mmap(own(loaded.map_fd(".bss")), mmap.PAGESIZE) as shared:
            shared[:2] = port.to_bytes(2, "little")
        libbpf.attach_messages(own(loaded.program_fd("redirect_send")), own(loaded.map_fd("sockets")))
        directory = own(os.open(cgroup, os.O_RDONLY | os.O_DIRECTORY))
        own(libbpf.attach_cgroup(own(loaded.program_fd("redirect_connections")), directory, libbpf.SOCK_OPS))
        yield
