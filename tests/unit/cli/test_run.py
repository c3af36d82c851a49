"""`masdeepflow run`, and how it reads its configuration again."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

from masdeepflow.cli.errors import UsageError
from masdeepflow.kernel.libbpf import BpfError

if TYPE_CHECKING:
    from collections.abc import Callable

    from masdeepflow.cli.options import Options
    from tests.unit.conftest import Done, Session

    Run = Callable[..., Done]


def test_options_go_to_the_session(masdeepflow: Run, sessions: list[Session]) -> None:
    """`run` records nothing."""
    assert masdeepflow("run", "--log", "off", "--no-queue-time").code == 0
    (session,) = sessions
    assert (session.options.log, session.options.queue_time) == ("off", False)
    assert not session.arguments
    assert set(session.more) == {"reload"}


def test_documented_store_option_is_accepted(masdeepflow: Run, sessions: list[Session]) -> None:
    """There is no store yet, but scripts that switch it off work already."""
    assert masdeepflow("run", "--store", "off").code == 0
    assert sessions[0].options.store == "off"


def _reload(session: Session) -> Options:
    return cast("Callable[[], Options]", session.more["reload"])()


def test_reload_takes_what_the_file_says_now(
    masdeepflow: Run, sessions: list[Session], tmp_path: Path
) -> None:
    """Values of the kinds that the options have, and defaults for keys that are gone."""
    path = tmp_path / "agent.yaml"
    path.write_text("include: [pid=1]\nredact: true\nring-mib: 4\n")
    masdeepflow("run", "--config", path)
    path.write_text("exclude: [pid=2, pid=3]\nredact: 'no'\nring-mib: '8'\nduration: '5'\n")
    options = _reload(sessions[0])
    assert (options.include, options.exclude) == ((), ("pid=2", "pid=3"))
    assert (options.redact, options.ring_mib, options.duration) == (False, 8, 5.0)


def test_command_line_and_environment_win_over_the_reloaded_file(
    masdeepflow: Run, sessions: list[Session], tmp_path: Path
) -> None:
    """As they did at the start."""
    path = tmp_path / "agent.yaml"
    path.write_text("log: text\n")
    masdeepflow("run", "--config", path, "--include", "pid=1", EXCLUDE="pid=2")
    path.write_text("include: [pid=8]\nexclude: [pid=9]\nredact: yes\n")
    options = _reload(sessions[0])
    assert (options.include, options.exclude, options.redact) == (("pid=1",), ("pid=2",), True)


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("duration: abc", "--duration"),
        ("duration: [1]", "duration"),
        ("redact: maybe", "--redact"),
        ("log: xml", "--log"),
        ("include: pid=1", "`include: [KEY=VALUE]`"),
        ("include: [{pid: 1}]", "`include: [KEY=VALUE]`"),
        ("lg: text", "unknown option 'lg'"),
        ("- log", "mapping"),
        ("log: [", "not YAML"),
        (None, "No such file"),
    ],
)
def test_reload_of_a_bad_file_is_refused(
    masdeepflow: Run, sessions: list[Session], tmp_path: Path, content: str | None, named: str
) -> None:
    """With the sentence that it would be refused with at the start, so that the agent goes on as it was."""
    path = tmp_path / "agent.yaml"
    path.write_text("log: text\n")
    masdeepflow("run", "--config", path)
    if content is None:
        path.unlink()
    else:
        path.write_text(content)
    with pytest.raises(UsageError) as caught:
        _reload(sessions[0])
    assert named in caught.value.format_message()
    assert "\n" not in caught.value.format_message()


def test_without_a_file_there_is_nothing_to_reload(masdeepflow: Run, sessions: list[Session]) -> None:
    """The sentence says which option is missing."""
    masdeepflow("run")
    with pytest.raises(UsageError, match="--config"):
        _reload(sessions[0])


def test_ring_size_is_a_power_of_two(masdeepflow: Run) -> None:
    """The kernel takes no other; told before anything is loaded."""
    done = masdeepflow("run", "--ring-mib", "3")
    assert done.code == 2
    assert "--ring-mib is a power of two, not 3" in done.sentence()


@pytest.mark.parametrize("option", ["--include", "--exclude"])
def test_bad_filter_is_refused_before_anything_is_loaded(masdeepflow: Run, option: str) -> None:
    """Root or not."""
    done = masdeepflow("run", option, "nginx")
    assert done.code == 2
    assert "KEY=VALUE" in done.sentence()


@pytest.fixture
def tame(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep the session from changing this process for good: its priority and its garbage collector."""
    monkeypatch.setattr("os.setpriority", lambda *_: None)
    monkeypatch.setattr("os.sched_setscheduler", lambda *_: None)
    monkeypatch.setattr("gc.freeze", lambda: None)


@pytest.mark.usefixtures("tame")
def test_without_rights_the_capabilities_are_named(masdeepflow: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exit code 1, the remedy with it, nothing on stdout."""
    monkeypatch.setattr("masdeepflow.kernel.host.missing_capabilities", lambda: ["CAP_BPF"])
    monkeypatch.setattr("masdeepflow.kernel.host.capability_remedy", lambda: "run as root")
    done = masdeepflow("run")
    assert done.code == 1
    assert done.sentence() == "CAP_BPF missing: run as root"


@pytest.mark.usefixtures("tame")
def test_refusal_of_the_kernel_is_told_with_its_remedy(
    masdeepflow: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What failed, why, and what to try; not Python's notation of an error number."""

    def refuse(*_arguments: object, **_more: object) -> None:
        raise BpfError(errno.ENOMEM, "the kernel refused the BPF programs")

    monkeypatch.setattr("masdeepflow.kernel.host.missing_capabilities", list)
    monkeypatch.setattr("masdeepflow.kernel.host.has_btf", lambda: True)
    monkeypatch.setattr("masdeepflow.kernel.probes.object_path", lambda _size: Path("/"))
    monkeypatch.setattr("masdeepflow.kernel.probes.Probes", refuse)
    done = masdeepflow("run", "--listen", "off")
    assert done.code == 1
    sentence = done.sentence()
    assert sentence.startswith("the kernel refused the BPF programs: Cannot allocate memory; ")
    assert "--ring-mib" in sentence
