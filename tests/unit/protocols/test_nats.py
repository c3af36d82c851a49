"""The rules of the NATS parser: named captures, requests and replies over turns, and its reference."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masdeepflow.protocols.base import CERTAIN, LIKELY, POSSIBLE
from masdeepflow.protocols.nats import PROTOCOL
from masdeepflow.schema import ATTRIBUTES, Flag, Kind
from tests.fuzz.fuzz_nats import FRAGMENTS, check, check_again
from tests.support.named_rows import Row, named_rows, shown_as
from tests.support.slots import MILLISECOND, START, make_slots, random_turns, turn

INBOX = b"_INBOX.PgfPh2PB8mEiS44JYfm6z4."
CONNECT, PING, PONG = b'CONNECT {"verbose":false,"pass":"private"}\r\n', b"PING\r\n", b"PONG\r\n"
INFO = b'INFO {"server_id":"NCRQS7F7R7GMCQTJKMQ","version":"2.9.10"}\r\n'
NOBODY = b"NATS/1.0 503\r\n\r\n"


def ask(subject: bytes, number: int, data: bytes = b"private") -> bytes:
    """Return a request whose reply goes to the inbox of that number."""
    return b"PUB %s %s%d %d\r\n%s\r\n" % (subject, INBOX, number, len(data), data)


def publish(subject: bytes, data: bytes = b"private") -> bytes:
    """Return a message without a subject for its reply, with the space that nats-py leaves there."""
    return b"PUB %s  %d\r\n%s\r\n" % (subject, len(data), data)


def reply(number: int, data: bytes = b"private") -> bytes:
    """Return what answers a request."""
    return b"MSG %s%d 1 %d\r\n%s\r\n" % (INBOX, number, len(data), data)


def deliver(subject: bytes, data: bytes = b"private") -> bytes:
    """Return a message that a client has subscribed to."""
    return b"MSG %s 2 %d\r\n%s\r\n" % (subject, len(data), data)


def refuse(number: int, status: bytes = NOBODY) -> bytes:
    """Return a reply that is a status."""
    return b"HMSG %s%d 1 %d %d\r\n%s\r\n" % (INBOX, number, len(status), len(status), status)


def parse(*turns: dict[str, object], parser: PROTOCOL | None = None) -> list[Row]:
    """Parse turns as one batch; return each transaction's columns by name, absent ones left out."""
    return named_rows(parser or PROTOCOL(), *turns)


def shown(rows: list[Row]) -> list[tuple[str | None, str | None]]:
    """Return command and answer of each transaction, as the text log has them."""
    return shown_as("NATS", rows)


def score(request: bytes, response: bytes = b"", **fields: object) -> int:
    """Return the score of one turn."""
    return int(PROTOCOL().recognise(make_slots(turn(request, response, **fields)))[0])


CAPTURES: dict[str, tuple[bytes, bytes, list[tuple[str | None, str | None]]]] = {
    "greeting": (b"", INFO, []),
    "login": (CONNECT + PING, PONG, [("CONNECT", None), ("PING", "PONG")]),
    "request": (ask(b"user.7.get", 1), reply(1), [("PUB user.*.get", "OK")]),
    "headers": (
        b"HPUB user.get %s1 12 14\r\nNATS/1.0\r\n\r\nhi\r\n" % INBOX,
        reply(1),
        [("HPUB user.get", "OK")],
    ),
    "nobody there": (ask(b"user.get", 1), refuse(1), [("PUB user.get", "(error) 503")]),
    "status that is no error": (
        ask(b"user.get", 1),
        refuse(1, b"NATS/1.0 100 Idle Heartbeat\r\n\r\n"),
        [("PUB user.get", "100")],
    ),
    "message": (publish(b"orders.9f86d081"), b"", [("PUB orders.*", None)]),
    "answer of a service": (publish(INBOX + b"1"), deliver(b"user.get"), [("PUB _INBOX.*", None)]),
    "acknowledged": (publish(b"orders.new"), b"+OK\r\n", [("PUB orders.new", "OK")]),
    "subscription": (
        b"SUB orders.> workers 1\r\nUNSUB 2\r\n",
        b"",
        [("SUB orders.>", None), ("UNSUB", None)],
    ),
    "keep-alive of the server": (PONG, PING, []),
    "delivery": (b"", deliver(b"orders.new"), []),
    "lower case": (b"pub orders.new 2\r\nhi\r\n", b"", [("PUB orders.new", None)]),
    "refused login": (
        CONNECT + PING,
        b"-ERR 'Authorization Violation'\r\n",
        [("CONNECT", "(error) Authorization Violation")],
    ),
    "refused message": (
        publish(b"orders.new"),
        b"-ERR 'Permissions Violation for Publish to \"orders.private\"'\r\n",
        [("PUB orders.new", "(error) Permissions Violation for Publish to ?")],
    ),
    "refused connection": (b"", b"-ERR 'Stale Connection'\r\n", [(None, "(error) Stale Connection")]),
}


@pytest.mark.parametrize(("request_", "response", "expected"), CAPTURES.values(), ids=CAPTURES)
def test_captures(request_: bytes, response: bytes, expected: list[tuple[str | None, str | None]]) -> None:
    """What each exchange shows; neither contents nor logins, and only attributes that are known."""
    rows = parse(turn(request_, response))
    assert shown(rows) == expected
    assert "private" not in str(rows)
    for row, (_, answer) in zip(rows, expected, strict=True):
        assert row["error"] == (answer is not None and "(error)" in answer)
        assert not row["truncated"]
        assert row["messaging.system"] == "nats"
        assert {name for name in row if "." in name} <= set(ATTRIBUTES)


def test_what_went_wrong_is_an_attribute() -> None:
    """The status of a reply, or what the server refuses with; of all else, nothing."""
    rows = parse(
        turn(ask(b"a", 1), refuse(1)),
        turn(publish(b"a"), b"-ERR 'Invalid Subject'\r\n"),
        turn(ask(b"a", 2), reply(2)),
    )
    assert [row.get("error.type") for row in rows] == ["503", "Invalid Subject", None]


def test_replies_come_in_any_order() -> None:
    """The subject of a reply tells what it is to, also in later turns, between messages of subscriptions."""
    rows = parse(
        turn(ask(b"a", 1) + ask(b"b", 2), reply(2) + deliver(b"news")),
        turn(ask(b"c", 3), deliver(b"news") + reply(3)),
        turn(publish(b"d"), reply(1)),
    )
    assert shown(rows) == [("PUB b", "OK"), ("PUB c", "OK"), ("PUB a", "OK"), ("PUB d", None)]
    assert [row["request_first_ns"] for row in rows[:3]] == [START, START + 10 * MILLISECOND, START]
    assert rows[2]["response_first_ns"] == START + 21 * MILLISECOND


def test_a_request_is_answered_in_a_later_batch() -> None:
    """What waits is kept with its own times."""
    parser = PROTOCOL()
    assert parse(turn(ask(b"a", 1), deliver(b"news")), parser=parser) == []
    (row,) = parse(turn(PONG, reply(1), turn=2), parser=parser)
    assert (row["request"], row["response"]) == ("NATS Command: PUB a", "NATS Response: OK")


def test_only_the_first_reply_is_the_answer() -> None:
    """Others to the same subject, as of several services, are messages like any."""
    rows = parse(turn(ask(b"a", 1), reply(1) + reply(1)), turn(ask(b"a", 1), reply(1) + reply(1)))
    assert shown(rows) == [("PUB a", "OK")] * 2


def test_a_request_is_shown_while_it_waits_and_counted_once() -> None:
    """Rows of kind OPEN come again as a turn."""
    first, second = parse(turn(ask(b"a", 1), kind=Kind.OPEN), turn(ask(b"a", 1), reply(1), turn=1))
    assert "response" not in first
    assert (second["request"], second["response"]) == ("NATS Command: PUB a", "NATS Response: OK")


@pytest.mark.parametrize("flags", [0, Flag.CLOSED])
def test_what_is_never_answered_ends(flags: int) -> None:
    """With its connection, or after a minute: without a response, and no error, as others may answer."""
    late = {"request_first_ns": START + 70_000_000_000} if not flags else {}
    parser = PROTOCOL()
    rows = parse(turn(ask(b"a", 1), deliver(b"news")), turn(PONG, PING, flags=flags, **late), parser=parser)
    assert shown(rows) == [("PUB a", None)]
    assert not rows[0]["error"]
    assert parser.evicted == 0


def test_what_a_closed_connection_waited_for_is_counted() -> None:
    """Nothing can be shown of it, as no turn ends with it."""
    parser = PROTOCOL()
    parse(turn(ask(b"a", 1), deliver(b"news")), parser=parser)
    parser.forget([1, 2])
    assert parser.evicted == 1


def test_no_more_than_so_many_wait() -> None:
    """The oldest end then, and are counted."""
    parser = PROTOCOL()
    turns = [turn(ask(b"a", number), deliver(b"news"), turn=number) for number in range(1030)]
    assert len(parse(*turns, parser=parser)) == parser.evicted == 6


def test_messages_beyond_the_prefix_are_counted_by_their_size() -> None:
    """Of one size on both sides: surely. Else they are estimated, and marked."""
    rows = parse(turn(b"".join(ask(b"a", n) for n in range(10)), b"".join(reply(n) for n in range(10))))
    assert shown(rows) == [("PUB a", "OK")] * 10
    assert not any(row["truncated"] for row in rows)
    rows = parse(turn(b"".join(publish(b"orders.%d" % n) for n in range(100))))
    assert 97 <= len(rows) <= 103
    assert {row["request"] for row in rows} == {"NATS Command: PUB orders.*"}
    assert [row["truncated"] for row in rows] == sorted(row["truncated"] for row in rows)
    assert sum(row["request_bytes"] for row in rows) == sum(
        len(publish(b"orders.%d" % n)) for n in range(100)
    )


def test_what_nobody_answers_is_not_in_the_time_of_what_follows() -> None:
    """A client's turn goes on until something comes: minutes may lie between a message and a request."""
    last = START + 90 * MILLISECOND
    stamps = {"request_last_ns": last, "response_first_ns": last + 7, "response_last_ns": last + 7}
    rows = parse(turn(publish(b"orders.new") + ask(b"a", 1), reply(1), queue_ns=5, **stamps))
    assert [row["request_first_ns"] for row in rows] == [START, last]
    assert [row["queue_ns"] for row in rows] == [5, 0]
    (row, other) = parse(turn(ask(b"a", 1) + ask(b"b", 2), reply(2) + reply(1), **stamps))
    assert (row["request_first_ns"], other["request_first_ns"]) == (START, last)
    (*_, row) = parse(turn(publish(b"x" * 300) + PING, PONG, **stamps))
    assert (row["request"], row["request_first_ns"]) == ("NATS Command: PING", last)


def test_contents_that_look_like_commands_are_none() -> None:
    """Sizes tell where messages end, also where one goes on in the next turn."""
    inside = publish(b"fake") * 30
    request, size = b"PUB real %d\r\n%s\r\n" % (len(inside), inside), 300
    rows = parse(
        turn(request[:size], deliver(b"news", deliver(b"fake") * 5)),
        turn(request[size:] + publish(b"behind"), b""),
    )
    assert shown(rows) == [("PUB real", None), ("…", None)]
    rows = parse(
        turn(b"PUB real 90\r\n" + b"x" * 40, deliver(b"news")), turn(b"x" * 50 + b"\r\n" + PING, PONG)
    )
    assert shown(rows) == [("PUB real", None), ("PING", "PONG")]


def test_tls_is_not_read() -> None:
    """What begins with its handshake is nobody's from then on; nothing of it is a transaction."""
    slots = make_slots(turn(b"", INFO), turn(b"\x16\x03\x01\x02\x00\x01\x00", b"\x16\x03\x03\x00\x7a"))
    parsed = PROTOCOL().parse(slots)
    assert (len(parsed.rows), parsed.opaque) == (0, [1])
    assert PROTOCOL().parse(make_slots(turn(ask(b"a", 1), reply(1)))).opaque == []


SCORES: dict[str, tuple[bytes, bytes, int]] = {
    "greeting": (b"", INFO * 2, CERTAIN),
    "login": (CONNECT + PING, PONG, LIKELY),
    "request": (ask(b"a", 1), reply(1), LIKELY),
    "message": (publish(b"a"), b"", LIKELY),
    "delivery": (b"", deliver(b"a"), LIKELY),
    "subscription": (b"SUB a 1\r\n", b"+OK\r\n", LIKELY),
    "one word": (PING, PONG, POSSIBLE),
}


@pytest.mark.parametrize(("request_", "response", "expected"), SCORES.values(), ids=SCORES)
def test_scores(request_: bytes, response: bytes, expected: int) -> None:
    """A word that others may have too decides one turn only."""
    assert score(request_, response) == expected


FOREIGN = {
    "redis": (b"PING\r\n", b"+PONG\r\n"),
    "redis pub/sub": (b"*2\r\n$9\r\nSUBSCRIBE\r\n$1\r\na\r\n", b"*3\r\n$9\r\nsubscribe\r\n$1\r\na\r\n:1\r\n"),
    "memcached": (b"set a 0 60 5\r\nhello\r\n", b"STORED\r\n"),
    "beanstalkd": (b"put 1 0 60 5\r\nhello\r\n", b"INSERTED 1\r\n"),
    "proxy": (b"CONNECT example.org:443 HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n"),
    "STOMP": (b"CONNECT\naccept-version:1.2\n\n\0", b"CONNECTED\n\n\0"),
    "SIP": (b"INFO sip:a@example.org SIP/2.0\r\n\r\n", b"SIP/2.0 200 OK\r\n\r\n"),
    "IRC": (b"PING :example\r\n", b":example PONG example\r\n"),
    "POP3": (b"QUIT\r\n", b"+OK bye\r\n"),
    "XMODEM": (b"SUB", b"+OK"),
    "a size without contents": (b"PUB a 3\r\nhello\r\n", b""),
    "a message without its size": (b"PUB a b\r\nhello\r\n", b""),
    "another answer": (publish(b"a"), b"HTTP/1.1 400 Bad Request\r\n\r\n"),
    "nothing": (b"", b""),
}


@pytest.mark.parametrize(("request_", "response"), FOREIGN.values(), ids=FOREIGN)
def test_foreign_protocols(request_: bytes, response: bytes) -> None:
    """What is not NATS is not taken for it."""
    assert score(request_, response) == 0


@settings(max_examples=150, deadline=None)
@given(st.lists(st.integers(0, len(FRAGMENTS) + 8), max_size=120))
def test_equals_the_reference(choices: list[int]) -> None:
    """Turns of fragments, cut and mutated, over two connections: the invariant of the fuzzer."""
    check(bytes(choices))


@settings(max_examples=15, deadline=None)
@given(st.lists(st.integers(0, len(FRAGMENTS) + 8), max_size=60))
def test_equals_a_parser_that_has_seen_nothing(choices: list[int]) -> None:
    """What is known from earlier turns changes nothing."""
    check_again(bytes(choices))


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_holds_its_ground(data: bytes) -> None:
    """Anything at all."""
    check(data)


def test_random_bytes_are_not_taken_for_nats() -> None:
    """Of 20,000 random turns, none."""
    assert not PROTOCOL().recognise(random_turns(20_000)).any()
