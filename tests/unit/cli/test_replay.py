"""`masdeepflow replay`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.conftest import Done, Session

    Run = Callable[..., Done]


def test_file_and_options_go_to_the_session(masdeepflow: Run, sessions: list[Session]) -> None:
    """What shapes the output is offered as for `run`."""
    done = masdeepflow(
        "replay", "x.rec", "--log", "json", "--include", "pid=1", "--exclude", "port=2", "--redact"
    )
    assert (done.code, done.err) == (0, "")
    (session,) = sessions
    assert session.arguments == (Path("x.rec"),)
    assert (session.options.log, session.options.redact) == ("json", True)
    assert (session.options.include, session.options.exclude) == (("pid=1",), ("port=2",))
    assert session.more == {"partial": False}


def test_partial_is_asked_for_explicitly(masdeepflow: Run, sessions: list[Session]) -> None:
    """A recording that was cut off is not shown by accident."""
    masdeepflow("replay", "--partial", "x.rec")
    assert sessions[0].more == {"partial": True}


@pytest.mark.parametrize("option", ["--duration=1", "--listen=off", "--ring-mib=1", "--hooks=auto"])
def test_options_of_the_host_are_not_offered(masdeepflow: Run, option: str) -> None:
    """A file has no ring and no listener."""
    done = masdeepflow("replay", "x.rec", option)
    assert done.code == 2
    assert option.partition("=")[0] in done.sentence()


def test_configuration_of_run_serves_replay_too(
    masdeepflow: Run, sessions: list[Session], tmp_path: Path
) -> None:
    """Keys that only concern the host are passed over."""
    config = tmp_path / "agent.yaml"
    config.write_text("log: off\nring-mib: 4\nduration: 5\n")
    assert masdeepflow("replay", "x.rec", "--config", config).code == 0
    assert sessions[0].options.log == "off"


@pytest.mark.parametrize(
    ("name", "content", "sentence"),
    [
        ("gone.rec", None, "can't be read: No such file or directory"),
        (".", None, "can't be read: Is a directory"),
        ("other.rec", b"text", "is not a recording of masdeepflow"),
        ("cut.rec", b"masdeepflow recording 1\n\5\0", "cut off"),
    ],
)
def test_what_is_no_recording_is_refused(
    masdeepflow: Run, tmp_path: Path, name: str, content: bytes | None, sentence: str
) -> None:
    """One sentence with the file's name, exit code 2, and nothing on stdout."""
    path = tmp_path / name
    if content is not None:
        path.write_bytes(content)
    done = masdeepflow("replay", path)
    assert done.code == 2
    assert sentence in done.sentence()
    assert str(path) in done.sentence()
