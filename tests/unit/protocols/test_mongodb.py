"""The rules of the MongoDB parser: named captures of its messages, and its reference."""

from __future__ import annotations

import struct
from typing import Any

import bson
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masdeepflow.protocols.base import CERTAIN, LIKELY
from masdeepflow.protocols.mongodb import PROTOCOL
from masdeepflow.schema import ATTRIBUTES, Flag, Kind
from tests.fuzz.fuzz_mongodb import CURSOR, FRAGMENTS, asks, check, legacy, message, sequence, tells
from tests.support.named_rows import Row, named_rows, shown_as
from tests.support.slots import make_slots, turn

OK = tells({"ok": 1.0})
FIND = {"find": "users", "filter": {"email": "private@example.org"}, "$db": "app"}
MORE_TO_COME, EXHAUST_ALLOWED = 2, 1 << 16


def parse(*turns: dict[str, object], parser: PROTOCOL | None = None) -> list[Row]:
    """Parse turns as one batch; return each transaction's columns by name, absent ones left out."""
    return named_rows(parser or PROTOCOL(), *turns)


def shown(rows: list[Row]) -> list[tuple[str | None, str | None]]:
    """Return command and reply of each transaction, as the text log has them."""
    return shown_as("MongoDB", rows)


def score(request: bytes, response: bytes = b"", **fields: object) -> int:
    """Return the score of one turn."""
    return int(PROTOCOL().recognise(make_slots(turn(request, response, **fields)))[0])


def query(command: dict[str, Any], namespace: str = "admin.$cmd", number: int = 7) -> bytes:
    """Return an OP_QUERY."""
    return legacy(2004, namespace, struct.pack("<ii", 0, -1) + bson.encode(command), number=number)


def reply(*documents: dict[str, Any], flags: int = 0, answers: int = 7) -> bytes:
    """Return an OP_REPLY."""
    head = struct.pack("<iqii", flags, 0, 0, len(documents))
    return message(1, head + b"".join(map(bson.encode, documents)), 1, answers)


def packed(way: int, answers: int = 0, number: int = 7) -> bytes:
    """Return an OP_COMPRESSED."""
    return message(2012, struct.pack("<iiB", 2013, 90, way) + b"private" * 3, number, answers)


DUPLICATE = {
    "n": 0,
    "writeErrors": [
        {"index": 0, "code": 11000, "keyValue": {"email": "private"}, "errmsg": "E11000 private"}
    ],
    "ok": 1.0,
}
ERROR = {"ok": 0.0, "errmsg": "ns not found", "code": 26, "codeName": "NamespaceNotFound"}
CAPTURES: dict[str, tuple[bytes, bytes, tuple[str, str]]] = {
    "find": (asks(FIND), tells({"cursor": {"firstBatch": [], "id": 0}, "ok": 1}), ("find app.users", "OK")),
    "sequence behind": (
        asks({"insert": "users", "$db": "app"}, behind=sequence("documents", {"email": "private"})),
        tells({"n": 1, "ok": 1.0}),
        ("insert app.users", "OK"),
    ),
    "sequence before": (
        asks({"insert": "users", "$db": "app"}, before=sequence("documents", {"email": "private"})),
        tells({"n": 1, "ok": 1.0}),
        ("insert app.users", "OK"),
    ),
    "checksum": (message(2013, asks(FIND, 1)[16:] + b"\1\2\3\4"), OK, ("find app.users", "OK")),
    "getMore": (asks({"getMore": CURSOR, "collection": "a.b", "$db": "app"}), OK, ("getMore app.a.b", "OK")),
    "of a database": (asks({"aggregate": 1, "pipeline": [], "$db": "app"}), OK, ("aggregate app", "OK")),
    "without a collection": (asks({"ping": 1, "$db": "admin"}), OK, ("ping admin", "OK")),
    "unknown command": (asks({"private12": "private", "$db": "app"}), OK, ("private* app", "OK")),
    "user": (asks({"createUser": "private", "pwd": "private", "$db": "app"}), OK, ("createUser app", "OK")),
    "login": (
        asks({"saslStart": 1, "mechanism": "PLAIN", "payload": b"private", "$db": "admin"}),
        tells({"ok": 0.0, "errmsg": "Authentication failed.", "code": 18}),
        ("saslStart admin", "Error 18 AuthenticationFailed"),
    ),
    "error": (asks(FIND), tells(ERROR), ("find app.users", "Error 26 NamespaceNotFound")),
    "error without a name": (asks(FIND), tells({**ERROR, "code": 40324}), ("find app.users", "Error 40324")),
    "error without a code": (asks(FIND), tells({"ok": 0}), ("find app.users", "Error")),
    "message of an error that hides its code": (
        asks(FIND),
        tells({**ERROR, "errmsg": "x" * 90}),
        ("find app.users", "Error"),
    ),
    "write error": (asks(FIND), tells(DUPLICATE), ("find app.users", "Error 11000 DuplicateKey")),
    "write concern": (
        asks(FIND),
        tells({"n": 1, "writeConcernError": {"code": 64, "errmsg": "private"}, "ok": 1.0}),
        ("find app.users", "Error 64 WriteConcernFailed"),
    ),
    "handshake": (query({"isMaster": 1}), reply({"ismaster": True, "ok": 1.0}), ("isMaster admin", "OK")),
    "wrapped": (
        query({"$query": {"count": "users", "query": {"a": "private"}}}, "app.$cmd"),
        reply({"n": 1.0, "ok": 1.0}),
        ("count app.users", "OK"),
    ),
    "older find": (
        query({"email": "private"}, "app.users"),
        reply({"email": "private"}),
        ("find app.users", "OK"),
    ),
    "older find that fails": (
        query({"$bad": 1}, "app.users"),
        reply({"$err": "private", "code": 2}, flags=2),
        ("find app.users", "Error 2 BadValue"),
    ),
    "older getMore": (
        legacy(2005, "app.users", bytes(12)),
        reply(flags=1),
        ("getMore app.users", "Error 43 CursorNotFound"),
    ),
    "compressed": (packed(2), packed(2, answers=7, number=1), ("OP_MSG (zlib)", "compressed (zlib)")),
}


@pytest.mark.parametrize(("request_", "response", "expected"), CAPTURES.values(), ids=CAPTURES)
def test_one_command(request_: bytes, response: bytes, expected: tuple[str, str]) -> None:
    """One turn, one transaction: command, collection and database, and how it went; nothing else."""
    (row,) = parse(turn(request_, response))
    assert shown([row]) == [expected]
    assert row["error"] == expected[1].startswith("Error")
    code = expected[1].split()[1:2] if row["error"] else []
    assert [row[name] for name in row if name == "db.response.status_code"] == code
    assert row["db.system.name"] == "mongodb"
    assert not row["truncated"]
    assert "private@" not in str(row)
    assert "'private'" not in str(row)


def test_attributes_are_those_of_the_schema() -> None:
    """In its order, under OpenTelemetry's names."""
    slots = make_slots(turn(asks(FIND), tells(ERROR)))
    parsed = PROTOCOL().parse(slots)
    assert list(parsed.attributes) == [name for name in ATTRIBUTES if name in parsed.attributes]
    (row,) = parse(turn(asks(FIND), tells(ERROR)))
    assert {name: value for name, value in row.items() if name.startswith("db.")} == {
        "db.system.name": "mongodb",
        "db.query.summary": "find users",
        "db.operation.name": "find",
        "db.collection.name": "users",
        "db.namespace": "app",
        "db.response.status_code": "26",
    }


def test_empty_batch() -> None:
    """No turns give no transactions."""
    parser, empty = PROTOCOL(), make_slots(turn())[:0]
    assert len(parser.parse(empty).rows) == 0
    assert len(parser.recognise(empty)) == 0


def test_what_was_not_captured_is_left_out() -> None:
    """The database stands behind a filter of any length; the name of a collection may be cut."""
    (row,) = parse(turn(asks({"find": "users", "filter": {"a": "x" * 200}, "$db": "app"}), OK))
    assert (shown([row]), row["truncated"]) == ([("find users", "OK")], True)
    assert "db.namespace" not in row
    (row,) = parse(turn(asks({"find": "u" * 200, "$db": "app"}), OK))
    assert row["request"] == "MongoDB Command: find " + "u" * 173 + "…"
    assert "db.collection.name" not in row
    (row,) = parse(
        turn(asks({"insert": "a", "$db": "b"}, before=sequence("documents", {"a": "x" * 200})), OK)
    )
    assert (shown([row]), row["db.operation.name"]) == ([("insert", "OK")], "insert")


def test_no_reply_comes_to_unacknowledged_writes() -> None:
    """They share a turn with the next command, which gets the reply; older ones likewise."""
    quiet = asks({"insert": "users", "$db": "app"}, MORE_TO_COME, number=6)
    for silent in (quiet, legacy(2002, "app.users", bson.encode({"a": 1}), number=6)):
        first, second = parse(turn(silent + asks(FIND), OK))
        assert shown([first, second]) == [("insert app.users", None), ("find app.users", "OK")]
        assert (first["response_first_ns"], first["request_bytes"]) == (0, len(silent))
        assert second["response_bytes"] == len(OK)
        assert not first["error"]
    (alone,) = parse(turn(quiet, flags=Flag.CLOSED))
    assert not alone["error"]


def test_replies_name_the_request_that_they_answer() -> None:
    """A compressed write that is not acknowledged waits for nothing; a reply to nobody ends nothing."""
    parser = PROTOCOL()
    rows = parse(turn(packed(1, number=6) + asks(FIND), OK), parser=parser)
    assert shown(rows) == [("OP_MSG (snappy)", None), ("find app.users", "OK")]
    assert not parse(turn(asks(FIND), tells({"ok": 1.0}, answers=99)), parser=parser)
    (row,) = parse(turn(b"", OK, turn=1, flags=Flag.CONTINUED), parser=parser)
    assert shown([row]) == [("find app.users", "OK")]


def test_several_requests_of_a_turn_are_paired_by_id() -> None:
    """Each has its own reply, at once or later."""
    drop, parser = asks({"drop": "users", "$db": "app"}, number=8), PROTOCOL()
    failed = tells({"ok": 0.0, "code": 26}, answers=8)
    expected = [("find app.users", "OK"), ("drop app.users", "Error 26 NamespaceNotFound")]
    assert shown(parse(turn(asks(FIND) + drop, OK + failed))) == expected
    rows = parse(turn(asks(FIND) + drop, OK), turn(b"", failed, turn=1, flags=Flag.CONTINUED), parser=parser)
    assert shown(rows) == expected


def test_replies_that_follow_unasked_are_one() -> None:
    """An exhaust cursor: one request, many replies; what comes after a pause belongs to it, too."""
    batch = tells({"cursor": {"nextBatch": [], "id": CURSOR}, "ok": 1.0}, MORE_TO_COME)
    more = asks({"getMore": CURSOR, "collection": "users", "$db": "app"}, EXHAUST_ALLOWED)
    last = tells({"ok": 1.0}, number=2, answers=1)
    parser = PROTOCOL()
    (row,) = parse(turn(more, batch + last), parser=parser)
    assert shown([row]) == [("getMore app.users", "OK")]
    assert row["response_bytes"] == len(batch + last)
    rows = parse(turn(more, batch), turn(b"", last, turn=1, flags=Flag.CONTINUED), parser=parser)
    assert shown(rows) == [("getMore app.users", "OK")]


WAITING: dict[str, dict[str, Any]] = {
    "streamed hello": {
        "hello": 1,
        "topologyVersion": {"counter": 6},
        "maxAwaitTimeMS": 10000,
        "$db": "admin",
    },
    "getMore of a tailable cursor": {"getMore": CURSOR, "collection": "log", "maxTimeMS": 500, "$db": "app"},
}


@pytest.mark.parametrize("command", WAITING.values(), ids=WAITING)
def test_commands_that_wait_are_marked(command: dict[str, Any]) -> None:
    """What they take is no latency of the server."""
    (row,) = parse(turn(asks(command, EXHAUST_ALLOWED), OK))
    assert row["masdeepflow.db.blocking"] == "true"
    (row,) = parse(turn(asks({"hello": 1, "maxAwaitTimeMS": 5, "$db": "admin"}), OK))
    assert "masdeepflow.db.blocking" not in row


OPENING: dict[str, dict[str, Any]] = {
    "change stream": {"aggregate": "log", "pipeline": [{"$changeStream": {}}], "$db": "app"},
    "tailable cursor": {"find": "log", "tailable": True, "awaitData": True, "$db": "app"},
}


@pytest.mark.parametrize("command", OPENING.values(), ids=OPENING)
def test_cursors_that_wait_are_remembered(command: dict[str, Any]) -> None:
    """A getMore of theirs waits, also on another connection and without a time limit; others do not."""
    parser = PROTOCOL()
    opened = tells({"cursor": {"firstBatch": [], "id": CURSOR, "ns": "app.log"}, "ok": 1.0})
    other = {"getMore": bson.Int64(5), "collection": "log", "$db": "app"}
    more = {"getMore": CURSOR, "collection": "log", "$db": "app"}
    rows = parse(
        turn(asks(command), opened), turn(asks(more), OK, cookie=2), turn(asks(other), OK), parser=parser
    )
    assert [row.get("masdeepflow.db.blocking") for row in rows] == [None, "true", None]
    (row,) = parse(turn(asks(more), kind=Kind.OPEN), parser=parser)
    assert row["masdeepflow.db.blocking"] == "true"


def test_cursors_are_bounded() -> None:
    """Whoever opens them without end makes the parser forget, which is counted."""
    parser = PROTOCOL()
    for start in range(0, 12_000, 1000):
        turns = [
            turn(
                asks({"find": "log", "tailable": True, "awaitData": True, "$db": "app"}),
                tells({"cursor": {"firstBatch": [], "id": bson.Int64(1 + start + number)}, "ok": 1.0}),
            )
            for number in range(1000)
        ]
        parse(*turns, parser=parser)
        assert len(parser._cursors) <= 4096
    assert parser.evicted == 12_000 - len(parser._cursors)


def test_a_turn_in_flight_shows_its_command() -> None:
    """It comes again when it ends."""
    parser = PROTOCOL()
    assert shown(parse(turn(asks(FIND), kind=Kind.OPEN), parser=parser)) == [("find app.users", None)]
    assert shown(parse(turn(asks(FIND), OK), parser=parser)) == [("find app.users", "OK")]


def test_a_connection_that_closes_leaves_what_waits_unanswered() -> None:
    """It is an error."""
    (row,) = parse(turn(asks(FIND), flags=Flag.CLOSED))
    assert (shown([row]), row["error"]) == ([("find app.users", None)], True)


@pytest.mark.parametrize("command", WAITING.values(), ids=WAITING)
def test_whoever_waits_may_leave(command: dict[str, Any]) -> None:
    """Clients close what waits for a change when they end: that is no error."""
    (row,) = parse(turn(asks(command), flags=Flag.CLOSED))
    assert not row["error"]


def test_a_large_document_is_one_request() -> None:
    """Its size is in its header, not in what was captured."""
    large = asks({"insert": "users", "$db": "app"}, behind=sequence("documents", {"a": "x" * 100_000}))
    (row,) = parse(turn(large, tells({"n": 1, "ok": 1.0})))
    assert (row["request_bytes"], row["truncated"]) == (len(large), False)


RECOGNISED = {
    "command": (asks(FIND), OK, CERTAIN),
    "waiting": (asks(FIND), b"", CERTAIN),
    "another's reply": (asks(FIND), tells({"ok": 1.0}, answers=9), 0),
    "no reply": (asks(FIND), b"HTTP/1.1 400 Bad Request\r\n\r\n", 0),
    "unknown command": (asks({"private": 1, "$db": "app"}), OK, LIKELY),
    "answers something": (asks(FIND)[:8] + b"\1\0\0\0" + asks(FIND)[12:], OK, 0),
    "unknown flags": (asks(FIND, 4), OK, 0),
    "handshake": (query({"isMaster": 1}), reply({"ok": 1.0}), CERTAIN),
    "older write": (legacy(2002, "app.users", bson.encode({})), b"", CERTAIN),
    "no name of a collection": (legacy(2002, "users", bson.encode({})), b"", 0),
    "kill": (message(2007, struct.pack("<iiq", 0, 1, 5)), b"", CERTAIN),
    "kill of another size": (message(2007, struct.pack("<iiqi", 0, 1, 5, 5)), b"", 0),
    "compressed": (packed(1), packed(1, 7), LIKELY),
    "compressed somehow": (packed(9), b"", 0),
    "cut": (asks(FIND)[:18], b"", 0),
    "body larger than the message": (asks(FIND)[:21] + b"\xff\xff" + asks(FIND)[23:], OK, 0),
}


@pytest.mark.parametrize(("request_", "response", "expected"), RECOGNISED.values(), ids=RECOGNISED)
def test_recognised(request_: bytes, response: bytes, expected: int) -> None:
    """Framing, flags and command fit, and the reply names the request."""
    assert score(request_, response) == expected


FOREIGN = {
    "HTTP": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"),
    "redis": (b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", b"$-1\r\n"),
    "memcached": (b"get user:1\r\n", b"END\r\n"),
    "MySQL": (b"\x21\x00\x00\x00\x03SELECT 1" + bytes(20), b"\x01\x00\x00\x01\x01"),
    "PostgreSQL": (b"Q\x00\x00\x00\x0dSELECT 1\0", b"T\x00\x00\x00\x21"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00" + bytes(20), b"\x16\x03\x03\x00\x7a\x02"),
    "zeros": (bytes(100), bytes(100)),
    "nothing": (b"", b""),
}


@pytest.mark.parametrize(("request_", "response"), FOREIGN.values(), ids=FOREIGN)
def test_foreign_protocols(request_: bytes, response: bytes) -> None:
    """What is not MongoDB is not taken for it."""
    assert score(request_, response) == 0


def test_random_bytes_are_nobodys() -> None:
    """Neither by themselves nor behind a right header."""
    noise = np.random.default_rng(27017)
    slots = make_slots(*(turn(noise.bytes(200), noise.bytes(100)) for _ in range(2000)))
    assert not PROTOCOL().recognise(slots).any()
    slots["request"][:, :4] = np.frombuffer(struct.pack("<i", 200), np.uint8)
    slots["request"][:, 8:12] = 0
    slots["request"][:, 12:16] = np.frombuffer(struct.pack("<i", 2013), np.uint8)
    assert not PROTOCOL().recognise(slots).any()


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, len(FRAGMENTS) + 8), max_size=120))
def test_equals_the_reference(choices: list[int]) -> None:
    """Turns of fragments, cut and mutated, over two connections: the invariant of the fuzzer."""
    check(bytes(choices))
