"""The rules of the Memcached parser: named captures of its three protocols, and its reference."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masdeepflow.protocols.base import LIKELY, POSSIBLE
from masdeepflow.protocols.memcached import PROTOCOL
from masdeepflow.schema import ATTRIBUTES, Flag, Kind
from tests.fuzz.fuzz_memcached import FRAGMENTS, check, check_again, packet
from tests.support.named_rows import Row, named_rows, shown_as
from tests.support.slots import MILLISECOND, START, make_slots, random_turns, turn

GET, HIT, MISS = b"get user:1\r\n", b"VALUE user:1 0 5\r\nhello\r\nEND\r\n", b"END\r\n"


def parse(*turns: dict[str, object], parser: PROTOCOL | None = None) -> list[Row]:
    """Parse turns as one batch; return each transaction's columns by name, absent ones left out."""
    return named_rows(parser or PROTOCOL(), *turns)


def shown(rows: list[Row]) -> list[tuple[str | None, str | None]]:
    """Return command and reply of each transaction, as the text log has them."""
    return shown_as("Memcached", rows)


def score(request: bytes, response: bytes = b"", **fields: object) -> int:
    """Return the score of one turn."""
    return int(PROTOCOL().recognise(make_slots(turn(request, response, **fields)))[0])


CAPTURES: dict[str, tuple[bytes, bytes, tuple[str, str]]] = {
    "hit": (GET, HIT, ("get user:*", "VALUE")),
    "miss": (GET, MISS, ("get user:*", "END")),
    "several keys": (b"get a:1 private\r\n", HIT, ("get a:*", "VALUE")),
    "value beyond the prefix": (b"gets k\r\n", b"VALUE k 0 900 7\r\n" + b"v" * 907, ("gets k", "VALUE")),
    "get and touch": (b"gat 60 user:1\r\n", MISS, ("gat user:*", "END")),
    "set": (b"set user:1 0 60 7\r\nprivate\r\n", b"STORED\r\n", ("set user:*", "STORED")),
    "large set": (b"set k 0 0 5000\r\n" + 5000 * b"v" + b"\r\n", b"STORED\r\n", ("set k", "STORED")),
    "cas": (b"cas k 0 0 7 9\r\nprivate\r\n", b"EXISTS\r\n", ("cas k", "EXISTS")),
    "increment": (b"incr hits:1 5\r\n", b"42\r\n", ("incr hits:*", "OK")),
    "padded number": (b"decr hits:1 5\r\n", b"9  \r\n", ("decr hits:*", "OK")),
    "delete": (b"delete user:1\r\n", b"NOT_FOUND\r\n", ("delete user:*", "NOT_FOUND")),
    "statistics": (b"stats\r\n", b"STAT pid 1\r\nSTAT uptime 2\r\nEND\r\n", ("stats", "STAT")),
    "unknown": (b"private12 x\r\n", b"ERROR\r\n", ("*", "(error) ERROR")),
    "refused": (
        b"incr k 1\r\n",
        b"CLIENT_ERROR cannot increment\r\n",
        ("incr k", "(error) CLIENT_ERROR cannot increment"),
    ),
    "meta get": (b"mg user:1 v t\r\n", b"VA 7 t60\r\nprivate\r\n", ("mg user:*", "VA")),
    "meta miss": (b"mg user:1 v\r\n", b"EN\r\n", ("mg user:*", "EN")),
    "meta set": (b"ms user:1 7 T60\r\nprivate\r\n", b"HD\r\n", ("ms user:*", "HD")),
    "binary hit": (packet(0x80, 0, b"user:1"), packet(0x81, 0, extras=bytes(4)), ("get user:*", "OK")),
    "binary miss": (packet(0x80, 0, b"user:1"), packet(0x81, 0, status=1), ("get user:*", "NOT_FOUND")),
    "binary set": (packet(0x80, 1, b"user:1", extras=bytes(8)), packet(0x81, 1), ("set user:*", "OK")),
    "binary error": (
        packet(0x80, 1, b"k", extras=bytes(8)),
        packet(0x81, 1, status=0x82),
        ("set k", "(error) OUT_OF_MEMORY"),
    ),
    "binary login": (packet(0x80, 0x21, b"PLAIN"), packet(0x81, 0x21), ("sasl_auth", "OK")),
}


@pytest.mark.parametrize(("request_", "response", "expected"), CAPTURES.values(), ids=CAPTURES)
def test_one_command(request_: bytes, response: bytes, expected: tuple[str, str]) -> None:
    """One turn, one transaction: name and key pattern, and the first word of the reply."""
    (row,) = parse(turn(request_, response))
    assert shown([row]) == [expected]
    assert row["error"] == expected[1].startswith("(error)")
    assert row.get("db.response.status_code") == (expected[1].split()[1] if row["error"] else None)
    assert row["db.system.name"] == "memcached"
    assert not row["truncated"]
    assert "private " not in str(row)


def test_attributes_are_those_of_the_schema() -> None:
    """In its order."""
    parsed = PROTOCOL().parse(make_slots(turn(GET, HIT)))
    assert list(parsed.attributes) == [name for name in ATTRIBUTES if name in parsed.attributes]


def test_empty_batch() -> None:
    """No turns give no transactions."""
    parser, empty = PROTOCOL(), make_slots(turn())[:0]
    assert len(parser.parse(empty).rows) == 0
    assert len(parser.recognise(empty)) == 0


def test_commands_without_a_reply_are_transactions_without_a_response() -> None:
    """`noreply` of the text protocol; what comes behind gets the reply."""
    quiet = b"set user:1 0 0 5 noreply\r\nhello\r\n"
    first, second = parse(turn(quiet + GET, HIT))
    assert shown([first, second]) == [("set user:*", None), ("get user:*", "VALUE")]
    assert (first["response_first_ns"], first["response_bytes"]) == (0, 0)
    assert (first["request_bytes"], second["request_bytes"]) == (len(quiet), len(GET))
    assert second["response_bytes"] == len(HIT)
    assert not first["error"]
    (alone,) = parse(turn(quiet, flags=Flag.CLOSED))
    assert not alone["error"]


def test_quiet_commands_end_with_a_fence() -> None:
    """What they are answered nevertheless is not taken for the reply to what closes them."""
    rows = parse(turn(b"mg a v q\r\nmg b v q\r\nmn\r\n", b"VA 1\r\nx\r\nMN\r\n"))
    assert shown(rows) == [("mg a", None), ("mg b", None), ("mn", "MN")]
    quiet = packet(0x80, 0x0D, b"user:1") * 2 + packet(0x80, 0x0A)
    rows = parse(turn(quiet, packet(0x81, 0x0D, b"user:1") + packet(0x81, 0x0A)))
    assert shown(rows) == [("getkq user:*", None), ("getkq user:*", None), ("noop", "OK")]


def test_a_pipeline_is_paired() -> None:
    """Each command with its own reply."""
    rows = parse(turn(GET + b"delete k\r\n" + b"version\r\n", MISS + b"DELETED\r\n" + b"VERSION 1\r\n"))
    assert shown(rows) == [("get user:*", "END"), ("delete k", "DELETED"), ("version", "VERSION")]


def test_hidden_commands_without_replies_are_estimated() -> None:
    """By the size of those that are seen, and marked; what got the reply is none of them."""
    sent = [b"set k:%d 0 0 5 noreply\r\nhello\r\n" % number for number in range(80)]
    rows = parse(turn(b"".join(sent) + GET, HIT))
    assert 75 <= len(rows) <= 85
    assert shown(rows)[:5] == [("set k:*", None)] * 5
    assert shown(rows)[-1] == (None, "VALUE")
    assert all(row["truncated"] for row in rows[8:])
    assert sum(row["request_bytes"] for row in rows) == sum(map(len, sent)) + len(GET)


def test_hidden_quiet_commands_take_nobody_elses_reply() -> None:
    """A head of which no more than the operation was captured tells that no reply will come."""
    quiet, hit = packet(0x80, 0x0D, b"user:1") * 54, packet(0x81, 0x0D, b"user:1")
    rows = parse(
        turn(quiet, hit * 2),
        turn(packet(0x80, 0x0A), packet(0x81, 0x0A), turn=2),
        turn(packet(0x80, 0x05, b"n"), packet(0x81, 0x05), turn=3),
        turn(packet(0x80, 0x05, b"k"), packet(0x81, 0x05, status=6), turn=4),
    )
    assert len(rows) == 54 + 3
    assert shown(rows[-4:]) == [
        ("getkq user:*", None),
        ("noop", "OK"),
        ("increment n", "OK"),
        ("increment k", "(error) NON_NUMERIC"),
    ]


def test_a_turn_in_flight_shows_its_commands() -> None:
    """They come again when it ends."""
    parser = PROTOCOL()
    assert shown(parse(turn(GET, kind=Kind.OPEN), parser=parser)) == [("get user:*", None)]
    assert shown(parse(turn(GET, HIT), parser=parser)) == [("get user:*", "VALUE")]


RECOGNISED = {
    "get": (GET, HIT, LIKELY),
    "miss": (GET, MISS, LIKELY),
    "set": (b"set k 0 0 1\r\nx\r\n", b"STORED\r\n", LIKELY),
    "large": (b"set k 0 0 900\r\n" + b"x" * 902, b"STORED\r\n", LIKELY),
    "noreply": (b"set k 0 0 1 noreply\r\nx\r\n", b"", LIKELY),
    "waiting": (GET, b"", 0),
    "beanstalkd has it too": (b"delete 7\r\n", b"DELETED\r\n", POSSIBLE),
    "meta": (b"mn\r\n", b"MN\r\n", LIKELY),
    "binary": (packet(0x80, 0, b"k"), packet(0x81, 0), LIKELY),
    "binary waiting": (packet(0x80, 0, b"k"), b"", LIKELY),
    "binary, answer to another": (packet(0x80, 0, b"k"), packet(0x81, 1), 0),
}


@pytest.mark.parametrize(("request_", "response", "expected"), RECOGNISED.values(), ids=RECOGNISED)
def test_recognised(request_: bytes, response: bytes, expected: int) -> None:
    """Commands with replies that are the protocol's."""
    assert score(request_, response) == expected


FOREIGN = {
    "HTTP": (b"GET / HTTP/1.1\r\nHost: a\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"),
    "redis inline": (b"get key\r\n", b"$-1\r\n"),
    "redis": (b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", b"$-1\r\n"),
    "POP3": (b"quit\r\n", b"+OK bye\r\n"),
    "SMTP": (b"quit\r\n", b"221 bye\r\n"),
    "FTP": (b"stat\r\n", b"211 end\r\n"),
    "beanstalkd": (b"watch jobs\r\n", b"WATCHING 2\r\n"),
    "MySQL": (b"\x21\x00\x00\x00\x03SELECT 1", b"\x01\x00\x00\x01\x01"),
    "a line without its end": (b"mg u\xb0:\x1f", b"VA 2\r\nok\r\n"),
    "an answer without its end": (b"mg key v\r\n", b"VA 6\xca\x04"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00", b"\x16\x03\x03\x00\x7a\x02"),
    "SSL 2": (b"\x80\x2e\x01\x00\x02\x00\x15\x00\x00\x00\x10", b""),
    "nothing": (b"", b""),
}


@pytest.mark.parametrize(("request_", "response"), FOREIGN.values(), ids=FOREIGN)
def test_foreign_protocols(request_: bytes, response: bytes) -> None:
    """What is not Memcached is not taken for it."""
    assert score(request_, response) == 0


def test_a_command_behind_one_without_a_reply_begins_by_itself() -> None:
    """Pymemcache has sets unanswered: any time may pass before the get that ends the turn."""
    last = START + 300 * MILLISECOND
    stamps = {
        "request_last_ns": last,
        "response_first_ns": last + 9,
        "response_last_ns": last + 9,
        "queue_ns": 5,
    }
    first, second = parse(turn(b"set a 0 0 1 noreply\r\nx\r\n" + GET, HIT, **stamps))
    assert [row["request_first_ns"] for row in (first, second)] == [START, last]
    assert [row["queue_ns"] for row in (first, second)] == [5, 0]
    assert second["response_first_ns"] == last + 9


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


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_holds_its_ground(data: bytes) -> None:
    """Anything at all."""
    check(data)


def test_random_bytes_are_not_taken_for_memcached() -> None:
    """Of 20,000 random turns, none."""
    assert not PROTOCOL().recognise(random_turns(20_000)).any()
