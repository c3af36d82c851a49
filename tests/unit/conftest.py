"""What holds for every unit test, and the command line run in this process."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest
from hypothesis import settings

from masdeepflow import cli

if TYPE_CHECKING:
    from collections.abc import Callable

    from masdeepflow.cli.options import Options

# How long an example takes says more about the machine than about the code: slowness is for bench/ to find.
settings.register_profile("masdeepflow", deadline=None)
settings.load_profile("masdeepflow")


@dataclass(frozen=True)
class Done:
    """A command that has ended."""

    code: int
    out: str
    err: str

    def sentence(self) -> str:
        """Return the one line on stderr, and nothing on stdout, that a refused command leaves."""
        assert self.out == ""
        lines = self.err.splitlines()
        assert len(lines) == 1, self.err
        assert lines[0].startswith("masdeepflow: ")
        return lines[0].removeprefix("masdeepflow: ")


@pytest.fixture
def masdeepflow(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Callable[..., Done]:
    """Give a function that runs `masdeepflow` with arguments, its own variables taken from `environment`."""

    def run(*arguments: object, **environment: str) -> Done:
        for name in [name for name in os.environ if name.startswith("MASDEEPFLOW_")]:
            monkeypatch.delenv(name)
        for name, value in environment.items():
            monkeypatch.setenv(f"MASDEEPFLOW_{name}", value)
        monkeypatch.setattr(sys, "argv", ["masdeepflow", *map(str, arguments)])
        with pytest.raises(SystemExit) as exit_:
            cli.main()
        assert isinstance(exit_.value.code, int)
        return Done(exit_.value.code, *capfd.readouterr())

    return run


@dataclass
class Session:
    """What a command asked the session for."""

    options: Options
    arguments: tuple[object, ...]
    more: dict[str, object]


@pytest.fixture
def sessions(monkeypatch: pytest.MonkeyPatch) -> list[Session]:
    """Take the place of the session: commands end at once with 0, and what they asked for is kept."""
    asked: list[Session] = []

    def run_live(options: Options, *arguments: object, **more: object) -> int:
        asked.append(Session(options, arguments, more))
        return 0

    def run_replay(path: object, options: Options, **more: object) -> int:
        asked.append(Session(options, (path,), more))
        return 0

    monkeypatch.setattr("masdeepflow.session.run_live", run_live)
    monkeypatch.setattr("masdeepflow.session.run_replay", run_replay)
    return asked
