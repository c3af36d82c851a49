"""Memcached against pymemcache and its own tools: every command is there, once per side."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pymemcache  # type: ignore[import-untyped]  # it ships no types
import pytest

from tests.support import json_log, servers
from tests.support.ports import LOOPBACK
from tests.support.programs import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tests.e2e.conftest import StartAgent
    from tests.support.programs import Agent

pytestmark = [pytest.mark.root, pytest.mark.server("memcached", "memccat")]

_ROUNDS = 400


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Run one Memcached for all tests; give its port."""
    with servers.memcached(tmp_path_factory.mktemp("memcached")) as port:
        yield port


def _by_role(
    agent: Agent, expected: int = 0, mine: Callable[[dict[str, Any]], bool] = bool
) -> dict[str, list[dict[str, Any]]]:
    found = agent.wait_counted(mine, expected)
    for one in found:
        json_log.check_line(one)
    return {role: [one for one in found if one["role"] == role] for role in ("client", "server")}


@pytest.mark.parametrize("noreply", [False, True])
def test_each_command_of_a_pymemcache_loop(port: int, start_agent: StartAgent, *, noreply: bool) -> None:
    """Names, key patterns and outcomes, also of commands that ask for no reply."""
    agent = start_agent("--log", "json", ports=[port])
    client = pymemcache.Client((LOOPBACK, port), default_noreply=noreply)
    client.set("word", "a secret", noreply=False)
    for number in range(_ROUNDS):
        client.set(f"user:{number}", "a secret")
        client.get(f"user:{number}")
        client.get("nobody")
        client.delete(f"user:{number}")
        with pytest.raises(pymemcache.MemcacheClientError):
            client.incr("word", 1, noreply=False)
    with pytest.raises(pymemcache.MemcacheClientError):
        client.incr("k" * 300, 1)
    client.close()
    names = ["set user:*", "get user:*", "get nobody", "delete user:*", "incr word"]
    expected = dict.fromkeys(names, _ROUNDS) | {"set word": 1}
    for found in _by_role(agent, sum(expected.values()), lambda one: one["protocol"] == "memcached").values():
        counted = Counter(one["db.query.text"] for one in found if one["protocol"] == "memcached")
        assert counted == expected
        errors = Counter(
            (one["db.query.text"], one["db.response.status_code"]) for one in found if one["error"]
        )
        assert errors == {("incr word", "CLIENT_ERROR"): _ROUNDS}
        assert not any(one["truncated"] for one in found)
    assert "secret" not in agent.stdout_path.read_text()


def test_the_text_log(port: int, start_agent: StartAgent) -> None:
    """One line a command and one a reply."""
    agent = start_agent(ports=[port])
    client = pymemcache.Client((LOOPBACK, port))
    client.set("user:1", "x", noreply=False)
    client.close()
    lines = [line for line in agent.settle().lines if "Memcached" in line]
    assert any("Type: TX" in line and "Memcached Command: set user:*, , " in line for line in lines)
    assert any("Type: RX" in line and "Memcached Response: STORED, , Latency: " in line for line in lines)


def test_the_binary_protocol(port: int, start_agent: StartAgent, tmp_path: Path) -> None:
    """The same operations by its tools, under the protocol's own names."""
    agent = start_agent("--log", "json", ports=[port])
    (tmp_path / "user1").write_text("a secret")
    server = f"--servers={LOOPBACK}:{port}"
    assert run("memccp", server, "--binary", tmp_path / "user1").code == 0
    assert run("memccat", server, "--binary", "user1").code == 0
    assert run("memcrm", server, "--binary", "user1").code == 0
    for found in _by_role(agent).values():
        texts = [one["db.query.text"] for one in found if one["db.operation.name"] != "quit"]
        assert texts == ["set user*", "getk user*", "delete user*"]
        assert not any(one["error"] for one in found)


@pytest.mark.server("php")
def test_each_command_of_the_client_for_php(port: int, start_agent: StartAgent) -> None:
    """Many keys at once by both protocols: what is silent and beyond the prefix shifts no reply."""
    agent = start_agent("--log", "json", ports=[port])
    script = Path(servers.__file__).with_name("memcached_client.php")
    done = run("php", script, LOOPBACK, port)
    assert (done.code, done.stdout) == (0, "3\n3\n"), done.stderr
    for found in _by_role(agent).values():
        errors = [(one["db.query.text"], one.get("db.response.status_code")) for one in found if one["error"]]
        assert errors == [
            ("incr user:*", "CLIENT_ERROR"),
            ("set large:*", "SERVER_ERROR"),
            ("increment user:*", "NON_NUMERIC"),
            ("set large:*", "TOO_LARGE"),
        ]
        counted = Counter(one.get("db.operation.name") for one in found)
        assert 25 <= counted["getkq"] <= 35
        assert (counted["increment"], counted["incr"]) == (3, 3)
    assert "secret" not in agent.stdout_path.read_text()
