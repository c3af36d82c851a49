"""Redis against its own benchmark and clients: every command is there, once per side."""

from __future__ import annotations

import time
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest
import redis

from tests.support import json_log, servers
from tests.support.programs import Program, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from tests.e2e.conftest import StartAgent
    from tests.support.programs import Agent

pytestmark = [pytest.mark.root, pytest.mark.server("redis-server", "redis-cli", "redis-benchmark")]

_FEW = 480
_MANY = 48_000
_ERRORS = 200
_MIXED = 300


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Run one Redis for all tests; give its port."""
    with servers.redis(tmp_path_factory.mktemp("redis")) as port:
        yield port


def _by_role(
    agent: Agent, expected: int = 0, mine: Callable[[dict[str, Any]], bool] = bool
) -> dict[str, list[dict[str, Any]]]:
    found = agent.wait_counted(mine, expected)
    for one in found:
        json_log.check_line(one)
    return {role: [one for one in found if one["role"] == role] for role in ("client", "server")}


def _benchmark(port: int, tests: str, commands: int, pipelined: int) -> None:
    load = ("-c", 10, "-n", commands, "-r", 1_000_000, "-P", pipelined, "-q")
    done = run("redis-benchmark", "-p", port, *load, "-t", tests)
    assert done.code == 0, done.stderr


@pytest.mark.parametrize("pipelined", [1, 16])
def test_each_command_of_the_benchmark_has_its_line(
    port: int, start_agent: StartAgent, pipelined: int
) -> None:
    """redis-benchmark -P 1 and -P 16: name and key pattern of each, all of them certain."""
    agent = start_agent("--log", "json", ports=[port])
    _benchmark(port, "ping_inline,set,get,incr,sadd", _FEW, pipelined)
    names = ["PING", "SET key:*", "GET key:*", "INCR counter:*", "SADD myset"]
    for found in _by_role(agent, len(names) * _FEW, lambda one: one.get("db.query.text") in names).values():
        counted = Counter(one.get("db.query.text") for one in found)
        del counted["CONFIG GET"]
        assert counted == dict.fromkeys(names, _FEW)
        assert not any(one["error"] or one["truncated"] for one in found)


@pytest.mark.parametrize(
    ("tests", "pipelined"),
    [("set,get,incr,sadd", 1), ("set,get,incr,sadd", 16), ("mset,hset,lrange_100", 16), ("ping", 100)],
)
def test_as_many_commands_as_the_benchmark_sent(
    port: int, start_agent: StartAgent, tests: str, pipelined: int
) -> None:
    """At full speed, and also where commands and replies go far beyond what was captured."""
    agent = start_agent("--log", "json", ports=[port])
    _benchmark(port, tests, _MANY, pipelined)
    summary = json_log.summary(agent.stop().lines)
    assert summary["lost"]["ring_full"] == 0
    sent = {"set,get,incr,sadd": 4, "mset,hset,lrange_100": 4, "ping": 2}[tests] * _MANY
    counted = {one["role"]: one["requests"] for one in summary["services"] if one["protocol"] == "redis"}
    assert counted.keys() == {"client", "server"}
    for count in counted.values():
        assert 0 <= count - sent <= 4  # CONFIG GET, which it starts with


def test_errors_beside_the_benchmark(port: int, start_agent: StartAgent, tmp_path: Path) -> None:
    """redis-benchmark itself ends with its first error; a client beside it has every one of its own."""
    agent = start_agent("--log", "json", ports=[port])
    run("redis-cli", "-p", port, "SET", "word", "text")
    load = ("-c", 10, "-n", _MANY, "-r", 1_000_000, "-t", "get", "-q")
    with Program(tmp_path, "redis-benchmark", "-p", port, *load) as benchmark:
        agent.wait_for(lambda lines: any("GET key:*" in line for line in lines))
        done = run("redis-cli", "-p", port, "-r", _ERRORS, "INCR", "word")
        assert done.stdout.count("ERR value is not an integer") == _ERRORS
        assert benchmark.ended().code == 0
    done = run("redis-benchmark", "-p", port, "-c", 1, "-n", _FEW, "INCR", "word")
    assert "ERR value is not an integer" in done.stderr
    expected = {"GET key:*": _MANY, "INCR word": _ERRORS + 1}
    for found in _by_role(
        agent, sum(expected.values()), lambda one: one.get("db.query.text") in expected
    ).values():
        counted = Counter(one.get("db.query.text") for one in found)
        assert {text: counted[text] for text in expected} == expected
        errors = [one for one in found if one["error"]]
        assert {one["db.query.text"] for one in errors} == {"INCR word"}
        assert len(errors) == _ERRORS + 1
        assert {one["db.response.status_code"] for one in errors} == {"ERR"}
        assert {one["db.response.message"] for one in errors} == {"value is not an integer or out of range"}


def test_outcomes_and_databases(port: int, start_agent: StartAgent) -> None:
    """Error codes and messages, the database in use, and no value anywhere."""
    agent = start_agent("--log", "json", ports=[port])
    with redis.Redis(port=port, db=5) as client:
        client.set("user:1", "a secret")
        with pytest.raises(redis.ResponseError):
            client.lpush("user:1", "a secret")
        assert client.get("user:1:none") is None
    for found in _by_role(agent).values():
        texts = [one["db.query.text"] for one in found]
        assert texts[-4:] == ["SELECT", "SET user:*", "LPUSH user:*", "GET user:*:none"]
        assert [one["db.namespace"] for one in found[-4:]] == ["5"] * 4
        assert found[-2]["db.response.status_code"] == "WRONGTYPE"
        assert found[-2]["error"]
    assert "secret" not in agent.stdout_path.read_text()


def test_pipelines_of_many_sizes_are_told_in_about_their_number(port: int, start_agent: StartAgent) -> None:
    """Keys and values of different lengths, far beyond what was captured: named like what was."""
    agent = start_agent("--log", "json", ports=[port])
    with redis.Redis(port=port) as client:
        for command in ("set", "get"):
            pipeline = client.pipeline(transaction=False)
            for number in range(_MIXED):
                words = (f"user:{number * 7}", "x" * (number * 31 % 17))
                getattr(pipeline, command)(*words[: 2 if command == "set" else 1])
            assert len(pipeline.execute()) == _MIXED
    mine = ("SET user:*", "GET user:*")
    least = 19 * _MIXED // 10
    for found in _by_role(agent, least, lambda one: one.get("db.query.text") in mine).values():
        counted = Counter(one.get("db.query.text") for one in found)
        assert 0.9 * _MIXED < counted["GET user:*"] < 1.1 * _MIXED
        assert counted["SET user:*"] in range(_MIXED - 2, _MIXED + 1)  # one or two are cut within their key
        assert not any(one["error"] for one in found if one.get("db.query.text") in mine)


def test_values_of_many_megabytes(port: int, start_agent: StartAgent) -> None:
    """On a connection that begins with one: there and back again."""
    agent = start_agent("--log", "json", ports=[port])
    run("redis-cli", "-p", port, "-x", "SET", "large:1", input=b"secret" * 2_000_000)
    assert len(run("redis-cli", "-p", port, "GET", "large:1").stdout.strip()) == 12_000_000
    for found in _by_role(agent).values():
        large = [one for one in found if "large" in one.get("db.query.text", "")]
        assert [one["db.query.text"] for one in large] == ["SET large:*", "GET large:*"]
        assert not any(one["truncated"] or one["error"] for one in large)
        assert large[0]["request_bytes"] > 12_000_000
        assert large[1]["response_bytes"] > 12_000_000
    assert not any(one["protocol"] == "tcp" for one in agent.transactions)
    assert "secret" not in agent.stdout_path.read_text()


def test_a_subscription_lasts_no_longer_than_its_own_reply(port: int, start_agent: StartAgent) -> None:
    """Messages go on coming in its turn: each sooner behind the one before than a turn is idle."""
    agent = start_agent("--log", "json", ports=[port])
    with redis.Redis(port=port) as client, client.pubsub() as channel:
        channel.subscribe("news:1")
        for _ in range(40):
            client.publish("news:1", "x" * 20)
            time.sleep(0.01)
        while channel.get_message(timeout=0.2) is not None:
            pass
    mine = agent.wait_counted(_is_subscribe, 1)
    (server,) = (one for one in mine if one["role"] == "server" and _is_subscribe(one))
    assert server["response_bytes"] == len("*3\r\n$9\r\nsubscribe\r\n$6\r\nnews:1\r\n:1\r\n")
    assert server["duration_ns"] == server["ttfb_ns"]


def test_the_text_log(port: int, start_agent: StartAgent) -> None:
    """One line a command and one a reply."""
    agent = start_agent(ports=[port])
    run("redis-cli", "-p", port, "SET", "user:1", "a secret")
    run("redis-cli", "-p", port, "EVAL", "return redis.error_reply('MYERR it is wrong')", "0")
    lines = [line for line in agent.settle().lines if "Redis" in line and "redis-cli" in line]
    assert any("Type: TX" in line and "Redis Command: SET user:*, , " in line for line in lines)
    assert any("Type: RX" in line and "Redis Response: OK, , Latency: " in line for line in lines)
    assert any("Redis Response: (error) MYERR it is wrong, , Latency: " in line for line in lines)
    assert not any("secret" in line for line in lines)


def test_blocking_commands_say_that_they_wait(port: int, start_agent: StartAgent) -> None:
    """Their latency is the time that they were asked to wait."""
    agent = start_agent("--log", "json", ports=[port])
    with redis.Redis(port=port) as client:
        client.blpop("queue:1", timeout=0.2)
        client.get("user:1")
    for found in _by_role(agent).values():
        blocked = {one["db.operation.name"]: one.get("masdeepflow.db.blocking") for one in found[-2:]}
        assert blocked == {"BLPOP": "true", "GET": None}
        assert found[-2]["duration_ns"] > 100_000_000


def test_commands_over_a_unix_socket(tmp_path: Path, start_agent: StartAgent) -> None:
    """The same objects, of transport `unix`."""
    path = tmp_path / "redis.sock"
    with servers.redis(tmp_path, None, "--unixsocket", str(path)):
        agent = start_agent("--log", "json", "--include", "comm=redis-cli", "--include", "comm=redis-server")
        run("redis-cli", "-s", path, "GET", "user:1")
        agent.wait_for(lambda _: sum(map(_is_get, agent.transactions)) >= 2)
        found = [one for one in agent.transactions if _is_get(one)]
        assert sorted(one["role"] for one in found) == ["client", "server"]


def _is_subscribe(found: dict[str, Any]) -> bool:
    return found.get("db.query.text") == "SUBSCRIBE news:*"


def _is_get(found: dict[str, Any]) -> bool:
    return found.get("db.query.text") == "GET user:*" and found["network.transport"] == "unix"
