"""Connections that are older than the agent."""

from __future__ import annotations

import contextlib
import http.client
import os
import socket
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.ports import LOOPBACK

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.e2e.conftest import StartAgent
    from tests.support.servers import Nginx

    Connect = Callable[[Nginx], socket.socket]

pytestmark = [pytest.mark.root, pytest.mark.server("nginx")]

_CONNECTIONS = 10


def _over_ipv4(nginx: Nginx) -> socket.socket:
    return socket.create_connection((LOOPBACK, nginx.port))


def _over_ipv6(nginx: Nginx) -> socket.socket:
    return socket.create_connection(("::1", nginx.port))


def _over_unix(nginx: Nginx) -> socket.socket:
    client = socket.socket(socket.AF_UNIX)
    client.connect(str(nginx.unix_path))
    return client


def _get(client: socket.socket, path: str) -> None:
    connection = http.client.HTTPConnection("localhost")
    connection.sock = client
    connection.request("GET", path)
    with connection.getresponse() as response:
        assert response.status == 200
        response.read()


@pytest.mark.parametrize(
    ("connect", "transport"), [(_over_ipv4, "tcp"), (_over_ipv6, "tcp"), (_over_unix, "unix")]
)
def test_old_connections_are_seen_from_their_next_request_on(
    nginx: Nginx, start_agent: StartAgent, connect: Connect, transport: str
) -> None:
    """Ten connections in use before the start: each later request is there once per side, no earlier one."""
    with contextlib.ExitStack() as stack:
        clients = [stack.enter_context(connect(nginx)) for _ in range(_CONNECTIONS)]
        for number, client in enumerate(clients):
            _get(client, f"/before/{number}")
        agent = start_agent(
            "--log", "json", "--include", f"pid={os.getpid()}", "--include", f"pid={nginx.worker}"
        )
        for turn in "first", "second":
            for number, client in enumerate(clients):
                _get(client, f"/{turn}/{number}")
        expected = sorted(f"/{turn}/{number}" for turn in ("first", "second") for number in range(10))

        def complete(_lines: list[str]) -> bool:
            return len(agent.transactions) >= 2 * len(expected)

        agent.wait_for(complete)
    found = agent.settle().transactions
    for role in "client", "server":
        assert sorted(_paths(found, role)) == expected
    assert {one["network.transport"] for one in found} == {transport}
    assert {one["http.response.status_code"] for one in found} == {200}


def _paths(found: list[dict[str, Any]], role: str) -> list[str]:
    return [one["url.path"] for one in found if one["role"] == role]
