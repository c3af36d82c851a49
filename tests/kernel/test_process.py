"""What the ring tells of processes: forks, programs, cgroups and users, in their order."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from masdeepflow.enrich import cgroup
from masdeepflow.enrich.process import Processes, is_life
from masdeepflow.schema import Kind

if TYPE_CHECKING:
    from collections.abc import Iterator

    from masdeepflow.enrich.process import Program
    from masdeepflow.kernel.probes import Probes

pytestmark = pytest.mark.root


@pytest.fixture
def ring(probes: Probes) -> Iterator[Probes]:
    """Give the probes with an empty ring."""
    _records(probes)
    yield probes
    _records(probes)


def _records(probes: Probes) -> np.ndarray:
    """Return what the ring tells of processes, and empty it."""
    slots = probes.ring.read(probes.ring.capacity)
    found = slots[is_life(slots["kind"])].copy()
    count = len(slots)
    del slots
    probes.ring.release(count)
    return found


def _run(probes: Probes, *arguments: str | bytes | Path, **more: object) -> tuple[np.ndarray, int]:
    """Run a program to its end; return what the ring told of it, and its PID."""
    with subprocess.Popen(arguments, stdout=subprocess.DEVNULL, **more) as process:  # type: ignore[call-overload]
        assert process.wait(30) == 0
    records = _records(probes)
    return records[(records["pid"] == process.pid) | (records["tid"] == process.pid)], process.pid


def _program(records: np.ndarray, pid: int) -> Program:
    processes = Processes()
    processes.follow(records, np.zeros(len(records), np.intp))
    program = processes.program(pid, 0)
    assert program is not None
    return program


def test_a_fork_comes_before_the_cgroup_and_the_program(ring: Probes) -> None:
    """So a PID is never the process's before."""
    records, pid = _run(ring, "/bin/true")
    own = records[records["pid"] == pid]
    assert own["kind"].tolist() == [Kind.FORK, Kind.CGROUP, Kind.EXEC]
    assert own["tid"][0] == os.getpid()
    assert (np.diff(own["request_first_ns"].astype(np.int64)) >= 0).all()


def test_program_is_told_with_its_arguments(ring: Probes) -> None:
    """The executable is the file that runs, links resolved; arguments are cut at the payload limit."""
    records, pid = _run(ring, "/bin/echo", "a b", b"caf\xe9", "")
    program = _program(records, pid)
    assert (program.executable, program.arguments) == ("echo", ("/bin/echo", "a b", "caf\\xe9", ""))
    records, pid = _run(ring, "/bin/echo", "x" * 5000)
    assert _program(records, pid).arguments == ("/bin/echo", "x" * (208 - len("/bin/echo") - 1))
    (executed,) = records[records["kind"] == Kind.EXEC]
    assert executed["request_bytes"] == len("/bin/echo") + 1 + 5001


def test_a_script_runs_its_interpreter(ring: Probes, tmp_path: Path) -> None:
    """As /proc/PID/exe has it; the comm is the script's name."""
    script = tmp_path / "job"
    script.write_text("#!/bin/sh\nexit 0\n")
    script.chmod(0o755)
    records, pid = _run(ring, script)
    program = _program(records, pid)
    assert program.executable == Path("/bin/sh").resolve().name
    assert program.arguments == ("/bin/sh", str(script))
    assert set(records["comm"][records["kind"] == Kind.EXEC]) == {b"job"}


def test_user_is_the_one_it_runs_as(ring: Probes) -> None:
    """The real user ID, of the host."""
    nobody = pwd.getpwnam("nobody").pw_uid
    records, pid = _run(ring, "/bin/true", user=nobody)
    assert _program(records, pid).user == nobody


@pytest.mark.parametrize("before", [0, 1, 40, 5000], ids=lambda length: f"{length} bytes before")
def test_service_name_is_found_in_the_environment(ring: Probes, before: int) -> None:
    """Wherever it stands, behind variables of any length; a value that holds its name is none."""
    environment = {"A": "x" * before, "B": "\nOTEL_SERVICE_NAME=wrong", "OTEL_SERVICE_NAME": "shop", "C": "1"}
    records, pid = _run(ring, "/bin/true", env=environment)
    assert _program(records, pid).service == "shop"


@pytest.mark.parametrize(
    "environment",
    [{}, {"OTEL_SERVICE_NAMES": "wrong"}, {"XOTEL_SERVICE_NAME": "wrong"}, {"OTEL_SERVICE_NAME": ""}],
)
def test_without_the_variable_there_is_no_service_name(ring: Probes, environment: dict[str, str]) -> None:
    """Nothing similar is taken for it."""
    records, pid = _run(ring, "/bin/true", env=environment)
    assert _program(records, pid).service == ""


def test_long_values_are_cut(ring: Probes) -> None:
    """A service's name has 63 bytes at most; what is behind them belongs to nobody."""
    records, pid = _run(ring, "/bin/true", env={"OTEL_SERVICE_NAME": "s" * 500})
    assert _program(records, pid).service == "s" * 63


def test_an_environment_of_a_thousand_variables_ends(ring: Probes) -> None:
    """The search is bounded: what it does not find is not there."""
    records, pid = _run(ring, "/bin/true", env={f"V{number}": "x" for number in range(1000)})
    assert _program(records, pid).executable == "true"


def test_cgroup_is_that_of_the_process(ring: Probes) -> None:
    """Its last three names: enough for a container in its pod; the tree is the one runtimes use here."""
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    trees = {line.split(":")[1]: line.split(":", 2)[2] for line in lines}
    directory = Path("/sys/fs/cgroup")
    memory, unified = directory / "memory", directory / "unified"
    if trees.get("memory") is not None and memory.is_dir():
        root, own = memory, trees["memory"]
    else:
        root, own = (unified if unified.is_dir() else directory), trees[""]
    name = "docker-" + "0123456789abcdef" * 4 + ".scope"
    group = root / own.lstrip("/") / "masdeepflow-test.slice" / name
    group.mkdir(parents=True)
    try:
        enter = "import os, sys; open(sys.argv[1], 'w').write('0'); os.execv('/bin/true', ['true'])"
        records, pid = _run(ring, sys.executable, "-c", enter, str(group / "cgroup.procs"))
        program = _program(records, pid)
    finally:
        group.rmdir()
        group.parent.rmdir()
    assert program.executable == "true"
    assert program.member == cgroup.parse(f"/masdeepflow-test.slice/{name}")
    assert program.member.container_id == "0123456789abcdef" * 4


def test_threads_are_no_processes(ring: Probes) -> None:
    """A program that starts threads has forked once."""
    code = "import threading; [threading.Thread(target=int).start() for _ in range(5)]"
    records, pid = _run(ring, sys.executable, "-c", code)
    assert (records["kind"] == Kind.FORK).sum() == 1
    assert set(records["pid"].tolist()) == {pid}
