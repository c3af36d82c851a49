"""The program that spins."""

from __future__ import annotations

import subprocess
import sys

from masdeepflow.gateway import spin


def test_it_ends_at_once_without_its_parent() -> None:
    """The parent may die before the kernel is asked to tell of that."""
    done = subprocess.run([sys.executable, "-I", "-S", spin.__file__, "1", "0"], check=False, timeout=20)
    assert done.returncode == 0
