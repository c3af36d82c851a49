"""The layout of bpf/wire.h, and what was derived from it."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

import pytest

from masdeepflow import schema
from masdeepflow.kernel import libbpf
from masdeepflow.kernel.layout import committed, from_btf, to_text
from masdeepflow.kernel.probes import ENUMS, SLOT_SIZES, STRUCTS, Probes, object_path

if TYPE_CHECKING:
    from enum import IntEnum

    from masdeepflow.kernel.layout import Layout


def _compiled(slot_bytes: int) -> Layout:
    loaded = libbpf.BpfObject(object_path(slot_bytes))
    try:
        return from_btf(loaded.btf(), STRUCTS, ENUMS)
    finally:
        loaded.close()


def test_the_committed_layout_is_the_compiled_one() -> None:
    """layout.txt shows every change of bpf/wire.h in review."""
    command = f"make -C bpf layout PYTHON={sys.executable}"
    assert to_text(committed()) == to_text(_compiled(512)), f"if the change is meant: {command}"


@pytest.mark.parametrize(
    ("enum", "name"),
    [
        (schema.Kind, "slot_kind"),
        (schema.Role, "slot_role"),
        (schema.Transport, "slot_transport"),
        (schema.Flag, "slot_flag"),
    ],
)
def test_the_schemas_enums_are_the_kernels(enum: type[IntEnum], name: str) -> None:
    """Enumerators have the kernel's names, without their prefix, and values."""
    values = _compiled(512).enums[name]
    prefix = f"{name.removeprefix('slot_').upper()}_"
    assert {f"{prefix}{member.name}": int(member) for member in enum} == values


@pytest.mark.root
@pytest.mark.parametrize("slot_bytes", SLOT_SIZES)
def test_every_slot_size_loads(slot_bytes: int) -> None:
    """The verifier takes each object, with its layout."""
    with Probes(slot_bytes, 1 << 20) as probes:
        assert probes.ring.capacity == (1 << 20) // slot_bytes
        assert probes.layout == _compiled(slot_bytes)
