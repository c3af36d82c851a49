"""MongoDB against its drivers: every command that they report is there, once per side."""

from __future__ import annotations

import asyncio
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pymongo
import pytest
from pymongo import monitoring
from pymongo.errors import BulkWriteError, DuplicateKeyError, OperationFailure

from tests.support import json_log, mongodb_server, servers
from tests.support.ports import LOOPBACK
from tests.support.programs import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.conftest import StartAgent
    from tests.support.programs import Agent

    Client = pymongo.MongoClient[dict[str, Any]]

pytestmark = [pytest.mark.root]

_ROUNDS = 300
_HANDSHAKES = {"hello", "ismaster", "isMaster"}
_PHP = Path(mongodb_server.__file__).with_name("mongodb_client.php")


@pytest.fixture
def port(tmp_path: Path) -> Iterator[int]:
    """Run a server that tests leave changed; give its port."""
    with servers.mongodb(tmp_path) as port:
        yield port


class _Started(monitoring.CommandListener):
    """Counts what the driver says that it sends: command, database and collection."""

    def __init__(self) -> None:
        self.counted: Counter[tuple[str, str, str | None]] = Counter()

    def started(self, event: monitoring.CommandStartedEvent) -> None:
        """Count a command."""
        name = event.command_name
        target = event.command["collection"] if name == "getMore" else event.command[name]
        collection = target if isinstance(target, str) else None
        self.counted[name, event.database_name, collection] += 1

    def succeeded(self, event: monitoring.CommandSucceededEvent) -> None:
        """Nothing to do."""

    def failed(self, event: monitoring.CommandFailedEvent) -> None:
        """Nothing to do."""


def _client(port: int, **options: Any) -> Client:  # noqa: ANN401  # handed on to the driver
    return pymongo.MongoClient(LOOPBACK, port, **options)


def _by_role(agent: Agent, *, all_of_them: bool = False) -> dict[str, list[dict[str, Any]]]:
    """Return what each side reports, without the handshakes and the monitor's, which drivers do not count."""
    found = agent.settle().transactions
    for one in found:
        json_log.check_line(one)
    found.sort(key=lambda one: one["timestamp"])
    kept = [one for one in found if all_of_them or one.get("db.operation.name") not in _HANDSHAKES]
    return {role: [one for one in kept if one["role"] == role] for role in ("client", "server")}


def _counted(found: list[dict[str, Any]]) -> Counter[tuple[str, str, str | None]]:
    names = ("db.operation.name", "db.namespace")
    return Counter((*(one.get(name, "") for name in names), one.get("db.collection.name")) for one in found)


def test_each_command_of_pymongo(port: int, start_agent: StartAgent) -> None:
    """Command, collection, database and error code of each, as the driver counts them; no value anywhere."""
    agent, listener = start_agent("--log", "json", ports=[port]), _Started()
    with _client(port, event_listeners=[listener]) as client:
        users = client.app.users
        users.create_index("email", unique=True)
        for number in range(_ROUNDS):
            users.insert_one({"_id": number, "email": f"secret{number}@example.org"})
            users.find_one({"email": f"secret{number}@example.org"})
            users.update_one({"_id": number}, {"$set": {"name": "a secret"}})
        with pytest.raises(DuplicateKeyError):
            users.insert_one({"email": "secret1@example.org"})
        with pytest.raises(BulkWriteError):
            users.insert_many([{"_id": 7000}, {"_id": 5}])
        with pytest.raises(OperationFailure, match="Unrecognized"):
            users.aggregate([{"$nosuch": "a secret"}])
        with pytest.raises(OperationFailure, match="unknown top level"):
            users.find_one({"$nosuch": "a secret"})
        assert len(list(users.find({}, batch_size=50))) == _ROUNDS + 1
        users.delete_many({"_id": 5})
    for found in _by_role(agent).values():
        assert _counted(found) == listener.counted
        codes = Counter(one["db.response.status_code"] for one in found if one["error"])
        assert codes == {"11000": 2, "40324": 1, "2": 1}
        assert not any(one["truncated"] for one in found)
        assert {one["db.query.summary"] for one in found} >= {"find users", "getMore users", "endSessions"}
    assert "secret" not in agent.stdout_path.read_text()


def test_unacknowledged_writes_are_counted(port: int, start_agent: StartAgent) -> None:
    """Each is a transaction without a response, and what follows has its own."""
    agent = start_agent("--log", "json", ports=[port])
    with _client(port) as client:
        quiet = client.app.get_collection("log", write_concern=pymongo.WriteConcern(w=0))
        for number in range(20):
            quiet.insert_one({"_id": number})
            assert client.app.log.find_one({"_id": number})
    for found in _by_role(agent).values():
        inserts = [one for one in found if one["db.operation.name"] == "insert"]
        finds = [one for one in found if one["db.operation.name"] == "find"]
        assert (len(inserts), len(finds)) == (20, 20)
        assert not any("duration_ns" in one or one["error"] for one in inserts)
        assert all("duration_ns" in one for one in finds)


def test_compressed_commands_are_told_as_that(port: int, start_agent: StartAgent) -> None:
    """One transaction each, without command or text."""
    agent = start_agent("--log", "json", ports=[port])
    with _client(port, compressors="zlib") as client:
        for number in range(30):
            client.app.log.insert_one({"_id": number, "text": "a secret"})
    for found in _by_role(agent).values():
        packed = [one for one in found if "db.operation.name" not in one]
        assert len(packed) >= 30
        assert {one["protocol"] for one in found} == {"mongodb"}
        assert not any(one["truncated"] or one["error"] for one in packed)


def test_what_waits_is_no_latency(port: int, start_agent: StartAgent) -> None:
    """A tailable cursor, and the hello that awaits a change: seen as they wait, and marked."""
    agent = start_agent("--log", "json", ports=[port])
    with _client(port, heartbeatFrequencyMS=500) as client:
        client.app.log.insert_one({"_id": 1})
        cursor = client.app.log.find({}, cursor_type=pymongo.CursorType.TAILABLE_AWAIT)
        next(cursor.max_await_time_ms(900))
        assert next(cursor, None) is None
        cursor.close()
    for found in _by_role(agent, all_of_them=True).values():
        waiting = {
            one["db.operation.name"]: one["duration_ns"]
            for one in found
            if one.get("masdeepflow.db.blocking") == "true" and "duration_ns" in one
        }
        assert waiting["getMore"] >= 900_000_000
        assert waiting["hello"] >= 500_000_000
        latencies = [one["duration_ns"] for one in found if "masdeepflow.db.blocking" not in one]
        assert max(latencies) < 250_000_000


def test_exhaust_cursors_are_one_request(port: int, start_agent: StartAgent) -> None:
    """One find and one getMore, however many replies follow."""
    agent = start_agent("--log", "json", ports=[port])
    with _client(port) as client:
        client.app.log.insert_many([{"_id": number, "text": "x" * 500} for number in range(2000)])
        found = client.app.log.find({}, batch_size=100, cursor_type=pymongo.CursorType.EXHAUST)
        assert len(list(found)) == 2000
    for side in _by_role(agent).values():
        counted = Counter(one["db.operation.name"] for one in side)
        assert counted == {"insert": 1, "find": 1, "getMore": 1, "endSessions": 1}
        (more,) = (one for one in side if one["db.operation.name"] == "getMore")
        assert more["response_bytes"] > 1900 * 500


async def _ask_at_once(port: int, count: int) -> None:
    client: pymongo.AsyncMongoClient[dict[str, Any]] = pymongo.AsyncMongoClient(LOOPBACK, port, maxPoolSize=8)
    async with client:
        await asyncio.gather(*(client.app.log.find_one({"_id": number}) for number in range(count)))


def test_an_asynchronous_client_with_many_connections(port: int, start_agent: StartAgent) -> None:
    """Nothing is paired with somebody else's reply, nothing is missing."""
    agent = start_agent("--log", "json", ports=[port])
    asyncio.run(_ask_at_once(port, 400))
    for found in _by_role(agent).values():
        assert _counted(found)["find", "app", "log"] == 400
        assert not any(one["error"] for one in found)


@pytest.mark.server("php")
def test_each_command_of_the_driver_for_php(port: int, start_agent: StartAgent) -> None:
    """libmongoc: its handshake is an OP_QUERY, its writes have their documents in a section of their own."""
    agent = start_agent("--log", "json", ports=[port])
    done = run("php", _PHP, f"{LOOPBACK}:{port}", 100)
    assert (done.code, done.stderr) == (0, "")
    for found in _by_role(agent, all_of_them=True).values():
        assert _counted(found) == {
            ("isMaster", "admin", None): 1,
            ("insert", "shop", "item"): 101,
            ("update", "shop", "item"): 100,
            ("find", "shop", "item"): 100,
            ("delete", "shop", "item"): 1,
            ("count", "shop", "item"): 1,
            ("drop", "shop", "nowhere"): 1,
            ("endSessions", "admin", None): 1,
        }
        assert [one["db.response.status_code"] for one in found if one["error"]] == ["11000", "26"]
    assert "secret" not in agent.stdout_path.read_text()


def test_another_server(tmp_path: Path, start_agent: StartAgent) -> None:
    """NX-27017, which is nobody's double: its replies have their fields in an order of their own."""
    listener = _Started()
    with servers.nx_27017(tmp_path) as port:
        agent = start_agent("--log", "json", ports=[port])
        with _client(port, event_listeners=[listener]) as client:
            client.app.users.create_index("email", unique=True)
            for number in range(50):
                client.app.users.insert_one({"email": f"secret{number}"})
                client.app.users.find_one({"email": f"secret{number}"})
            with pytest.raises(DuplicateKeyError):
                client.app.users.insert_one({"email": "secret1"})
        for found in _by_role(agent).values():
            assert _counted(found) == listener.counted
            assert [one["db.response.status_code"] for one in found if one["error"]] == ["11000"]


def test_the_text_log(port: int, start_agent: StartAgent) -> None:
    """One line a command and one a reply."""
    agent = start_agent(ports=[port])
    with _client(port) as client:
        client.app.users.insert_one({"_id": 1})
        with pytest.raises(DuplicateKeyError):
            client.app.users.insert_one({"_id": 1})
    lines = [line for line in agent.settle().lines if "MongoDB" in line]
    assert any("Type: TX" in line and "MongoDB Command: insert app.users, , " in line for line in lines)
    assert any("Type: RX" in line and "MongoDB Response: OK, , Latency: " in line for line in lines)
    failed = "MongoDB Response: Error 11000 DuplicateKey, , Latency: "
    assert any("Type: RX" in line and failed in line for line in lines)
