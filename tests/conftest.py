"""Markers that tell what a test needs: without it the test is skipped, and fails where CI must have it."""

from __future__ import annotations

import os
import shutil

import pytest


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Skip or fail a test whose `root` or `server(PROGRAM, ...)` marker asks for what is not here."""
    missing = [
        program
        for marker in item.iter_markers("server")
        for program in marker.args
        if shutil.which(program) is None
    ]
    if item.get_closest_marker("root") and os.geteuid() != 0:
        missing.append("root")
    if missing:
        _refuse(f"needs {', '.join(sorted(set(missing)))}: run it with sudo ./test.sh")


def _refuse(reason: str) -> None:
    if os.environ.get("CI") == "true":
        pytest.fail(reason, pytrace=False)
    pytest.skip(reason)
