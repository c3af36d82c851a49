"""Ends as they were seen, and the endpoints that are made of them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from masdeepflow.enrich import end as module
from masdeepflow.enrich.directory import Directory
from masdeepflow.enrich.end import NOWHERE, End, owner_of
from masdeepflow.filters import Filter, parse
from masdeepflow.pipeline import Pipeline
from masdeepflow.protocols import registry
from masdeepflow.schema import Kind, Role
from masdeepflow.sinks.metrics import Metrics
from masdeepflow.table import Output
from tests.support.slots import make_slots, turn

if TYPE_CHECKING:
    from collections.abc import Mapping

    from masdeepflow.enrich.end import Side

GET = b"GET / HTTP/1.1\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n\r\n"
IDENTITY = Directory().identity(7, "nginx", 0)


def _short_connections(count: int) -> np.ndarray:
    """Return the slots of connections with one request each, from process 1 to process 2 on port 80."""
    slots = []
    for number in range(count):
        client = {"cookie": 2 * number + 1, "local_port": 10_000 + number, "remote_port": 80}
        server = {"cookie": 2 * number + 2, "local_port": 80, "remote_port": 10_000 + number}
        sides = ((client, Role.CLIENT, b"curl", Kind.CONNECT), (server, Role.SERVER, b"nginx", Kind.ACCEPT))
        for ports, role, comm, opened in sides:
            fields: dict[str, Any] = {**ports, "role": role, "pid": int(role), "comm": comm}
            slots += [turn(kind=opened, **fields), turn(GET, OK, **fields), turn(kind=Kind.CLOSE, **fields)]
    return make_slots(*slots)


def _end(
    role: str = "server",
    local: Side = ("10.0.0.1", 80),
    remote: Side = ("::2", 5000),
    cookies: tuple[int, int] = (0, 0),
) -> End:
    owner = owner_of(IDENTITY, role, "tcp")
    return End(9, 7, "nginx", "tcp", role, local, remote, None, cookies, 5, 1, IDENTITY, owner)


@pytest.mark.parametrize(
    ("role", "client", "server"), [("server", "::2", "10.0.0.1"), ("client", "10.0.0.1", "::2")]
)
def test_an_endpoint_has_both_sides_by_role(role: str, client: str, server: str) -> None:
    """As the text log shows them, and as attributes."""
    endpoint = _end(role).endpoint()
    assert (endpoint.local, endpoint.remote) == ("10.0.0.1:80", "[::2]:5000")
    assert (endpoint.client_address, endpoint.server_address) == (client, server)
    assert (endpoint.service, endpoint.role, endpoint.pid) == ("nginx", role, 7)


def test_a_side_without_name_or_port_is_shown_as_it_is() -> None:
    """Unix sockets: a path, or the cookie of the socket at that side, which only its first byte gives it."""
    endpoint = _end(local=("/run/x", None), remote=NOWHERE, cookies=(9, 8)).endpoint()
    assert (endpoint.local, endpoint.remote) == ("/run/x", "unix:8")
    pair = _end(local=NOWHERE, remote=NOWHERE, cookies=(9, 0)).endpoint()
    assert (pair.local, pair.remote) == ("unix:9", "unix:*")
    assert (endpoint.server_port, endpoint.client_address) == (None, None)


def test_an_end_gives_the_same_object_each_time() -> None:
    """Sinks keep what they made of it; with another peer it is another."""
    end = _end()
    assert end.endpoint() is end.endpoint()
    other = end.again(peer=(("peer.service.name", "curl"),))
    assert other.endpoint() is not end.endpoint()
    assert (end.endpoint().peer, other.endpoint().peer) == ((), (("peer.service.name", "curl"),))
    assert other.endpoint().local == end.endpoint().local


def test_without_a_log_no_endpoint_of_a_new_connection_is_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Connections that come and go by the thousand are counted by what they have in common."""
    monkeypatch.setattr(module.End, "_make", lambda end: pytest.fail(f"made {end.cookie}"))
    pipeline, metrics = Pipeline(registry.load(), Directory(), parse([], [])), Metrics()
    for part in np.array_split(_short_connections(100), 3):
        tables, events = pipeline.process(part, 0)
        metrics.write(Output(tables, events, 0, 0))
    found = {(one.service, one.role): one.requests for one in metrics.services()}
    assert found == {("curl", "client"): 100, ("nginx", "server"): 100}


def test_a_filter_looks_once_at_ends_that_it_can_not_tell_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    """A thousand connections of two processes to one port are two questions, and two more for events."""
    asked: list[str | None] = []
    passes = Filter.passes

    def ask(shown: Filter, values: Mapping[str, str | None]) -> bool:
        asked.append(values["pid"])
        return passes(shown, values)

    monkeypatch.setattr(Filter, "passes", ask)
    pipeline = Pipeline(registry.load(), Directory(), parse(["port=80"], ["pid=2"]))
    tables, events = pipeline.process(_short_connections(500), 0)
    assert sorted(map(str, asked)) == ["1", "1", "2", "2"]
    assert [len(table) for table in tables] == [500]
    assert len(events) == 1000
