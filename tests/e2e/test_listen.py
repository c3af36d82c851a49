"""What the agent serves over HTTP, to curl and to a real Prometheus."""

from __future__ import annotations

import json
import os
import re
import socket
import time
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from tests.support import servers
from tests.support.ports import LOOPBACK, free_port
from tests.support.programs import MASDEEPFLOW, Finished, run, until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.conftest import StartAgent
    from tests.support.servers import Nginx

pytestmark = [pytest.mark.root, pytest.mark.server("nginx", "curl", "wrk", "prometheus")]

_WRK_S = 3 if os.environ.get("CI") == "true" else 5
_SERVED = 'http_server_request_duration_seconds_count{service_name="nginx",http_response_status_code="200"}'


def _curl(url: str, *options: str) -> Finished:
    return run("curl", "--silent", "--max-time", 10, *options, url)


def _sample(prometheus: str, query: str) -> float:
    """Return the sum of a query's series as Prometheus has them, 0 where it has none."""
    answer = json.loads(_curl(f"{prometheus}/api/v1/query?query={quote(f'sum({query})')}").stdout)
    assert answer["status"] == "success", answer
    series = answer["data"]["result"]
    return float(series[0]["value"][1]) if series else 0.0


def test_prometheus_counts_the_requests_that_wrk_made(
    nginx: Nginx, start_agent: StartAgent, tmp_path: Path
) -> None:
    """Scraped under load, nginx's requests are wrk's answers within 2 %, and no scrape fails."""
    address = f"{LOOPBACK}:{free_port()}"
    start_agent("--log", "off", "--listen", address, ports=[nginx.port])
    with servers.prometheus(tmp_path, address) as prometheus:
        until(lambda: _sample(prometheus, "up"))
        done = run("wrk", "-t1", "-c16", f"-d{_WRK_S}s", f"{nginx.url}/load")
        answered = int(re.findall(r"(\d+) requests in", done.stdout)[0])
        time.sleep(1.5)  # for a scrape after the end
        counted = _sample(prometheus, _SERVED)
        client = _sample(prometheus, 'http_client_request_duration_seconds_count{service_name="wrk"}')
        failed = _sample(prometheus, "count_over_time((up == 0)[10m:500ms])")
    assert counted == pytest.approx(answered, rel=0.02)
    assert client == pytest.approx(answered, rel=0.02)
    assert failed == 0


def test_metrics_are_valid_for_promtool_and_openmetrics(nginx: Nginx, start_agent: StartAgent) -> None:
    """The text passes `promtool check metrics`; OpenMetrics comes when asked for and ends with its mark."""
    address = f"{LOOPBACK}:{free_port()}"
    agent = start_agent("--log", "text", "--listen", address, ports=[nginx.port])
    _curl(f"{nginx.url}/once")
    agent.settle()
    text = _curl(f"http://{address}/metrics", "--include").stdout
    assert re.search(r"(?i)^content-type: text/plain", text, re.MULTILINE)
    body = _curl(f"http://{address}/metrics").stdout
    for source in ("processes", "containers"):
        assert f'masdeepflow_lookup_asked_total{{source="{source}"}}' in body
    checked = run("promtool", "check", "metrics", input=body.encode())
    assert checked.code == 0, checked.stdout + checked.stderr
    for name in "masdeepflow_events_total", "masdeepflow_cpu_seconds_total", "masdeepflow_resident_bytes":
        assert re.search(rf"^{name}\b", body, re.MULTILINE), name
    assert re.search(r'^masdeepflow_lost_events_total\{reason="ring_full"\}', body, re.MULTILINE)
    assert re.search(r"^http_server_request_duration_seconds_bucket\{.*\} 1\.0$", body, re.MULTILINE)
    asked = "Accept: application/openmetrics-text; version=1.0.0"
    openmetrics = _curl(f"http://{address}/metrics", "--include", "--header", asked).stdout
    assert "application/openmetrics-text" in openmetrics
    assert openmetrics.endswith("# EOF\n")


def test_healthz_is_ok_while_the_agent_polls(start_agent: StartAgent) -> None:
    """`/healthz` answers 200 with `ok`; a path that is none answers 404."""
    address = f"{LOOPBACK}:{free_port()}"
    start_agent("--log", "off", "--listen", address)
    health = json.loads(_curl(f"http://{address}/healthz", "--fail").stdout)
    assert health["status"] == "ok"
    status = _curl(f"http://{address}/nothing", "--output", "/dev/null", "--write-out", "%{http_code}")
    assert status.stdout == "404"


def test_a_token_guards_all_but_the_health(start_agent: StartAgent) -> None:
    """With `--listen-token` on any address: 401 without the token, 200 with it; `/healthz` stays open."""
    port = free_port()
    start_agent("--log", "off", "--listen", f"0.0.0.0:{port}", "--listen-token", "secret")
    code = ("--output", "/dev/null", "--write-out", "%{http_code}")
    metrics, health = f"http://{LOOPBACK}:{port}/metrics", f"http://{LOOPBACK}:{port}/healthz"
    assert _curl(metrics, *code).stdout == "401"
    assert _curl(metrics, *code, "--header", "Authorization: Bearer wrong").stdout == "401"
    assert _curl(metrics, *code, "--header", "Authorization: Bearer secret").stdout == "200"
    assert _curl(health, *code).stdout == "200"


def test_a_busy_port_is_one_sentence(tmp_path: Path) -> None:
    """`--listen` on a port that is taken: exit code 1, the address and a remedy, nothing on stdout."""
    with socket.create_server((LOOPBACK, 0)) as taken:
        address = f"{LOOPBACK}:{taken.getsockname()[1]}"
        done = run(MASDEEPFLOW, "run", "--listen", address, "--duration", 5, cwd=tmp_path)
    assert (done.code, done.stdout) == (1, "")
    assert done.stderr.count("\n") == 1
    assert address in done.stderr
    assert "--listen" in done.stderr


@pytest.mark.parametrize("address", ["0.0.0.0:9419", "[::]:9419", ":9419", "192.0.2.1:9419"])
def test_other_addresses_than_localhost_need_a_token(address: str, tmp_path: Path) -> None:
    """What others can reach is refused without token: exit code 2, and the sentence names both ways out."""
    done = run(MASDEEPFLOW, "run", "--listen", address, "--duration", 5, cwd=tmp_path)
    assert (done.code, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "token" in done.stderr
    assert "--insecure-listen" in done.stderr


@pytest.mark.parametrize("address", ["nonsense", "127.0.0.1", "127.0.0.1:x", "127.0.0.1:70000", "::1:80"])
def test_a_wrong_address_is_wrong_usage(address: str, tmp_path: Path) -> None:
    """What is no HOST:PORT: exit code 2 and one sentence that shows what one looks like."""
    done = run(MASDEEPFLOW, "run", "--listen", address, "--duration", 5, cwd=tmp_path)
    assert (done.code, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "127.0.0.1:9419" in done.stderr
