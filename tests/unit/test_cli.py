"""The command line as a whole: its commands, its help, and how it ends."""

from __future__ import annotations

import errno
import subprocess
import sys
from typing import TYPE_CHECKING

import click
import pytest

from masdeepflow import __version__
from masdeepflow.cli.errors import HostError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.conftest import Done

    Run = Callable[..., Done]

COMMANDS = ("run", "check", "record", "replay", "accelerate", "version")


def test_help_lists_the_commands(masdeepflow: Run) -> None:
    """Each with one line of help, and only those that work."""
    done = masdeepflow("--help")
    assert (done.code, done.err) == (0, "")
    section = done.out.partition("Commands:\n")[2]
    rows = [
        line.split(maxsplit=1) for line in section.splitlines() if line.startswith("  ") and line[2] != " "
    ]
    assert [row[0] for row in rows] == list(COMMANDS)
    assert all(row[1] for row in rows)
    assert masdeepflow("-h").out == done.out


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself(masdeepflow: Run, command: str) -> None:
    """`--help` tells what a command does; nothing is needed for it, not even rights."""
    done = masdeepflow(command, "--help")
    assert (done.code, done.err) == (0, "")
    assert f"Usage: masdeepflow {command}" in done.out
    assert masdeepflow(command, "-h") == done


def test_without_a_command_the_help_is_shown(masdeepflow: Run) -> None:
    """As wrong usage: on stderr, for a script that has forgotten an argument."""
    done = masdeepflow()
    assert (done.code, done.out) == (2, "")
    assert "Commands:" in done.err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["runn"], "runn"),
        (["top"], "top"),
        (["--version"], "--version"),
        (["run", "--no-such-option"], "--no-such-option"),
        (["run", "argument"], "argument"),
        (["replay"], "FILE"),
        (["record"], "--output"),
        (["check", "--log", "off"], "--log"),
    ],
)
def test_wrong_usage_is_one_sentence(masdeepflow: Run, arguments: list[str], named: str) -> None:
    """It names what is wrong, and the exit code is 2."""
    done = masdeepflow(*arguments)
    assert done.code == 2
    assert named in done.sentence()


@pytest.mark.parametrize(
    ("error", "code", "sentence"),
    [
        (HostError("no BTF: use another kernel"), 1, "no BTF: use another kernel"),
        (UsageError("no such file"), 2, "no such file"),
        (click.BadParameter("too small"), 2, "Invalid value: too small"),
        (OSError(errno.ENOSPC, "No space left on device"), 1, "[Errno 28] No space left on device"),
    ],
)
def test_errors_end_with_their_sentence_and_exit_code(
    masdeepflow: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, code: int, sentence: str
) -> None:
    """Without a traceback and without the usage block."""

    def fail(*_arguments: object, **_more: object) -> int:
        raise error

    monkeypatch.setattr("masdeepflow.session.run_live", fail)
    done = masdeepflow("run")
    assert done.code == code
    assert done.sentence() == sentence


def test_interruption_before_the_agent_runs_is_no_error_of_its_own(
    masdeepflow: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Control-C while things are loaded: the shell's own code, no traceback."""

    def interrupt(*_arguments: object, **_more: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("masdeepflow.session.run_live", interrupt)
    done = masdeepflow("run")
    assert done.code == 130
    assert "Traceback" not in done.err


@pytest.mark.parametrize("code", [0, 1])
def test_a_command_returns_the_exit_code(
    masdeepflow: Run, monkeypatch: pytest.MonkeyPatch, code: int
) -> None:
    """What the session returns is what the shell gets."""
    monkeypatch.setattr("masdeepflow.session.run_live", lambda *_arguments, **_more: code)
    assert masdeepflow("run").code == code


@pytest.mark.parametrize(
    "arguments", [["--help"], ["version"], ["run", "--help"], ["check", "--help"], ["runn"]]
)
def test_help_and_mistakes_are_instant(arguments: list[str]) -> None:
    """NumPy, and all that is built on it, is loaded only by what needs it."""
    watched = "import atexit, sys; atexit.register(lambda: print('numpy' in sys.modules)); "
    done = _python(watched + "from masdeepflow.cli import main; main()", *arguments)
    assert done.stdout.splitlines()[-1] == "False"


def test_installed_command_is_this_one() -> None:
    """The console script of the package runs these commands."""
    load = "(script,) = entry_points(group='console_scripts', name='masdeepflow'); script.load()()"
    done = _python("from importlib.metadata import entry_points; " + load, "version")
    assert done.stdout.startswith(f"masdeepflow {__version__} ")


def _python(code: str, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-", "<&- >&- 2>&-"])
def test_closed_standard_streams_are_no_trap(closed: str) -> None:
    """A supervisor may start it without any: a map that is opened later must not take their place."""
    # A duplicate gets the lowest number that is free.
    check = "import atexit, os; atexit.register(lambda: os._exit(0 if os.dup(0) > 2 else 3)); "
    command = f'"$0" -c "{check}from masdeepflow.cli import main; main()" version {closed}'
    done = subprocess.run(["sh", "-c", command, sys.executable], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
