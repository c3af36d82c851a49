"""MongoDB message by message in obvious code: what the column parser must equal."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

from masdeepflow.protocols.mongodb import PROTOCOL
from masdeepflow.protocols.mongodb.commands import COMMANDS, ERRORS, OF_COLLECTIONS
from masdeepflow.schema import Kind
from tests.unit.protocols.http_reference import rows_of
from tests.unit.protocols.pipelined_reference import Language, Reference, Side, Transaction
from tests.unit.protocols.redis_reference import pattern_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    import numpy as np

ASKING = {2001: "update", 2002: "insert", 2004: "find", 2005: "getMore", 2006: "delete", 2007: "killCursors"}
TELLING = 1
PACKED, MSG = 2012, 2013
WAYS = ["noop", "snappy", "zlib", "zstd"]
NAMES = {
    2001: "UPDATE",
    2002: "INSERT",
    2004: "QUERY",
    2005: "GET_MORE",
    2006: "DELETE",
    2007: "KILL_CURSORS",
}
NAMES |= {2012: "COMPRESSED", 2013: "MSG"}
GUESSED = {b"documents": "insert", b"updates": "update", b"deletes": "delete", b"ops": "bulkWrite"}
FIXED = {1: 8, 6: 0, 7: 12, 8: 1, 9: 8, 10: 0, 16: 4, 17: 8, 18: 8, 19: 16, 127: 0, 255: 0}
TEXTS, DOCUMENTS = (2, 13, 14), (3, 4)
LABEL = "MongoDB Command: "


def int32(data: bytes, at: int) -> int:
    """Return a signed integer, as far as it is there."""
    return int.from_bytes(data[at : at + 4].ljust(4, b"\0"), "little", signed=True)


class Element(NamedTuple):
    """A field of a document; name and value are None where they are cut."""

    kind: int
    name: bytes | None
    value: int
    after: int
    whole: bool
    valid: bool


def elements(data: bytes, at: int, stop: int) -> Iterator[Element]:
    """Yield fields until the document ends, or is cut, or is none."""
    for _ in range(64):
        if at >= stop or data[at] == 0:
            return
        one = element(data, at, stop)
        yield one
        if not one.whole:
            return
        at = one.after


def element(data: bytes, at: int, stop: int) -> Element:
    """Read one field."""
    kind = data[at]
    sized = kind in TEXTS or kind in DOCUMENTS or kind in (5, 15)
    known = sized or kind in FIXED
    nul = data.find(b"\0", at + 1, stop)
    if nul < 0:
        return Element(kind, None, stop, stop, whole=False, valid=known)
    name, value = data[at + 1 : nul], nul + 1
    if not known:
        return Element(kind, name, value, stop, whole=False, valid=False)
    if not sized:
        after = value + FIXED[kind]
        return Element(kind, name, value, after, after <= stop, valid=True)
    if value + 4 > stop:
        return Element(kind, name, value, stop, whole=False, valid=True)
    size = int32(data, value)
    least = 1 if kind in TEXTS else 5 if kind in DOCUMENTS else 14 if kind == 15 else 0
    after = value + size + (4 if kind in TEXTS else 5 if kind == 5 else 0)
    return Element(kind, name, value, after, size >= least and after <= stop, valid=size >= least)


def number(data: bytes, one: Element) -> int | None:
    """Return the number in a field, None if it is none."""
    if one.kind == 1:
        double: float = struct.unpack_from("<d", data, one.value)[0]
        return int(double) if abs(double) < 2**53 else None
    if one.kind == 8:
        return data[one.value]
    if one.kind in (16, 18):
        return int.from_bytes(
            data[one.value : one.value + (4 if one.kind == 16 else 8)], "little", signed=True
        )
    return None


def side_of(data: bytes, at: int, *, requests: bool) -> Side:
    """Read all messages from `at` on; replies of which each says that more will come are one."""
    allowed = {*ASKING, PACKED, MSG} if requests else {TELLING, PACKED, MSG}
    side = Side([], good=True, ended=at)
    start = at
    while at < len(data):
        if len(data) - at < 16:
            side.messages.append((start, None, data[start:]))
            return side
        size, opcode = int32(data, at), int32(data, at + 12)
        if not 16 <= size <= 48_016_384 or opcode not in allowed:
            side.good = False
            return side
        flags = data[at + 16] if opcode == MSG and min(size, len(data) - at) >= 20 else 0
        more = not requests and bool(flags & 2)
        at += size
        if more and at >= len(data):
            side.messages.append((start, None, data[start:]))
            return side
        if not more:
            side.messages.append((start, at, data[start:at]))
            side.ended = start = at
    return side


@dataclass
class Asked:
    """A request as shown."""

    text: str | None = None
    summary: str | None = None
    operation: str | None = None
    collection: str | None = None
    namespace: str | None = None
    silent: bool = False
    blocking: bool = False
    truncated: bool = False
    opens: bool = False
    number: int | None = None
    cursor: int | None = None


@dataclass
class Told:
    """A reply as shown."""

    text: str | None = None
    error: bool = False
    code: str | None = None
    truncated: bool = False
    answers: int | None = None


@dataclass
class Body:
    """What is found of a request."""

    name: bytes = b""
    guess: str | None = None
    collection: tuple[bytes, bool] = (b"", False)
    asked_of: tuple[bytes, bool] | None = None
    namespace: tuple[bytes, bool] = (b"", False)
    cut: bool = False
    silent: bool = False
    packed: str | None = None
    cursor: int | None = None
    fields: set[bytes] = field(default_factory=set)


def string(data: bytes, one: Element, stop: int) -> tuple[bytes, bool] | None:
    """Return a text and whether it is cut."""
    if one.kind != 2 or not one.valid or one.value + 4 > stop:
        return None
    return data[one.value + 4 : min(one.after - 1, stop)], one.after > stop


def take_command(body: Body, data: bytes, one: Element, stop: int) -> None:
    """Read the first field of a command."""
    if one.name is None:
        return
    body.name, body.guess = one.name, None
    body.collection = string(data, one, stop) or body.collection
    if one.whole and one.kind == 18:
        body.cursor = number(data, one)


def msg_body(data: bytes, limit: int) -> Body:
    """Read the sections of an OP_MSG."""
    body, at = Body(silent=limit >= 20 and bool(data[16] & 2)), 20
    for _ in range(8):
        if at + 5 > limit or data[at] != 1:
            break
        for name, guess in GUESSED.items():
            if data[at + 5 : limit].startswith(name + b"\0"):
                body.guess = guess
        size = int32(data, at + 1)
        at = at + 1 + size if size > 5 else limit
    if at + 5 > limit or data[at] != 0:
        body.cut = True
        return body
    end = at + 1 + int32(data, at + 1)
    body.cut, stop = end > limit, min(max(end, at + 5), limit)
    for place, one in enumerate(elements(data, at + 5, stop)):
        if place == 0:
            take_command(body, data, one, stop)
        take_field(body, data, one, stop)
    return body


def take_field(body: Body, data: bytes, one: Element, stop: int) -> None:
    """Read a field of a command."""
    if one.name == b"$db":
        body.namespace = string(data, one, stop) or body.namespace
    elif one.name == b"collection":
        body.asked_of = string(data, one, stop) or body.asked_of
    elif one.name is not None and counts(data, one, stop):
        body.fields.add(one.name)


def counts(data: bytes, one: Element, stop: int) -> bool:
    """Whether a field's value makes it count."""
    if one.name in (b"tailable", b"awaitData"):
        return one.whole and one.kind == 8 and data[one.value] == 1
    if one.name == b"pipeline":
        first = data[one.value + 4 : min(one.value + 7, stop)]
        return first == b"\x030\0" and data[one.value + 11 : stop].startswith(b"\x03$changeStream\0")
    return True


def older_body(data: bytes, limit: int, opcode: int) -> Body:
    """Read a message from before OP_MSG."""
    body = Body(guess=ASKING[opcode], silent=opcode in (2001, 2002, 2006, 2007))
    if opcode == 2007:
        return body
    name, nul, _ = data[20:limit].partition(b"\0")
    database, dot, collection = name.partition(b".")
    body.cut = not nul
    body.namespace, body.collection = (database, not nul and not dot), (collection, not nul and bool(dot))
    if opcode != 2004 or body.cut or collection != b"$cmd":
        return body
    body.collection, body.guess = (b"", False), None
    at, stop = 20 + len(name) + 9, limit
    for _ in range(2):
        body.name = b""
        if at + 4 > stop:
            body.cut = True
            break
        end = max(at + int32(data, at), at + 4)
        body.cut, stop = end > stop, min(end, stop)
        one = next(elements(data, at + 4, stop), None)
        if one is None:
            break
        take_command(body, data, one, stop)
        if one.name not in (b"$query", b"query") or one.kind not in DOCUMENTS:
            break
        at = one.value
    return body


def packed_body(data: bytes, limit: int) -> Body:
    """Read the head of an OP_COMPRESSED."""
    if limit < 25 or data[24] > 3 or int32(data, 16) not in NAMES:
        return Body(cut=True)
    return Body(packed=f"OP_{NAMES[int32(data, 16)]} ({WAYS[data[24]]})")


def asked_of(data: bytes) -> Asked:
    """Read a request."""
    if len(data) < 16:
        return Asked(LABEL + "…", truncated=True)
    opcode, limit = int32(data, 12), min(len(data), int32(data, 0))
    if opcode == MSG:
        body = msg_body(data, limit)
    else:
        body = packed_body(data, limit) if opcode == PACKED else older_body(data, limit, opcode)
    return replace(shown(body), number=int32(data, 4))


def shown(body: Body) -> Asked:
    """Return what a body shows."""
    operation = body.guess
    if body.guess is None and body.name.decode("latin-1") in COMMANDS:
        operation = body.name.decode("latin-1")
    name = (
        operation or body.packed or (pattern_of(body.name[:41], cut=len(body.name) > 40) if body.name else "")
    )
    collection = body.collection if operation in OF_COLLECTIONS else (b"", False)
    if operation == "getMore" and body.asked_of:
        collection = body.asked_of
    names = [one[0].decode("utf-8", "surrogateescape") for one in (body.namespace, collection)]
    cut = body.namespace[1] or collection[1]
    target = ".".join(one for one in names if one) + "…" * cut
    waits = {b"topologyVersion", b"maxAwaitTimeMS"} <= body.fields and operation in (
        "hello",
        "isMaster",
        "ismaster",
    )
    waits = waits or (operation == "getMore" and b"maxTimeMS" in body.fields)
    opens = operation == "find" and {b"tailable", b"awaitData"} <= body.fields
    visible_collection = names[1] if names[1] and not collection[1] else None
    return Asked(
        f"{LABEL}{name or '…'} {target}".rstrip(),
        operation and (f"{operation} {visible_collection}" if visible_collection else operation),
        operation,
        visible_collection,
        names[0] if names[0] and not body.namespace[1] else None,
        body.silent,
        waits,
        cut or not name or (body.cut and not names[0]),
        opens or (operation == "aggregate" and b"pipeline" in body.fields),
        cursor=body.cursor,
    )


def told_of(data: bytes) -> Told:
    """Read a reply by its first message."""
    if len(data) < 16:
        return Told(truncated=True)
    opcode, limit = int32(data, 12), min(len(data), int32(data, 0))
    return replace(told_body(data, limit, opcode), answers=int32(data, 8))


def told_body(data: bytes, limit: int, opcode: int) -> Told:
    """Read what a reply says."""
    if opcode == PACKED:
        if limit < 25 or data[24] > 3:
            return Told(truncated=True)
        return Told(f"MongoDB Response: compressed ({WAYS[data[24]]})")
    error, code, at = False, 0, 0
    if opcode == MSG:
        if limit <= 20:
            return Told(truncated=True)
        at = 21 if limit >= 25 and data[20] == 0 else 0
    else:
        if limit < 20:
            return Told(truncated=True)
        flags = int32(data, 16)
        error, code = bool(flags & 3), 43 if flags & 1 else 0
        at = 36 if limit >= 40 and int32(data, 32) > 0 else 0
    if at:
        stop = min(max(at + int32(data, at), at + 4), limit)
        failed, found = told_document(data, at + 4, stop)
        error, code = error or failed, code or found
    if not error:
        return Told("MongoDB Response: OK")
    text = f"MongoDB Response: Error {code or ''}".rstrip()
    return Told(f"{text} {ERRORS.get(code, '')}".rstrip(), True, str(code) if code else None)  # noqa: FBT003


def told_document(data: bytes, at: int, stop: int) -> tuple[bool, int]:
    """Return whether a document tells of an error, and its code."""
    error, code, nested = False, 0, []
    for one in elements(data, at, stop):
        if one.name == b"ok" and one.whole and number(data, one) == 0:
            error = True
        if one.name == b"code":
            code = code or code_in(data, one)
        if one.name in (b"errmsg", b"$err", b"writeErrors", b"writeConcernError"):
            error = True
        if one.name in (b"writeErrors", b"writeConcernError") and one.kind in DOCUMENTS and one.valid:
            inner = one.value + (11 if data[one.value + 4 : one.value + 7] == b"\x030\0" else 4)
            if inner <= stop and one.value + 4 <= stop:
                nested.append(inner)
    for inner in nested:
        for one in elements(data, inner, stop):
            if one.name == b"code":
                code = code or code_in(data, one)
    return error, code


def code_in(data: bytes, one: Element) -> int:
    """Return the code in a field, 0 if there is none."""
    value = number(data, one) if one.whole else None
    return value if value is not None and 0 < value < 2**31 else 0


def cursor_in(data: bytes) -> int:
    """Return the cursor that a reply opens, 0 for none."""
    limit = min(len(data), int32(data, 0))
    for one in elements(data, 25, limit):
        if one.name != b"cursor" or one.kind not in DOCUMENTS:
            continue
        for two in elements(data, one.value + 4, limit):
            if two.name == b"id" and two.kind == 18 and two.value + 8 <= limit:
                return int.from_bytes(data[two.value : two.value + 8], "little", signed=True)
    return 0


class Session:
    """Nothing is remembered."""

    followed = False

    def expects(self, asked: Asked) -> bool:
        """All but the silent ones."""
        return not asked.silent

    def answers(self, told: Told, asked: Asked | None) -> bool:
        """All."""
        del told, asked
        return True


def plain(asked: Side, told: Side) -> bool:
    """Whether a turn holds one request with a reply, and that is its own."""
    if any(len(data) < 16 for _, _, data in asked.messages + told.messages):
        return False
    spoken = [one for one in (asked_of(data) for _, _, data in asked.messages) if not one.silent]
    replies = [told_of(data) for _, _, data in told.messages]
    return len(spoken) == len(replies) == 1 and spoken[0].number == replies[0].answers


def matches(told: Told, asked: Asked) -> bool:
    """Whether a reply is that to a request, as far as both tell."""
    return told.answers is None or asked.number is None or told.answers == asked.number


class Words:
    """The language, with what is known of cursors."""

    def __init__(self) -> None:
        self.waiting: set[int] = set()
        blank = (Asked(truncated=True), Told(truncated=True))
        self.language = Language(
            side_of, self.asked, told_of, blank, lambda _: Session(), plain, matches, whole=True
        )

    def asked(self, data: bytes) -> Asked:
        """Read a request; a getMore of a cursor that waits, waits."""
        asked = asked_of(data)
        return replace(
            asked, blocking=asked.blocking or (asked.operation == "getMore" and asked.cursor in self.waiting)
        )

    def learn(self, slots: np.ndarray) -> None:
        """Take note of the cursors that wait."""
        for slot in slots:
            request = slot["request"][: slot["request_length"]].tobytes()
            response = slot["response"][: slot["response_length"]].tobytes()
            asked, told = side_of(request, 0, requests=True), side_of(response, 0, requests=False)
            if slot["kind"] != Kind.TURN or not asked.messages or not told.messages:
                continue
            first = told.messages[0][2]
            if asked_of(asked.messages[0][2]).opens and len(first) >= 16 and int32(first, 12) == MSG:
                self.waiting |= {cursor_in(first)} - {0}


def visible(one: Transaction) -> tuple[object, ...]:
    """Return what can be compared with a row of the parser's columns."""
    asked, told = one.asked or Asked(), one.told or Told()
    return (
        one.row,
        asked.text,
        told.text,
        told.error or (one.unanswered and not asked.blocking),
        one.truncated or asked.truncated or told.truncated,
        "mongodb",
        asked.summary,
        asked.operation,
        asked.collection,
        asked.namespace,
        told.code,
        "true" if asked.blocking else None,
        one.first_ns,
        one.queue_ns,
        one.request_bytes,
        one.response_bytes,
        *(one.response_ns if one.answered else (0, 0)),
    )


def check_equal(batches: list[np.ndarray]) -> None:
    """Hold parser and reference equal over batches."""
    words = Words()
    parser, reference = PROTOCOL(), Reference(words.language)
    for batch in batches:
        words.learn(batch)
        parsed, expected = parser.parse(batch), reference.parse(batch)
        assert rows_of(batch, parsed) == [visible(one) for one in expected]
