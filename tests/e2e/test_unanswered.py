"""Requests that nobody answers: a line says so, why and for how long, and the JSON log says the same."""

from __future__ import annotations

import json
import re
import socket
import subprocess
import time
from collections import Counter
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from tests.support import json_log, servers
from tests.support.ports import LOOPBACK
from tests.support.programs import MASDEEPFLOW, Agent, run

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.support.servers import Nginx, PostgreSql

pytestmark = [pytest.mark.root, pytest.mark.server("nginx", "curl", "dig", "psql", "redis-cli")]

_SILENT, _RESOLVER, _DOWN = "127.0.53.57", "127.0.53.58", "127.0.53.59"
_WAIT_S = 20
_PAUSE_S = 0.3  # longer than any answer waits to be taken for over
_MILLISECOND, _SECOND = 1_000_000, 1_000_000_000
_LINE = re.compile(
    r"\S+Z \[INFO\] \[(?:TCP|UDP)\] Type: (TX|RX), PID: (\d+), Comm: .*?, \S+ -> \S+, "
    r"(.+) Response: (none|unfinished) \((.+)\), , Waited: (.+)ms"
)
_WORDS = {
    "timeout": "timed out",
    "closed": "connection closed",
    "reset": "connection reset",
    "retried": "retried",
    "ECONNREFUSED": "ECONNREFUSED: nothing listens there",
}


class _Told(NamedTuple):
    """A request that was never answered, or not to the end."""

    role: str
    pid: int
    protocol: str
    what: str
    why: str
    waited_ms: str


class _Logs(NamedTuple):
    """What both logs tell of the same run. objects: the JSON log's transactions and events."""

    lines: list[str]
    objects: list[dict[str, Any]]

    @property
    def told(self) -> list[_Told]:
        """What the text log tells of requests that were never answered."""
        found = [match for line in self.lines if (match := _LINE.fullmatch(line))]
        roles = {"RX": "client", "TX": "server"}
        return [_Told(roles[one[1]], int(one[2]), *one.groups()[2:]) for one in found]

    @property
    def lost(self) -> list[dict[str, Any]]:
        """The JSON log's transactions with a reason why they were never answered."""
        return [one for one in self.objects if "event" not in one and "error.type" in one]


def _logs(
    tmp_path: Path, port: int, traffic: Callable[[], object], expected: int, host: str = LOOPBACK
) -> _Logs:
    """Record what `traffic` does until `expected` requests went unanswered; return both logs of it.

    host, port: of the server.
    """

    def mine(lines: list[str]) -> list[str]:
        return [line for line in lines if f"{host}:{port}" in line]

    file = tmp_path / "recording"
    with Agent(tmp_path, ports=[port], command=(MASDEEPFLOW, "record", "-o", file)) as agent:
        traffic()
        agent.wait_for(
            lambda lines: sum(bool(_LINE.fullmatch(line)) for line in mine(lines)) >= expected, _WAIT_S
        )
        live = agent.settle().stop()
    options = ("--include", f"port={port}")
    again = [run(MASDEEPFLOW, "replay", file, "--log", log, *options).lines for log in ("text", "json")]
    assert mine(again[0]) == mine(live.lines)
    objects = [json.loads(line) for line in again[1][:-1]]
    logs = _Logs(mine(live.lines), [one for one in objects if one["server.address"] == host])
    for found in logs.objects:
        json_log.check_line(found)
    _check_the_same(logs)
    return logs


def _check_the_same(logs: _Logs) -> None:
    """Hold that both logs tell of the same requests, reasons and times, none of them with a latency."""
    words = {"http": "HTTP", "dns": "DNS", "postgresql": "PostgreSQL", "redis": "Redis"}
    same = [
        _Told(
            one["role"],
            one["process.pid"],
            words[one["protocol"]],
            "unfinished" if one["response_bytes"] else "none",
            _why(one),
            _milliseconds(one["masdeepflow.waited_ns"]),
        )
        for one in logs.lost
    ]
    assert sorted(same) == sorted(logs.told)
    assert all(one["error"] and "duration_ns" not in one for one in logs.lost)


def _why(transaction: dict[str, Any]) -> str:
    closer = transaction.get("masdeepflow.closed_by")
    return _WORDS[transaction["error.type"]] + (f" by {closer}" if closer else "")


def _milliseconds(duration_ns: int) -> str:
    short = f"{(duration_ns + 5000) // 10_000 / 100:.2f}"
    return short if float(short) < 10 else str((duration_ns + _MILLISECOND // 2) // _MILLISECOND)


def _check_ends_with_its_connection(logs: _Logs, request: dict[str, Any]) -> None:
    """Hold that the request waited from its start to the close of its connection."""
    (close,) = [
        one
        for one in logs.objects
        if one.get("event") == "close"
        and (one["role"], one["client.port"]) == (request["role"], request["client.port"])
    ]
    ended = json_log.nanoseconds(request) + request["masdeepflow.waited_ns"]
    assert abs(ended - json_log.nanoseconds(close)) < _MILLISECOND


def test_a_name_server_that_says_nothing(tmp_path: Path) -> None:
    """Each of dig's tries ends by itself, five seconds after it was sent."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind((_SILENT, 0))
        port = deaf.getsockname()[1]
        command = ("dig", f"@{_SILENT}", "-p", port, "+tries=3", "+timeout=1", "dead.golden.test")
        logs = _logs(tmp_path, port, lambda: run(*command), 3, _SILENT)
    assert [(one.role, one.protocol, one.why, one.waited_ms) for one in logs.told] == [
        ("client", "DNS", "timed out", "5000")
    ] * 3
    assert sum("DNS Query: A dead.golden.test" in line for line in logs.lines) == 3


def test_a_name_server_that_is_down(tmp_path: Path) -> None:
    """Its host says at once that nobody listens: so does the log, of the socket and of the query."""
    command = servers.resolving_at(tmp_path, _DOWN, "getent", "ahostsv4", "dead.golden.test")
    logs = _logs(tmp_path, 53, lambda: run(*command), 1, _DOWN)
    failed = [one for one in logs.objects if one.get("event") == "connect_failed"]
    assert {(one["error.type"], one["network.transport"]) for one in failed} == {("ECONNREFUSED", "udp")}
    places = [place for place, line in enumerate(logs.lines) if "Connect failed: ECONNREFUSED" in line]
    assert len(places) == len(failed) >= 1
    assert "DNS Query: A dead.golden.test" in logs.lines[places[0] - 1]
    assert {one["error.type"] for one in logs.lost} == {"ECONNREFUSED"}
    assert all(one["masdeepflow.waited_ns"] < _SECOND for one in logs.lost)


def test_a_resolver_that_asks_again(tmp_path: Path) -> None:
    """The C library repeats both of its questions on the same socket: the first of each ends there."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as deaf:
        deaf.bind((_RESOLVER, 53))
        command = servers.resolving_at(tmp_path, _RESOLVER, "getent", "ahosts", "dead.golden.test")
        logs = _logs(tmp_path, 53, lambda: run(*command), 4, _RESOLVER)
    assert Counter(one.why for one in logs.told) == {"retried": 2, "timed out": 2}
    assert sum("DNS Query: " in line for line in logs.lines) == 4, "each try has a line"
    for kind in ("A", "AAAA"):
        first, second = (one for one in logs.lost if one["dns.question.type"] == kind)
        again = json_log.nanoseconds(first) + first["masdeepflow.waited_ns"]
        assert abs(again - json_log.nanoseconds(second)) < _MILLISECOND
        assert (first["error.type"], second["error.type"]) == ("retried", "timeout")


def test_a_name_server_that_hangs_up(tmp_path: Path) -> None:
    """Over TCP the close tells at once that no answer will come."""
    with servers.scripted(lambda client: client.recv(100)) as port:
        command = ("dig", f"@{LOOPBACK}", "-p", port, "+tcp", "+tries=1", "dead.golden.test")
        logs = _logs(tmp_path, port, lambda: run(*command), 2)
    assert {(one.role, one.protocol, one.why) for one in logs.told} == {
        ("client", "DNS", "connection closed by server"),
        ("server", "DNS", "connection closed by server"),
    }
    for request in logs.lost:
        _check_ends_with_its_connection(logs, request)


def test_a_web_server_that_hangs_up(nginx: Nginx, tmp_path: Path) -> None:
    """Nginx closes the connection instead of an answer (444): both ends tell, each up to its own close."""
    logs = _logs(tmp_path, nginx.port, lambda: run("curl", "--silent", f"{nginx.url}/gone"), 2)
    assert sorted((one.role, one.protocol, one.why) for one in logs.told) == [
        ("client", "HTTP", "connection closed by server"),
        ("server", "HTTP", "connection closed by server"),
    ]
    for request in logs.lost:
        assert request["url.path"] == "/gone"
        _check_ends_with_its_connection(logs, request)
    at = [place for place, line in enumerate(logs.lines) if "Response: none" in line]
    assert all("Type: CLOSE" in logs.lines[place + 1] for place in at), "told before its connection's close"


def test_a_server_that_resets(tmp_path: Path) -> None:
    """It closes with the request unread: the client is told of a reset, and so is its connection's CLOSE."""
    with servers.scripted(lambda client: client.recv(1, socket.MSG_PEEK)) as port:
        command = ("curl", "--silent", f"http://{LOOPBACK}:{port}/unread")
        logs = _logs(tmp_path, port, lambda: run(*command), 1)
    (told,) = logs.told
    assert told[:1] + told[2:5] == ("client", "HTTP", "none", "connection reset by server")
    (broken,) = [one for one in logs.objects if one.get("event") == "close" and one["role"] == "client"]
    assert broken["error.type"] == "ECONNRESET"
    assert sum(line.endswith(", Connection broken: ECONNRESET") for line in logs.lines) == 1


def test_a_client_that_has_enough(tmp_path: Path) -> None:
    """Curl gives up after a second: its request is shown once, and is told to have waited so long."""

    def stall(client: socket.socket) -> None:
        while client.recv(1 << 16):
            pass

    with servers.scripted(stall) as port:
        command = ("curl", "--silent", "--max-time", "1", f"http://{LOOPBACK}:{port}/stalled")
        logs = _logs(tmp_path, port, lambda: run(*command), 2)
    assert sorted((one.role, one.why) for one in logs.told) == [
        ("client", "connection closed by client"),
        ("server", "connection closed by client"),
    ]
    (request,) = [one for one in logs.lost if one["role"] == "client"]
    assert request["masdeepflow.waited_ns"] > _SECOND // 2
    _check_ends_with_its_connection(logs, request)
    assert sum("HTTP Request: GET /stalled" in line for line in logs.lines) == 2


def test_a_database_client_that_is_killed(postgresql: PostgreSql, tmp_path: Path) -> None:
    """Psql dies in a query: it was never answered at its end, though the server finishes it."""
    seen = "select count(*) from pg_stat_activity where query = 'select pg_sleep(2)'"

    def kill() -> None:
        command = [str(word) for word in postgresql.psql("-c", "select pg_sleep(2)")]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as client:
            while run(*postgresql.psql("-At", "-c", seen)).stdout.strip() != "1":
                assert client.poll() is None
            client.kill()

    logs = _logs(tmp_path, postgresql.port, kill, 1)
    (told,) = logs.told
    assert (told.role, told.protocol, told.why) == ("client", "PostgreSQL", "connection closed by client")
    (request,) = logs.lost
    assert request["db.query.text"] == "select pg_sleep(2)"
    _check_ends_with_its_connection(logs, request)


def test_an_answer_that_stops_halfway(postgresql: PostgreSql, tmp_path: Path) -> None:
    """The server has sent a notice and goes on; psql dies long after that pause was seen."""
    statement = "do $$ begin raise notice 'begun'; perform pg_sleep(2); end $$"

    def kill() -> None:
        command = [str(word) for word in postgresql.psql("-c", statement)]
        with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as client:
            assert client.stderr is not None
            assert b"begun" in client.stderr.readline()
            time.sleep(_PAUSE_S)
            client.kill()

    logs = _logs(tmp_path, postgresql.port, kill, 1)
    (told,) = logs.told
    assert told[:1] + told[2:5] == ("client", "PostgreSQL", "unfinished", "connection closed by client")
    (request,) = logs.lost
    assert request["db.query.text"] == statement
    assert request["masdeepflow.waited_ns"] > _PAUSE_S * _SECOND
    _check_ends_with_its_connection(logs, request)
    shown = [line for line in logs.lines if "PostgreSQL Query: do $$" in line]
    assert len(shown) == 2, "each end shows it once"


@pytest.mark.parametrize("pause_s", [0, _PAUSE_S])
def test_what_is_pipelined_ends_together(tmp_path: Path, pause_s: float) -> None:
    """Of two commands of which a server answers one before it hangs up, the other one is told."""

    def answer_one(client: socket.socket) -> None:
        client.recv(1 << 16)
        client.sendall(b"$5\r\nhello\r\n")
        time.sleep(pause_s)

    def ask_two(port: int) -> None:
        with socket.create_connection((LOOPBACK, port)) as client:
            client.sendall(b"*2\r\n$3\r\nGET\r\n$1\r\na\r\n*2\r\n$3\r\nGET\r\n$1\r\nb\r\n")
            while client.recv(100):
                pass

    with servers.scripted(answer_one) as port:
        logs = _logs(tmp_path, port, lambda: ask_two(port), 2)
    assert {one["db.query.text"] for one in logs.lost} == {"GET b"}
    assert sorted(one.role for one in logs.told) == ["client", "server"]
