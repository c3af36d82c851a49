"""Layouts of the kernel side's structs, read from BTF: the one source of truth is bpf/wire.h.

Format: Documentation/bpf/btf.rst in the kernel's source.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from importlib import resources

import numpy as np

__all__ = [
    "RING_HEADER_BYTES",
    "Layout",
    "LayoutError",
    "Member",
    "committed",
    "from_btf",
    "from_text",
    "slot_dtype",
    "to_text",
]

RING_HEADER_BYTES = 8
"""The BPF ring buffer's own header of a record: u32 length with the two flag bits, u32 page offset."""

_BTF_MAGIC = 0xEB9F
_BTF_HEADER = struct.Struct("<HBBIIIII")
_INT, _ARRAY, _STRUCT, _UNION, _ENUM, _TYPEDEF, _VOLATILE, _CONST = 1, 3, 4, 5, 6, 8, 9, 10
_FUNC_PROTO, _VAR, _DATASEC, _DECL_TAG, _TYPE_TAG, _ENUM64 = 13, 14, 15, 17, 18, 19
_INT_SIGNED = 1
# Bytes that follow the 12-byte head of a type: fixed, or per member (vlen).
_EXTRA_FIXED = {_INT: 4, _ARRAY: 12, _VAR: 4, _DECL_TAG: 4}
_EXTRA_EACH = {_STRUCT: 12, _UNION: 12, _ENUM: 8, _FUNC_PROTO: 8, _DATASEC: 12, _ENUM64: 12}
_NAMED_OTHERWISE = {_TYPEDEF, _VOLATILE, _CONST, _TYPE_TAG}
_BITFIELD_SHIFT = 24  # above it, a member's offset holds the width of a bitfield

_COLUMN_TYPES = frozenset({"S1", *(f"{sign}{size}" for sign in "iu" for size in (1, 2, 4, 8))})
_SHOWN = 60  # characters of a line that is not understood


class LayoutError(ValueError):
    """The bytes are not a layout this version understands."""


@dataclass(frozen=True, slots=True)
class Member:
    """One struct member, `offset` bytes from the start.

    type: NumPy type string of one element. count: elements, 0 for a scalar.
    """

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

        Raises LayoutError if there is no such struct, or its members do not fit in it.
        """
        if name not in self.structs:
            raise LayoutError(f"the layout has no struct {name}")
        size, members = self.structs[name]
        try:
            return np.dtype(
                {
                    "names": [member.name for member in members],
                    "formats": [_format(member) for member in members],
                    "offsets": [member.offset + shift for member in members],
                    "itemsize": size + shift,
                }
            )
        except (ValueError, OverflowError) as error:
            raise LayoutError(f"struct {name} is no layout: {error}") from error


def _format(member: Member) -> str | tuple[str, tuple[int]]:
    if member.type == "S1":
        return f"S{member.count or 1}"
    return (member.type, (member.count,)) if member.count else member.type


def slot_dtype(layout: Layout) -> np.dtype[np.void]:
    """Return the dtype of one ring record: the ring's header (`ring_length`, `ring_page`), `struct slot`."""
    size, members = layout.structs.get("slot", (0, []))
    header = [
        Member("ring_length", -RING_HEADER_BYTES, "u4"),
        Member("ring_page", 4 - RING_HEADER_BYTES, "u4"),
    ]
    framed = {"slot": (size, [*header, *members])} if members else {}
    return Layout(framed).dtype("slot", RING_HEADER_BYTES)


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
    return "".join(f"{line}\n" for line in lines)


def from_text(text: str) -> Layout:
    """Read `to_text`'s form back. Raises LayoutError for anything else."""
    layout = Layout()
    members: list[Member] | None = None
    values: dict[str, int] | None = None
    for line in text.splitlines():
        match line.split():
            case ["struct", name, size]:
                members, values = [], None
                layout.structs[name] = (_number(size), members)
            case ["enum", name]:
                members, values = None, {}
                layout.enums[name] = values
            case [value, enumerator] if values is not None:
                values[enumerator] = _number(value, least=-(1 << 31))
            case [offset, type_, count, name, *unit] if members is not None and len(unit) <= 1:
                members.append(_member(name, offset, type_, count, *unit))
            case _:
                raise LayoutError(f"not a line of a layout: {line[:_SHOWN]!r}")
    return layout


def _member(name: str, offset: str, type_: str, count: str, unit: str = "") -> Member:
    if type_ not in _COLUMN_TYPES:
        raise LayoutError(f"not a type of a layout: {type_[:_SHOWN]!r}")
    return Member(name, _number(offset), type_, _number(count), unit)


def _number(word: str, least: int = 0) -> int:
    try:
        number = int(word)
    except ValueError as error:
        raise LayoutError(f"not a number in a layout: {word[:_SHOWN]!r}") from error
    if number < least:
        raise LayoutError(f"a number in a layout is too small: {number}")
    return number


@dataclass(slots=True)
class _Type:
    name: str
    kind: int
    size: int  # size in bytes, or the id of the type meant
    vlen: int
    extra: bytes


def from_btf(raw: bytes, structs: tuple[str, ...], enums: tuple[str, ...]) -> Layout:
    """Return the named structs and enums of raw BTF.

    Raises LayoutError if that is not BTF, if one of them is missing, or has a member that can't be a column.
    """
    try:
        return _from_types(_read_types(raw), raw, structs, enums)
    except LayoutError:
        raise
    except (struct.error, IndexError, ValueError, RecursionError) as error:
        raise LayoutError(f"the BTF is damaged: {error}") from error


def _from_types(types: list[_Type], raw: bytes, structs: tuple[str, ...], enums: tuple[str, ...]) -> Layout:
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
    _, _, _, header_length, _, _, string_offset, _ = _BTF_HEADER.unpack_from(raw)
    start = header_length + string_offset + offset
    return raw[start : raw.index(b"\0", start)].decode("ascii")


def _read_types(raw: bytes) -> list[_Type]:
    if len(raw) < _BTF_HEADER.size or _BTF_HEADER.unpack_from(raw)[0] != _BTF_MAGIC:
        raise LayoutError("not BTF")
    _, _, _, header_length, type_offset, type_length, _, _ = _BTF_HEADER.unpack_from(raw)
    position, end = header_length + type_offset, header_length + type_offset + type_length
    types = [_Type("void", 0, 0, 0, b"")]
    while position < end:
        name, info, size = struct.unpack_from("<III", raw, position)
        kind, vlen = info >> 24 & 0x1F, info & 0xFFFF
        if kind > _ENUM64:
            raise LayoutError(f"BTF of a kind that this version does not know: {kind}")
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
        name_offset, type_id, bits = struct.unpack_from("<III", types[number].extra, 12 * index)
        name = _string(raw, name_offset)
        code, count = _element(types, type_id)
        if code is None or bits >> _BITFIELD_SHIFT:
            raise LayoutError(
                f"{types[number].name}.{name} can't be a column: neither integer nor array of them"
            )
        members.append(Member(name, bits // 8, code, count, units.get((number, index), "")))
    return members


def _element(types: list[_Type], number: int) -> tuple[str | None, int]:
    """Return the NumPy type of one element, None if there is none, and their count, 0 for a scalar."""
    target = types[number]
    if target.kind in _NAMED_OTHERWISE:
        return _element(types, target.size)
    if target.kind == _ARRAY:
        element, _, count = struct.unpack("<III", target.extra)
        code, inner = _element(types, element)
        return None if inner else code, count
    if target.kind != _INT:
        return None, 0
    if target.name == "char":
        return "S1", 0
    signed = struct.unpack("<I", target.extra)[0] >> 24 & _INT_SIGNED
    code = f"{'i' if signed else 'u'}{target.size}"
    return code if code in _COLUMN_TYPES else None, 0


def _enumerators(enum: _Type, raw: bytes) -> dict[str, int]:
    pairs = (struct.unpack_from("<Ii", enum.extra, 8 * index) for index in range(enum.vlen))
    return {_string(raw, name): value for name, value in pairs}
