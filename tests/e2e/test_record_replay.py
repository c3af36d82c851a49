"""Recordings: what a live run printed comes out again, for anybody, and nothing comes of a damaged file."""

from __future__ import annotations

import contextlib
import http.client
import os
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.ports import LOOPBACK
from tests.support.programs import MASDEEPFLOW, TRAFFIC_GEN, Agent, Finished, clean_environment, run
from tests.support.users import ordinary_user, sudo_variables

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.conftest import StartTraffic
    from tests.support.servers import Nginx

pytestmark = [pytest.mark.root, pytest.mark.server("nginx", "curl", "wrk")]


@pytest.fixture(scope="module")
def public() -> Iterator[Path]:
    """Give a directory that everybody may read, which pytest's own are not."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        path.chmod(0o755)
        yield path


def _record(directory: Path, file: Path, port: int, *args: object) -> Agent:
    command = (MASDEEPFLOW, "record", "-o", file)
    return Agent(directory, *args, ports=[port], command=command, env=clean_environment(**sudo_variables()))


def _replay(file: Path, *args: object) -> Finished:
    return run(*ordinary_user(), MASDEEPFLOW, "replay", file, *args, cwd="/")


def _make_traffic(nginx: Nginx) -> None:
    for path in ("/", "/missing?x=%1b[31m", "/broken", "/moved"):
        run("curl", "--silent", f"{nginx.url}{path}", f"{nginx.url}/again{path}")
    run("curl", "--silent", "--head", f"{nginx.url}/head", "http://127.0.0.1:1/")
    # More would cost lines of the live log, which a replay has.
    client = http.client.HTTPConnection(LOOPBACK, nginx.port)
    for number in range(2000):
        client.request("GET", f"/{number}")
        client.getresponse().read()
    client.close()


@pytest.fixture(scope="module")
def recorded(nginx: Nginx, public: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Finished]:
    """Record some traffic; give the file and how the live run ended."""
    file = public / "recording"
    with _record(tmp_path_factory.mktemp("record"), file, nginx.port, "--log", "json") as agent:
        _make_traffic(nginx)
        agent.settle()
        return file, agent.stop()


def _shown(finished: Finished, port: int) -> list[str]:
    return [line for line in finished.lines if f":{port}" in line]


@pytest.mark.parametrize("log", ["text", "json"])
def test_a_replay_prints_what_the_live_run_printed(
    nginx: Nginx, public: Path, tmp_path: Path, log: str
) -> None:
    """The same bytes on stdout and the same summary on stderr, for an ordinary user."""
    file = public / f"recording-{log}"
    with _record(tmp_path, file, nginx.port, "--log", log) as agent:
        _make_traffic(nginx)
        live = agent.settle().stop()
    again = _replay(file, "--log", log, "--include", f"port={nginx.port}", *agent.marker)
    assert (live.code, again.code) == (0, 0), again.stderr
    assert len(_shown(live, nginx.port)) > 100
    assert again.stdout == live.stdout
    assert f"ready: hooks=socket\n{again.stderr}" == live.stderr


def test_mysql_replays_too(start_traffic: StartTraffic, public: Path, tmp_path: Path) -> None:
    """State that a parser keeps of a connection is rebuilt: statements come out as they did."""
    port, file = start_traffic("mysql-server", "--delay-ms", 1), public / "mysql"
    with _record(tmp_path, file, port) as agent:
        for statement in "SELECT 1;", "INSERT INTO t VALUES (1)", "SELECT '\x1b[31m'":
            run(TRAFFIC_GEN, "mysql-client", "--host", LOOPBACK, "--port", port, "--query", statement)
        live = agent.settle().stop()
    assert "SELECT 1;" in live.stdout
    assert _replay(file, "--include", f"port={port}", *agent.marker).stdout == live.stdout


def _damaged(file: Path, public: Path, kind: str) -> Path:
    whole, bad = file.read_bytes(), public / f"damaged-{kind}"
    flipped = bytearray(whole)
    flipped[len(whole) // 2] ^= 0x10
    first = bytearray(whole)
    first[100] ^= 0x10
    last = bytearray(whole)
    last[-3] ^= 0x10
    contents = {
        "empty": b"",
        "magic only": whole[:24],
        "header cut": whole[:30],
        "layout cut": whole[:200],
        "half": whole[: len(whole) // 2],
        "last byte missing": whole[:-1],
        "middle bit": bytes(flipped),
        "layout bit": bytes(first),
        "end bit": bytes(last),
        "text": b"2026-01-01 nothing of interest\n" * 100,
        "zeros": bytes(4096),
        "other version": whole.replace(b"recording 2", b"recording 9", 1),
        "more behind": whole + b"more",
    }
    bad.write_bytes(contents[kind])
    return bad


@pytest.mark.parametrize(
    "kind",
    [
        "empty",
        "magic only",
        "header cut",
        "layout cut",
        "half",
        "last byte missing",
        "middle bit",
        "layout bit",
        "end bit",
        "text",
        "zeros",
        "other version",
        "more behind",
    ],
)
def test_a_damaged_file_prints_nothing(recorded: tuple[Path, Finished], public: Path, kind: str) -> None:
    """One sentence with the file's name, exit code 2, and not one line on stdout."""
    bad = _damaged(recorded[0], public, kind)
    done = _replay(bad)
    assert (done.code, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert str(bad) in done.stderr


@pytest.mark.parametrize("name", ["not-there", "."])
def test_a_file_that_cannot_be_read_is_named(public: Path, name: str) -> None:
    """No file or a directory: one sentence with its name, exit code 2."""
    done = _replay(public / name)
    assert (done.code, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert str(public / name) in done.stderr


@pytest.mark.parametrize("kind", ["half", "last byte missing", "middle bit"])
def test_partial_replays_the_whole_batches(
    recorded: tuple[Path, Finished], public: Path, kind: str, nginx: Nginx
) -> None:
    """`--partial`: exit code 0, some of the lines in the same order, and a summary of them."""
    file, live = recorded
    done = _replay(
        _damaged(file, public, kind), "--partial", "--log", "json", "--include", f"port={nginx.port}"
    )
    assert done.code == 0, done.stderr
    *lines, summary = done.lines
    assert lines
    assert '"event": "summary"' in summary
    following = iter(live.lines)
    assert all(line in following for line in lines)


@contextlib.contextmanager
def _small_disk(directory: Path) -> Iterator[Path]:
    """Mount a file system of 64 KiB."""
    disk = directory / "disk"
    disk.mkdir()
    assert run("mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk).code == 0
    try:
        yield disk
    finally:
        assert run("umount", disk).code == 0


def test_a_full_disk_ends_the_recording_and_leaves_nothing(nginx: Nginx, tmp_path: Path) -> None:
    """The agent ends with exit code 1 and says why in its last line; no file, whole or half, is left."""
    with (
        _small_disk(tmp_path) as disk,
        _record(tmp_path, disk / "recording", nginx.port, "--log", "off") as agent,
    ):
        run("wrk", "-t1", "-c8", "-d2s", nginx.url)
        done = agent.ended(30)
        assert list(disk.iterdir()) == []
    assert done.code == 1
    said = done.stderr.splitlines()[-1]
    assert "No space left on device" in said
    assert "Traceback" not in done.stderr


def test_a_replay_to_a_full_disk_ends_with_a_sentence(recorded: tuple[Path, Finished]) -> None:
    """`replay FILE > /dev/full` does not wait for room that nobody makes: one sentence, exit code 1."""
    done = run("sh", "-c", f'exec "{MASDEEPFLOW}" replay "{recorded[0]}" > /dev/full')
    assert (done.code, done.stderr.count("\n")) == (1, 1)
    assert "No space left on device" in done.stderr


@pytest.mark.parametrize("where", ["missing/recording", "."])
def test_an_impossible_output_is_wrong_usage(tmp_path: Path, where: str) -> None:
    """In no directory, or where a directory is: exit code 2, one sentence, nothing made."""
    done = run(MASDEEPFLOW, "record", "-o", tmp_path / where, "--listen", "off", "--duration", 1)
    assert (done.code, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_an_older_recording_is_replaced_only_by_a_whole_one(nginx: Nginx, tmp_path: Path) -> None:
    """Killed while it records over an older file, the agent leaves that file as it was."""
    file = tmp_path / "recording"
    file.write_text("older")
    with _record(tmp_path, file, nginx.port, "--log", "off") as agent:
        run("curl", "--silent", nginx.url)
        agent.kill()
    assert file.read_text() == "older"


def test_only_root_and_whoever_called_sudo_may_read_it(recorded: tuple[Path, Finished]) -> None:
    """It holds the beginnings of everybody's requests."""
    status = recorded[0].stat()
    assert status.st_mode & 0o777 == 0o600
    assert str(status.st_uid) == sudo_variables().get("SUDO_UID", str(os.geteuid()))


def test_a_second_recording_to_the_same_file_is_refused(nginx: Nginx, public: Path, tmp_path: Path) -> None:
    """One sentence and exit code 2 for the second, which prints nothing; the first is whole."""
    file = public / "twice"
    with _record(tmp_path, file, nginx.port) as agent:
        run("curl", "--silent", f"{nginx.url}/first")
        second = run(MASDEEPFLOW, "record", "-o", file, "--listen", "off", "--duration", 1)
        run("curl", "--silent", f"{nginx.url}/last")
        live = agent.settle().stop()
    assert (second.code, second.stdout) == (2, "")
    assert second.stderr.count("\n") == 1
    assert str(file) in second.stderr
    assert "another recording to it is under way" in second.stderr
    again = _replay(file, "--include", f"port={nginx.port}", *agent.marker)
    assert (live.code, again.code) == (0, 0)
    assert "/first" in again.stdout
    assert "/last" in again.stdout
    assert again.stdout == live.stdout
