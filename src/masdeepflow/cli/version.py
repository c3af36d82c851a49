"""`masdeepflow version`."""

from __future__ import annotations

import contextlib
import platform
import subprocess
from pathlib import Path

import click

from masdeepflow import __version__

__all__ = ["command"]


def _commit() -> str:
    """Return the commit that an image was built from, else the checkout's; `unknown` for other packages."""
    root = Path(__file__).parents[3]
    with contextlib.suppress(OSError):
        return (Path(__file__).parents[1] / "commit.txt").read_text(encoding="ascii").strip()
    if not (root / ".git").exists():
        return "unknown"
    git = ["git", "-c", f"safe.directory={root}", "describe", "--always", "--dirty", "--abbrev=12"]
    try:
        done = subprocess.run(  # noqa: S603  # the words are the ones above
            git, cwd=root, capture_output=True, text=True, check=False, timeout=5
        )
    except (OSError, subprocess.TimeoutExpired):
        return "unknown"
    return done.stdout.strip() or "unknown"


@click.command("version")
def command() -> None:
    """Print the version, commit and build."""
    build = f"commit {_commit()}, Python {platform.python_version()}, {platform.machine()}"
    click.echo(f"masdeepflow {__version__} ({build})")
