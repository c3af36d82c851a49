"""Options from the command line, the environment and a file: which wins, and what is refused."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from tests.support.programs import MASDEEPFLOW, TRAFFIC_GEN, Finished, clean_environment, run

if TYPE_CHECKING:
    from pathlib import Path

    from tests.e2e.conftest import StartAgent, StartTraffic

pytestmark = [pytest.mark.root]


def _refused(done: Finished) -> str:
    """Hold the form of a refusal of wrong usage; return the sentence."""
    assert (done.code, done.stdout) == (2, "")
    assert done.stderr.count("\n") == 1, done.stderr
    return done.stderr


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["run", "--nonsense"], "--nonsense"),
        (["run", "--log", "xml"], "xml"),
        (["run", "--duration", "soon"], "soon"),
        (["run", "--duration", "0"], "--duration"),
        (["run", "--duration", "-1"], "--duration"),
        (["run", "--duration", "nan"], "nan"),
        (["run", "--payload-bytes", "0"], "--payload-bytes"),
        (["run", "--payload-bytes", "1000000"], "--payload-bytes"),
        (["run", "--ring-mib", "3"], "--ring-mib"),
        (["run", "--hooks", "kprobe"], "kprobe"),
        (["run", "--store", "here.db"], "--store"),
        (["run", "--include", "port"], "port"),
        (["run", "--include", "colour=red"], "colour"),
        (["run", "--exclude", "port=http"], "http"),
        (["run", "--include", "port=0"], "port"),
        (["run", "--include", "protocol=HTTP"], "there are dns, http, "),
        (["replay", "--exclude", "protocol=postgres", "x"], "there is no protocol postgres"),
        (["run", "--plugins", ""], "--plugins"),
        (["run", "stray"], "stray"),
        (["record"], "--output"),
        (["replay"], "FILE"),
        (["replay", "--duration", "1", "x"], "--duration"),
        (["nonsense"], "nonsense"),
    ],
)
def test_wrong_usage_is_one_sentence(arguments: list[str], named: str, tmp_path: Path) -> None:
    """An unknown command or option or a bad value: exit code 2, one line on stderr that names it."""
    assert named in _refused(run(MASDEEPFLOW, *arguments, cwd=tmp_path))


@pytest.mark.parametrize(
    ("name", "value"),
    [("LOG", "xml"), ("DURATION", "soon"), ("INCLUDE", "port"), ("RING_MIB", "3"), ("PAYLOAD_BYTES", "x")],
)
def test_a_bad_environment_variable_is_refused(name: str, value: str) -> None:
    """As a bad option is: exit code 2 and one sentence."""
    done = run(MASDEEPFLOW, "run", "--listen", "off", env=clean_environment(**{f"MASDEEPFLOW_{name}": value}))
    assert value in _refused(done)


@pytest.mark.parametrize(
    ("text", "named"),
    [
        (b"log: [", "line"),
        (b"- log\n- json", "mapping"),
        (b"just words", "mapping"),
        (b"colour: red", "colour"),
        (b"log: xml", "xml"),
        (b"duration: soon", "soon"),
        (b"ring_mib: 3", "--ring-mib"),
        (b"include: port", "include"),
        (b"include: [port]", "port"),
        (b"include: {port: 80}", "include"),
        (b"log: [json]", "log"),
        (b"listen-token: [a]", "listen"),
        (b"config: other.yaml", "config"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"log: !!python/object:os.system {}", "configuration"),
        (b"log: \x1b[31m", "YAML"),
    ],
)
def test_a_bad_file_is_named_with_what_is_wrong(tmp_path: Path, text: bytes, named: str) -> None:
    """No YAML, an unknown key, a bad value: exit code 2, one sentence, no raw control character."""
    file = tmp_path / "agent.yaml"
    file.write_bytes(text)
    said = _refused(run(MASDEEPFLOW, "run", "--config", file, "--listen", "off"))
    assert named in said
    assert "\x1b" not in said


@pytest.mark.parametrize("name", ["missing.yaml", "."])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, name: str) -> None:
    """No file or a directory: exit code 2 and its name."""
    assert str(tmp_path / name) in _refused(run(MASDEEPFLOW, "run", "--config", tmp_path / name))


def test_an_empty_file_changes_nothing(tmp_path: Path) -> None:
    """An empty configuration, or comments only, is one without options."""
    file = tmp_path / "agent.yaml"
    file.write_text("# nothing yet\n")
    assert run(MASDEEPFLOW, "run", "--config", file, "--listen", "off", "--duration", 0.1).code == 0


def test_the_command_line_wins_over_the_environment_and_that_over_the_file(tmp_path: Path) -> None:
    """`log` in all three, in two, in the file only: each time the strongest is used."""
    file = tmp_path / "agent.yaml"
    file.write_text("log: json\nlisten: off\nduration: 0.1\n")
    command = (MASDEEPFLOW, "run", "--config", file)
    from_file = run(*command)
    assert json.loads(from_file.lines[-1])["event"] == "summary"
    text = run(*command, env=clean_environment(MASDEEPFLOW_LOG="off"))
    assert (text.code, text.stdout) == (0, "")
    flag = run(*command, "--log", "json", env=clean_environment(MASDEEPFLOW_LOG="off"))
    assert json.loads(flag.lines[-1])["event"] == "summary"


def test_every_option_is_a_key_of_the_file(tmp_path: Path) -> None:
    """All of them at once, with dashes and with underscores, lists where an option repeats."""
    file = tmp_path / "agent.yaml"
    file.write_text(
        "log: off\nlisten: off\nduration: 0.1\nstore: off\nhooks: socket\nring-mib: 4\npayload_bytes: 500\n"
        "queue-time: false\ninclude: [port=80, port=81]\nexclude:\n  - comm=sshd\nredact: true\n"
        "listen_token: secret\ninsecure-listen: true\n"
    )
    done = run(MASDEEPFLOW, "run", "--config", file)
    assert (done.code, done.stdout) == (0, ""), done.stderr


def test_the_environment_sets_filters(start_traffic: StartTraffic, start_agent: StartAgent) -> None:
    """Several `KEY=VALUE` in one variable, with spaces between them."""
    shown, hidden = start_traffic("http-server"), start_traffic("http-server")
    agent = start_agent(
        env=clean_environment(MASDEEPFLOW_INCLUDE=f"port={shown} protocol=http", MASDEEPFLOW_LISTEN="off")
    )
    for port in hidden, shown:
        run("curl", "--silent", f"http://127.0.0.1:{port}/")
    agent.wait_for(lambda lines: sum("HTTP Response" in line for line in lines) == 2)
    assert not [line for line in agent.stop().lines if f":{hidden}" in line]


def test_filters_choose_what_is_shown(start_traffic: StartTraffic, start_agent: StartAgent) -> None:
    """Values of one key are alternatives, keys are conditions, an exclusion wins; the summary follows."""
    first, second = start_traffic("http-server"), start_traffic("http-server")
    agent = start_agent("--log", "json", "--exclude", "comm=curl", ports=[first, second])
    for port in first, second:
        run("curl", "--silent", f"http://127.0.0.1:{port}/{port}")
    found = agent.settle().transactions
    assert [(one["role"], one["url.path"]) for one in found] == [
        ("server", f"/{first}"),
        ("server", f"/{second}"),
    ]
    services = json.loads(agent.stop().lines[-1])["services"]
    assert [(one["service"], one["requests"]) for one in services] == [("traffic_gen", 2)]


def test_redaction_reaches_every_line(start_traffic: StartTraffic, start_agent: StartAgent) -> None:
    """`--redact`: neither a literal of a statement nor a value of a query string is printed."""
    web, database = start_traffic("http-server"), start_traffic("mysql-server", "--delay-ms", 1)
    agents = [start_agent("--log", log, "--redact", ports=[web, database]) for log in ("text", "json")]
    run("curl", "--silent", f"http://127.0.0.1:{web}/pay?card=4111111111111111")
    statement = "SELECT * FROM card WHERE number = '4111111111111111' OR pin = 2047110747"
    from_tool = run(TRAFFIC_GEN, "mysql-client", "--port", database, "--query", statement)
    assert from_tool.code == 0
    for agent in agents:
        printed = "\n".join(agent.settle().lines)
        assert "SELECT * FROM card" in printed
        assert "/pay" in printed
        assert "card=" in printed
        assert "4111111111111111" not in printed
        assert "2047110747" not in printed
