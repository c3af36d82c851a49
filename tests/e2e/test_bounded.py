"""Memory that does not grow with churn: of connections, of URLs, of processes."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.ports import LOOPBACK, free_port
from tests.support.programs import run

if TYPE_CHECKING:
    from tests.e2e.conftest import StartAgent
    from tests.support.programs import Agent
    from tests.support.servers import Nginx

pytestmark = [pytest.mark.root, pytest.mark.server("nginx", "curl", "wrk")]

_CONNECTIONS = 30_000 if os.environ.get("CI") == "true" else 100_000
_GROWTH_KIB = 16 * 1024
_RING_MIB = 8
"""Small enough for all of its pages to be in use after the warm-up."""
_URLS = """
local number = 0
request = function()
  number = number + 1
  return wrk.format("GET", "/item/" .. number .. "?session=" .. number)
end
"""


def _resident_kib(agent: Agent) -> int:
    status = Path(f"/proc/{agent.pid}/status").read_text()
    found = re.search(r"^VmRSS:\s+(\d+) kB", status, re.MULTILINE)
    assert found
    return int(found[1])


def _connect(nginx: Nginx, count: int) -> int:
    """Make at least `count` requests, each on a connection of its own; return how many."""
    made = 0
    while made < count:
        done = run("wrk", "-t1", "-c8", "-d1s", "-H", "Connection: close", nginx.url)
        made += int(re.findall(r"(\d+) requests in", done.stdout)[0])
    return made


@pytest.mark.timeout(240)
@pytest.mark.parametrize("log", ["text", "json"])
def test_memory_is_flat_over_many_short_connections(nginx: Nginx, start_agent: StartAgent, log: str) -> None:
    """With the log on: after 10,000 connections to warm up, all others add next to nothing."""
    null = os.open(os.devnull, os.O_WRONLY)
    agent = start_agent("--log", log, "--ring-mib", _RING_MIB, ports=[nginx.port], stdout=null)
    os.close(null)
    _connect(nginx, 10_000)
    before = _resident_kib(agent)
    _connect(nginx, _CONNECTIONS)
    after = _resident_kib(agent)
    assert after - before < _GROWTH_KIB
    assert agent.stop().code == 0


def test_memory_and_series_are_flat_over_many_urls(
    nginx: Nginx, start_agent: StartAgent, tmp_path: Path
) -> None:
    """More than 10,000 distinct URLs: neither memory nor the number of metrics' series follows them."""
    address = f"{LOOPBACK}:{free_port()}"
    null = os.open(os.devnull, os.O_WRONLY)
    options = ("--log", "json", "--ring-mib", _RING_MIB, "--listen", address)
    agent = start_agent(*options, ports=[nginx.port], stdout=null)
    os.close(null)
    script = tmp_path / "urls.lua"
    script.write_text(_URLS)

    def load() -> int:
        done = run("wrk", "-t1", "-c8", "-d2s", "-s", script, nginx.url)
        return int(re.findall(r"(\d+) requests in", done.stdout)[0])

    def series() -> set[str]:
        text = run("curl", "--silent", f"http://{address}/metrics").stdout
        names = {line.rpartition(" ")[0] for line in text.splitlines() if "wrk" in line or "nginx" in line}
        # Turns that a busy host's ring lost have a series of their own, without method and status; so have
        # connections that wrk resets, which it does where a response is under way as it ends.
        others = ('http_request_method=""', "tcp_connections_broken_total")
        return {name for name in names if not any(other in name for other in others)}

    load()
    before, known = _resident_kib(agent), series()
    made = load()
    after = _resident_kib(agent)
    assert made > 10_000
    assert after - before < _GROWTH_KIB
    assert series() == known


def test_memory_is_flat_over_many_processes(nginx: Nginx, start_agent: StartAgent) -> None:
    """1,000 short-lived clients: their services fold into one name, memory stays."""
    agent = start_agent("--log", "off", "--ring-mib", _RING_MIB, ports=[nginx.port])
    loop = 'for i in $(seq "$1"); do curl --silent --output /dev/null "$2"; done'
    run("bash", "-c", loop, "bash", 100, nginx.url)
    before = _resident_kib(agent)
    run("bash", "-c", loop, "bash", 1000, nginx.url)
    assert _resident_kib(agent) - before < _GROWTH_KIB
    said = agent.stop().stderr
    # A turn that the ring lost before its process was known is one of `tcp`.
    counts = re.findall(r"^curl +(?:http|tcp) +client +(\d+) ", said, re.MULTILINE)
    assert sum(map(int, counts)) == 1100, said
