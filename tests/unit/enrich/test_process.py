"""Process names: from /proc, kept once learnt, and from a recording."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from masdeepflow.enrich import process
from masdeepflow.enrich.process import UNKNOWN, LiveProcesses, ProcessNames, RecordedProcesses, read_process

_GONE = 2**22 + 1  # beyond the largest PID


def _names_of(executable: Path, argv0: str) -> ProcessNames:
    """Return the names that are read of a program while it runs."""
    with subprocess.Popen([argv0, "60"], executable=executable) as running:
        try:
            _wait_for_exec(running.pid)
            return read_process(running.pid)
        finally:
            running.kill()


def _wait_for_exec(pid: int) -> None:
    # The new program counts as started a moment before its arguments can be read.
    while not Path(f"/proc/{pid}/cmdline").read_bytes():
        time.sleep(0.001)


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Count what is read from /proc: each PID gives names made of it, odd ones are gone."""
    pids: list[int] = []

    def read(pid: int) -> ProcessNames:
        pids.append(pid)
        return UNKNOWN if pid % 2 else ProcessNames(f"exe-{pid}", f"/bin/{pid}")

    monkeypatch.setattr(process, "read_process", read)
    return pids


def test_own_names_are_read_from_proc() -> None:
    """The executable is a base name with links resolved, the command is argv[0]."""
    names = read_process(os.getpid())
    assert names.executable == Path(sys.executable).resolve().name
    assert names.command


def test_command_is_what_the_process_calls_itself(tmp_path: Path) -> None:
    """A title such as nginx's shows, bytes that are no UTF-8 as what they are; no argv[0] is no command."""
    sleep = tmp_path / "sleep me"
    sleep.symlink_to("/bin/sleep")
    assert _names_of(sleep, "nginx: worker process").command == "nginx: worker process"
    assert _names_of(sleep, os.fsdecode(b"caf\xe9")).command == "caf\\xe9"
    assert _names_of(sleep, "").command is None
    assert _names_of(sleep, "x" * 5000).command == "x" * 1024


def test_deleted_executable_keeps_its_name(tmp_path: Path) -> None:
    """After an upgrade the old process is still the same service."""
    program = tmp_path / "server"
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    with subprocess.Popen([program, "60"]) as running:
        _wait_for_exec(running.pid)
        program.unlink()
        names = read_process(running.pid)
        running.kill()
    assert names.executable == "server"


def test_process_that_is_gone_is_unknown() -> None:
    """A process may end before its first turn is read: that is no error."""
    assert read_process(_GONE) is UNKNOWN


def test_kernel_thread_is_unknown() -> None:
    """Kernel threads have no executable."""
    assert read_process(2) is UNKNOWN


def test_names_are_read_once_per_process(reads: list[int]) -> None:
    """/proc is asked once, and the answer outlives the process."""
    live = LiveProcesses()
    assert [live.names(4, "a") for _ in range(3)] == [ProcessNames("exe-4", "/bin/4")] * 3
    assert reads == [4]


def test_another_comm_is_another_process(reads: list[int]) -> None:
    """The comm tells a PID that was given to somebody else, or that has executed another program."""
    live = LiveProcesses()
    live.names(4, "sh")
    live.names(4, "curl")
    assert reads == [4, 4]


def test_memory_stays_bounded_under_process_churn(reads: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that starts a process a request does not make the agent grow."""
    monkeypatch.setattr(process, "_LIMIT", 10)
    live = LiveProcesses()
    for pid in range(1000):
        live.names(pid, "curl")
    assert len(reads) == 1000
    assert len(live._known) <= 10
    assert live._fresh == []


def test_what_was_learnt_is_taken_once(reads: list[int]) -> None:
    """A recording gets each name with the batch in which it was learnt, unknown ones too."""
    live = LiveProcesses(keep_fresh=True)
    live.names(4, "a")
    live.names(5, "b")
    live.names(4, "a")
    assert live.take_fresh() == [(4, "a", ProcessNames("exe-4", "/bin/4")), (5, "b", UNKNOWN)]
    assert live.take_fresh() == []
    assert len(reads) == 2


def test_recording_answers_as_the_live_run_did() -> None:
    """What was learnt later replaces what was learnt before; what was never learnt is unknown."""
    recorded = RecordedProcesses()
    assert recorded.names(1, "a") is UNKNOWN
    recorded.add(1, "a", ProcessNames("old", None))
    recorded.add(1, "a", ProcessNames("new", None))
    assert recorded.names(1, "a") == ProcessNames("new", None)
    assert recorded.names(1, "b") is UNKNOWN
