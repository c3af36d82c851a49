"""A stdout that is closed, breaks, or takes nothing: the agent goes on, and ends as it should."""

from __future__ import annotations

import json
import os
import re
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.ports import LOOPBACK
from tests.support.programs import MASDEEPFLOW, run

if TYPE_CHECKING:
    from tests.e2e.conftest import StartAgent, StartTraffic
    from tests.support.servers import Nginx

pytestmark = [pytest.mark.root, pytest.mark.server("nginx", "curl", "wrk")]


def _get(port: int, path: str = "/") -> None:
    assert run("curl", "--silent", "--fail", f"http://{LOOPBACK}:{port}{path}").code == 0


def _requests(said: str, service: str) -> int:
    """Return the requests of a service in the last summary, lost ones that nobody could name included."""
    table = said.rpartition("\nservice ")[2]
    return sum(map(int, re.findall(rf"^{service} +\w+ +\w+ +(\d+)", table, re.MULTILINE)))


@pytest.mark.parametrize("log", ["text", "json"])
def test_a_reader_that_leaves_after_one_line_does_not_stop_the_agent(
    start_traffic: StartTraffic, start_agent: StartAgent, log: str
) -> None:
    """As `| head -1` does: no traceback, the count goes on, exit code 0."""
    port = start_traffic("http-server")
    out, into = os.pipe()
    agent = start_agent("--log", log, ports=[port], stdout=into)
    os.close(into)
    _get(port)
    assert os.read(out, 65536)
    os.close(out)
    for _ in range(3):
        _get(port)
        time.sleep(0.1)
    done = agent.stop()
    assert done.code == 0
    assert "Traceback" not in done.stderr
    assert _requests(done.stderr, "curl") == 4


def test_a_shell_pipe_to_head_is_quiet(start_traffic: StartTraffic) -> None:
    """`run | head -1` itself: one line and a clean stderr."""
    port = start_traffic("http-server")
    script = (
        f'"{MASDEEPFLOW}" run --listen off --duration 3 --include port={port} | head -1 &'
        f"sleep 2; curl --silent http://{LOOPBACK}:{port}/ >/dev/null; wait"
    )
    done = run("bash", "-c", script)
    assert done.stdout.count("\n") == 1
    assert "Traceback" not in done.stderr
    assert "BrokenPipe" not in done.stderr


@pytest.mark.parametrize("log", ["text", "json", "off"])
@pytest.mark.parametrize("closed", [">&-", "2>&-", "<&-", ">&- 2>&- <&-"])
def test_closed_standard_streams_are_no_trouble(log: str, closed: str) -> None:
    """Started with any of them closed, the agent runs and ends with exit code 0."""
    script = f'"{MASDEEPFLOW}" run --listen off --log {log} --duration 0.3 {closed}'
    done = run("bash", "-c", script)
    assert done.code == 0, done.stderr
    assert "Traceback" not in done.stderr


def test_a_full_device_as_stdout_counts_its_lines_as_lost(
    start_traffic: StartTraffic, start_agent: StartAgent
) -> None:
    """Nothing can be written to /dev/full: exit code 0, no traceback, the lines are in `lost`."""
    port = start_traffic("http-server")
    full = os.open("/dev/full", os.O_WRONLY)
    agent = start_agent(ports=[port], stdout=full)
    os.close(full)
    _get(port)
    time.sleep(0.3)
    done = agent.stop()
    assert done.code == 0
    assert "Traceback" not in done.stderr
    assert re.search(r"lost .*log \d+", done.stderr)


def test_a_reader_that_takes_nothing_costs_lines_and_no_records(
    nginx: Nginx, start_agent: StartAgent
) -> None:
    """A pipe nobody reads while wrk runs: the count is nginx's, the end comes in bounded time."""
    out, into = os.pipe()
    agent = start_agent("--log", "json", "--ring-mib", 64, ports=[nginx.port], stdout=into)
    os.close(into)
    before = nginx.requests()
    run("wrk", "-t1", "-c8", "-d2s", nginx.url)
    counted = nginx.requests() - before - 1
    time.sleep(0.3)
    done = agent.stop(timeout_s=30)
    os.close(out)
    assert done.code == 0
    assert _requests(done.stderr, "nginx") == counted
    assert re.search(r"log \d+", done.stderr)


def test_the_last_line_is_the_summary_whatever_was_lost(nginx: Nginx, start_agent: StartAgent) -> None:
    """A reader that sleeps through the load finds whole lines then, and the summary at the end."""
    out, into = os.pipe()
    agent = start_agent("--log", "json", ports=[nginx.port], stdout=into)
    os.close(into)
    run("wrk", "-t1", "-c8", "-d2s", nginx.url)
    agent.send(2)
    chunks = []
    while chunk := os.read(out, 1 << 20):
        chunks.append(chunk)
    os.close(out)
    assert agent.ended().code == 0
    objects = [json.loads(line) for line in b"".join(chunks).decode().splitlines()]
    assert [found.get("event") for found in objects].index("summary") == len(objects) - 1
    assert objects[-1]["lost"]["log"] > 0
