"""A double of MongoDB's server: its wire protocol as published, over a dict.

    python -m tests.support.mongodb_server --host 127.0.0.1 --port 27017

MongoDB's own server is in no registry that tests can install from. This one answers real drivers as the
manual says that mongod does, the order of a reply's fields included: OP_MSG with both kinds of sections,
unacknowledged writes, exhaust cursors, the streamed `hello`, OP_COMPRESSED (zlib), OP_QUERY and the older
messages. It finds by equality only.

Source: https://www.mongodb.com/docs/manual/reference/mongodb-wire-protocol/, the specifications for drivers.
"""

from __future__ import annotations

import argparse
import asyncio
import datetime as dt
import itertools
import struct
import zlib
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import bson

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Iterator

    Document = dict[str, Any]

__all__ = ["read_sections"]

_HEADER = struct.Struct("<iiii")
_REPLY, _UPDATE, _INSERT, _QUERY, _GET_MORE, _DELETE, _KILL_CURSORS = 1, 2001, 2002, 2004, 2005, 2006, 2007
_COMPRESSED, _MSG = 2012, 2013
_MORE_TO_COME, _EXHAUST_ALLOWED = 1 << 1, 1 << 16
_ZLIB = 2
_BATCH = 101
_PATIENCE_S = 1.0
_TOPOLOGY = {"processId": bson.ObjectId(b"golden-hosts"), "counter": bson.Int64(6)}


class _CommandError(Exception):
    """What a command fails with: code, name, message."""


@dataclass(slots=True)
class _Cursor:
    """What is left of a result. tailable: getMore waits for more to come."""

    namespace: str
    left: list[Document]
    tailable: bool = False


@dataclass(slots=True)
class _Store:
    """All collections by namespace, the fields that are unique in them, and open cursors."""

    collections: dict[str, list[Document]] = field(default_factory=dict)
    unique: dict[str, set[str]] = field(default_factory=dict)
    cursors: dict[int, _Cursor] = field(default_factory=dict)
    numbers: Iterator[int] = field(
        default_factory=lambda: itertools.count(7_000_000_000_000_000_001, 12_345_678_901)
    )


def read_sections(body: bytes) -> Document:
    """Return the command of an OP_MSG's body (flags first), its document sequences as arrays in it."""
    command: Document = {}
    at, end = 4, len(body) - 4 * (body[0] & 1)
    while at < end:
        size = int.from_bytes(body[at + 1 : at + 5], "little")
        section = body[at + 1 : at + 1 + size]
        if body[at]:
            name, _, documents = section[4:].partition(b"\0")
            command.setdefault(name.decode(), []).extend(bson.decode_all(documents))
        else:
            command = bson.decode(section) | command
        at += 1 + size
    return command


class _Commands:
    """Commands by name in lower case; each gives a reply's fields, `ok` left out."""

    def __init__(self, store: _Store) -> None:
        self._store = store

    def run(self, command: Document) -> Document:
        """Return the reply to a command that does not wait."""
        name = next(iter(command))
        found: Callable[[Document, str], Document] | None = getattr(self, f"_{name.lower()}", None)
        database = command.get("$db", "admin")
        try:
            return {**(found or self._unknown)(command, f"{database}.{command[name]}"), "ok": 1.0}
        except _CommandError as error:
            code, code_name, message = error.args
            return {"ok": 0.0, "errmsg": message, "code": code, "codeName": code_name}

    def _unknown(self, command: Document, _: str) -> Document:
        raise _CommandError(59, "CommandNotFound", f"no such command: '{next(iter(command))}'")

    def _hello(self, command: Document, _: str) -> Document:
        offered = [name for name in command.get("compression", []) if name == "zlib"]
        return {
            **({"helloOk": True} if command.get("helloOk") else {}),
            "ismaster" if "hello" not in command else "isWritablePrimary": True,
            "topologyVersion": _TOPOLOGY,
            "maxBsonObjectSize": 16_777_216,
            "maxMessageSizeBytes": 48_000_000,
            "maxWriteBatchSize": 100_000,
            "localTime": dt.datetime.now(dt.UTC),
            "logicalSessionTimeoutMinutes": 30,
            "connectionId": 1,
            "minWireVersion": 0,
            "maxWireVersion": 21,
            "readOnly": False,
            **({"compression": offered} if offered else {}),
        }

    _ismaster = _hello

    def _ping(self, *_: object) -> Document:
        return {}

    _endsessions = _ping

    def _buildinfo(self, *_: object) -> Document:
        return {"version": "7.0.0", "versionArray": [7, 0, 0, 0]}

    def _saslstart(self, *_: object) -> Document:
        raise _CommandError(18, "AuthenticationFailed", "Authentication failed.")

    def _create(self, _: Document, namespace: str) -> Document:
        self._store.collections.setdefault(namespace, [])
        return {}

    def _drop(self, _: Document, namespace: str) -> Document:
        if self._store.collections.pop(namespace, None) is None:
            raise _CommandError(26, "NamespaceNotFound", "ns not found")
        return {"nIndexesWas": 1, "ns": namespace}

    def _createindexes(self, command: Document, namespace: str) -> Document:
        for index in command["indexes"]:
            if index.get("unique"):
                self._store.unique.setdefault(namespace, set()).update(index["key"])
        return {"numIndexesBefore": 1, "numIndexesAfter": 2}

    def _listcollections(self, command: Document, _: str) -> Document:
        database = command["$db"] + "."
        names = [name.removeprefix(database) for name in self._store.collections if name.startswith(database)]
        found = [{"name": name, "type": "collection"} for name in names]
        return {"cursor": {"id": bson.Int64(0), "ns": database + "$cmd.listCollections", "firstBatch": found}}

    def _insert(self, command: Document, namespace: str) -> Document:
        kept = self._store.collections.setdefault(namespace, [])
        errors = []
        for index, document in enumerate(command["documents"]):
            clash = self._clash(namespace, kept, document)
            if clash:
                errors.append(_duplicate(index, namespace, clash, document))
                if command.get("ordered", True):
                    break
            else:
                kept.append(document)
        done = len(command["documents"]) if not errors else errors[0]["index"]
        return {"n": done, **({"writeErrors": errors} if errors else {})}

    def _clash(self, namespace: str, kept: list[Document], document: Document) -> str | None:
        names: set[str] = {"_id", *self._store.unique.get(namespace, ())}
        for name in names:
            if any(name in other and other[name] == document.get(name) for other in kept):
                return name
        return None

    def _matching(self, namespace: str, wanted: Document) -> list[Document]:
        if any(name.startswith("$") for name in wanted):
            raise _CommandError(2, "BadValue", f"unknown top level operator: {next(iter(wanted))}")
        kept = self._store.collections.get(namespace, [])
        return [one for one in kept if all(one.get(name) == value for name, value in wanted.items())]

    def _update(self, command: Document, namespace: str) -> Document:
        found = 0
        for update in command["updates"]:
            for document in self._matching(namespace, update["q"]):
                document.update(update["u"].get("$set", {}))
                found += 1
        return {"n": found, "nModified": found}

    def _delete(self, command: Document, namespace: str) -> Document:
        gone = [one for deletion in command["deletes"] for one in self._matching(namespace, deletion["q"])]
        for one in gone:
            self._store.collections[namespace].remove(one)
        return {"n": len(gone)}

    def _findandmodify(self, command: Document, namespace: str) -> Document:
        found = self._matching(namespace, command["query"])
        return {"lastErrorObject": {"n": len(found)}, "value": found[0] if found else None}

    def _count(self, command: Document, namespace: str) -> Document:
        return {"n": len(self._matching(namespace, command.get("query", {})))}

    def _distinct(self, command: Document, namespace: str) -> Document:
        found = self._matching(namespace, command.get("query", {}))
        return {"values": sorted({one[command["key"]] for one in found if command["key"] in one})}

    def _find(self, command: Document, namespace: str) -> Document:
        found = self._matching(namespace, command.get("filter", {}))[: command.get("limit") or None]
        size = command.get("batchSize", _BATCH)
        return self._opened(namespace, found, size, tailable=command.get("tailable", False))

    def _aggregate(self, command: Document, namespace: str) -> Document:
        stages = {name for stage in command["pipeline"] for name in stage}
        unknown = stages - {"$match", "$group", "$changeStream"}
        if unknown:
            raise _CommandError(
                40324, "Location40324", f"Unrecognized pipeline stage name: '{unknown.pop()}'"
            )
        found = [] if "$changeStream" in stages else self._matching(namespace, {})
        if "$group" in stages:
            found = [{"_id": 1, "n": len(found)}]
        return self._opened(namespace, found, _BATCH, tailable="$changeStream" in stages)

    def _opened(self, namespace: str, found: list[Document], size: int, *, tailable: bool) -> Document:
        number = 0
        if found[size:] or tailable:
            number = next(self._store.numbers)
            self._store.cursors[number] = _Cursor(namespace, found[size:], tailable)
        return {"cursor": {"firstBatch": found[:size], "id": bson.Int64(number), "ns": namespace}}

    def _getmore(self, command: Document, _: str) -> Document:
        number = command["getMore"]
        cursor = self._store.cursors.get(number)
        if cursor is None:
            raise _CommandError(43, "CursorNotFound", f"cursor id {number} not found")
        size = command.get("batchSize", _BATCH)
        batch, cursor.left = cursor.left[:size], cursor.left[size:]
        if not cursor.left and not cursor.tailable:
            del self._store.cursors[number]
            number = 0
        return {"cursor": {"nextBatch": batch, "id": bson.Int64(number), "ns": cursor.namespace}}

    def _killcursors(self, command: Document, _: str) -> Document:
        killed = [number for number in command["cursors"] if self._store.cursors.pop(number, None)]
        return {"cursorsKilled": killed, "cursorsNotFound": [], "cursorsAlive": [], "cursorsUnknown": []}


def _duplicate(index: int, namespace: str, name: str, document: Document) -> Document:
    pair = f"{{ {name}: {document.get(name)!r} }}"
    text = f"E11000 duplicate key error collection: {namespace} index: {name}_1 dup key: {pair}"
    values = {"keyPattern": {name: 1}, "keyValue": {name: document.get(name)}}
    return {"index": index, "code": 11000, **values, "errmsg": text}


class _Connection:
    """One client."""

    def __init__(self, store: _Store, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._commands, self._store = _Commands(store), store
        self._reader, self._writer = reader, writer
        self._last = 0

    async def serve(self) -> None:
        """Answer until the client leaves."""
        while True:
            head = await self._reader.readexactly(_HEADER.size)
            size, number, _, opcode = _HEADER.unpack(head)
            body = await self._reader.readexactly(size - _HEADER.size)
            compressed = opcode == _COMPRESSED
            if compressed:
                opcode, _, _ = struct.unpack_from("<iiB", body)
                body = zlib.decompress(body[9:])
            if opcode == _MSG:
                await self._message(number, body, compressed=compressed)
            else:
                self._older(number, opcode, body)
            await self._writer.drain()

    async def _message(self, number: int, body: bytes, *, compressed: bool) -> None:
        flags = int.from_bytes(body[:4], "little")
        async for reply, more in self._replies(read_sections(body), bool(flags & _EXHAUST_ALLOWED)):
            if flags & _MORE_TO_COME:
                return
            content = struct.pack("<IB", _MORE_TO_COME * more, 0) + bson.encode(reply)
            if compressed:
                packed = zlib.compress(content)
                content = struct.pack("<iiB", _MSG, len(content), _ZLIB) + packed
            number = self._send(number, _COMPRESSED if compressed else _MSG, content)
            await self._writer.drain()

    def _send(self, request: int, opcode: int, content: bytes) -> int:
        self._last += 1
        self._writer.write(_HEADER.pack(_HEADER.size + len(content), self._last, request, opcode) + content)
        return self._last

    async def _replies(self, command: Document, exhaust: bool) -> AsyncIterator[tuple[Document, bool]]:  # noqa: FBT001  # a flag of the message
        """Yield replies, and whether more follow unasked."""
        while True:
            await self._wait(command)
            reply = self._commands.run(command)
            streamed = "topologyVersion" in command and "maxAwaitTimeMS" in command
            more = exhaust and (
                streamed or ("getMore" in command and bool(reply.get("cursor", {}).get("id")))
            )
            yield reply, more
            if not more:
                return

    async def _wait(self, command: Document) -> None:
        if "maxAwaitTimeMS" in command:
            await asyncio.sleep(command["maxAwaitTimeMS"] / 1000)
        cursor = self._store.cursors.get(command.get("getMore", 0))
        if cursor and cursor.tailable and not cursor.left:
            await asyncio.sleep(command.get("maxTimeMS", 1000 * _PATIENCE_S) / 1000)

    def _older(self, number: int, opcode: int, body: bytes) -> None:
        """Answer what drivers sent before OP_MSG."""
        if opcode not in {_QUERY, _GET_MORE, _INSERT, _UPDATE, _DELETE, _KILL_CURSORS}:
            raise ConnectionError(f"opcode {opcode} is not known")
        namespace, _, rest = body[4:].partition(b"\0")
        if opcode == _INSERT:
            self._store.collections.setdefault(namespace.decode(), []).extend(bson.decode_all(rest))
        if opcode == _QUERY:
            self._query(number, namespace.decode(), bson.decode_all(rest[8:])[0])
        if opcode == _GET_MORE:
            self._reply(number, [], flags=1)

    def _query(self, number: int, namespace: str, query: Document) -> None:
        if namespace.endswith(".$cmd"):
            self._reply(number, [self._commands.run({**query, "$db": namespace.partition(".")[0]})])
        elif "$bad" in query:
            self._reply(number, [{"$err": "unknown operator: $bad", "code": 2}], flags=2)
        else:
            kept = self._store.collections.get(namespace, [])
            self._reply(number, [one for one in kept if query.items() <= one.items()])

    def _reply(self, number: int, documents: list[Document], flags: int = 0) -> None:
        content = struct.pack("<iqii", flags, 0, 0, len(documents))
        self._send(number, _REPLY, content + b"".join(map(bson.encode, documents)))


async def _serve(host: str, port: int) -> None:
    store = _Store()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await _Connection(store, reader, writer).serve()
        except (asyncio.IncompleteReadError, ConnectionError):
            writer.close()

    async with await asyncio.start_server(serve, host, port) as server:
        await server.serve_forever()


def main() -> None:
    """Serve until a signal ends it."""
    parser = argparse.ArgumentParser(prog="python -m tests.support.mongodb_server")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=27017)
    arguments = parser.parse_args()
    asyncio.run(_serve(arguments.host, arguments.port))


if __name__ == "__main__":
    main()
