"""Who is at both ends: processes, however short they live, and their peers."""

from __future__ import annotations

import os
import subprocess
from collections import Counter
from typing import TYPE_CHECKING, Any

import pytest

from tests.support.programs import clean_environment, run

if TYPE_CHECKING:
    from tests.e2e.conftest import StartAgent
    from tests.support.programs import Agent
    from tests.support.servers import MariaDb, Nginx

pytestmark = [pytest.mark.root, pytest.mark.server]

_COUNT = 1000


@pytest.mark.timeout(120)
def test_a_thousand_processes_that_live_for_milliseconds_are_named(
    nginx: Nginx, start_agent: StartAgent
) -> None:
    """Each ran a program, made one request and left: its record has its own PID, arguments and service."""
    agent = start_agent("--log", "json", ports=[nginx.port])
    pids = []
    for number in range(_COUNT):
        with subprocess.Popen(
            ["curl", "--silent", "--output", "/dev/null", f"{nginx.url}/{number}"],
            env=clean_environment(OTEL_SERVICE_NAME=f"shop-{number}"),
        ) as process:
            assert process.wait(30) == 0
        pids.append(process.pid)
    agent.settle()
    for role, mine, theirs in ("client", "", "peer."), ("server", "peer.", ""):
        found = {one["url.path"]: one for one in agent.transactions if one["role"] == role}
        assert len(found) == _COUNT
        wrong = [
            one
            for number, pid in enumerate(pids)
            for one in [found[f"/{number}"]]
            if one[f"{mine}process.pid"] != pid
            or one[f"{mine}process.executable.name"] != "curl"
            or one[f"{mine}service.name"] != f"shop-{number}"
            or one[f"{theirs}service.name"] != "nginx"
        ]
        assert wrong == []
    lines = [one["process.command_line"] for one in agent.transactions if one["role"] == "client"]
    assert Counter(lines) == Counter(
        f"curl --silent --output /dev/null {nginx.url}/{n}" for n in range(_COUNT)
    )


def _asking(agent: Agent) -> list[dict[str, Any]]:
    return [one for one in agent.transactions if one.get("db.query.text") == "SELECT 7"]


def test_both_ends_of_a_unix_socket_name_each_other(mariadb: MariaDb, start_agent: StartAgent) -> None:
    """A connection without addresses has peers all the same."""
    agent = start_agent("--log", "json", "--include", "comm=mariadb", "--include", "comm=mariadbd")
    client = ("mariadb", "--no-defaults", f"--socket={mariadb.socket}", "--user=root", "--skip-ssl")
    done = run(*client, "--execute=SELECT 7")
    assert done.code == 0, done.stderr
    agent.wait_for(lambda _: len(_asking(agent)) == 2)
    found = _asking(agent)
    assert {(one["role"], one["service.name"], one["peer.service.name"]) for one in found} == {
        ("client", "mariadb", "mariadbd"),
        ("server", "mariadbd", "mariadb"),
    }


def test_children_that_never_exec_are_their_parents_program(start_agent: StartAgent, nginx: Nginx) -> None:
    """A pre-forked worker is the server it was forked by, also when it lives for one request only."""
    agent = start_agent("--log", "json", ports=[nginx.port])
    code = f"""
import os, urllib.request
for number in range(20):
    if not (pid := os.fork()):
        urllib.request.urlopen("{nginx.url}/" + str(number)).read()
        os._exit(0)
    os.waitpid(pid, 0)
"""
    script = agent.stdout_path.parent / "prefork.py"
    script.write_text(code)
    assert run("python3", script, env=clean_environment(OTEL_SERVICE_NAME="forked")).code == 0
    found = [one for one in agent.settle().transactions if one["role"] == "client"]
    assert len({one["process.pid"] for one in found}) == 20
    assert {one["service.name"] for one in found} == {"forked"}
    assert {one["process.owner"] for one in found} == {"root" if os.getuid() == 0 else None}
