"""The commands as their users run them."""

from __future__ import annotations

import re
import signal
import socket
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    import subprocess
    from collections.abc import Callable

    Run = Callable[..., subprocess.CompletedProcess[str]]
    Start = Callable[..., tuple[subprocess.Popen[str], int]]

_SERVERS = ["http-server", "mysql-server", "benchmark-server"]
_CLIENTS = ["http-client", "mysql-client", "benchmark-client"]


def test_without_a_command_one_http_get(run: Run, start: Start) -> None:
    """``traffic_gen`` alone makes one GET and prints its status line."""
    _, port = start("http-server")
    done = run("--host", "127.0.0.1", "--port", port, "--path", "x?y")
    assert re.fullmatch(r"HTTP/1\.1 200 OK, 9 bytes, \d+\.\d\d ms\n", done.stdout)
    assert (done.returncode, done.stderr) == (0, "")


def test_without_options_the_get_goes_to_1_1_1_1(run: Run) -> None:
    """The help names the host and port that plain ``traffic_gen`` asks."""
    text = " ".join(run("--help").stdout.split())
    assert "[default: 1.1.1.1]" in text
    assert "[default: 80;" in text


@pytest.mark.parametrize(
    ("command", "defaults"),
    [
        ("http-server", {"host": "127.0.0.1", "port": "8000", "delay-ms": "0"}),
        ("http-client", {"host": "127.0.0.1", "port": "8000", "path": "/", "count": "1"}),
        ("mysql-server", {"host": "127.0.0.1", "port": "3306", "delay-ms": "50"}),
        ("mysql-client", {"host": "127.0.0.1", "port": "3306", "query": "SELECT 1;", "user": "root"}),
        ("benchmark-server", {"host": "127.0.0.1", "port": "8080"}),
        ("benchmark-client", {"host": "127.0.0.1", "port": "8080", "duration": "30"}),
    ],
)
def test_defaults(run: Run, command: str, defaults: dict[str, str]) -> None:
    """Each command keeps to loopback and its usual port unless told otherwise, as its help says."""
    text = " ".join(run(command, "--help").stdout.split())
    for option, value in defaults.items():
        assert re.search(rf"--{option} .*?\[default: {re.escape(value)}[;\]]", text), option


@pytest.mark.parametrize("command", _SERVERS)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_servers_stop_on_signals(start: Start, command: str, number: signal.Signals) -> None:
    """A server ends at once with exit 0 and nothing more to say, with a client connected too."""
    process, port = start(command)
    with socket.create_connection(("127.0.0.1", port)):
        process.send_signal(number)
        assert process.communicate(timeout=30) == ("", "")
    assert process.returncode == 0


@pytest.mark.parametrize("command", _SERVERS)
def test_busy_port(run: Run, start: Start, command: str) -> None:
    """A busy port is one sentence with the remedy, and exit 1."""
    _, port = start("http-server")
    done = run(command, "--port", port)
    assert done.returncode == 1
    reason = f"127.0.0.1:{port} is already in use"
    assert done.stderr == f"Error: {reason}: stop the server that holds it or choose another --port.\n"


@pytest.mark.parametrize("command", [[], *([client] for client in _CLIENTS)], ids=["plain", *_CLIENTS])
def test_refused_connection(run: Run, command: list[str]) -> None:
    """A refused connection is one sentence with the remedy, and exit 1."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port = sock.getsockname()[1]
        done = run(*command, "--host", "127.0.0.1", "--port", port)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"Error: Connection to 127.0.0.1:{port} refused: start a server there or correct --host and --port.\n"
    )


@pytest.mark.parametrize(
    "arguments",
    [
        ["no-such-command"],
        ["--port", "0"],
        ["http-server", "--delay-ms", "-1"],
        ["http-client", "--count", "0"],
        ["mysql-client", "--port", "65536"],
        ["benchmark-client", "--size", "0"],
        ["benchmark-client", "--duration", "0"],
        ["benchmark-client", "--duration", "nan"],
        ["--host", "127.0.0.1", "mysql-client"],
    ],
    ids=" ".join,
)
def test_wrong_usage(run: Run, arguments: list[str]) -> None:
    """Wrong usage is exit 2 with a reason; an option before a command is refused, as it would be ignored."""
    done = run(*arguments)
    assert (done.returncode, done.stdout) == (2, "")
    assert "Error: " in done.stderr
    assert "Traceback" not in done.stderr


def test_http_client_lists_and_sums_up(run: Run, start: Start) -> None:
    """Each request gives its status line, and the run a summary."""
    _, port = start("http-server")
    done = run("http-client", "--port", port, "--count", 3, "--keepalive")
    *listed, summary = done.stdout.splitlines()
    assert [line.partition(",")[0] for line in listed] == ["HTTP/1.1 200 OK"] * 3
    assert re.match(r"3 requests in \d+\.\d\d s \(\d+\.\d/s\): 3 x HTTP/1\.1 200 OK; latency p50 ", summary)


def test_mysql_client_prints_the_answer(run: Run, start: Start) -> None:
    """The mock server's OK is printed, and it takes as long as --delay-ms asks."""
    _, port = start("mysql-server", "--delay-ms", 70)
    done = run("mysql-client", "--port", port)
    assert (done.returncode, done.stdout) == (0, "OK, 0 rows affected\n")
    assert float(done.stderr.removeprefix("Latency: ").removesuffix(" ms\n")) >= 70


def test_mysql_client_sends_the_bytes_it_was_given(run: Run, start: Start) -> None:
    """A statement that is not UTF-8 is sent as typed, not turned into a traceback."""
    _, port = start("mysql-server")
    assert run("mysql-client", "--port", port, "--query", "SELECT '\udcff'").returncode == 0


@pytest.mark.parametrize(
    ("options", "last"),
    [
        ([], r"Sent \d+ bytes\. Speed: \d+\.\d\d MB/s\n"),
        (["--rtt"], r"\d+ round trips of 64 bytes\. p50 [^\n]* us\n"),
    ],
    ids=["throughput", "rtt"],
)
def test_benchmark_client(run: Run, start: Start, options: list[str], last: str) -> None:
    """Progress goes to stderr each second, and stdout holds the result alone."""
    _, port = start("benchmark-server")
    done = run("benchmark-client", "--port", port, "--duration", 1.2, *options)
    assert done.returncode == 0
    assert re.fullmatch(last, done.stdout)
    assert done.stderr.startswith("1 s: ")


def test_ipv6(run: Run, start: Start) -> None:
    """Servers and clients take IPv6 addresses."""
    try:
        with socket.create_server(("::1", 0), family=socket.AF_INET6):
            pass
    except OSError:
        pytest.skip("no IPv6 here")
    _, port = start("http-server", "--host", "::1")
    assert run("http-client", "--host", "::1", "--port", port).returncode == 0
