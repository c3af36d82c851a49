"""`masdeepflow accelerate` and `run --accelerate` as users have them."""

from __future__ import annotations

import json
import re
import signal
import socket
import time
from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from masdeepflow.gateway import pins
from tests.support.ports import LOOPBACK, free_port, wait_listening
from tests.support.programs import MASDEEPFLOW, TRAFFIC_GEN, Agent, Program, run, until
from tests.support.servers import nginx, postgresql, redis

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

pytestmark = pytest.mark.root

VARYING = {
    "timestamp",
    "duration_ns",
    "ttfb_ns",
    "queue_ns",
    "client.port",
    "process.pid",
    "peer.process.pid",
    "process.command_line",
}


class Accelerator(Program):
    """`masdeepflow accelerate run` for some ports, ready."""

    def __init__(self, directory: Path, *ports: int, options: Sequence[str] = ()) -> None:
        named = ",".join(map(str, ports))
        super().__init__(directory, MASDEEPFLOW, "accelerate", "run", "--ports", named, *options)
        try:
            self.wait_said("ready: accelerating")
        except BaseException:
            self.kill()
            raise

    def __exit__(self, *error: object) -> None:
        """Let it go as a user does: one that is killed leaves its pins for the next."""
        if self.process.poll() is None:
            self.stop()

    @staticmethod
    def status() -> dict[str, Any]:
        """Return what `accelerate status` says of the only gateway."""
        told = json.loads(run(MASDEEPFLOW, "accelerate", "status", "--json").stdout)
        assert len(told["gateways"]) == 1, told
        found: dict[str, Any] = told["gateways"][0]
        return found


@pytest.fixture
def listener() -> Iterator[socket.socket]:
    """Yield a listener; what is connected to it is the test's own."""
    with socket.create_server((LOOPBACK, free_port())) as made:
        yield made


def _connected(stack: ExitStack, listener: socket.socket) -> tuple[socket.socket, socket.socket]:
    client = stack.enter_context(socket.create_connection(listener.getsockname(), 10))
    server = stack.enter_context(listener.accept()[0])
    server.settimeout(10)
    return client, server


def _read(sock: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count and (more := sock.recv(count - len(data))):
        data += more
    return data


def _works(client: socket.socket, server: socket.socket) -> None:
    client.sendall(b"question")
    assert _read(server, 8) == b"question"
    server.sendall(b"answer")
    assert _read(client, 6) == b"answer"


def test_selftest_prints_the_table() -> None:
    """One line for each behaviour, and the verdict at the end."""
    done = run(MASDEEPFLOW, "accelerate", "selftest")
    assert done.code == 0, done
    assert re.search(r"^FIONREAD +same$", done.stdout, re.MULTILINE)
    assert done.lines[-1] == "connections of this host can be accelerated"


def test_the_benchmark_shows_up_in_the_status(tmp_path: Path) -> None:
    """What the client sent is what was redirected; the run tells the same at its end."""
    port = free_port()
    with Program(tmp_path, TRAFFIC_GEN, "benchmark-server", "--port", port):
        wait_listening(port)
        with Accelerator(tmp_path, port) as gateway:
            done = run(TRAFFIC_GEN, "benchmark-client", "--port", port, "--duration", "0.5")
            sent = int(done.stdout.split()[1])
            totals = gateway.status()["totals"]
            assert totals["pairs"] == 1
            assert totals["redirected_bytes"] + totals["tcp_bytes"] <= sent
            assert totals["redirected_bytes"] > 0
            ended = gateway.stop(signal.SIGTERM)
    assert ended.code == 0
    assert f"bytes redirected: {totals['redirected_bytes']}" in ended.stderr
    assert not pins.directories()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT], ids=["SIGTERM", "SIGINT"])
def test_a_signal_gives_connections_back_to_tcp(
    tmp_path: Path, listener: socket.socket, number: signal.Signals
) -> None:
    """None is cut off, nothing stays in the kernel, and all unread bytes arrive first."""
    with ExitStack() as stack, Accelerator(tmp_path, listener.getsockname()[1]) as gateway:
        idle, busy = _connected(stack, listener), _connected(stack, listener)
        _works(*idle)
        busy[0].sendall(b"unread")
        assert gateway.status()["totals"]["redirected_bytes"] == 20
        gateway.send(number)
        time.sleep(0.2)
        busy[0].sendall(b"+later")
        assert _read(busy[1], 12) == b"unread+later"
        assert gateway.ended().code == 0
        assert not pins.directories()
        _works(*idle)
        _works(*busy)


def test_unread_bytes_keep_their_connection_redirected(tmp_path: Path, listener: socket.socket) -> None:
    """A gateway that stops says so, and the next one clears up once they are read."""
    port = listener.getsockname()[1]
    with ExitStack() as stack:
        with Accelerator(tmp_path, port) as gateway:
            client, server = _connected(stack, listener)
            client.sendall(b"unread")
            ended = gateway.stop(signal.SIGTERM)
        assert "1 sockets stay redirected until they close" in ended.stderr
        assert pins.directories()
        assert _read(server, 6) == b"unread"
        _works(client, server)
        until(lambda: _cleared(tmp_path, port))
        _works(client, server)


def _cleared(directory: Path, port: int) -> bool:
    with Accelerator(directory, port) as gateway:
        gateway.stop()
    return not pins.directories()


def test_kill_9_leaves_connections_working(tmp_path: Path, listener: socket.socket) -> None:
    """They stay redirected, new ones are plain, and the next gateway clears up."""
    port = listener.getsockname()[1]
    with ExitStack() as stack:
        with Accelerator(tmp_path, port) as gateway:
            client, server = _connected(stack, listener)
            client.sendall(b"unread")
            gateway.kill()
        assert _read(server, 6) == b"unread"
        _works(client, server)
        server.sendall(bytes(100_000))
        assert len(_read(client, 100_000)) == 100_000
        until(lambda: not Accelerator.status()["running"])
        assert Accelerator.status()["totals"]["redirected_bytes"] == 100_020
        _works(*_connected(stack, listener))
        assert Accelerator.status()["totals"]["pairs"] == 1
        with Accelerator(tmp_path, port) as second:
            assert second.status()["running"]
            _works(client, server)
            assert second.status()["totals"]["redirected_bytes"] == 0
            second.stop()
        assert not pins.directories()
        _works(client, server)


def test_the_status_tells_what_kept_cpus_awake(tmp_path: Path, listener: socket.socket) -> None:
    """While bytes flow, how many; then for how long, and the CPU time that this took."""
    port = listener.getsockname()[1]
    with ExitStack() as stack, Accelerator(tmp_path, port, options=["--keep-awake"]) as gateway:
        client, server = _connected(stack, listener)
        assert gateway.status()["awake"] is None
        _works(client, server)
        # At first it has been for no time at all.
        until(lambda: (gateway.status()["awake"] or {}).get("seconds"))
        until(lambda: gateway.status()["awake"]["cpus"] == 0)
        ended = gateway.stop()
    assert re.search(r"^CPUs kept awake: none now, [\d.]+ s so far", ended.stderr, re.MULTILINE)


def test_there_is_one_gateway_at_a_time(tmp_path: Path) -> None:
    """The second is told to wait for the end of the first."""
    with Accelerator(tmp_path, free_port()):
        done = run(MASDEEPFLOW, "accelerate", "run", "--ports", free_port())
        assert done.code == 1
        assert "another gateway runs on this host" in done.stderr


def _records(directory: Path, *options: object) -> list[str]:
    http, mysql = free_port(), free_port()
    ports = f"{http},{mysql}"
    with ExitStack() as stack:
        for kind, port in (("http-server", http), ("mysql-server", mysql)):
            stack.enter_context(Program(directory, TRAFFIC_GEN, kind, "--port", port))
            wait_listening(port)
        agent = stack.enter_context(
            Agent(
                directory, "--log", "json", *[ports if o is ... else o for o in options], ports=[http, mysql]
            )
        )
        run(TRAFFIC_GEN, "http-client", "--port", http, "--count", "3", "--keepalive")
        run(TRAFFIC_GEN, "http-client", "--port", http, "--path", "/a?b=c")
        run(TRAFFIC_GEN, "mysql-client", "--port", mysql)
        rows = agent.settle().transactions
    text = (json.dumps({key: row[key] for key in sorted(row) if key not in VARYING}) for row in rows)
    return sorted(re.sub(f"\\b({http}|{mysql})\\b", "PORT", line) for line in text)


def test_the_agent_sees_the_same_inside(tmp_path: Path) -> None:
    """HTTP and MySQL records are those of plain connections, with network.accelerated beside."""
    plain = _records(tmp_path)
    accelerated = _records(tmp_path, "--accelerate", ...)
    assert len(plain) > 10
    assert all('"network.accelerated": true' in line for line in accelerated)
    assert sorted(line.replace('"network.accelerated": true, ', "") for line in accelerated) == plain


@pytest.mark.server
def test_nginx_and_wrk(tmp_path: Path) -> None:
    """No error, and every connection redirected."""
    with nginx(tmp_path) as server, Accelerator(tmp_path, server.port) as gateway:
        done = run("wrk", "-t1", "-c16", "-d2s", f"{server.url}/")
        assert done.code == 0, done
        assert "Socket errors" not in done.stdout
        assert "Non-2xx" not in done.stdout
        totals = gateway.status()["totals"]
    assert totals["pairs"] >= 16
    assert totals["redirected_bytes"] > 1_000_000
    assert totals["tcp_bytes"] < 10_000  # answers to connections that wrk has closed


@pytest.mark.server
def test_redis_and_its_benchmark(tmp_path: Path) -> None:
    """All commands of its own benchmark, pipelined too."""
    with redis(tmp_path) as port, Accelerator(tmp_path, port) as gateway:
        for more in ([], ["-P", "16", "-d", "2000"]):
            done = run(
                "redis-benchmark", "-p", port, "-n", 20_000, "-q", "-t", "ping,set,get,lrange_100", *more
            )
            assert (done.code, "rror" in done.stdout + done.stderr) == (0, False), done
        assert gateway.status()["totals"]["redirected_bytes"] > 10_000_000


@pytest.mark.server
def test_postgresql_and_pgbench(tmp_path: Path) -> None:
    """Transactions without a failed one."""
    with postgresql() as server, Accelerator(tmp_path, server.port) as gateway:
        assert run(*server.pgbench("-i", "-q")).code == 0
        done = run(*server.pgbench("-c", "4", "-T", "2"))
        assert done.code == 0, done
        assert "number of failed transactions: 0" in done.stdout
        assert gateway.status()["totals"]["redirected_bytes"] > 100_000
