"""HTTP against nginx: every request is there once per side, at any pace of traffic and reader."""

from __future__ import annotations

import http.client
import itertools
import json
import os
import re
import threading
import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.support import json_log
from tests.support.ports import LOOPBACK, free_port
from tests.support.programs import run

if TYPE_CHECKING:
    from tests.e2e.conftest import StartAgent
    from tests.support.servers import Nginx

pytestmark = [pytest.mark.root, pytest.mark.server("nginx", "curl", "wrk")]

_REQUESTS = 20_000
_CONNECTIONS = 4
_TARGETS = [
    ("GET", "/", 200),
    ("GET", "/item/7?colour=red", 200),
    ("GET", "/moved", 301),
    ("POST", "/missing", 404),
    ("GET", "/broken", 502),
    ("HEAD", "/head", 200),
    ("GET", "/busy?x=1&y=2", 503),
]
_WRK_S = 3 if os.environ.get("CI") == "true" else 5


def _send_all(port: int) -> dict[int, list[tuple[str, str, int]]]:
    """Send the requests over kept connections; return what each local port sent and got."""
    sent: dict[int, list[tuple[str, str, int]]] = {}
    clients = [http.client.HTTPConnection(LOOPBACK, port) for _ in range(_CONNECTIONS)]
    for number, (client, target) in enumerate(
        zip(itertools.cycle(clients), itertools.cycle(_TARGETS), strict=False)
    ):
        if number == _REQUESTS:
            break
        method, path, _ = target
        client.request(method, path)
        with client.getresponse() as response:
            response.read()
        assert client.sock is not None
        sent.setdefault(client.sock.getsockname()[1], []).append((method, path, response.status))
    for client in clients:
        client.close()
    return sent


def _described(found: dict[str, Any]) -> tuple[str, str, int]:
    query = f"?{found['url.query']}" if "url.query" in found else ""
    return (
        found["http.request.method"],
        f"{found['url.path']}{query}",
        found["http.response.status_code"],
    )


def _check_error(found: dict[str, Any]) -> None:
    """Hold OpenTelemetry's rule: 4xx is an error of the client, not of the server."""
    assert found["error"] == (
        found["http.response.status_code"] >= (400 if found["role"] == "client" else 500)
    )


def test_each_of_20000_requests_is_one_object_per_side(nginx: Nginx, start_agent: StartAgent) -> None:
    """Four kept connections: per side and connection the very requests, in order, in documented keys."""
    agent = start_agent("--log", "json", ports=[nginx.port])
    sent = _send_all(nginx.port)
    objects = agent.settle().objects
    seen: dict[str, dict[int, list[tuple[str, str, int]]]] = {"client": {}, "server": {}}
    for found in objects:
        json_log.check_line(found)
        if "event" not in found:
            assert found["protocol"] == "http"
            _check_error(found)
            seen[found["role"]].setdefault(found["client.port"], []).append(_described(found))
    json_log.check_order(objects)
    assert sum(map(len, sent.values())) == _REQUESTS
    for side in seen.values():
        assert {port: len(requests) for port, requests in side.items()} == {
            port: len(requests) for port, requests in sent.items()
        }
        assert side == sent
    events = Counter(found["event"] for found in objects if "event" in found)
    assert events == {"connect": _CONNECTIONS, "accept": _CONNECTIONS, "close": 2 * _CONNECTIONS}
    lost = json_log.summary(agent.stop().lines)["lost"]
    assert lost["log"] == 0


class _SlowReader(threading.Thread):
    """Reads a pipe at about 1 MB/s until `hurry` is set, far below what the agent has to say."""

    def __init__(self, fd: int) -> None:
        super().__init__(daemon=True)
        self._fd = fd
        self._chunks: list[bytes] = []
        self.hurry = threading.Event()
        self.start()

    def run(self) -> None:
        while chunk := os.read(self._fd, 65536):
            self._chunks.append(chunk)
            self.hurry.wait(0.05)

    def lines(self) -> list[str]:
        """Return all lines, once the writer has closed the pipe."""
        self.join(60)
        return b"".join(self._chunks).decode().splitlines()


def _wrk(nginx: Nginx) -> int:
    """Load nginx as fast as it goes; return wrk's count of answers."""
    done = run("wrk", "-t1", "-c16", f"-d{_WRK_S}s", f"{nginx.url}/load?n=1")
    assert done.code == 0, done.stderr
    count = re.search(r"(\d+) requests in", done.stdout)
    assert count, done.stdout
    return int(count[1])


def _requests(found: dict[str, Any], service: str, role: str) -> int:
    return sum(
        s["requests"]
        for s in found["services"]
        if (s["service"], s["role"], s["protocol"]) == (service, role, "http")
    )


def test_counts_are_exact_under_load_with_a_slow_reader(nginx: Nginx, start_agent: StartAgent) -> None:
    """Wrk at full speed: nginx's own count, and each line is printed or counted in `lost.log`."""
    out, into = os.pipe()
    agent = start_agent("--log", "json", "--ring-mib", 64, ports=[nginx.port], stdout=into)
    os.close(into)
    reader = _SlowReader(out)
    before = nginx.requests()
    answered = _wrk(nginx)
    counted = nginx.requests() - before - 1
    time.sleep(0.3)  # for the last turns to become idle
    agent.send(2)
    reader.hurry.set()
    lines = reader.lines()
    os.close(out)
    assert agent.ended().code == 0
    summary = json_log.summary(lines)
    served = _requests(summary, "nginx", "server")
    assert served == counted
    assert answered <= served <= answered + 16
    _check_lines(lines, summary)


def _check_lines(lines: list[str], summary: dict[str, Any]) -> None:
    objects = [json.loads(line) for line in lines[:-1]]
    for found in objects:
        json_log.check_line(found)
    lost = summary["lost"]
    assert lost["log"] > 0, "the reader was not slow enough to show anything"
    sent = _requests(summary, "nginx", "server") + _requests(summary, "wrk", "client")
    events = 17 * 4  # connect, accept and two closes; wrk looks first whether somebody answers
    missing = sent + events - len(objects) - lost["log"] - lost["log_behind"]
    assert 0 <= missing <= lost["ring_full"] + lost["event_ring_full"]


def test_counts_survive_a_ring_that_is_far_too_small(nginx: Nginx, start_agent: StartAgent) -> None:
    """Records are lost, yet what is shown counts as nginx counts, and what is hidden stays hidden."""
    small = ("--log", "json", "--ring-mib", 1)
    shown, hidden = start_agent(*small, ports=[nginx.port]), start_agent(*small, ports=[free_port()])
    before = nginx.requests()
    run("wrk", "-t1", "-c16", "-d2s", nginx.url)
    counted = nginx.requests() - before - 1
    summary = json_log.summary(shown.settle(marks=5).stop().lines)
    assert summary["lost"]["ring_full"] > 0
    assert _requests(summary, "nginx", "server") == counted
    assert json_log.summary(hidden.stop().lines)["services"] == []
