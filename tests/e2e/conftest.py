"""Servers and agents of the end-to-end tests."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from tests.support import containers, servers
from tests.support.ports import free_port, wait_listening
from tests.support.programs import TRAFFIC_GEN, Agent, Program, run

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    StartAgent = Callable[..., Agent]
    StartTraffic = Callable[..., int]


@pytest.fixture(scope="session")
def nginx(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.Nginx]:
    """Run one nginx for all tests that leave it as it is."""
    with servers.nginx(tmp_path_factory.mktemp("nginx")) as server:
        yield server


@pytest.fixture(scope="session")
def mariadb(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.MariaDb]:
    """Run one MariaDB for all tests."""
    with servers.mariadb(tmp_path_factory.mktemp("mariadb")) as server:
        yield server


@pytest.fixture(scope="session")
def docker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[containers.Docker]:
    """Run one Docker daemon for all tests that leave it running and clear their containers away."""
    with containers.docker_daemon(tmp_path_factory.mktemp("docker")) as daemon:
        yield daemon


@pytest.fixture(scope="session")
def cri(tmp_path_factory: pytest.TempPathFactory) -> Iterator[containers.Cri]:
    """Run one containerd for all tests that leave it running and remove their pods."""
    with containers.containerd_cri(tmp_path_factory.mktemp("containerd")) as daemon:
        yield daemon


@pytest.fixture(scope="session")
def postgresql() -> Iterator[servers.PostgreSql]:
    """Run one PostgreSQL, with the tables of pgbench, for all tests."""
    with servers.postgresql() as server:
        made = run(*server.pgbench("--initialize", "--init-steps=dtg", "--quiet"))
        assert made.code == 0, made.stderr
        yield server


@pytest.fixture
def start_agent(tmp_path: Path) -> Iterator[StartAgent]:
    """Give a function that starts an agent, which ends with the test at the latest."""
    with contextlib.ExitStack() as stack:
        yield lambda *args, **more: stack.enter_context(Agent(tmp_path, *args, **more))


@pytest.fixture
def start_traffic(tmp_path: Path) -> Iterator[StartTraffic]:
    """Give a function that starts a server of traffic_gen and returns its port."""
    with contextlib.ExitStack() as stack:

        def start(command: str, *args: object, port: int | None = None) -> int:
            port = port or free_port()
            stack.enter_context(Program(tmp_path, TRAFFIC_GEN, command, "--port", port, *args))
            wait_listening(port)
            return port

        yield start
