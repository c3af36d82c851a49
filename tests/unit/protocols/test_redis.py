"""The rules of the Redis parser: named captures, pipelines, connections over several turns, its reference."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masdeepflow.protocols.base import CERTAIN, LIKELY
from masdeepflow.protocols.redis import PROTOCOL
from masdeepflow.protocols.redis.resp import walk
from masdeepflow.schema import ATTRIBUTES, Flag, Kind
from masdeepflow.table import Encoded
from tests.fuzz.fuzz_redis import FRAGMENTS, check, check_again, command
from tests.support.named_rows import Row, named_rows, shown_as
from tests.support.slots import make_slots, random_turns, turn

OK, NIL = b"+OK\r\n", b"$-1\r\n"


def parse(*turns: dict[str, object], parser: PROTOCOL | None = None) -> list[Row]:
    """Parse turns as one batch; return each transaction's columns by name, absent ones left out."""
    return named_rows(parser or PROTOCOL(), *turns)


def shown(rows: list[Row]) -> list[tuple[str | None, str | None]]:
    """Return command and reply of each transaction, as the text log has them."""
    return shown_as("Redis", rows)


def score(request: bytes, response: bytes = b"", **fields: object) -> int:
    """Return the score of one turn."""
    return int(PROTOCOL().recognise(make_slots(turn(request, response, **fields)))[0])


def array(*words: bytes) -> bytes:
    """Return a reply that is an array of strings."""
    return command(*words)


CAPTURES: dict[str, tuple[bytes, bytes, tuple[str, str]]] = {
    "hit": (command(b"GET", b"user:1"), b"$5\r\nalice\r\n", ("GET user:*", "OK")),
    "miss": (command(b"GET", b"user:1"), NIL, ("GET user:*", "(nil)")),
    "RESP3 null": (command(b"get", b"user:1"), b"_\r\n", ("GET user:*", "(nil)")),
    "empty pop": (command(b"BLPOP", b"queue:7", b"1"), b"*-1\r\n", ("BLPOP queue:*", "(nil)")),
    "value beyond the prefix": (command(b"SET", b"k", b"v" * 5000), OK, ("SET k", "OK")),
    "reply beyond the prefix": (command(b"GET", b"k"), b"$9\r\n" + b"v" * 9 + b"\r\n", ("GET k", "OK")),
    "map": (command(b"HGETALL", b"h"), b"%2\r\n+a\r\n:1\r\n+b\r\n:2\r\n", ("HGETALL h", "OK")),
    "attribute before the reply": (command(b"GET", b"k"), b"|1\r\n+ttl\r\n:9\r\n+OK\r\n", ("GET k", "OK")),
    "inline": (b"PING\r\n", b"+PONG\r\n", ("PING", "PONG")),
    "inline with a key": (b"get  user:5\r\n", NIL, ("GET user:*", "(nil)")),
    "queued": (command(b"INCR", b"n"), b"+QUEUED\r\n", ("INCR n", "QUEUED")),
    "simple strings may be values": (command(b"TYPE", b"k"), b"+string\r\n", ("TYPE k", "OK")),
    "password": (command(b"AUTH", b"admin", b"hunter2"), OK, ("AUTH", "OK")),
    "password in HELLO": (command(b"HELLO", b"3", b"AUTH", b"a", b"hunter2"), b"%0\r\n", ("HELLO", "OK")),
    "echo": (command(b"ECHO", b"private"), b"$7\r\nprivate\r\n", ("ECHO", "OK")),
    "subcommand": (command(b"config", b"get", b"dir"), array(b"dir", b"/"), ("CONFIG GET", "OK")),
    "no such subcommand": (command(b"CLIENT", b"secret"), OK, ("CLIENT", "OK")),
    "object": (command(b"OBJECT", b"ENCODING", b"k:1"), b"$3\r\nraw\r\n", ("OBJECT ENCODING k:*", "OK")),
    "script": (command(b"EVALSHA", b"a" * 40, b"1", b"lock:7"), b":1\r\n", ("EVALSHA lock:*", "OK")),
    "script without keys": (command(b"EVAL", b"return 1", b"0", b"private"), b":1\r\n", ("EVAL", "OK")),
    "stream": (
        command(b"XREAD", b"COUNT", b"2", b"STREAMS", b"s:1", b"0"),
        b"*-1\r\n",
        ("XREAD s:*", "(nil)"),
    ),
    "destination first": (command(b"BITOP", b"AND", b"a:1", b"b:1"), b":0\r\n", ("BITOP a:*", "OK")),
    "module": (command(b"JSON.GET", b"doc:1"), NIL, ("JSON.GET doc:*", "(nil)")),
    "unknown command": (command(b"hunter2x9", b"private"), b"-ERR x\r\n", ("*", "(error) ERR x")),
    "moved": (
        command(b"GET", b"k"),
        b"-MOVED 3999 10.0.0.1:6381\r\n",
        ("GET k", "(error) MOVED 3999 10.0.0.1:6381"),
    ),
    "bulk error": (command(b"GET", b"k"), b"!11\r\nSYNTAX none\r\n", ("GET k", "(error) SYNTAX none")),
}


@pytest.mark.parametrize(("request_", "response", "expected"), CAPTURES.values(), ids=CAPTURES)
def test_one_command(request_: bytes, response: bytes, expected: tuple[str, str]) -> None:
    """One turn, one transaction: name and key pattern, and whether it went well. Never a value."""
    (row,) = parse(turn(request_, response))
    assert shown([row]) == [expected]
    assert row["error"] == expected[1].startswith("(error)")
    assert row["db.system.name"] == "redis"
    assert not row["truncated"]


@pytest.mark.parametrize("size", [9_999_999, 10_000_000, 536_870_912, 4_294_967_296])
def test_values_may_be_as_large_as_the_server_takes(size: int) -> None:
    """Their length has as many digits as it needs: of 512 MB, which is its default, nine."""
    asked, told = b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$%d\r\nvvv" % size, b"$%d\r\nvvv" % size
    total = {"request_bytes": len(asked) - 1 + size, "response_bytes": 5}
    slots = make_slots(turn(asked, OK, **total))
    assert PROTOCOL().recognise(slots).tolist() == [CERTAIN]
    rows = parse(
        turn(asked, OK, **total), turn(command(b"GET", b"k"), told, response_bytes=len(told) - 1 + size)
    )
    assert shown(rows) == [("SET k", "OK"), ("GET k", "OK")]
    assert not any(row["truncated"] for row in rows)


@pytest.mark.parametrize("argument", [b"hunter2", b"private"])
def test_nothing_of_a_value_is_shown(argument: bytes) -> None:
    """Not in texts and not in attributes, whatever the command."""
    for request, response, _ in CAPTURES.values():
        for row in parse(turn(request, response)):
            assert argument.decode() not in str(row)


def test_attributes_are_those_of_the_schema() -> None:
    """In its order, strings encoded."""
    parsed = PROTOCOL().parse(make_slots(turn(command(b"GET", b"k"), OK)))
    assert list(parsed.attributes) == [name for name in ATTRIBUTES if name in parsed.attributes]
    for column in parsed.attributes.values():
        assert isinstance(column, Encoded)
        assert len(set(column.values)) == len(column.values)


def test_empty_batch() -> None:
    """No turns give no transactions."""
    parser, empty = PROTOCOL(), make_slots(turn())[:0]
    assert len(parser.parse(empty).rows) == 0
    assert len(parser.recognise(empty)) == 0


def test_an_error_has_code_and_message() -> None:
    """The message without what it quotes, which is the user's."""
    (row,) = parse(turn(command(b"GET", b"k"), b"-WRONGTYPE Operation against a key\r\n"))
    assert row["db.response.status_code"] == "WRONGTYPE"
    assert row["db.response.message"] == "Operation against a key"
    text = b"-ERR unknown command 'foo', with args beginning with: 'private' \r\n"
    (row,) = parse(turn(command(b"foo", b"private"), text))
    assert (row["db.response.status_code"], row["db.response.message"]) == ("ERR", "unknown command ?")
    (row,) = parse(turn(command(b"foo", b"private"), b"-ERR unknown command '" + b"private" * 20 + b"'\r\n"))
    assert row["db.response.message"] == "unknown command ?…"


@pytest.mark.parametrize(
    ("request_", "operation", "blocking"),
    [
        (command(b"BLPOP", b"q", b"0"), "BLPOP", "true"),
        (command(b"XREAD", b"BLOCK", b"0", b"STREAMS", b"s", b"$"), "XREAD BLOCK", "true"),
        (command(b"XREAD", b"STREAMS", b"block", b"$"), "XREAD", None),
        (command(b"WAIT", b"1", b"0"), "WAIT", "true"),
        (command(b"LPOP", b"q"), "LPOP", None),
    ],
)
def test_commands_that_wait_on_purpose_say_so(request_: bytes, operation: str, blocking: str | None) -> None:
    """Their duration is not the server's latency, and they are no other's operation."""
    (row,) = parse(turn(request_, NIL))
    assert row["db.operation.name"] == operation
    assert row.get("masdeepflow.db.blocking") == blocking


def test_a_pipeline_within_the_prefixes_is_paired() -> None:
    """Each command with its own reply and its own bytes."""
    commands, replies = [command(b"GET", b"a"), command(b"INCR", b"b:1")], [NIL, b"-ERR no integer\r\n"]
    rows = parse(turn(b"".join(commands), b"".join(replies)))
    assert shown(rows) == [("GET a", "(nil)"), ("INCR b:*", "(error) ERR no integer")]
    assert [row["request_bytes"] for row in rows] == list(map(len, commands))
    assert [row["response_bytes"] for row in rows] == list(map(len, replies))


def pipeline(commands: list[bytes], replies: list[bytes]) -> list[Row]:
    """Parse one turn with all of these."""
    asked, answered = b"".join(commands), b"".join(replies)
    rows = parse(turn(asked, answered))
    assert sum(row["request_bytes"] for row in rows) == len(asked)
    assert sum(row["response_bytes"] for row in rows) == len(answered)
    return rows


def test_hidden_commands_are_counted_by_their_replies() -> None:
    """Exact: each command has one reply. Those of which nothing was captured have no name, and are marked."""
    commands = [command(b"SET", b"key:%d" % number, b"v" * number) for number in range(16)]
    commands[0] = command(b"INCR", b"n")
    rows = pipeline(commands, [b":1\r\n", *[OK] * 15])
    assert len(rows) == 16
    named = [row for row in rows if "request" in row]
    assert 1 < len(named) < 16
    assert all(row["truncated"] for row in rows if row not in named)
    assert not any(row["truncated"] for row in named[:-1])


def test_hidden_commands_are_named_like_those_that_are_seen() -> None:
    """Where these all show the same: marked, too, because nobody has seen them."""
    rows = pipeline([command(b"SET", b"key:%d" % number, b"v" * number) for number in range(16)], [OK] * 16)
    assert shown(rows)[:4] == [("SET key:*", "OK")] * 4
    assert [row.get("request") for row in rows[7:]] == ["Redis Command: SET key:*"] * 9
    assert all(row["truncated"] for row in rows[6:])


def test_hidden_replies_are_counted_by_their_commands() -> None:
    """Exact too; how those went of which nothing was captured is not known, and marked."""
    commands = [command(b"GET", b"%d" % number) for number in range(8)]
    rows = pipeline(commands, [b"$%d\r\n%s\r\n" % (20 + number, b"v" * (20 + number)) for number in range(8)])
    assert [row["request"] for row in rows] == ["Redis Command: GET *"] * 8
    assert not any(row["truncated"] for row in rows[:3])
    assert all(row["truncated"] for row in rows[4:])


def test_alike_on_both_sides_is_exact() -> None:
    """Both sides give the same number: redis-benchmark -P 16."""
    rows = pipeline([command(b"GET", b"key:%012d" % number) for number in range(16)], [b"$3\r\nVXK\r\n"] * 16)
    assert shown(rows) == [("GET key:*", "OK")] * 16
    assert not any(row["truncated"] for row in rows)


def test_alike_on_one_side_is_marked() -> None:
    """The size of the commands tells their number; replies of many sizes do not confirm it."""
    replies = [b"*2\r\n$%d\r\n%s\r\n$1\r\nx\r\n" % (n, b"v" * n) for n in range(40, 56)]
    rows = pipeline([command(b"LRANGE", b"list:%02d" % number, b"0", b"9") for number in range(16)], replies)
    assert len(rows) == 16
    assert [row["truncated"] for row in rows] == [number >= 2 for number in range(16)]


def test_nothing_to_go_by_is_marked() -> None:
    """What is seen, and one more that must be there: the one that is cut is longer than all before it."""
    commands = [command(b"MULTI"), command(b"HSET", b"k", *[b"f"] * 80), command(b"EXEC")]
    rows = pipeline(commands, [OK, b"+QUEUED\r\n", array(*[b"v"] * 40)])
    assert [row["truncated"] for row in rows] == [False, True, True]


def test_commands_and_replies_of_many_sizes_are_estimated() -> None:
    """By the average of those that are seen, the lower of both sides; what lies beyond them is marked."""
    commands = [command(b"GET", b"user:%d" % (number * 7)) for number in range(150)]
    values = [b"v" * (number % 9) for number in range(150)]
    rows = pipeline(commands, [b"$%d\r\n%s\r\n" % (len(value), value) for value in values])
    assert 140 <= len(rows) <= 160
    assert {row["request"] for row in rows if "…" not in row["request"]} == {"Redis Command: GET user:*"}
    assert not any(row["truncated"] for row in rows[:6])
    assert all(row["truncated"] for row in rows[12:])
    one_large = [*commands[:40], command(b"SET", b"k", b"v" * 100_000)]
    rows = pipeline(one_large, [*[b"$%d\r\n%s\r\n" % (len(value), value) for value in values[:40]], OK])
    assert 30 <= len(rows) <= 50


def test_what_one_turn_may_stand_for_is_bounded() -> None:
    """A peer that claims gigabytes of pings gets no gigabytes of rows."""
    rows = parse(turn(b"PING\r\n" * 40, b"+PONG\r\n" * 40, request_bytes=6 << 30, response_bytes=7 << 30))
    assert len(rows) == 16384
    assert rows[-1]["truncated"]


def test_the_rest_of_a_value_is_no_command() -> None:
    """A server reads a long pipeline in pieces, whose ends lie anywhere: nothing of a value is shown."""
    rest = b"private words\r\n" + command(b"SET", b"key:2", b"v")
    rows = parse(turn(rest, OK * 2))
    assert shown(rows) == [("…", "OK"), ("SET key:*", "OK")]
    (row,) = parse(turn(b"private words\r\n", OK))
    assert shown([row]) == [("*", "OK")]


def test_replies_in_later_turns_find_their_commands() -> None:
    """Clients that do not wait: first in, first out, over turns and batches."""
    parser = PROTOCOL()
    first = turn(command(b"GET", b"a") + command(b"GET", b"b"), NIL, turn=1)
    second = turn(command(b"GET", b"c"), OK + b"-ERR x\r\n", turn=2)
    assert shown(parse(first, parser=parser)) == [("GET a", "(nil)")]
    assert shown(parse(second, parser=parser)) == [("GET b", "OK"), ("GET c", "(error) ERR x")]


def test_a_command_waits_no_longer_than_its_connection() -> None:
    """Closed before the reply: an error without a response."""
    (row,) = parse(turn(command(b"GET", b"a"), flags=Flag.CLOSED))
    assert row["error"]
    assert "response" not in row
    assert row["response_first_ns"] == 0


def test_a_turn_in_flight_shows_its_commands_and_changes_nothing() -> None:
    """They come again when it ends."""
    parser = PROTOCOL()
    blocked = command(b"BLPOP", b"q", b"0")
    assert shown(parse(turn(blocked, kind=Kind.OPEN), parser=parser)) == [("BLPOP q", None)]
    assert shown(parse(turn(blocked, array(b"q", b"v")), parser=parser)) == [("BLPOP q", "OK")]


def test_pushes_answer_nothing() -> None:
    """Messages of pub/sub come at any time, on RESP2 as arrays; replies between them find their commands."""
    parser = PROTOCOL()
    turns = [
        turn(command(b"SUBSCRIBE", b"news", b"b"), array(b"subscribe", b"news") + array(b"subscribe", b"b")),
        turn(b"", array(b"message", b"news", b"x"), turn=2),
        turn(command(b"PING"), array(b"message", b"news", b"y") + array(b"pong", b""), turn=3),
    ]
    assert shown(parse(*turns, parser=parser)) == [("SUBSCRIBE news", "OK"), ("PING", "OK")]
    rows = parse(turn(command(b"GET", b"k"), b">2\r\n+invalidate\r\n_\r\n" + NIL))
    assert shown(rows) == [("GET k", "(nil)")]


def test_a_reply_ends_before_the_pushes_behind_it() -> None:
    """They share its turn as long as nothing is asked: its duration is not theirs."""
    first, later = 1_001_000_000, 3_000_000_000
    messages = array(b"message", b"news", b"x") * 9
    subscribed = turn(
        command(b"SUBSCRIBE", b"news"), array(b"subscribe", b"news") + messages, response_last_ns=later
    )
    (row,) = parse(subscribed)
    assert (row["response_first_ns"], row["response_last_ns"]) == (first, first)
    tracked = turn(
        command(b"GET", b"k"), b"$200\r\n%b\r\n" % bytes(200) + b">2\r\n+invalidate\r\n*1\r\n+k\r\n"
    )
    (row,) = parse({**tracked, "response_last_ns": later})
    assert (row["response_first_ns"], row["response_last_ns"]) == (first, first)
    (row,) = parse(turn(command(b"GET", b"k"), b"$200\r\n%b\r\n" % bytes(200), response_last_ns=later))
    assert row["response_last_ns"] == later


def test_who_leaves_waits_for_no_reply() -> None:
    """A client that closes behind QUIT or UNSUBSCRIBE has met no error."""
    for name in (b"QUIT", b"UNSUBSCRIBE", b"PUNSUBSCRIBE"):
        (row,) = parse(turn(command(name), flags=Flag.CLOSED))
        assert not row["error"]


def test_the_database_in_use_is_known() -> None:
    """0 at first, unless the connection is older than the agent; changed by SELECT, also within MULTI."""
    get, parser = command(b"GET", b"k"), PROTOCOL()
    (row,) = parse(turn(get, NIL, flags=Flag.OLD_CONNECTION))
    assert "db.namespace" not in row
    turns = [
        turn(get, NIL),
        turn(command(b"SELECT", b"3"), OK, turn=2),
        turn(get, NIL, turn=3),
        turn(command(b"SELECT", b"99"), b"-ERR DB index is out of range\r\n", turn=4),
        turn(command(b"MULTI"), OK, turn=5),
        turn(command(b"SELECT", b"4"), b"+QUEUED\r\n", turn=6),
        turn(command(b"EXEC"), b"*1\r\n+OK\r\n", turn=7),
    ]
    rows = parse(*turns, parser=parser)
    assert [row["db.namespace"] for row in rows] == ["0", "3", "3", "3", "3", "3", "4"]
    assert [row["db.namespace"] for row in parse(turn(get, NIL, turn=8), parser=parser)] == ["4"]
    parser.forget([1])
    assert [row["db.namespace"] for row in parse(turn(get, NIL, turn=9), parser=parser)] == ["0"]


def test_replies_that_are_switched_off_are_not_waited_for() -> None:
    """CLIENT REPLY OFF and SKIP: commands are shown at once."""
    reply_off, reply_on = command(b"CLIENT", b"REPLY", b"OFF"), command(b"CLIENT", b"REPLY", b"ON")
    rows = parse(turn(reply_off + command(b"SET", b"a", b"1") + reply_on, OK), turn(command(b"PING"), OK))
    assert set(shown(rows)) == {
        ("CLIENT REPLY", None),
        ("SET a", None),
        ("CLIENT REPLY", "OK"),
        ("PING", "OK"),
    }


def test_replies_tell_that_they_were_switched_on_again() -> None:
    """CLIENT REPLY ON may lie beyond what was captured: what follows is told all the same."""
    off, on = command(b"CLIENT", b"REPLY", b"OFF"), command(b"CLIENT", b"REPLY", b"ON")
    sent = turn(off + command(b"SET", b"off:1", b"secret") * 20 + on, OK)
    rows = parse(sent, turn(command(b"GET", b"a"), NIL, turn=2), turn(command(b"PING"), OK, turn=3))
    assert shown(rows[-3:]) == [(None, "OK"), ("GET a", "(nil)"), ("PING", "OK")]


def test_an_error_at_the_greeting_is_shown() -> None:
    """A server that is full says so before anything is asked."""
    (row,) = parse(turn(b"", b"-ERR max number of clients reached\r\n"))
    assert row["error"]
    assert "request" not in row


def test_what_is_kept_is_bounded_and_counted() -> None:
    """Of connections and of what waits on them."""
    parser = PROTOCOL()
    waiting = turn(b"PING\r\n" * 34, b"")
    slots = make_slots(*[{**waiting, "cookie": cookie} for cookie in range(1, 4100)])
    parser.parse(slots)
    assert parser.evicted == 3
    many = make_slots(*[{**waiting, "turn": number} for number in range(1, 40)])
    parser.parse(many)
    assert parser.evicted > 3


RECOGNISED = {
    "command": (command(b"GET", b"k"), NIL, CERTAIN),
    "command waiting": (command(b"GET", b"k"), b"", CERTAIN),
    "command that is cut": (command(b"SET", b"k", b"v" * 9999), b"", CERTAIN),
    "unknown command": (command(b"FOO", b"k"), b"-ERR x\r\n", LIKELY),
    "unknown command waiting": (command(b"FOO", b"k"), b"", 0),
    "pipeline": (command(b"GET", b"k") * 50, NIL * 50, CERTAIN),
    "inline": (b"PING\r\n", b"+PONG\r\n", LIKELY),
    "inline pipeline": (b"PING\r\n" * 16, b"+PONG\r\n" * 16, LIKELY),
    "long inline pipeline": (b"PING\r\n" * 100, b"+PONG\r\n" * 100, LIKELY),
    "inline cut": (b"SET k v\r\n" * 30, b"+OK\r\n" * 30, LIKELY),
    "inline waiting": (b"PING\r\n", b"", 0),
    "message": (b"", array(b"message", b"news", b"x"), LIKELY),
    "array alone": (b"", array(b"a", b"b"), 0),
}


@pytest.mark.parametrize(("request_", "response", "expected"), RECOGNISED.values(), ids=RECOGNISED)
def test_recognised(request_: bytes, response: bytes, expected: int) -> None:
    """Known commands are certain; what may be another protocol needs its answer."""
    assert score(request_, response) == expected


FOREIGN = {
    "HTTP": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"),
    "HTTP waiting": (b"GET / HTTP/1.1\r\n\r\n", b""),
    "redis command, web server": (command(b"GET", b"k"), b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "web client, redis server": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"-ERR wrong number of arguments\r\n"),
    "memcached": (b"get key\r\n", b"END\r\n"),
    "memcached waiting": (b"get key\r\n", b""),
    "memcached, other server": (b"set key 0 0 600\r\n" + b"secret" * 100 + b"\r\n", b"+OK\r\n"),
    "POP3": (b"QUIT\r\n", b"+OK bye\r\n"),
    "POP3 greeting": (b"", b"+OK ready\r\n"),
    "POP3 login": (b"AUTH PLAIN\r\n", b"+OK\r\n"),
    "POP3 list": (b"STAT\r\n", b"+OK 2 320\r\n"),
    "NATS acknowledged": (b"PING\r\n", b"+OK\r\n"),
    "NATS refused": (b"PING\r\n", b"-ERR 'Unknown Protocol Operation'\r\n"),
    "SMTP": (b"EHLO client\r\n", b"250 server\r\n"),
    "FTP": (b"TYPE I\r\n", b"200 ok\r\n"),
    "IMAP": (b"a1 SELECT inbox\r\n", b"* 3 EXISTS\r\n"),
    "MySQL": (b"\x21\x00\x00\x00\x03SELECT 1", b"\x01\x00\x00\x01\x01"),
    "PostgreSQL": (b"Q\x00\x00\x00\x0dSELECT 1\x00", b"T\x00\x00\x00\x21"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00", b"\x16\x03\x03\x00\x7a\x02"),
    "star": (b"*hello*\r\n", b"*hello*\r\n"),
    "nothing": (b"", b""),
}


@pytest.mark.parametrize(("request_", "response"), FOREIGN.values(), ids=FOREIGN)
def test_foreign_protocols(request_: bytes, response: bytes) -> None:
    """What is not Redis is not taken for it."""
    assert score(request_, response) == 0


def test_recognised_with_stale_bytes() -> None:
    """Bytes behind the valid length do not count."""
    slots = make_slots(turn(command(b"GET", b"k"), NIL))
    slots["request_length"] = slots["response_length"] = 0
    assert PROTOCOL().recognise(slots).tolist() == [0]


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, len(FRAGMENTS) + 8), max_size=120))
def test_equals_the_reference(choices: list[int]) -> None:
    """Turns of fragments, cut and mutated, over two connections: the invariant of the fuzzer."""
    check(bytes(choices))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, len(FRAGMENTS) + 8), max_size=60))
def test_equals_a_parser_that_has_seen_nothing(choices: list[int]) -> None:
    """What is known by hash or by outline is what reading it gives."""
    check_again(bytes(choices))


@settings(max_examples=60, deadline=None)
@given(
    turns=st.lists(st.lists(st.sampled_from(range(8)), min_size=1, max_size=12), min_size=2, max_size=12),
    place=st.integers(0, 200),
    byte=st.integers(0, 255),
    requests=st.booleans(),
)
def test_pipelines_of_many_turns_are_walked_like_each_by_itself(
    *, turns: list[list[int]], place: int, byte: int, requests: bool
) -> None:
    """Frames built like one of another turn are skipped at once: all that is known of them is the same."""
    sent = [command(b"SET", b"key:%d" % key, b"v" * (key % 3)) for key in range(8)]
    told = [
        b"+OK\r\n",
        b":1\r\n",
        b"$-1\r\n",
        b"$3\r\nabc\r\n",
        b"-ERR no\r\n",
        b"*1\r\n:7\r\n",
        b"$2\r\n\r\n\r\n",
        b"_\r\n",
    ]
    many = [b"".join((sent if requests else told)[number] for number in turn) * 4 for turn in turns] * 40
    payload = np.zeros((len(many), 208), np.uint8)
    for row, data in enumerate(many):
        payload[row, : min(len(data), 208)] = np.frombuffer(data[:208], np.uint8)
    payload[1::3, place] = byte
    lengths = np.array([min(len(data), 208) - row % 2 for row, data in enumerate(many)])
    frames = walk(payload, lengths, requests=requests)
    for row in range(3 * len(turns)):
        alone = walk(payload[row : row + 1], lengths[row : row + 1], requests=requests)
        mine = frames.row == row
        for name in ("start", "end", "kind", "argument", "argument_end"):
            assert getattr(frames, name)[mine].tolist() == getattr(alone, name).tolist(), name
        assert (frames.ended[row], frames.good[row]) == (alone.ended[0], alone.good[0])


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_holds_its_ground(data: bytes) -> None:
    """Anything at all."""
    check(data)


def test_random_bytes_are_not_taken_for_redis() -> None:
    """Of 20,000 random turns, none."""
    assert not PROTOCOL().recognise(random_turns(20_000)).any()
