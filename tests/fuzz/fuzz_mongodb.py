"""The MongoDB parser holds its ground whatever the bytes, and however turns are cut, numbered and flagged.

It does not raise, gives columns of one length whose rows point at turns of the batch in order, scores every
turn, and reports exactly what the plain reference reports.

Run with `PYTHONPATH=src:. python tests/fuzz/fuzz_mongodb.py [-runs=N] [CORPUS]`; needs atheris.
"""

from __future__ import annotations

import struct
from typing import Any

import bson

from masdeepflow.protocols.mongodb import PROTOCOL
from tests.support.fuzzing import check_pipelined, fuzz
from tests.unit.protocols.mongodb_reference import check_equal

__all__ = ["FRAGMENTS", "asks", "check", "legacy", "message", "sequence", "tells"]

ONE, TWO = 7, 8
"""Ids of requests."""
CURSOR = bson.Int64(7_000_000_000_000_000_001)


def message(opcode: int, body: bytes, number: int = ONE, answers: int = 0) -> bytes:
    """Return a message with its header."""
    return struct.pack("<iiii", 16 + len(body), number, answers, opcode) + body


def sequence(name: str, *documents: dict[str, Any]) -> bytes:
    """Return a section with documents."""
    inside = name.encode() + b"\0" + b"".join(map(bson.encode, documents))
    return b"\1" + struct.pack("<i", 4 + len(inside)) + inside


def asks(
    command: dict[str, Any], flags: int = 0, *, number: int = ONE, before: bytes = b"", behind: bytes = b""
) -> bytes:
    """Return a command, with sections before and behind it."""
    return message(2013, struct.pack("<I", flags) + before + b"\0" + bson.encode(command) + behind, number)


def tells(reply: dict[str, Any], flags: int = 0, *, number: int = 1, answers: int = ONE) -> bytes:
    """Return a reply."""
    return message(2013, struct.pack("<I", flags) + b"\0" + bson.encode(reply), number, answers)


def legacy(opcode: int, namespace: str, rest: bytes = b"", first: int = 0, number: int = ONE) -> bytes:
    """Return a message from before OP_MSG."""
    return message(opcode, struct.pack("<i", first) + namespace.encode() + b"\0" + rest, number)


def _packed(original: int, way: int, number: int = ONE, answers: int = 0) -> bytes:
    return message(2012, struct.pack("<iiB", original, 90, way) + b"\xfe" * 20, number, answers)


_SESSION = {"id": bson.Binary(bytes(range(16)), 4)}
_TWICE = {"find": "users", "filter": {"_id": 1}, "lsid": _SESSION, "$db": "app"}
_STREAMED = {"aggregate": "users", "pipeline": [{"$changeStream": {}}], "cursor": {}, "$db": "app"}
_AWAITS = {"hello": 1, "topologyVersion": {"counter": 6}, "maxAwaitTimeMS": 10, "$db": "admin"}
_ERRORS = {"n": 0, "writeErrors": [{"index": 0, "code": 11000, "errmsg": "E11000 dup"}], "ok": 1.0}
_QUERIED = b"\0" * 8
FRAGMENTS = [
    asks(_TWICE),
    asks(_TWICE, number=TWO),
    asks({"insert": "users", "ordered": True, "$db": "app"}, behind=sequence("documents", {"a": 1})),
    asks({"insert": "users", "$db": "app"}, 2, behind=sequence("documents", {"a": "x" * 300})),
    asks({"insert": "users", "$db": "app"}, before=sequence("documents", {"a": 1})),
    asks({"update": "users", "$db": "app"}, before=sequence("updates", {"a": "x" * 300})),
    asks({"getMore": CURSOR, "collection": "users", "$db": "app"}),
    asks({"getMore": CURSOR, "collection": "users", "maxTimeMS": 10, "$db": "app"}, 1 << 16),
    asks({"find": "log", "tailable": True, "awaitData": True, "$db": "app"}),
    asks({"find": "users", "filter": {"name": "x" * 250}, "$db": "app"}),
    asks(_STREAMED),
    asks(_AWAITS, 1 << 16),
    asks({"createUser": "alice", "pwd": "secret", "$db": "app"}),
    asks({"nosuch12": 1, "$db": "app"}),
    asks({"drop": "users" * 50, "$db": "app"}),
    asks({}),
    legacy(2004, "admin.$cmd", _QUERIED + bson.encode({"isMaster": 1})),
    legacy(2004, "admin.$cmd", _QUERIED + bson.encode({"$query": {"count": "users"}, "$readPreference": 1})),
    legacy(2004, "app.users", _QUERIED + bson.encode({"name": "secret"})),
    legacy(2002, "app.users", bson.encode({"name": "secret"})),
    legacy(2005, "app.system.js", bytes(12)),
    legacy(2001, "app.users"),
    legacy(2006, "nodot"),
    message(2007, struct.pack("<iiq", 0, 1, 5)),
    _packed(2013, 1),
    _packed(2013, 2, number=TWO),
    _packed(77, 9),
    tells({"ok": 1.0}),
    tells({"n": 1, "ok": 1.0}, answers=TWO),
    tells({"ok": 0.0, "errmsg": "ns not found", "code": 26, "codeName": "NamespaceNotFound"}),
    tells({"ok": 0, "errmsg": "x" * 80, "code": 59}),
    tells(_ERRORS),
    tells({"n": 1, "writeConcernError": {"code": 64, "errmsg": "timeout"}, "ok": True}),
    tells({"cursor": {"firstBatch": [], "id": CURSOR, "ns": "app.users"}, "ok": 1.0}),
    tells({"cursor": {"nextBatch": [{"a": "x" * 90}], "id": CURSOR}, "ok": 1.0}, 2),
    tells({"isWritablePrimary": True, "ok": 1.0}, 2),
    _packed(2013, 1, 1, ONE),
    message(1, struct.pack("<iqii", 0, 0, 0, 1) + bson.encode({"ok": 1.0}), 1, ONE),
    message(1, struct.pack("<iqii", 2, 0, 0, 1) + bson.encode({"$err": "bad", "code": 2.0}), 1, ONE),
    message(1, struct.pack("<iqii", 1, 0, 0, 0), 1, ONE),
    b"\0",
    b"\x02$db\0\x04\0\0\0app\0",
]
"""One byte of input stands for each, so that the fuzzer gets deep; other bytes announce literal ones."""


def check(data: bytes) -> None:
    """Hold the invariant for the turns that `data` stands for."""
    check_pipelined(data, PROTOCOL, FRAGMENTS, check_equal)


if __name__ == "__main__":
    fuzz(check)
