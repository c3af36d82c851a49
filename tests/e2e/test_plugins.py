"""Protocols of the user's own, from a directory: shown, recorded and replayed like the built-in ones."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.ports import LOOPBACK, free_port, wait_listening
from tests.support.programs import MASDEEPFLOW, Agent, Program, run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from tests.e2e.conftest import StartAgent

pytestmark = [pytest.mark.root, pytest.mark.server("beanstalkd")]

DOCUMENT = Path(__file__).parents[2] / "docs" / "new-protocol.md"
COMMANDS = [
    (b"use mail\r\n", b"USING mail\r\n"),
    (b"put 0 0 60 5\r\nhello\r\n", b"INSERTED 1\r\n"),
    (b"watch mail\r\n", b"WATCHING 2\r\n"),
    (b"reserve-with-timeout 0\r\n", b"RESERVED 1 5\r\nhello\r\n"),
    (b"delete 1\r\n", b"DELETED\r\n"),
    (b"delete 1\r\n", b"NOT_FOUND\r\n"),
]


@pytest.fixture
def plugins(tmp_path: Path) -> Path:
    """Give a directory with the example of docs/new-protocol.md and one that is broken."""
    directory = tmp_path / "plugins"
    directory.mkdir(mode=0o755)
    (example,) = re.findall(r"```python\n(.*?)```", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    (directory / "beanstalkd.py").write_text(example, encoding="utf-8")
    (directory / "broken.py").write_text("import nothing_of_that_name\n", encoding="utf-8")
    return directory


@pytest.fixture
def beanstalkd(tmp_path: Path) -> Iterator[int]:
    """Run a beanstalkd; give its port."""
    port = free_port()
    with Program(tmp_path, "beanstalkd", "-l", LOOPBACK, "-p", port):
        wait_listening(port)
        yield port


def _talk(port: int) -> None:
    with socket.create_connection((LOOPBACK, port)) as sock:
        for command, answer in COMMANDS:
            sock.sendall(command)
            assert sock.recv(len(answer), socket.MSG_WAITALL) == answer


def test_a_protocol_of_ones_own_is_shown(start_agent: StartAgent, plugins: Path, beanstalkd: int) -> None:
    """Real traffic at both ends, with its attributes; the broken one is told and does no harm."""
    agent = start_agent("--log", "json", "--plugins", plugins, ports=[beanstalkd])
    _talk(beanstalkd)
    agent.settle()
    for role in "client", "server":
        found = [one for one in agent.transactions if one["role"] == role]
        assert {one["protocol"] for one in found} == {"beanstalkd"}
        assert [one["beanstalkd.command"] for one in found] == [
            command.split()[0].decode() for command, _ in COMMANDS
        ]
        assert [one.get("beanstalkd.job.id") for one in found] == [None, 1, None, 1, None, None]
        assert [one["error"] for one in found] == [False] * 5 + [True]
    done = agent.stop()
    assert done.code == 0
    assert done.stderr.splitlines()[0].endswith(
        "broken.py is not used: line 1: ModuleNotFoundError: No module named 'nothing_of_that_name'"
    )
    assert re.search(r"^beanstalkd +beanstalkd +server +6 +1 ", done.stderr, re.MULTILINE)


def test_it_is_replayed_as_it_was_recorded(tmp_path: Path, plugins: Path, beanstalkd: int) -> None:
    """With the same plugins the same lines; without them its turns are nobody's."""
    file = tmp_path / "recording"
    config = tmp_path / "agent.yaml"
    config.write_text(f"plugins: {plugins}\n")
    record = (MASDEEPFLOW, "record", "-o", file, "--config", config)
    with Agent(tmp_path, ports=[beanstalkd], command=record) as agent:
        _talk(beanstalkd)
        agent.settle()
        live = agent.stop()
    assert "Beanstalkd Response: INSERTED" in live.stdout
    shown = ("--include", f"port={beanstalkd}", *agent.marker)
    assert run(MASDEEPFLOW, "replay", file, *shown, "--plugins", plugins).stdout == live.stdout
    assert "Beanstalkd" not in run(MASDEEPFLOW, "replay", file, *shown).stdout


@pytest.mark.parametrize("command", [("run", "--duration", "1"), ("replay", "/dev/null")])
def test_an_unsafe_directory_is_wrong_usage(plugins: Path, command: tuple[str, ...]) -> None:
    """One sentence with the remedy, exit code 2, nothing run: whoever may write there would be root."""
    plugins.chmod(0o777)
    if command[0] == "replay":
        file = plugins / "recording"
        run(MASDEEPFLOW, "record", "-o", file, "--listen", "off", "--duration", "0.1", "--log", "off")
        command = ("replay", str(file))
    done = run(MASDEEPFLOW, *command, "--plugins", plugins)
    assert (done.code, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1
    assert "chmod go-w" in done.stderr


def test_other_commands_do_not_load_them(plugins: Path) -> None:
    """`check` and `version` say what they say, whatever the environment names."""
    (plugins / "loud.py").write_text("raise SystemExit('loud')")
    environment = {"MASDEEPFLOW_PLUGINS": str(plugins), "PATH": "/usr/bin:/bin"}
    for command in "check", "version":
        assert run(MASDEEPFLOW, command, env=environment) == run(MASDEEPFLOW, command)


def test_a_filter_may_name_a_plugin_that_is_broken(tmp_path: Path, plugins: Path) -> None:
    """That there is no such protocol is told; it takes nothing else down, and a reload neither."""
    config = tmp_path / "agent.yaml"
    config.write_text(f"plugins: {plugins}\nexclude: [protocol=broken]\n")
    done = run(MASDEEPFLOW, "run", "--listen", "off", "--log", "off", "--duration", "0.1", "--config", config)
    assert done.code == 0
    assert "there is no protocol broken; there are beanstalkd, dns, http, " in done.stderr
