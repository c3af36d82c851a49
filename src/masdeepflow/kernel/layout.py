"""Layouts of the kernel side's structs, read from BTF: the one source of truth is bpf/wire.h.

Format: Documentation/bpf/btf.rst in the kernel's source.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from importlib import resources

import numpy as np

__all__ = ["RING_HEADER_BYTES", "Layout", "LayoutError", "Member", "committed", "from_btf", "from_text", "slot_dtype", "to_text"]

RING_HEADER_BYTES = 8
"""The BPF ring buffer's own header of a record: u32 length with the two flag bits, u32 page offset."""

_BTF_MAGIC = 0xEB9F
_INT, _PTR, _ARRAY, _STRUCT, _UNION, _ENUM, _FWD, _TYPEDEF, _VOLATILE, _CONST = 1, 2, 3, 4, 5, 6, 7, 8, 9, 10
_RESTRICT, _FUNC, _FUNC_PROTO, _VAR, _DATASEC, _FLOAT, _DECL_TAG, _TYPE_TAG, _ENUM64 = 11, 12, 13, 14, 15, 16, 17, 18, 19
_INT_SIGNED, _INT_CHAR = 1, 2
# Bytes that follow the 12-byte head of a type: fixed, or per member (vlen).
_EXTRA_FIXED = {_INT: 4, _ARRAY: 12, _VAR: 4, _DECL_TAG: 4}
_EXTRA_EACH = {_STRUCT: 12, _UNION: 12, _ENUM: 8, _FUNC_PROTO: 8, _DATASEC: 12, _ENUM64: 12}


class LayoutError(ValueError):
    """The bytes are not a layout this version understands."""


@dataclass(frozen=True, slots=True)
class Member:
    """One struct member. type: NumPy type string of one element. count: elements, 0 for a scalar. offset: bytes."""

    name: str
    offset: int
    type: str
    count: int = 0
    unit: str = ""


@dataclass(frozen=True, slots=True)
class Layout:
    """structs: name -> (size in bytes, members). enums: name -> {enumerator: value}."""

    structs: dict[str, tuple[int, list[Member]]] = field(default_factory=dict)
    enums: dict[str, dict[str, int]] = field(default_factory=dict)

    def dtype(self, name: str, shift: int = 0) -> np.dtype[np.void]:
        """Return the struct as a structured dtype, its members `shift` bytes further on.

        Raises LayoutError if there is no such struct.
        """
        if name not in self.structs:
            raise LayoutError(f"the layout has no struct {name}")
        size, members = self.structs[name]
        return np.dtype(
            {
                "names": [member.name for member in members],
                "formats": [(member.type, (member.count,)) if member.count and member.type != "S1" else _format(member) for member in members],
                "offsets": [member.offset + shift for member in members],
                "itemsize": size + shift,
            }
        )


def _format(member: Member) -> str:
    return f"S{member.count}" if member.type == "S1" else member.type


def slot_dtype(layout: Layout) -> np.dtype[np.void]:
    """Return the dtype of one ring record: `struct slot` behind the ring's header (`ring_length`, `ring_page`)."""
    body = layout.dtype("slot", RING_HEADER_BYTES)
    fields = body.fields or {}
    return np.dtype(
        {
            "names": ["ring_length", "ring_page", *(body.names or ())],
            "formats": ["u4", "u4", *(fields[name][0] for name in body.names or ())],
            "offsets": [0, 4, *(fields[name][1] for name in body.names or ())],
            "itemsize": body.itemsize,
        }
    )


def committed() -> Layout:
    """Return the layout committed with the source (`layout.txt`, SLOT_BYTES 512)."""
    return from_text(resources.files("masdeepflow.kernel").joinpath("layout.txt").read_text(encoding="ascii"))


def to_text(layout: Layout) -> str:
    """Return the layout as the text that is committed, so that a change shows in review."""
    lines: list[str] = []
    for name, (size, members) in layout.structs.items():
        lines.append(f"struct {name} {size}")
        lines += [f"  {m.offset:5d} {m.type:>3} {m.count:4d} {m.name} {m.unit}".rstrip() for m in members]
    for name, values in layout.enums.items():
        lines.append(f"enum {name}")
        lines += [f"  {value:5d} {enumerator}" for enumerator, value in values.items()]
    return "\n".join(lines) + "\n"


def from_text(text: str) -> Layout:
    """Read `to_text`'s form back. Raises LayoutError for anything else."""
    layout = Layout()
    members: list[Member] = []
    values: dict[str, int] = {}
    try:
        for line in text.splitlines():
            words = line.split()
            if not line.startswith(" ") and words[0] == "struct":
                members = []
                layout.structs[words[1]] = (int(words[2]), members)
            elif not line.startswith(" ") and words[0] == "enum":
                values = layout.enums[words[1]] = {}
            elif len(words) == 2:  # noqa: PLR2004  # value and enumerator
                values[words[1]] = int(words[0])
            else:
                members.append(Member(words[3], int(words[0]), words[1], int(words[2]), words[4] if len(words) > 4 else ""))  # noqa: PLR2004
    except (IndexError, ValueError) as error:
        raise LayoutError(f"not a layout: {error}") from error
    return layout


@dataclass(slots=True)
class _Type:
    name: str
    kind: int
    size: int  # size in bytes, or the id of the type meant
    vlen: int
    extra: bytes


def from_btf(raw: bytes, structs: tuple[str, ...], enums: tuple[str, ...]) -> Layout:
    """Return the named structs and enums of raw BTF. Raises LayoutError if one is missing or can't be an array."""
    types = _read_types(raw)
    units = _read_units(types)
    ids = {(t.kind, t.name): number for number, t in enumerate(types)}
    layout = Layout()
    for name in structs:
        number = ids.get((_STRUCT, name))
        if number is None:
            raise LayoutError(f"the object's BTF has no struct {name}")
        layout.structs[name] = (types[number].size, _members(types, number, units, raw))
    for name in enums:
        number = ids.get((_ENUM, name))
        if number is None:
            raise LayoutError(f"the object's BTF has no enum {name}")
        layout.enums[name] = _enumerators(types[number], raw)
    return layout


def _string(raw: bytes, offset: int) -> str:
    header_length, string_offset = struct.unpack_from("<I8xI", raw, 4)
    start = header_length + string_offset + offset
    return raw[start : raw.index(b"\0", start)].decode("ascii")


def _read_types(raw: bytes) -> list[_Type]:
    if len(raw) < 24 or struct.unpack_from("<H", raw)[0] != _BTF_MAGIC:  # noqa: PLR2004  # size of the header
        raise LayoutError("not BTF")
    header_length, type_offset, type_length = struct.unpack_from("<III", raw, 4)
    position, end = header_length + type_offset, header_length + type_offset + type_length
    types = [_Type("void", 0, 0, 0, b"")]
    while position < end:
        name, info, size = struct.unpack_from("<III", raw, position)
        kind, vlen = info >> 24 & 0x1F, info & 0xFFFF
        length = _EXTRA_FIXED.get(kind, 0) + _EXTRA_EACH.get(kind, 0) * vlen
        types.append(_Type(_string(raw, name), kind, size, vlen, raw[position + 12 : position + 12 + length]))
        position += 12 + length
    return types


def _read_units(types: list[_Type]) -> dict[tuple[int, int], str]:
    """Return (struct id, member index) -> unit from the btf_decl_tag attributes."""
    return {
        (t.size, struct.unpack("<i", t.extra)[0]): t.name.removeprefix("unit:")
        for t in types
        if t.kind == _DECL_TAG and t.name.startswith("unit:")
    }


def _members(types: list[_Type], number: int, units: dict[tuple[int, int], str], raw: bytes) -> list[Member]:
    members = []
    for index in range(types[number].vlen):
        name, type_id, bits = struct.unpack_from("<III", types[number].extra, 12 * index)
        code, count = _element(types, type_id)
        members.append(Member(_string(raw, name), bits // 8, code, count, units.get((number, index), "")))
    return members


def _element(types: list[_Type], number: int) -> tuple[str, int]:
    target = types[number]
    while target.kind in (_TYPEDEF, _VOLATILE, _CONST, _TYPE_TAG):
        target = types[target.size]
    if target.kind == _ARRAY:
        element, _, count = struct.unpack("<III", target.extra)
        return _element(types, element)[0], count
    if target.kind != _INT:
        raise LayoutError(f"a member of kind {target.kind} can't be a column")
    encoding = struct.unpack("<I", target.extra)[0] >> 24
    if target.name == "char":
        return "S1", 0
    return f"{'i' if encoding & _INT_SIGNED else 'u'}{target.size}", 0


def _enumerators(enum: _Type, raw: bytes) -> dict[str, int]:
    pairs = (struct.unpack_from("<Ii", enum.extra, 8 * index) for index in range(enum.vlen))
    return {_string(raw, name): value for name, value in pairs}
