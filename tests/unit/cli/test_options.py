"""The options of `run`: defaults, where values come from, and what is refused."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import pytest

from masdeepflow import filters
from masdeepflow.cli import run
from masdeepflow.cli.errors import UsageError
from masdeepflow.cli.options import DEFAULT_LISTEN, LISTS, NAMES, Options, shown

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.conftest import Done, Session

    Run = Callable[..., Done]

VALUES: dict[str, tuple[Any, Any]] = {
    "log": ("json", "off"),
    "include": (("pid=1",), ("comm=nginx",)),
    "exclude": (("port=80",), ("protocol=http",)),
    "redact": (True, False),
    "plugins": (Path("/etc/a"), Path("b")),
    "duration": (1.5, 2.5),
    "listen": ("off", "127.0.0.1:1"),
    "listen_token": ("secret", "hidden"),
    "insecure_listen": (True, False),
    "store": ("off", "off"),
    "hooks": ("socket", "auto"),
    "payload_bytes": (500, 100),
    "ring_mib": (4, 8),
    "queue_time": (False, True),
    "runtimes": (False, True),
    "runtime_socket": (("docker=/a",), ("/b", "cri-o=/c")),
    "host_root": (Path("/host"), Path("/")),
    "kubernetes": ("off", "api"),
    "kubelet_url": ("http://a:10255", "https://b:10250"),
    "insecure_kubelet": (True, False),
    "kubeconfig": ("/a", "/b"),
    "node_name": ("node-1", "node-2"),
    "pod_label": (("app",), ("tier", "app.kubernetes.io/name")),
    "accelerate": ("8080", "3306,80"),
    "keep_awake": (True, False),
}
"""Option -> two values, the first other than the default wherever there is another."""
FLAGS = {
    "redact": ["--no-redact"],
    "queue_time": ["--no-queue-time"],
    "runtimes": ["--no-runtimes"],
    "insecure_listen": list[str](),
    "insecure_kubelet": list[str](),
    "keep_awake": list[str](),
}


def _arguments(name: str, value: Any) -> list[str]:  # noqa: ANN401  # as the option has it
    option = "--" + name.replace("_", "-")
    if name in FLAGS:
        return [option] if value else FLAGS[name]
    return [word for item in (value if name in LISTS else [value]) for word in (option, str(item))]


def _yaml(name: str, value: Any) -> str:  # noqa: ANN401  # as the option has it
    shown_value = list(value) if name in LISTS else str(value).lower() if name in FLAGS else value
    return f"{name.replace('_', '-')}: {shown_value}\n"


def _environment(name: str, value: Any) -> dict[str, str]:  # noqa: ANN401  # as the option has it
    return {name.upper(): " ".join(value) if name in LISTS else str(value)}


def test_every_option_has_its_values_here() -> None:
    """The rules below hold for all options that there are."""
    offered = {parameter.name for parameter in run.command.params}
    assert offered == {field.name for field in dataclasses.fields(Options)}
    assert set(NAMES) == offered - {"config"} == set(VALUES)
    assert {parameter.name for parameter in run.command.params if parameter.multiple} == set(LISTS)


def test_every_option_has_a_help_text_and_a_variable_of_its_name() -> None:
    """`MASDEEPFLOW_` and the option in capitals."""
    for parameter in run.command.params:
        assert isinstance(parameter, click.Option)
        assert parameter.help
        assert parameter.name is not None
        assert parameter.envvar == f"MASDEEPFLOW_{parameter.name.upper()}"


def test_without_options_the_defaults_hold(masdeepflow: Run, sessions: list[Session]) -> None:
    """They are those of the class, but that `run` listens on localhost."""
    assert masdeepflow("run").code == 0
    assert sessions[0].options == dataclasses.replace(Options(), listen=DEFAULT_LISTEN)
    assert DEFAULT_LISTEN == "127.0.0.1:9419"


@pytest.mark.parametrize("name", VALUES)
def test_an_option_comes_from_the_command_line(masdeepflow: Run, sessions: list[Session], name: str) -> None:
    """Each option under its own name."""
    value = VALUES[name][0]
    done = masdeepflow("run", *_arguments(name, value))
    assert (done.code, done.err) == (0, "")
    assert getattr(sessions[0].options, name) == value


@pytest.mark.parametrize("name", VALUES)
def test_an_option_comes_from_the_environment(masdeepflow: Run, sessions: list[Session], name: str) -> None:
    """Filters are separated by spaces there, flags are words such as true and off."""
    value = VALUES[name][0]
    done = masdeepflow("run", **_environment(name, value))
    assert (done.code, done.err) == (0, "")
    assert getattr(sessions[0].options, name) == value


@pytest.mark.parametrize("name", VALUES)
def test_an_option_comes_from_the_configuration(
    masdeepflow: Run, sessions: list[Session], tmp_path: Path, name: str
) -> None:
    """Under its own name, with or without the file named by the environment."""
    value = VALUES[name][0]
    path = tmp_path / "agent.yaml"
    path.write_text(_yaml(name, value))
    for done in (masdeepflow("run", "--config", path), masdeepflow("run", CONFIG=str(path))):
        assert (done.code, done.err) == (0, "")
        assert getattr(sessions.pop().options, name) == value


@pytest.mark.parametrize("name", VALUES)
def test_command_line_wins_over_environment_and_that_over_the_file(
    masdeepflow: Run, sessions: list[Session], tmp_path: Path, name: str
) -> None:
    """Whoever is nearer to the command decides, for filters as a whole."""
    first, second = VALUES[name]
    path = tmp_path / "agent.yaml"
    path.write_text(_yaml(name, second))
    masdeepflow("run", "--config", path, **_environment(name, first))
    assert getattr(sessions.pop().options, name) == first
    path.write_text(_yaml(name, first))
    masdeepflow("run", "--config", path, **_environment(name, second))
    assert getattr(sessions.pop().options, name) == second
    if _arguments(name, second):
        masdeepflow("run", "--config", path, *_arguments(name, second), **_environment(name, first))
        assert getattr(sessions.pop().options, name) == second


def test_variables_that_are_empty_count_for_nothing(masdeepflow: Run, sessions: list[Session]) -> None:
    """As a container's template leaves them."""
    assert masdeepflow("run", DURATION="", LOG="", INCLUDE="").code == 0
    assert sessions[0].options == dataclasses.replace(Options(), listen=DEFAULT_LISTEN)


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("log", "xml"),
        ("duration", "abc"),
        ("duration", "0"),
        ("duration", "-1"),
        ("duration", "nan"),
        ("store", "/var/lib/x"),
        ("hooks", "syscall"),
        ("payload-bytes", "0"),
        ("payload-bytes", "2865"),
        ("payload-bytes", "1.5"),
        ("ring-mib", "0"),
        ("ring-mib", "2048"),
    ],
)
@pytest.mark.usefixtures("sessions")
def test_a_bad_value_is_refused_wherever_it_comes_from(
    masdeepflow: Run, tmp_path: Path, option: str, value: str
) -> None:
    """One sentence that names the option, exit code 2: from command line, environment and file alike."""
    path = tmp_path / "agent.yaml"
    path.write_text(f"{option}: {value}\n")
    for done in (
        masdeepflow("run", f"--{option}", value),
        masdeepflow("run", **{option.replace("-", "_").upper(): value}),
        masdeepflow("run", "--config", path),
    ):
        assert done.code == 2
        assert f"--{option}" in done.sentence()


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("duration: [1]", "duration"),
        ("duration: {a: 1}", "duration"),
        ("redact: maybe", "--redact"),
        ("redact: [yes]", "redact"),
        ("include: pid=1", "include"),
        ("include: [[pid=1]]", "include"),
        ("ring-mib: abc", "--ring-mib"),
        ("log: {", "agent.yaml is not YAML"),
        ("lg: text", "'lg'"),
    ],
)
@pytest.mark.usefixtures("sessions")
def test_a_bad_configuration_is_refused(masdeepflow: Run, tmp_path: Path, content: str, named: str) -> None:
    """One sentence that names what is wrong, exit code 2, for every command that takes the file."""
    path = tmp_path / "agent.yaml"
    path.write_text(content)
    for command in (["run"], ["record", "-o", "x.rec"], ["replay", "x.rec"]):
        if command[0] == "replay" and named == "--ring-mib":
            continue  # it has no ring, and passes over what concerns the host
        done = masdeepflow(*command, "--config", path)
        assert done.code == 2
        assert named in done.sentence()


@pytest.mark.usefixtures("sessions")
def test_a_configuration_that_is_not_there_is_refused(masdeepflow: Run, tmp_path: Path) -> None:
    """Whoever names a file means it."""
    done = masdeepflow("run", "--config", tmp_path / "gone.yaml")
    assert done.code == 2
    assert "gone.yaml can't be read: No such file or directory" in done.sentence()


def test_filters_are_read_from_the_options() -> None:
    """Include and exclude together."""
    both = shown(Options(include=("pid=1",), exclude=("port=80",)))
    assert both == filters.parse(["pid=1"], ["port=80"])
    assert not shown(Options())


def test_a_bad_filter_is_wrong_usage() -> None:
    """With the sentence of the filter itself."""
    with pytest.raises(UsageError, match="KEY=VALUE"):
        shown(Options(include=("nginx",)))
