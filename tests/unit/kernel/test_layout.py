"""Layouts: from BTF built by hand, from the compiled objects, and as text there and back."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from masdeepflow.kernel import libbpf, probes
from masdeepflow.kernel.layout import (
    RING_HEADER_BYTES,
    Layout,
    LayoutError,
    Member,
    committed,
    from_btf,
    from_text,
    slot_dtype,
    to_text,
)
from tests.support.btf import CONST, PTR, TYPEDEF, VOLATILE, Btf

if TYPE_CHECKING:
    from collections.abc import Callable

NAMES = st.from_regex(r"[a-z_][a-z0-9_]{0,8}", fullmatch=True)
MEMBERS = st.builds(
    Member,
    name=NAMES,
    offset=st.integers(0, 1 << 20),
    type=st.sampled_from(["u1", "u2", "u4", "u8", "i1", "i2", "i4", "i8", "S1"]),
    count=st.integers(0, 100_000),
    unit=st.sampled_from(["", "ns", "By", "us"]),
)
LAYOUTS = st.builds(
    Layout,
    structs=st.dictionaries(
        NAMES, st.tuples(st.integers(0, 1 << 20), st.lists(MEMBERS, max_size=5)), max_size=3
    ),
    enums=st.dictionaries(
        NAMES, st.dictionaries(NAMES, st.integers(-(1 << 31), (1 << 31) - 1), max_size=4), max_size=3
    ),
)


def _sample() -> bytes:
    """A struct with every shape that a column may have, its types behind other names."""
    btf = Btf()
    u64 = btf.integer("unsigned long long", 8)
    u8, char, s32 = (
        btf.integer("unsigned char", 1),
        btf.integer("char", 1),
        btf.integer("int", 4, signed=True),
    )
    alias = btf.add(TYPEDEF, "__u64", btf.add(TYPEDEF, "u64", u64))
    name, address = btf.array(char, 16), btf.array(btf.add(CONST, size=u8), 16)
    mine = btf.struct(
        "sample",
        56,
        ("cookie", alias, 0),
        ("comm", name, 64),
        ("address", address, 192),
        ("error", btf.add(VOLATILE, size=s32), 320),
        ("letter", char, 352),
        ("queue_ns", u64, 384),
    )
    other = btf.struct("other", 8, ("bytes", u64, 0))
    btf.tag("unit:ns", mine, 5)
    btf.tag("unit:By", other, 0)
    btf.tag("preserve", mine, 0)
    btf.enum("kind", KIND_TURN=1, KIND_NONE=-1)
    return btf.raw()


def _with_member(type_id: int, btf: Btf, bits: int = 0) -> bytes:
    btf.struct("sample", 64, ("member", type_id, bits))
    return btf.raw()


def test_members_come_with_offset_type_count_and_unit() -> None:
    """Typedefs and qualifiers are looked through, char arrays are strings, and decl tags carry units."""
    layout = from_btf(_sample(), ("sample", "other"), ("kind",))
    assert layout.structs["sample"] == (
        56,
        [
            Member("cookie", 0, "u8"),
            Member("comm", 8, "S1", 16),
            Member("address", 24, "u1", 16),
            Member("error", 40, "i4"),
            Member("letter", 44, "S1"),
            Member("queue_ns", 48, "u8", unit="ns"),
        ],
    )
    assert layout.structs["other"] == (8, [Member("bytes", 0, "u8", unit="By")])
    assert layout.enums == {"kind": {"KIND_TURN": 1, "KIND_NONE": -1}}


def test_dtype_reads_memory_as_the_compiler_laid_it_out() -> None:
    """Every member is where BTF says, moved by the bytes that come before the struct."""
    dtype = from_btf(_sample(), ("sample",), ()).dtype("sample", shift=8)
    assert dtype.itemsize == 64
    raw = bytearray(64)
    raw[8:16], raw[16:19] = (7).to_bytes(8, "little"), b"abc"
    raw[32:48], raw[48:52] = range(16), (-2).to_bytes(4, "little", signed=True)
    raw[52:53] = b"x"
    row = np.frombuffer(raw, dtype)[0]
    assert (row["cookie"], row["comm"], row["error"], row["letter"]) == (7, b"abc", -2, b"x")
    assert row["address"].tolist() == list(range(16))


def test_a_missing_struct_or_enum_is_named() -> None:
    """The error tells which declaration the object lacks."""
    with pytest.raises(LayoutError, match="no struct slot"):
        from_btf(_sample(), ("slot",), ())
    with pytest.raises(LayoutError, match="no enum slot_kind"):
        from_btf(_sample(), (), ("slot_kind",))
    with pytest.raises(LayoutError, match="no struct kind"):  # an enum of that name is none
        from_btf(_sample(), ("kind",), ())
    with pytest.raises(LayoutError, match="no struct slot"):
        slot_dtype(Layout())


def _pointer(btf: Btf, u8: int) -> bytes:
    return _with_member(btf.add(PTR, size=u8), btf)


def _struct(btf: Btf, u8: int) -> bytes:
    return _with_member(btf.struct("inner", 8, ("x", u8, 0)), btf)


def _array_of_arrays(btf: Btf, u8: int) -> bytes:
    return _with_member(btf.array(btf.array(u8, 2), 3), btf)


def _bitfield(btf: Btf, u8: int) -> bytes:
    return _with_member(u8, btf, bits=3 << 24 | 8)


def _void(btf: Btf, _u8: int) -> bytes:
    return _with_member(0, btf)


def _wide_integer(btf: Btf, _u8: int) -> bytes:
    return _with_member(btf.integer("__int128", 16), btf)


@pytest.mark.parametrize("make", [_pointer, _struct, _array_of_arrays, _bitfield, _void, _wide_integer])
def test_what_can_not_be_a_column_is_refused(make: Callable[[Btf, int], bytes]) -> None:
    """Pointers, structs, arrays of arrays and bitfields are no columns: a wrong layout would be worse."""
    btf = Btf()
    with pytest.raises(LayoutError, match=r"sample\.member can't be a column"):
        from_btf(make(btf, btf.integer("unsigned char", 1)), ("sample",), ())


@pytest.mark.parametrize("meant", [1, 99])
def test_a_type_that_names_itself_or_none_is_refused(meant: int) -> None:
    """A typedef of itself ends in an error, not in a loop; nor is there a type behind the last."""
    btf = Btf()
    with pytest.raises(LayoutError, match="damaged"):
        from_btf(_with_member(btf.add(TYPEDEF, "me", meant), btf), ("sample",), ())


def test_a_kind_of_the_future_is_refused() -> None:
    """The length of an unknown kind is not known either: all that follows would be misread."""
    btf = Btf()
    btf.add(25, "new")
    with pytest.raises(LayoutError, match="25"):
        from_btf(btf.raw(), (), ())


@pytest.mark.parametrize("raw", [b"", b"\x9f\xeb", bytes(64), b"\x7fELF" + bytes(60)])
def test_what_is_no_btf_is_refused(raw: bytes) -> None:
    """Too short, or without the magic number."""
    with pytest.raises(LayoutError, match="not BTF"):
        from_btf(raw, (), ())


@given(st.data())
def test_damaged_btf_gives_a_layout_or_a_layout_error(data: st.DataObject) -> None:
    """Whatever byte is wrong or missing, nothing but LayoutError comes."""
    raw = bytearray(_sample())
    for position in data.draw(st.lists(st.integers(0, len(raw) - 1), max_size=3)):
        raw[position] ^= data.draw(st.integers(1, 255))
    cut = data.draw(st.integers(0, len(raw)))
    with contextlib.suppress(LayoutError):
        from_btf(bytes(raw[:cut]), ("sample", "other"), ("kind",)).dtype("sample")


@given(LAYOUTS)
def test_text_reads_back_as_the_same_layout(layout: Layout) -> None:
    """What recordings carry and what is committed says all that the layout says."""
    assert from_text(to_text(layout)) == layout


@pytest.mark.parametrize(
    "text",
    [
        "struct slot\n",
        "struct slot x\n",
        "struct slot -8\n",
        "struct slot 8\n\n",
        "struct slot 8\n      0  u8    0\n",
        "struct slot 8\n      0  f8    0 cookie\n",
        "struct slot 8\n     -8  u8    0 cookie\n",
        "struct slot 8\n      0  u8   -1 cookie\n",
        "struct slot 8\n      0  u8    0 cookie ns more\n",
        "enum kind\nstruct slot 8\n      1 KIND_TURN\n",
        "      0  u8    0 cookie\n",
        "      1 KIND_TURN\n",
        "struct slot 8\nenum kind\n      0  u8    0 cookie\n",
        "enum kind\n      x KIND_TURN\n",
        "union slot 8\n",
    ],
)
def test_text_that_is_no_layout_is_refused(text: str) -> None:
    """Each line has to be in its place and whole."""
    with pytest.raises(LayoutError):
        from_text(text)


@given(st.text())
def test_any_text_gives_a_layout_or_a_layout_error(text: str) -> None:
    """A recording's layout is read before anything else of it is known to be right."""
    with contextlib.suppress(LayoutError):
        from_text(text)


@pytest.mark.parametrize(
    "members",
    [
        [Member("a", 8, "u8")],
        [Member("a", 0, "u8", 2**31)],
        [Member("a", 0, "u8"), Member("a", 0, "u4")],
        [Member("a", 2**70, "u8")],
    ],
)
def test_members_that_do_not_fit_are_refused(members: list[Member]) -> None:
    """A dtype never reaches beyond its struct, and no name occurs twice."""
    with pytest.raises(LayoutError, match="struct slot is no layout"):
        Layout({"slot": (8, members)}).dtype("slot")


def test_slots_have_the_ring_header_in_front() -> None:
    """The header of a BPF ring record comes first, so that header and body fill a power of two."""
    layout = committed()
    dtype = slot_dtype(layout)
    assert dtype.itemsize == 512
    assert dtype.names is not None
    assert dtype.names[:2] == ("ring_length", "ring_page")
    raw = np.arange(512, dtype=np.uint64).astype(np.uint8)
    slot, body = raw.view(dtype)[0], raw[RING_HEADER_BYTES:].view(layout.dtype("slot"))[0]
    assert slot["ring_length"] == int.from_bytes(bytes([0, 1, 2, 3]), "little")
    assert slot["ring_page"] == int.from_bytes(bytes([4, 5, 6, 7]), "little")
    assert all(np.array_equal(slot[name], body[name]) for name in dtype.names[2:])


def _compiled(slot_bytes: int) -> Layout:
    path = probes.object_path(slot_bytes)
    if not path.exists():
        pytest.skip(f"{path} is not there: compile it with make -C bpf")
    opened = libbpf.BpfObject(path)
    try:
        return from_btf(opened.btf(), probes.STRUCTS, probes.ENUMS)
    finally:
        opened.close()


def test_committed_layout_is_that_of_the_compiled_object() -> None:
    """A change of bpf/wire.h shows as a change of layout.txt: it is to be written anew."""
    assert to_text(_compiled(512)) == to_text(committed())


@pytest.mark.parametrize("slot_bytes", probes.SLOT_SIZES)
def test_object_of_each_slot_size_fills_its_slots(slot_bytes: int) -> None:
    """A record is exactly a slot, and holds as much of a request as `--payload-bytes` is told."""
    dtype = slot_dtype(_compiled(slot_bytes))
    assert dtype.itemsize == slot_bytes
    assert dtype["request"].shape == (probes.SLOT_SIZES[slot_bytes],)
