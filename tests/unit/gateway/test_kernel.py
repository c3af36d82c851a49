"""What the loader decides before it asks the kernel."""

from __future__ import annotations

import mmap
from typing import TYPE_CHECKING

import pytest

from masdeepflow.gateway import kernel

if TYPE_CHECKING:
    from pathlib import Path

MOST = 32 << 20


@pytest.mark.parametrize(
    ("text", "room"),
    [
        ("4096\t131072\t6291456\n", 6291456),
        ("4096\t131072\t33554432\n", MOST),
        ("4096\t131072\t2147483647\n", MOST),
        ("4096\n", MOST),
        ("many\n", MOST),
    ],
)
def test_room_is_what_tcp_would_give_a_reader(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str, room: int
) -> None:
    """The largest receive buffer of tcp_rmem, and never more than a bound of our own."""
    path = tmp_path / "tcp_rmem"
    path.write_text(text)
    monkeypatch.setattr(kernel, "_RMEM", path)
    assert kernel.default_room() == room


@pytest.mark.parametrize(
    ("text", "budget"), [("1000\t2000\t3000\n", 500 * mmap.PAGESIZE), ("\n", MOST), (None, MOST)]
)
def test_budget_is_half_of_what_tcp_has_without_pressure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str | None, budget: int
) -> None:
    """tcp_mem is in pages; without it, little."""
    path = tmp_path / "tcp_mem"
    if text is not None:
        path.write_text(text)
    monkeypatch.setattr(kernel, "_MEM", path)
    assert kernel.default_budget() == budget


def test_room_without_the_setting_is_the_bound(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A container may hide it."""
    monkeypatch.setattr(kernel, "_RMEM", tmp_path / "missing")
    assert kernel.default_room() == MOST
