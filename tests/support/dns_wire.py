"""DNS messages for tests, as RFC 1035 lays them out, and the slots that they come in."""

from __future__ import annotations

import struct
from typing import Any

from masdeepflow.schema import Kind, Role, Transport
from tests.support.slots import START, turn

__all__ = ["AAAA", "OPT", "A", "answered", "asked", "edns", "encode_name", "query", "record", "response"]

A, CNAME, PTR, AAAA, ANY = 1, 5, 12, 28, 255
OPT = b"\0\0\x29\x04\xd0\0\0\0\0\0\0"
"""What EDNS adds to a query."""
_ROOM = 208  # of the request in a slot


def encode_name(name: bytes) -> bytes:
    """Return a name as labels."""
    labels = [label for label in name.split(b".") if label]
    return b"".join(bytes([len(label)]) + label for label in labels) + b"\0"


def query(name: bytes, kind: int = A, number: int = 1, *, edns: bool = False, flags: int = 0x0100) -> bytes:
    """Return a query."""
    head = struct.pack(">6H", number, flags, 1, 0, 0, int(edns))
    return head + encode_name(name) + struct.pack(">2H", kind, 1) + OPT * edns


def edns(options: bytes) -> bytes:
    """Return an OPT record with options."""
    return b"\0\0\x29\x04\xd0\0\0\0\0" + struct.pack(">H", len(options)) + options


def record(value: bytes, kind: int = A, ttl: int = 60, name: bytes = b"\xc0\x0c") -> bytes:
    """Return a record of the question's name."""
    return name + struct.pack(">2HIH", kind, 1, ttl, len(value)) + value


def response(
    name: bytes, *records: bytes, kind: int = A, number: int = 1, code: int = 0, flags: int = 0x8180
) -> bytes:
    """Return a response with records in its answer section."""
    head = struct.pack(">6H", number, flags | code, 1, len(records), 0, 0)
    return head + encode_name(name) + struct.pack(">2H", kind, 1) + b"".join(records)


def _datagram(data: bytes, at_ns: int, side: str, fields: dict[str, Any]) -> dict[str, object]:
    stamps = {f"{end}_{which}_ns": 0 for end in ("request", "response") for which in ("first", "last")}
    slot: dict[str, Any] = {
        "kind": Kind.DATAGRAM,
        "transport": Transport.UDP,
        "remote_port": 53,
        "response_length": max(len(data) - _ROOM, 0),
        "flags": 0,
        "request_bytes": 0,
        "response_bytes": 0,
        **stamps,
        f"{side}_first_ns": at_ns,
        f"{side}_last_ns": at_ns,
        f"{side}_bytes": len(data),
        **fields,
    }
    return turn(data[:_ROOM], data[_ROOM:], **slot)


def asked(data: bytes, at_ns: int = START, **fields: Any) -> dict[str, object]:  # noqa: ANN401  # of a slot
    """Return the slot of a datagram from client to server."""
    return _datagram(data, at_ns, "request", fields)


def answered(data: bytes, at_ns: int = START + 1000, **fields: Any) -> dict[str, object]:  # noqa: ANN401  # likewise
    """Return the slot of a datagram from server to client."""
    return _datagram(data, at_ns, "response", fields)


def serving(**fields: Any) -> dict[str, Any]:  # noqa: ANN401  # likewise
    """Return the fields of a server's end; who asks is not known."""
    return {"role": Role.SERVER, "local_port": 53, "remote_port": 0, **fields}
