"""NATS against nats-py and the C library: every request and message is there, once per side."""

from __future__ import annotations

import asyncio
import sys
import time
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import nats
import nats.errors
import pytest

from tests.support import json_log, libnats_client, servers
from tests.support.ports import LOOPBACK
from tests.support.programs import run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from nats.aio.msg import Msg

    from tests.e2e.conftest import StartAgent
    from tests.support.programs import Agent

pytestmark = [pytest.mark.root, pytest.mark.server("nats-server")]

_ROUNDS = 300
_TOGETHER = 8


@pytest.fixture(scope="module")
def port(tmp_path_factory: pytest.TempPathFactory) -> Iterator[int]:
    """Run one NATS server for all tests; give its port."""
    with servers.nats(tmp_path_factory.mktemp("nats")) as port:
        yield port


def _by_role(
    agent: Agent, expected: int, mine: Callable[[dict[str, Any]], bool]
) -> dict[str, list[dict[str, Any]]]:
    found = agent.wait_counted(mine, expected)
    for one in found:
        json_log.check_line(one)
    return {
        role: [one for one in found if one["role"] == role and mine(one)] for role in ("client", "server")
    }


def _template(one: dict[str, Any]) -> str:
    return str(one.get("messaging.destination.template"))


async def _serve(port: int, use: Callable[[Any], Any]) -> None:
    """Run a service that answers what is asked of it, and a client."""
    service, client = await nats.connect(_url(port)), await nats.connect(_url(port))

    async def answer(message: Msg) -> None:
        await message.respond(b"a secret answer")

    await service.subscribe("billing.*", cb=answer)
    # Its PING overtakes what is to be flushed: only the second tells that the subscription is there.
    await service.flush()
    await service.flush()
    await use(client)
    await client.close()
    await service.close()


def _url(port: int) -> str:
    return f"nats://{LOOPBACK}:{port}"


def test_each_request_and_message_of_nats_py(port: int, start_agent: StartAgent) -> None:
    """Subjects and outcomes, also of what nobody answers; durations are within those that the client sees."""
    agent = start_agent("--log", "json", ports=[port])
    spans: list[float] = []

    async def use(client: Any) -> None:  # noqa: ANN401  # its own types are of no use here
        for number in range(_ROUNDS):
            began = time.perf_counter()
            await client.request(f"billing.{number}", b"a secret")
            spans.append(time.perf_counter() - began)
            await client.publish(f"orders.{number}", b"a secret")
            await client.flush()
            with pytest.raises(nats.errors.NoRespondersError):
                await client.request(f"nobody.{number}", b"a secret")

    asyncio.run(_serve(port, use))
    names = ["billing.*", "orders.*", "nobody.*", "_INBOX.*"]

    def mine(one: dict[str, Any]) -> bool:
        return _template(one) in names and one["messaging.operation.name"] == "PUB"

    for found in _by_role(agent, len(names) * _ROUNDS, mine).values():
        assert Counter(map(_template, found)) == dict.fromkeys(names, _ROUNDS)
        assert Counter((_template(one), one["error.type"]) for one in found if one["error"]) == {
            ("nobody.*", "503"): _ROUNDS
        }
        assert not any(one["truncated"] for one in found)
        answered = [one["duration_ns"] for one in found if "duration_ns" in one]
        assert len(answered) == 2 * _ROUNDS
        asked = sorted(one["duration_ns"] / 1e9 for one in found if _template(one) == "billing.*")
        assert all(ours <= theirs for ours, theirs in zip(asked, sorted(spans), strict=True))
    assert "secret" not in agent.stdout_path.read_text()


def test_as_many_as_were_asked_together(port: int, start_agent: StartAgent) -> None:
    """Requests on one connection whose answers come in any order: each is counted once, at both ends."""
    agent = start_agent("--log", "json", ports=[port])

    async def use(client: Any) -> None:  # noqa: ANN401  # its own types are of no use here
        # The first subscribes to the replies: sizes in that turn differ, and the rest would be estimated.
        await client.request("billing.7", b"a secret")
        for _ in range(_ROUNDS // _TOGETHER):
            await asyncio.gather(*(client.request("billing.7", b"a secret") for _ in range(_TOGETHER)))

    asyncio.run(_serve(port, use))
    count = _ROUNDS // _TOGETHER * _TOGETHER + 1
    for found in _by_role(agent, count, lambda one: _template(one) == "billing.*").values():
        assert sum(one["messaging.operation.name"] == "PUB" for one in found) == count
        assert not any(one["error"] for one in found)


def test_the_c_library(port: int, start_agent: StartAgent) -> None:
    """Another client, with the same lines."""
    agent = start_agent(ports=[port])
    done = run(sys.executable, Path(libnats_client.__file__), _url(port), 3)
    assert done.code == 0, done.stderr
    lines = [line for line in agent.settle().lines if "NATS" in line]
    for side, other in (("TX", "RX"), ("RX", "TX")):
        asked = [
            line for line in lines if "NATS Command: PUB billing.*, , " in line and f"Type: {side}" in line
        ]
        told = [
            line for line in lines if "NATS Response: OK, , Latency: " in line and f"Type: {other}" in line
        ]
        assert (len(asked), len(told)) == (3, 3)
        assert sum("NATS Response: (error) 503, , Latency: " in line for line in lines) == 2
        assert any("NATS Command: PUB invoices.*, , " in line and f"Type: {side}" in line for line in lines)
    assert not any("secret" in line for line in lines)
