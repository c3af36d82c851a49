"""The text log as people read it: in order, soon, and for every transport."""

from __future__ import annotations

import datetime as dt
import os
import re
import socket
import statistics
import subprocess
import sys
import threading
import time
from typing import TYPE_CHECKING

import pytest

from tests.support.ports import LOOPBACK, free_port
from tests.support.programs import TRAFFIC_GEN, run
from tests.support.wire import exchange

if TYPE_CHECKING:
    from tests.e2e.conftest import StartAgent, StartTraffic
    from tests.support.servers import Nginx

pytestmark = [pytest.mark.root, pytest.mark.server("nginx", "curl", "wrk")]

_LINE = re.compile(
    r"(\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6})Z \[INFO\] \[(TCP|UDP|UNIX)\] "
    r"Type: (CONNECT|ACCEPT|TX|RX|CLOSE), PID: (\d+), Comm: (.*?), (\S+) -> (\S+)(?:, (.*))?"
)


def _time(line: str) -> float:
    match = _LINE.fullmatch(line)
    assert match, line
    return dt.datetime.fromisoformat(match[1]).replace(tzinfo=dt.UTC).timestamp()


def test_every_line_has_the_form_and_its_place_in_time(
    nginx: Nginx, start_traffic: StartTraffic, start_agent: StartAgent
) -> None:
    """Fast and slow servers, HTTP and MySQL, failed connects, all at once: stamps never go back."""
    slow, database = start_traffic("http-server", "--delay-ms", 60), start_traffic("mysql-server")
    closed = free_port()
    agent = start_agent(ports=[nginx.port, slow, database, closed])
    clients = [
        ["wrk", "-t1", "-c4", "-d1s", nginx.url],
        [TRAFFIC_GEN, "http-client", "--port", str(slow), "--count", "15"],
        [TRAFFIC_GEN, "http-client", "--port", str(slow), "--count", "15", "--keepalive"],
        [TRAFFIC_GEN, "mysql-client", "--port", str(database)],
        ["curl", "--silent", f"http://{LOOPBACK}:{closed}/", *[f"{nginx.url}/{n}" for n in range(50)]],
    ]
    running = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for command in clients]
    for client in running:
        client.wait(30)
    lines = agent.settle().stop().lines
    times = [_time(line) for line in lines]
    assert times == sorted(times)
    summaries = {re.sub(r"\d.*", "", match[8] or "") for line in lines if (match := _LINE.fullmatch(line))}
    assert summaries >= {"HTTP Request: GET /", "HTTP Response: HTTP/", "MySQL Query: SELECT "}
    assert any(line.endswith("Connect failed: ECONNREFUSED") for line in lines)


class _Stamped(threading.Thread):
    """Reads lines from a pipe and notes when each of them came."""

    def __init__(self, fd: int) -> None:
        super().__init__(daemon=True)
        self._file = os.fdopen(fd)
        self.lines: list[tuple[float, str]] = []
        self.start()

    def run(self) -> None:
        for line in self._file:
            self.lines.append((time.time(), line.rstrip("\n")))


def test_a_line_appears_within_a_tenth_of_a_second_when_quiet(nginx: Nginx, start_agent: StartAgent) -> None:
    """20 requests, one at a time: the delay from an event to its line, over all lines of each."""
    out, into = os.pipe()
    agent = start_agent(ports=[nginx.port], stdout=into)
    os.close(into)
    reader = _Stamped(out)
    for _ in range(20):
        exchange(nginx.port, b"GET /soon HTTP/1.0\r\n\r\n")
        time.sleep(0.15)
    agent.stop()
    reader.join(10)
    mine = [(at, line) for at, line in reader.lines if f":{nginx.port}" in line]
    delays = [at - _time(line) for at, line in mine]
    assert len(mine) == 20 * 8
    # For those who run pytest with -rP.
    sys.stdout.write(
        f"median {statistics.median(delays) * 1000:.0f} ms, at most {max(delays) * 1000:.0f} ms\n"
    )
    assert statistics.median(delays) < 0.25


def test_a_request_is_shown_before_its_answer_comes(
    start_traffic: StartTraffic, start_agent: StartAgent
) -> None:
    """A server that takes half a second: the request's line is there while the client still waits."""
    port = start_traffic("http-server", "--delay-ms", 500)
    agent = start_agent(ports=[port])
    with socket.create_connection((LOOPBACK, port)) as client:
        client.sendall(b"GET /wait HTTP/1.1\r\nConnection: close\r\n\r\n")
        agent.wait_for(lambda lines: sum("HTTP Request: GET /wait" in line for line in lines) == 2)
        assert "HTTP Response" not in "".join(agent.lines)
        client.recv(1000)
    lines = agent.settle().lines
    assert sum("HTTP Request: GET /wait" in line for line in lines) == 2
    assert sum("HTTP Response: HTTP/1.1 200 OK, , Latency: 5" in line for line in lines) == 2


def test_ipv6_and_unix_sockets_have_their_own_form(nginx: Nginx, start_agent: StartAgent) -> None:
    """Brackets round IPv6 addresses; [UNIX] and the path for Unix sockets."""
    agent = start_agent("--include", f"pid={nginx.worker}", "--include", "comm=nginx")
    run("curl", "--silent", f"http://[::1]:{nginx.port}/six")
    run("curl", "--silent", "--unix-socket", nginx.unix_path, "http://local/unix")
    agent.wait_for(lambda lines: sum("HTTP Response" in line for line in lines) == 2)
    lines = agent.stop().lines
    (six,) = [line for line in lines if "GET /six" in line]
    assert f"[TCP] Type: RX, PID: {nginx.worker}, Comm: nginx, [::1]:{nginx.port} -> [::1]:" in six
    (unix,) = [line for line in lines if "GET /unix" in line]
    assert f"[UNIX] Type: RX, PID: {nginx.worker}, Comm: nginx, {nginx.unix_path} -> unix:" in unix


def test_unknown_protocols_are_counted_only(start_traffic: StartTraffic, start_agent: StartAgent) -> None:
    """Bytes that nobody understands give no line of their own, but a service in the summary."""
    port = start_traffic("benchmark-server")
    agent = start_agent(ports=[port])
    assert run(TRAFFIC_GEN, "benchmark-client", "--port", port, "--rtt", "--duration", 0.3).code == 0
    done = agent.settle().stop()
    kinds = {match[3] for line in done.lines if f":{port}" in line and (match := _LINE.fullmatch(line))}
    assert kinds == {"CONNECT", "ACCEPT", "CLOSE"}
    assert re.search(r"^traffic_gen +tcp +server +\d\d+ ", done.stderr, re.MULTILINE)
