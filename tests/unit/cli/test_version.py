"""`masdeepflow version`."""

from __future__ import annotations

import platform
import re
import subprocess
from typing import TYPE_CHECKING

import pytest

from masdeepflow import __version__
from masdeepflow.cli import version

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from tests.unit.conftest import Done


def test_version_commit_and_build_are_one_line(masdeepflow: Callable[..., Done]) -> None:
    """For bug reports: which version, from which commit, on what."""
    done = masdeepflow("version")
    assert (done.code, done.err) == (0, "")
    pattern = (
        rf"masdeepflow {re.escape(__version__)} \(commit \S+, Python {platform.python_version()}, \w+\)\n"
    )
    assert re.fullmatch(pattern, done.out)


def _install(monkeypatch: pytest.MonkeyPatch, root: Path) -> None:
    monkeypatch.setattr(version, "__file__", str(root / "src" / "masdeepflow" / "cli" / "version.py"))


def _git(root: Path, *arguments: str) -> None:
    who = ["-c", "user.name=x", "-c", "user.email=x@example.org"]
    subprocess.run(["git", "-C", str(root), *who, *arguments], check=True, capture_output=True)


def test_checkout_tells_its_commit_and_whether_it_was_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dirty tree is not the commit it says."""
    _install(monkeypatch, tmp_path)
    _git(tmp_path, "init", "--quiet")
    (tmp_path / "file").write_text("1")
    _git(tmp_path, "add", "file")
    _git(tmp_path, "commit", "--quiet", "--message", "x")
    assert re.fullmatch(r"[0-9a-f]{12}", version._commit())
    (tmp_path / "file").write_text("2")
    assert re.fullmatch(r"[0-9a-f]{12}-dirty", version._commit())


def test_installed_package_has_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor has a checkout that git can't read; neither is an error."""
    _install(monkeypatch, tmp_path)
    assert version._commit() == "unknown"
    (tmp_path / ".git").mkdir()
    assert version._commit() == "unknown"


@pytest.mark.parametrize("error", [FileNotFoundError("git"), subprocess.TimeoutExpired("git", 5)])
def test_git_is_not_needed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Exception) -> None:
    """Where git is missing or hangs the version is still told."""

    def fail(*_arguments: object, **_options: object) -> None:
        raise error

    _install(monkeypatch, tmp_path)
    (tmp_path / ".git").mkdir()
    monkeypatch.setattr(subprocess, "run", fail)
    assert version._commit() == "unknown"
