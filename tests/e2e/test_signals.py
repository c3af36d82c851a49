"""What signals do, and what is left of the agent when it ends."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import re
import signal
import subprocess
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.ports import LOOPBACK
from tests.support.programs import run, until

if TYPE_CHECKING:
    from tests.e2e.conftest import StartAgent, StartTraffic
    from tests.support.programs import Agent

pytestmark = [pytest.mark.root, pytest.mark.server("curl")]

_HEADINGS = r"service +protocol +role +requests +errors +p50 +p95 +p99"


def _get(*ports: int) -> None:
    for port in ports:
        assert run("curl", "--silent", "--fail", f"http://{LOOPBACK}:{port}/").code == 0


def _summaries(said: str) -> list[list[str]]:
    """Return the rows of the table of services of each summary."""
    parts = re.split(_HEADINGS, said)[1:]
    return [
        [" ".join(line.split()[:5]) for line in part.strip().splitlines() if "http" in line] for part in parts
    ]


def _has_summaries(agent: Agent, count: int) -> bool:
    return len(_summaries(agent.errors)) == count


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_flushes_and_prints_a_summary(
    start_traffic: StartTraffic, start_agent: StartAgent, number: int
) -> None:
    """Right after a request: its lines are printed, the summary counts it, the exit code is 0."""
    port = start_traffic("http-server")
    agent = start_agent(ports=[port])
    _get(port)
    done = agent.stop(number)
    assert done.code == 0
    assert sum("HTTP Response" in line for line in done.lines) == 2
    assert "seen " in done.stderr
    assert "lost " in done.stderr
    (rows,) = _summaries(done.stderr)
    assert sorted(rows) == ["curl http client 1 0", "traffic_gen http server 1 0"]


def test_a_request_that_waits_is_counted_at_the_end(
    start_traffic: StartTraffic, start_agent: StartAgent
) -> None:
    """Stopped before the answer: the request line is in the log, and no response line."""
    port = start_traffic("http-server", "--delay-ms", 60_000)
    agent = start_agent(ports=[port])
    client = subprocess.Popen(["curl", "--silent", f"http://{LOOPBACK}:{port}/slow"])
    try:
        agent.wait_for(lambda lines: sum("HTTP Request: GET /slow" in line for line in lines) == 2)
        done = agent.stop()
    finally:
        client.kill()
        client.wait()
    assert sum("HTTP Request" in line for line in done.lines) == 2
    assert "HTTP Response" not in done.stdout
    assert done.code == 0


def test_sigusr1_prints_the_summary_at_once(start_traffic: StartTraffic, start_agent: StartAgent) -> None:
    """Twice asked, twice answered with the count so far; the agent goes on."""
    port = start_traffic("http-server")
    agent = start_agent(ports=[port])
    for count in 1, 2:
        _get(port)
        agent.settle().send(signal.SIGUSR1)
        until(functools.partial(_has_summaries, agent, count), lambda: agent.errors)
    done = agent.stop()
    assert [min(rows) for rows in _summaries(done.stderr)] == [
        f"curl http client {count} 0" for count in (1, 2, 2)
    ]


def _reload(agent: Agent, said: str) -> None:
    before = agent.errors.count("reloaded")
    agent.send(signal.SIGHUP)
    until(lambda: agent.errors.count("reloaded") > before, lambda: agent.errors)
    assert said in agent.errors.splitlines()[-1]


def _hits(agent: Agent, port: int) -> int:
    return sum(f"{LOOPBACK}:{port}," in line and "HTTP Request" in line for line in agent.lines)


def test_sighup_takes_over_changed_filters(
    start_traffic: StartTraffic, start_agent: StartAgent, tmp_path: Path
) -> None:
    """A changed file changes what is shown; a broken or vanished one is told and changes nothing."""
    first, second = start_traffic("http-server"), start_traffic("http-server")
    file = tmp_path / "agent.yaml"
    file.write_text(f"include: [port={first}]\n")
    agent = start_agent("--config", file)
    _get(first, second)
    agent.wait_for(lambda _: _hits(agent, first) == 1)
    file.write_text(f"include: [port={second}]\nredact: true\n")
    _reload(agent, "reloaded")
    _get(first, second)
    agent.wait_for(lambda _: _hits(agent, second) == 1)
    for broken in "include: [colour=red]", "include: [", "log: [", "nonsense: 1":
        file.write_text(broken)
        _reload(agent, "not reloaded")
    file.unlink()
    _reload(agent, "not reloaded")
    _get(first, second)
    agent.wait_for(lambda _: _hits(agent, second) == 2)
    assert agent.stop().code == 0
    assert _hits(agent, first) == 1


def test_sighup_without_a_file_is_told(start_agent: StartAgent) -> None:
    """There is nothing to reload: the agent says so and goes on."""
    agent = start_agent("--log", "off")
    _reload(agent, "not reloaded")
    assert agent.stop().code == 0


def test_the_duration_ends_the_run(start_agent: StartAgent) -> None:
    """`--duration` ends it like SIGINT does."""
    done = start_agent("--log", "json", "--duration", 0.2).ended()
    assert done.code == 0
    assert json.loads(done.lines[-1])["event"] == "summary"


def _bpf_ids(pid: int) -> dict[str, set[int]]:
    """Return the ids of the programs, maps and links that a process holds."""
    held: dict[str, set[int]] = {"prog": set(), "map": set(), "link": set()}
    for info in Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):
            for kind, number in re.findall(r"^(prog|map|link)_id:\s+(\d+)$", info.read_text(), re.MULTILINE):
                held[kind].add(int(number))
    return held


def _alive(held: dict[str, set[int]]) -> dict[str, set[int]]:
    listed = {kind: json.loads(run("bpftool", "--json", kind, "list").stdout) for kind in held}
    return {kind: ids & {one["id"] for one in listed[kind]} for kind, ids in held.items()}


@pytest.mark.server("bpftool")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_no_program_map_or_link_is_left(start_agent: StartAgent, number: int) -> None:
    """Whatever ends the agent, kill -9 included, the kernel has forgotten all that it had loaded."""
    pinned = set(Path("/sys/fs/bpf").iterdir())
    agent = start_agent("--log", "off")
    held = _bpf_ids(agent.pid)
    assert all(held.values()), held
    assert _alive(held) == held
    agent.stop(number)
    until(lambda: not any(_alive(held).values()), lambda: str(_alive(held)), timeout_s=10)
    assert set(Path("/sys/fs/bpf").iterdir()) <= pinned


def test_a_child_of_the_shell_with_sigint_ignored_stops_all_the_same(start_agent: StartAgent) -> None:
    """A shell starts background jobs with SIGINT ignored: the agent listens to it nevertheless."""
    agent = start_agent("--log", "off", preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_IGN))
    os.kill(agent.pid, signal.SIGINT)
    assert agent.ended(10).code == 0
