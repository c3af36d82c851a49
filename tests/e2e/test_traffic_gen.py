"""What the self-test tool does, in the words of the text log: the lines that users are promised."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.support.programs import TRAFFIC_GEN, run

if TYPE_CHECKING:
    from tests.e2e.conftest import StartAgent, StartTraffic

pytestmark = [pytest.mark.root]

_START = r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z \[INFO\] \[TCP\]"
_COMM = r"Comm: [^,]+"


def _client(kind: str, port: int, rest: str = "") -> str:
    return rf"{_START} Type: {kind}, PID: \d+, {_COMM}, 127\.0\.0\.1:\d+ -> 127\.0\.0\.1:{port}{rest}"


def _server(kind: str, port: int, rest: str = "") -> str:
    return rf"{_START} Type: {kind}, PID: \d+, {_COMM}, 127\.0\.0\.1:{port} -> 127\.0\.0\.1:\d+{rest}"


def _only(lines: list[str], pattern: str) -> re.Match[str]:
    """Return the match of the one line that matches."""
    found = [match for line in lines if (match := re.fullmatch(pattern, line))]
    assert len(found) == 1, (pattern, lines)
    return found[0]


@pytest.mark.timeout(60)
def test_a_mysql_query_is_two_lines_with_the_latency_of_the_server(
    start_traffic: StartTraffic, start_agent: StartAgent
) -> None:
    """`SELECT 1;` against a server that takes 50 ms: the two promised lines on both sides."""
    port = start_traffic("mysql-server")
    agent = start_agent(ports=[port])
    assert run(TRAFFIC_GEN, "mysql-client", "--port", port).code == 0
    lines = agent.settle().lines
    for side, sent, received in ((_client, "TX", "RX"), (_server, "RX", "TX")):
        _only(lines, side(sent, port, r", MySQL Query: SELECT 1;, , "))
        answer = _only(lines, side(received, port, r", MySQL Response: OK, , Latency: (\d+)ms"))
        assert 50 <= int(answer[1]) <= 75


@pytest.mark.timeout(60)
def test_an_http_request_is_seen_from_connect_to_close(
    start_traffic: StartTraffic, start_agent: StartAgent
) -> None:
    """One GET: CONNECT, TX, RX, CLOSE of the client and ACCEPT, RX, TX, CLOSE of the server, nothing else."""
    port = start_traffic("http-server")
    agent = start_agent(ports=[port])
    assert run(TRAFFIC_GEN, "--host", "127.0.0.1", "--port", port).code == 0
    lines = [line for line in agent.settle().lines if f":{port}" in line]
    request = r", HTTP Request: GET / HTTP/1\.1, , "
    response = r", HTTP Response: HTTP/1\.1 200 OK, , Latency: \d+(\.\d\d)?ms"
    for side, opened, sent, received in ((_client, "CONNECT", "TX", "RX"), (_server, "ACCEPT", "RX", "TX")):
        _only(lines, side(opened, port))
        _only(lines, side(sent, port, request))
        _only(lines, side(received, port, response))
        _only(lines, side("CLOSE", port))
    assert len(lines) == 8


@pytest.mark.timeout(60)
def test_a_slow_answer_has_its_latency_in_whole_milliseconds(
    start_traffic: StartTraffic, start_agent: StartAgent
) -> None:
    """From 10 ms up latencies have no decimals, below they have two."""
    slow, fast = start_traffic("http-server", "--delay-ms", 30), start_traffic("http-server")
    agent = start_agent(ports=[slow, fast])
    for port in (slow, fast):
        assert run(TRAFFIC_GEN, "http-client", "--port", port).code == 0
    lines = agent.settle().lines
    for side, kind in ((_client, "RX"), (_server, "TX")):
        assert int(_only(lines, side(kind, slow, r",.*Latency: (\d+)ms"))[1]) >= 30
        assert float(_only(lines, side(kind, fast, r",.*Latency: (\d\.\d\d)ms"))[1]) < 10
