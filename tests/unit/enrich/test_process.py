"""Which program a process runs, followed through forks and execs in the order of the ring."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from masdeepflow.enrich import process as module
from masdeepflow.enrich.facts import ProcessFact
from masdeepflow.enrich.process import Processes, is_life
from masdeepflow.schema import Kind
from tests.support.slots import cgroup, execute, fork, make_slots

if TYPE_CHECKING:
    from masdeepflow.enrich.process import Program

_CONTAINER = "0123456789abcdef" * 4


def _followed(*records: dict[str, object], processes: Processes | None = None) -> Processes:
    """Return what is known after a batch of nothing but these records."""
    processes = Processes() if processes is None else processes
    processes.follow(make_slots(*records), np.zeros(len(records), np.intp))
    processes.end_batch()
    return processes


def _program(processes: Processes, pid: int) -> Program:
    program = processes.program(pid, 0)
    assert program is not None
    return program


def test_records_of_processes_are_told_from_turns() -> None:
    """Kinds of connections come before, and others may come behind."""
    kinds = np.array([*Kind, 10, 255], np.uint8)
    wanted = {Kind.FORK, Kind.CGROUP, Kind.EXEC}
    assert is_life(kinds).tolist() == [kind in wanted for kind in kinds.tolist()]


def test_exec_tells_program_arguments_user_and_service() -> None:
    """All that is known of a process of which nothing else is seen."""
    program = _program(_followed(execute(7, b"/usr/bin/curl", b"-s", b"a b", service=b"shop", user=33)), 7)
    assert (program.executable, program.arguments) == ("curl", ("/usr/bin/curl", "-s", "a b"))
    assert (program.user, program.service) == (33, "shop")
    assert program.member.container_id == ""


def test_cgroup_comes_before_its_exec() -> None:
    """It belongs to the next program of that process only."""
    processes = _followed(
        cgroup(7, f"docker/{_CONTAINER}"), execute(8, b"a"), execute(7, b"b"), execute(7, b"c")
    )
    assert _program(processes, 8).member.container_id == ""
    assert _program(processes, 7).member.container_id == ""
    processes = _followed(cgroup(7, f"system.slice/x/docker-{_CONTAINER}.scope"), execute(7, b"b"))
    assert _program(processes, 7).member.container_id == _CONTAINER


def test_children_run_what_their_parent_runs_until_they_exec() -> None:
    """A server's workers are that server; what a shell starts is not the shell."""
    processes = _followed(execute(7, b"nginx"), fork(8, 7), fork(9, 8), execute(9, b"sh"))
    assert _program(processes, 8) is _program(processes, 7)
    assert _program(processes, 9).executable == "sh"


def test_a_pid_that_is_used_again_is_the_new_process() -> None:
    """Also when nothing is known of the parent: better no name than the old one's."""
    processes = _followed(execute(7, b"curl"), fork(7, 1))
    assert processes.program(7, 0) is None


def test_within_a_batch_a_process_is_what_it_was_at_that_place() -> None:
    """A turn that was written before an exec is the old program's, even when both come in one batch."""
    processes = _followed(execute(7, b"sh"))
    processes.follow(make_slots(execute(7, b"curl"), execute(7, b"wget")), np.array([3, 5]))
    names = [program and program.executable for program in (processes.program(7, at) for at in range(7))]
    assert names == ["sh", "sh", "sh", "curl", "curl", "wget", "wget"]
    processes.end_batch()
    assert _program(processes, 7).executable == "wget"


def test_proc_names_only_what_no_exec_told() -> None:
    """What was read late may be of the next process with that PID; what an exec said is sure."""
    processes = Processes()
    old = ProcessFact(7, "nginx", "nginx", ("nginx",), 0, cgroup=f"0::/docker/{_CONTAINER}\n")
    assert processes.learn(old)
    assert _program(processes, 7).member.container_id == _CONTAINER
    assert processes.learn(ProcessFact(7, "nginx", "nginx2"))
    _followed(cgroup(7, "a"), execute(7, b"curl"), processes=processes)
    assert not processes.learn(ProcessFact(7, "curl", "nginx"))
    assert _program(processes, 7).executable == "curl"


def test_an_exec_that_the_ring_lost_is_read_later() -> None:
    """A child that is called otherwise than its parent may have renamed itself; another program it ran."""
    processes = _followed(cgroup(7, "a"), execute(7, b"sh"), fork(8, 7))
    assert not processes.learn(ProcessFact(8, "worker", "sh"))
    assert not processes.learn(ProcessFact(8, "sh", "busybox"))
    assert processes.learn(ProcessFact(8, "curl", "curl"))
    assert (_program(processes, 8).executable, _program(processes, 7).executable) == ("curl", "sh")


def test_a_long_name_that_the_ring_cuts_is_the_same_program() -> None:
    """The slot holds 39 bytes of it."""
    processes = _followed(cgroup(7, "a"), execute(7, b"x" * 50))
    assert not processes.learn(ProcessFact(7, "renamed", "x" * 50))
    assert processes.learn(ProcessFact(7, "renamed", "x" * 38))


def test_a_program_whose_cgroup_the_ring_lost_is_not_sure() -> None:
    """It may be a container's: whoever sees it asks /proc, whose answer counts."""
    processes = _followed(execute(7, b"nginx"))
    assert not _program(processes, 7).fits("nginx")
    assert processes.learn(ProcessFact(7, "nginx", "nginx", cgroup=f"0::/docker/{_CONTAINER}\n"))
    assert _program(processes, 7).fits("nginx")
    assert _program(processes, 7).member.container_id == _CONTAINER


def test_arguments_that_could_not_be_read_are_none() -> None:
    """An empty text would be one argument."""
    record = execute(7)
    assert _program(_followed(record), 7).arguments == ()


@pytest.mark.parametrize("argument", [b"\xff\xfe", b"\x1b[2J", b"", b"x" * 5000])
def test_hostile_arguments_are_text(argument: bytes) -> None:
    """Strangers choose them: any bytes give strings of bounded length."""
    program = _program(_followed(execute(7, b"a", argument)), 7)
    assert program.executable == "a"
    assert all(len(text) <= 4 * 208 for text in program.arguments)
    "".join(program.arguments).encode()


def test_memory_is_bounded_under_process_churn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that came last are known; cgroups whose exec was lost do not pile up."""
    monkeypatch.setattr(module, "_LIMIT", 16)
    monkeypatch.setattr(module, "_WAITING_LIMIT", 16)
    processes = Processes()
    for pid in range(1, 500):
        _followed(cgroup(10_000 + pid, "a"), execute(pid, b"sh"), processes=processes)
    assert len(processes._programs) <= 16
    assert len(processes._cgroups) <= 16
    assert processes.program(499, 0) is not None
    assert processes.program(1, 0) is None


def test_processes_in_use_are_not_forgotten(monkeypatch: pytest.MonkeyPatch) -> None:
    """A server that is there for long outlives the programs that come and go, and so does who starts them."""
    monkeypatch.setattr(module, "_LIMIT", 16)
    processes = _followed(execute(1, b"nginx"), execute(2, b"cron"))
    for pid in range(3, 500):
        _followed(fork(pid, 2), execute(pid, b"sh"), processes=processes)
        assert _program(processes, 1).executable == "nginx"
    assert _program(processes, 2).executable == "cron"
