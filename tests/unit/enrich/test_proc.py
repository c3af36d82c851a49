"""What /proc tells of processes that are there."""

from __future__ import annotations

import os
import pwd
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from masdeepflow.enrich import proc
from masdeepflow.enrich.proc import ProcReader, read_process, read_users, scan

if TYPE_CHECKING:
    from masdeepflow.enrich.facts import ProcessFact

_GONE = 2**22 + 1  # beyond the largest PID


def _fact_of(executable: Path, *arguments: str, **environment: str) -> ProcessFact:
    """Return what is read of a program while it runs."""
    with subprocess.Popen([*arguments, "60"], executable=executable, env=environment) as running:
        try:
            _wait_for_exec(running.pid)
            fact = read_process(running.pid)
        finally:
            running.kill()
    assert fact is not None
    return fact


def _wait_for_exec(pid: int) -> None:
    # The new program counts as started a moment before its arguments can be read.
    while not Path(f"/proc/{pid}/cmdline").read_bytes():
        time.sleep(0.001)


def test_own_process_is_read() -> None:
    """The executable is a base name with links resolved; cgroup and user come with it."""
    fact = read_process(os.getpid())
    assert fact is not None
    assert fact.executable == Path(sys.executable).resolve().name
    assert fact.arguments
    assert fact.user == os.getuid()
    assert fact.cgroup == Path("/proc/self/cgroup").read_text()


def test_the_zeros_behind_a_title_are_no_arguments() -> None:
    """Redis writes its title over its arguments, and zeros over the rest of them."""
    with subprocess.Popen(
        ["redis-server *:6379", "-c", "read line", "", ""], executable="/bin/sh", stdin=-1
    ) as running:
        _wait_for_exec(running.pid)
        fact = read_process(running.pid)
        running.kill()
    assert fact is not None
    assert fact.arguments == ("redis-server *:6379", "-c", "read line")


def test_arguments_are_what_the_process_calls_itself(tmp_path: Path) -> None:
    """A title such as nginx's shows, bytes that are no UTF-8 as what they are; long ones are cut."""
    sleep = tmp_path / "sleep me"
    sleep.symlink_to("/bin/sleep")
    assert _fact_of(sleep, "nginx: worker process").arguments == ("nginx: worker process", "60")
    assert _fact_of(sleep, os.fsdecode(b"caf\xe9")).arguments[0] == "caf\\xe9"
    assert _fact_of(sleep, "x" * 5000).arguments == ("x" * 1024,)


@pytest.mark.parametrize(
    ("environment", "service"),
    [
        ({"OTEL_SERVICE_NAME": "shop"}, "shop"),
        ({"A": "1", "OTEL_SERVICE_NAME": "", "B": "2"}, ""),
        ({"NOT_OTEL_SERVICE_NAME": "shop", "OTEL_SERVICE_NAMES": "shop"}, ""),
    ],
)
def test_service_name_is_that_of_the_environment(environment: dict[str, str], service: str) -> None:
    """OpenTelemetry's own variable, by its whole name."""
    assert _fact_of(Path("/bin/sleep"), "sleep", **environment).service == service


def test_deleted_executable_keeps_its_name(tmp_path: Path) -> None:
    """After an upgrade the old process is still the same service."""
    program = tmp_path / "server"
    program.write_bytes(Path("/bin/sleep").read_bytes())
    program.chmod(0o755)
    with subprocess.Popen([program, "60"]) as running:
        _wait_for_exec(running.pid)
        program.unlink()
        fact = read_process(running.pid)
        running.kill()
    assert fact is not None
    assert fact.executable == "server"


@pytest.mark.parametrize("pid", [_GONE, 2])
def test_what_is_gone_or_a_kernel_thread_is_nothing(pid: int) -> None:
    """Neither is an error."""
    assert read_process(pid) is None


def test_a_scan_finds_all_but_the_agent() -> None:
    """A child of this process among them."""
    with subprocess.Popen(["/bin/sleep", "60"]) as running:
        _wait_for_exec(running.pid)
        found = {fact.pid: fact for fact in scan()}
        running.kill()
    assert found[running.pid].executable
    assert os.getpid() not in found


def test_users_are_those_of_the_host() -> None:
    """The first name of an ID wins, as in getpwuid(3)."""
    names = read_users().names
    assert names[0] == pwd.getpwuid(0).pw_name


def test_broken_lines_of_passwd_are_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody else's file is no reason to fail."""
    file = tmp_path / "passwd"
    file.write_bytes(
        b"root:x:0:0::/:/bin/sh\n\xff\xfe\nx:y\n:::::::\nnobody:x:many:0::/:\ntoor:x:0:0::/:/bin/sh\n"
    )
    monkeypatch.setattr(proc, "_PASSWD", (tmp_path / "missing", file))
    assert read_users().names == {0: "root"}
    monkeypatch.setattr(proc, "_PASSWD", (tmp_path / "missing",))
    assert read_users().names == {}


def test_reader_reads_on_a_thread_of_its_own() -> None:
    """Asking never waits; what is gone gives nothing, what is there comes out of `take`."""
    reader = ProcReader()
    reader.start()
    reader.ask(_GONE)
    reader.ask(os.getpid())
    found = reader.take()
    while not found:
        time.sleep(0.001)
        found = reader.take()
    reader.close()
    assert [fact.pid for fact in found] == [os.getpid()]
    assert not reader._thread.is_alive()


def test_reader_that_is_asked_too_much_keeps_its_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """A host that starts processes faster than /proc can be read leaves some unnamed, and does not block."""
    monkeypatch.setattr(proc, "_ASKED_LIMIT", 10)
    reader = ProcReader()
    for _ in range(100):
        reader.ask(_GONE)
    assert reader._asked.qsize() == 10
    reader.close()
