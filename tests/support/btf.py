"""BTF built by hand, as Documentation/bpf/btf.rst in the kernel's source describes it."""

from __future__ import annotations

import struct

INT, PTR, ARRAY, STRUCT, ENUM, TYPEDEF, VOLATILE, CONST, DECL_TAG = 1, 2, 3, 4, 6, 8, 9, 10, 17
SIGNED = 1


class Btf:
    """Types in the order in which they are added; each method returns the id of the type it adds."""

    def __init__(self) -> None:
        self._types: list[bytes] = []
        self._strings = b"\0"

    def _string(self, text: str) -> int:
        at = len(self._strings)
        self._strings += text.encode() + b"\0"
        return at if text else 0

    def add(self, kind: int, name: str = "", size: int = 0, vlen: int = 0, extra: bytes = b"") -> int:
        """Add any type: its 12-byte head, and what follows it."""
        self._types.append(struct.pack("<III", self._string(name), kind << 24 | vlen, size) + extra)
        return len(self._types)

    def integer(self, name: str, size: int, *, signed: bool = False) -> int:
        """Add an integer of `size` bytes."""
        return self.add(INT, name, size, extra=struct.pack("<I", (SIGNED if signed else 0) << 24 | 8 * size))

    def array(self, element: int, count: int) -> int:
        """Add an array of `count` elements."""
        return self.add(ARRAY, extra=struct.pack("<III", element, element, count))

    def struct(self, name: str, size: int, *members: tuple[str, int, int]) -> int:
        """Add a struct; a member is its name, its type's id and its offset in bits."""
        extra = b"".join(struct.pack("<III", self._string(m), type_id, bits) for m, type_id, bits in members)
        return self.add(STRUCT, name, size, len(members), extra)

    def enum(self, name: str, **values: int) -> int:
        """Add an enum."""
        extra = b"".join(struct.pack("<Ii", self._string(key), value) for key, value in values.items())
        return self.add(ENUM, name, 4, len(values), extra)

    def tag(self, text: str, type_id: int, member: int) -> int:
        """Add a btf_decl_tag attribute to a struct's member."""
        return self.add(DECL_TAG, text, type_id, extra=struct.pack("<i", member))

    def raw(self) -> bytes:
        """Return the whole: header, types, strings."""
        types = b"".join(self._types)
        header = struct.pack("<HBBIIIII", 0xEB9F, 1, 0, 24, 0, len(types), len(types), len(self._strings))
        return header + types + self._strings
