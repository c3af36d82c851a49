"""Network namespaces found by their inode."""

from __future__ import annotations

from typing import TYPE_CHECKING

from masdeepflow.gateway import namespaces

if TYPE_CHECKING:
    from pathlib import Path


def test_its_own_namespace_is_found() -> None:
    """By some process that is in it."""
    path = namespaces.find(namespaces.own())
    assert path is not None
    assert path.stat().st_ino == namespaces.own()


def test_a_namespace_that_is_gone_is_not_found() -> None:
    """Its last process may have ended meanwhile."""
    assert namespaces.find(1) is None


def test_a_call_that_can_not_be_made_there_is_none(tmp_path: Path) -> None:
    """What is no namespace, or is gone, costs only the call."""
    calls: list[int] = []
    (tmp_path / "file").touch()
    for name in ("file", "missing"):
        assert not namespaces.call_in(tmp_path / name, lambda: calls.append(1))
    assert calls == []
