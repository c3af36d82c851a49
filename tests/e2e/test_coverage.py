"""Coverage: the bytes that were understood against all that a service's sockets moved."""

from __future__ import annotations

import http.client
import re
import signal
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support import servers
from tests.support.ports import LOOPBACK, free_port
from tests.support.programs import run, until

if TYPE_CHECKING:
    from tests.e2e.conftest import StartAgent
    from tests.support.programs import Agent
    from tests.support.servers import Nginx

pytestmark = [pytest.mark.root, pytest.mark.server("nginx", "curl")]

SELF = Path("/proc/self/comm").read_text(encoding="utf-8").strip()
NOISE = bytes(range(128, 256)) * 8
REQUESTS = 300


def _exchange_noise(port: int) -> None:
    with socket.create_connection((LOOPBACK, port)) as sock:
        for _ in range(3):
            sock.sendall(NOISE)
            assert sock.recv(4, socket.MSG_WAITALL) == b"\xff" * 4


def _answer_noise(sock: socket.socket) -> None:
    for _ in range(3):
        sock.recv(len(NOISE), socket.MSG_WAITALL)
        sock.sendall(b"\xff" * 4)


def _make_traffic(nginx: Nginx, port: int) -> None:
    """Ask nginx for pages and a file, and somebody else for what is no protocol."""
    (nginx.files / "large").write_bytes(bytes(3_000_000))
    client = http.client.HTTPConnection(LOOPBACK, nginx.port)
    for path in ["/"] * REQUESTS + ["/files/large"]:
        client.request("GET", path)
        client.getresponse().read()
    client.close()
    _exchange_noise(port)


def _served(agent: Agent, address: str) -> dict[tuple[str, str], float]:
    """Ask for a summary, which brings the counts up to date; return (metric, service) -> value."""
    agent.send(signal.SIGUSR1)
    agent.wait_said("\nread ")
    text = run("curl", "--silent", f"http://{address}/metrics").stdout
    found = re.findall(
        r'^masdeepflow_(\w+_bytes_total|coverage_ratio)\{service_name="(.*)"\} (.*)$', text, re.MULTILINE
    )
    return {(name, service): float(value) for name, service, value in found}


def test_coverage_is_what_was_understood_of_all_that_moved(nginx: Nginx, start_agent: StartAgent) -> None:
    """All of nginx's bytes, to the last; of a process that speaks HTTP and noise, the part that is HTTP."""
    address = f"{LOOPBACK}:{free_port()}"
    with servers.scripted(_answer_noise) as port:
        agent = start_agent("--log", "json", "--listen", address, ports=[nginx.port, port])
        _make_traffic(nginx, port)
        agent.settle()
        served = _served(agent, address)
        done = agent.stop()
    moved = {
        protocol: sum(
            found["request_bytes"] + found["response_bytes"]
            for found in agent.transactions
            if found["protocol"] == protocol and found["role"] == "client"
        )
        for protocol in ("http", "tcp")
    }
    assert moved["http"] > 3_000_000
    assert moved["tcp"] == 3 * (len(NOISE) + 4)
    assert served["coverage_ratio", "nginx"] == 1
    assert served["parsed_bytes_total", "nginx"] == served["moved_bytes_total", "nginx"] == moved["http"]
    # Both ends of the noise are in this process.
    assert served["parsed_bytes_total", SELF] == moved["http"]
    assert served["moved_bytes_total", SELF] == moved["http"] + 2 * moved["tcp"]
    assert re.search(rf"^read  99\.\d% of the bytes moved \({SELF} 99\.\d%\)$", done.stderr, re.MULTILINE)


def test_noise_alone_is_not_covered(start_agent: StartAgent) -> None:
    """A service that nobody understands is there, with a ratio of 0."""
    address = f"{LOOPBACK}:{free_port()}"
    with servers.scripted(_answer_noise) as port:
        agent = start_agent("--listen", address, ports=[port])
        _exchange_noise(port)
        served = until(lambda: _served(agent.settle(), address))
    assert served["coverage_ratio", SELF] == 0
    assert served["moved_bytes_total", SELF] > 0
