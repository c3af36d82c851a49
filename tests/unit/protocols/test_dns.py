"""DNS: what is recognised, what belongs together, what is shown, and what never comes."""

from __future__ import annotations

import ipaddress
import random
import struct
from collections import Counter
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masdeepflow.protocols.base import LIKELY, POSSIBLE
from masdeepflow.protocols.dns import PROTOCOL, TIMEOUT_NS
from masdeepflow.protocols.dns.glances import MESSAGE
from masdeepflow.protocols.dns.message import CUT, read_message
from masdeepflow.protocols.dns.reading import FEW, Reader
from masdeepflow.schema import Flag, Kind, Role, Transport
from tests.support import dns_wire as wire
from tests.support.dns_wire import answered, asked, edns, query, record, response, serving
from tests.support.slots import START, make_slots, turn
from tests.unit.protocols.dns_reference import check_equal, read

if TYPE_CHECKING:
    from collections.abc import Sequence

    from masdeepflow.table import Parsed

NAME = b"www.example.org"
ADDRESS = record(bytes((192, 0, 2, 1)))
QUERY, RESPONSE = query(NAME), response(NAME, ADDRESS)
LATER = START + TIMEOUT_NS


def _framed(*messages: bytes) -> bytes:
    return b"".join(len(message).to_bytes(2, "big") + message for message in messages)


def _lines(parsed: Parsed) -> list[tuple[str | None, str | None]]:
    return list(zip(parsed.request_text.to_list(), parsed.response_text.to_list(), strict=True))


def _column(parsed: Parsed, name: str) -> list[Any]:
    column = parsed.attributes[name]
    return column.tolist() if isinstance(column, np.ndarray) else column.to_list()


def test_query_and_response_are_a_transaction() -> None:
    """With the question, the code, the count of answers, both sizes and the time between the two."""
    parsed = PROTOCOL().parse(make_slots(asked(QUERY), answered(RESPONSE, START + 2_000_000)))
    assert _lines(parsed) == [("DNS Query: A www.example.org", "DNS Response: NOERROR 1 answer")]
    assert parsed.rows.tolist() == [1]
    assert parsed.base["request_first_ns"].tolist() == [START]
    assert parsed.base["response_last_ns"].tolist() == [START + 2_000_000]
    assert parsed.base["request_bytes"].tolist() == [len(QUERY)]
    assert parsed.base["response_bytes"].tolist() == [len(RESPONSE)]
    assert _column(parsed, "dns.question.name") == ["www.example.org"]
    assert _column(parsed, "dns.question.type") == ["A"]
    assert _column(parsed, "dns.response_code") == ["NOERROR"]
    assert _column(parsed, "dns.answer_count") == [1]
    assert _column(parsed, "error.type") == [None]
    assert not (parsed.error | parsed.truncated).any()
    assert parsed.still_open is not None
    assert not parsed.still_open.any()


def test_questions_asked_at_once_have_their_own_answers() -> None:
    """A and AAAA on one socket, answered from last to first: each has the time of its own response."""
    parsed = PROTOCOL().parse(
        make_slots(
            asked(query(NAME, wire.A, 1), START),
            asked(query(NAME, wire.AAAA, 2), START + 10),
            answered(response(NAME, kind=wire.AAAA, number=2), START + 1000),
            answered(response(NAME, ADDRESS, number=1), START + 5000),
        )
    )
    assert [line[0] for line in _lines(parsed)] == [
        "DNS Query: AAAA www.example.org",
        "DNS Query: A www.example.org",
    ]
    latencies = parsed.base["response_last_ns"] - parsed.base["request_first_ns"]
    assert latencies.tolist() == [990, 5000]


def test_one_id_on_two_sockets_or_of_two_questions_is_two() -> None:
    """Clients choose ids at random: a server has the same one from several."""
    end = serving()
    parsed = PROTOCOL().parse(
        make_slots(
            asked(query(b"a.test"), START, **end),
            asked(query(b"b.test"), START + 1, **end),
            asked(query(b"a.test"), START + 2, **{**end, "cookie": 2}),
            answered(response(b"b.test", code=3), START + 10, **{**end, "remote_port": 40001}),
            answered(response(b"a.test", code=2), START + 11, **{**end, "remote_port": 40000}),
            answered(response(b"a.test", code=5), START + 12, **{**end, "cookie": 2, "remote_port": 40002}),
        )
    )
    assert _lines(parsed) == [
        ("DNS Query: A b.test", "DNS Response: NXDOMAIN"),
        ("DNS Query: A a.test", "DNS Response: SERVFAIL"),
        ("DNS Query: A a.test", "DNS Response: REFUSED"),
    ]
    assert parsed.rows.tolist() == [3, 4, 5], "the responses' slots, which know the client"
    assert parsed.error.tolist() == [False, True, True]


def test_a_response_in_a_later_batch_ends_what_was_announced() -> None:
    """A query without a response yet is shown as open, once, and is one transaction in the end."""
    protocol = PROTOCOL()
    first = protocol.parse(make_slots(asked(QUERY)))
    assert _lines(first) == [("DNS Query: A www.example.org", None)]
    assert first.still_open is not None
    assert first.still_open.tolist() == [True]
    assert len(protocol.parse(make_slots(asked(query(b"other.test", number=9), cookie=9))).rows) == 1
    last = protocol.parse(make_slots(answered(RESPONSE, START + 7)))
    assert _lines(last) == [("DNS Query: A www.example.org", "DNS Response: NOERROR 1 answer")]
    assert last.base["request_first_ns"].tolist() == [START]
    assert last.still_open is not None
    assert not last.still_open.any()
    assert not len(protocol.parse(make_slots(answered(RESPONSE, START + 8))).rows)


def test_a_query_from_nobody_known_waits_in_silence() -> None:
    """A server's call tells who asked only when it answers: until then there is no line to show."""
    protocol = PROTOCOL()
    assert not len(protocol.parse(make_slots(asked(QUERY, **serving()))).rows)
    parsed = protocol.parse(make_slots(answered(RESPONSE, **{**serving(), "remote_port": 40000})))
    assert len(parsed.rows) == 1


def test_a_query_asked_again_is_a_query_of_its_own() -> None:
    """Of a retry and the one before, the response belongs to the retry; the first ends there, unanswered."""
    protocol = PROTOCOL()
    parsed = protocol.parse(
        make_slots(asked(QUERY, START), asked(QUERY, START + 1000), answered(RESPONSE, START + 1500))
    )
    assert parsed.rows.tolist() == [1, 2]
    assert parsed.base["request_first_ns"].tolist() == [START, START + 1000]
    assert parsed.base["request_last_ns"].tolist() == [START + 1000] * 2
    assert parsed.still_open is not None
    assert not parsed.still_open.any()
    assert parsed.error.tolist() == [True, False]
    assert _column(parsed, "error.type") == ["retried", None]
    assert not len(protocol.overdue(LATER * 2))


def test_what_was_asked_again_ends_before_it_is_asked_again() -> None:
    """In a later batch too: the first of the two is over, the second waits, and both are of one slot."""
    protocol = PROTOCOL()
    protocol.parse(make_slots(asked(QUERY, START)))
    parsed = protocol.parse(make_slots(asked(query(b"a.test", number=9), START), asked(QUERY, START + 1000)))
    assert _column(parsed, "error.type") == [None, "retried", None]
    assert parsed.rows.tolist() == [0, 1, 1]
    assert parsed.base["request_first_ns"].tolist() == [START, START, START + 1000]
    assert parsed.still_open is not None
    assert parsed.still_open.tolist() == [True, False, True]
    assert protocol.overdue(LATER * 2)["request_first_ns"].tolist() == [START, START + 1000]


@pytest.mark.parametrize(
    "fields",
    [
        {"remote_port": 54},
        {"remote_address": np.full(16, 9, np.uint8)},
        {"cookie": 2},
        {"role": Role.SERVER},
    ],
    ids=["another port", "another server", "another socket", "a server's peers"],
)
def test_what_looks_like_a_retry_is_none(fields: dict[str, Any]) -> None:
    """Resolvers ask several servers at once; of the clients of a server two may have one id."""
    protocol = PROTOCOL()
    both = {"role": Role.SERVER} if "role" in fields else {}
    parsed = protocol.parse(make_slots(asked(QUERY, START, **both), asked(QUERY, START + 1000, **fields)))
    assert not parsed.error.any()
    assert len(protocol.overdue(LATER * 2)) == 2


def test_each_of_several_servers_has_its_own_answer() -> None:
    """Some C libraries ask all name servers at once: the dead one has not answered, the others have."""
    servers: list[dict[str, Any]] = [{"remote_address": np.full(16, last, np.uint8)} for last in range(3)]
    protocol = PROTOCOL()
    slots = make_slots(
        *[asked(QUERY, START + number, **server) for number, server in enumerate(servers)],
        answered(RESPONSE, START + 1000, **servers[0]),
        answered(response(NAME, code=3), START + 2000, **servers[1]),
    )
    parsed = protocol.parse(slots)
    latencies = parsed.base["response_last_ns"] - parsed.base["request_first_ns"]
    told = zip(_column(parsed, "dns.response_code"), latencies.tolist(), strict=True)
    assert list(told)[1:] == [("NOERROR", 1000), ("NXDOMAIN", 1999)]
    due = protocol.overdue(LATER * 2)
    assert due["remote_address"][:, 0].tolist() == [2]
    assert not protocol.parse(due).error.any(), "who has an answer may not read the others"


@pytest.mark.parametrize("answered_first", [False, True])
def test_who_is_asked_when_another_has_answered_is_waited_for(*, answered_first: bool) -> None:
    """Not so who was asked at the same time: its answer may be there, and nobody reads it."""
    protocol = PROTOCOL()
    first, second = {"remote_port": 53}, {"remote_port": 54}
    slots = [
        asked(QUERY, START, **first),
        asked(QUERY, START + 1, **second),
        answered(response(NAME, code=2), START + 2, **first),
        asked(QUERY, START + 3, remote_port=55),
    ]
    protocol.parse(make_slots(*slots[: 3 + answered_first]))
    late = protocol.parse(protocol.overdue(LATER * 2))
    assert late.error.tolist() == [False, True][: 1 + answered_first]


def test_an_answer_of_another_server_is_one_all_the_same() -> None:
    """Where it is not known who answered, it belongs to the query that was asked last."""
    protocol = PROTOCOL()
    servers: list[dict[str, Any]] = [{"remote_port": port} for port in (53, 54, 55)]
    slots = make_slots(
        asked(QUERY, START, **servers[0]),
        asked(QUERY, START + 1, **servers[1]),
        answered(RESPONSE, START + 1000, **servers[2]),
    )
    assert protocol.parse(slots).base["request_first_ns"].tolist() == [START, START + 1]
    assert protocol.overdue(LATER * 2)["remote_port"].tolist() == [53]


def _ends_of_two(first: int, second: int, answer: int) -> list[Any]:
    """Return the reason why the second of two servers has no answer, by flags of queries and answer."""
    protocol = PROTOCOL()
    protocol.parse(
        make_slots(
            asked(QUERY, START, flags=first),
            asked(QUERY, START + 1, remote_port=54, flags=second),
            answered(RESPONSE, START + 2, flags=answer),
        )
    )
    late = protocol.parse(protocol.overdue(LATER * 2))
    assert late.base["request_last_ns"].tolist() == [LATER + 1]
    return [*_column(late, "error.type"), *late.error.tolist()]


def test_a_dead_server_beside_a_living_one_has_timed_out() -> None:
    """If an answer of it would be told of though nobody reads it, and who has answered is certain."""
    watched = Flag.WATCHED
    assert _ends_of_two(watched, watched, watched) == ["timeout", True]
    assert _ends_of_two(watched, watched, 0) == ["answered_elsewhere", False]
    assert _ends_of_two(0, 0, watched) == ["answered_elsewhere", False]


def test_who_was_answered_by_another_is_known_whatever_else_waits() -> None:
    """A query of an earlier batch changes nothing."""
    protocol = PROTOCOL()
    protocol.parse(make_slots(asked(query(b"other.test"), START, cookie=3)))
    protocol.parse(
        make_slots(
            asked(QUERY, START),
            asked(QUERY, START + 1, remote_port=54),
            answered(RESPONSE, START + 2),
        )
    )
    late = protocol.parse(protocol.overdue(LATER * 2))
    assert sorted(_column(late, "error.type")) == ["answered_elsewhere", "timeout"]


def test_a_server_that_others_hear_meanwhile_is_not_dead() -> None:
    """One of its answers was missed: no error."""
    protocol = PROTOCOL()
    other = query(b"other.test", number=7)
    protocol.parse(
        make_slots(
            asked(QUERY, START, flags=Flag.WATCHED),
            asked(QUERY, START + 1, remote_port=54, flags=Flag.WATCHED),
            answered(RESPONSE, START + 2, flags=Flag.WATCHED),
        )
    )
    protocol.parse(make_slots(asked(other, START + 3, remote_port=54, cookie=2)))
    protocol.parse(
        make_slots(answered(response(b"other.test", number=7), START + 4, remote_port=54, cookie=2))
    )
    late = protocol.parse(protocol.overdue(LATER * 2))
    assert _column(late, "error.type") == ["answered_elsewhere"]


def test_an_answer_that_nobody_has_read_is_shown_as_such() -> None:
    """With its code and its time: the server lives."""
    parsed = PROTOCOL().parse(
        make_slots(
            asked(QUERY, START, flags=Flag.WATCHED),
            asked(QUERY, START + 1, remote_port=54, flags=Flag.WATCHED),
            answered(RESPONSE, START + 2, flags=Flag.WATCHED),
            answered(RESPONSE, START + 9, remote_port=54, flags=Flag.WATCHED | Flag.UNREAD),
        )
    )
    text = "DNS Response: NOERROR 1 answer"
    assert parsed.response_text.to_list() == [text, f"{text}, not read"]
    assert (parsed.base["response_last_ns"] - parsed.base["request_first_ns"]).tolist() == [2, 8]
    assert not parsed.error.any()


def _failed(error: int, at_ns: int, data: bytes = b"", **fields: Any) -> dict[str, object]:  # noqa: ANN401  # of a slot
    make = asked if data else answered
    return make(data, at_ns, flags=Flag.FAILED, error=error, **fields)


def test_an_error_of_a_socket_ends_what_waits_on_it() -> None:
    """Of earlier batches too, at the time at which it came; not what is asked behind it, nor on others."""
    protocol = PROTOCOL()
    protocol.parse(make_slots(asked(QUERY, START), asked(query(b"other.test"), START, cookie=2)))
    parsed = protocol.parse(
        make_slots(
            asked(query(b"b.test"), START + 5),
            _failed(111, START + 9),
            asked(query(b"c.test"), START + 10),
        )
    )
    assert _column(parsed, "error.type") == ["ECONNREFUSED", "ECONNREFUSED", None]
    assert parsed.error.tolist() == [True, True, False]
    assert parsed.base["request_last_ns"].tolist()[:2] == [START + 9] * 2
    assert parsed.still_open is not None
    assert parsed.still_open.tolist() == [False, False, True]
    assert sorted(protocol.overdue(LATER * 2)["cookie"].tolist()) == [1, 2]


def test_what_was_refused_is_not_asked_again() -> None:
    """What comes first counts; the answer is that of the second try."""
    parsed = PROTOCOL().parse(
        make_slots(
            asked(QUERY, START),
            _failed(113, START + 5),
            asked(QUERY, START + 9),
            answered(RESPONSE, START + 20),
        )
    )
    told = dict(zip(_column(parsed, "error.type"), parsed.base["request_first_ns"].tolist(), strict=True))
    assert told == {"EHOSTUNREACH": START, None: START + 9}


def test_what_could_not_be_sent_is_an_error_by_itself() -> None:
    """Nobody answers it; a refusal that it meets is about what was sent before."""
    protocol = PROTOCOL()
    parsed = protocol.parse(
        make_slots(
            asked(query(b"a.test"), START),
            _failed(1, START + 5, QUERY),
            _failed(111, START + 6, query(b"b.test")),
            answered(RESPONSE, START + 9),
            asked(QUERY, START + 10, cookie=2),
            _failed(101, START + 11, QUERY, cookie=2),
            answered(RESPONSE, START + 12, cookie=2),
        )
    )
    ends = zip(parsed.request_text.to_list(), _column(parsed, "error.type"), strict=True)
    assert sorted(ends, key=repr) == [
        ("DNS Query: A a.test", "ECONNREFUSED"),
        ("DNS Query: A b.test", "ECONNREFUSED"),
        ("DNS Query: A www.example.org", "ENETUNREACH"),
        ("DNS Query: A www.example.org", "EPERM"),
        ("DNS Query: A www.example.org", None),
    ]
    assert not len(protocol.overdue(LATER * 2))


def test_what_could_not_be_sent_is_not_answered_by_a_response_without_a_question() -> None:
    """Which has an id only, and that of a query may be the same."""
    refusal = QUERY[:2] + b"\x81\x85" + bytes(8)
    found = [_failed(1, START, QUERY), answered(refusal, START + 9)]
    parsed = PROTOCOL().parse(make_slots(*found))
    assert (_column(parsed, "error.type"), parsed.response_text.to_list()) == (["EPERM"], [None])
    parsed = PROTOCOL().parse(make_slots(asked(QUERY, START), *found[1:]))
    assert parsed.response_text.to_list() == ["DNS Response: REFUSED"]


def test_an_unknown_errno_is_told_by_its_number() -> None:
    """Kernels may have more of them than the C library."""
    parsed = PROTOCOL().parse(make_slots(_failed(4000, START, QUERY)))
    assert _column(parsed, "error.type") == ["errno 4000"]


_SECOND = 1_000_000_000
_OTHER_END: dict[str, Any] = {"cookie": 2, "remote_address": np.full(16, 9, np.uint8)}


def test_a_client_that_goes_on_to_the_next_server_has_waited_until_then() -> None:
    """The C library asks it over another socket, with the same id: the first is over, as an error."""
    protocol = PROTOCOL()
    protocol.parse(make_slots(asked(QUERY, START)))
    protocol.parse(
        make_slots(
            asked(QUERY, START + _SECOND, **_OTHER_END), asked(QUERY, START + 2 * _SECOND, **_OTHER_END)
        )
    )
    due = protocol.overdue(START + 2 * _SECOND)
    late = protocol.parse(due)
    assert due["cookie"].tolist() == [1]
    assert (late.error.tolist(), _column(late, "error.type")) == ([True], ["retried"])
    assert late.base["request_last_ns"].tolist() == [START + _SECOND]
    assert protocol.overdue(LATER * 2)["cookie"].tolist() == [2]


@pytest.mark.parametrize(
    "fields",
    [
        {"at_ns": START + _SECOND // 4},
        {"pid": 4},
        {"data": query(NAME, number=2)},
        {"data": query(b"other.test")},
        {"remote_address": np.zeros(16, np.uint8)},
        {"role": Role.SERVER},
    ],
    ids=["at once", "another process", "another id", "another question", "the same server", "a server"],
)
def test_who_asks_others_meanwhile_has_not_gone_on(fields: dict[str, Any]) -> None:
    """It may wait for all of them."""
    protocol = PROTOCOL()
    both = {"role": fields["role"]} if "role" in fields else {}
    own: dict[str, Any] = {"remote_address": np.zeros(16, np.uint8), **both}
    protocol.parse(make_slots(asked(QUERY, START, **own)))
    data, at_ns = fields.pop("data", QUERY), fields.pop("at_ns", START + _SECOND)
    protocol.parse(make_slots(asked(data, at_ns, **_OTHER_END | fields)))
    assert not len(protocol.overdue(START + 2 * _SECOND))


def _edns_error(*options: tuple[int, bytes]) -> bytes:
    data = b"".join(struct.pack(">2H", code, len(value)) + value for code, value in options)
    return response(NAME, code=2, flags=0x8180)[:10] + b"\0\1" + response(NAME)[12:] + edns(data)


@pytest.mark.parametrize("count", [1, FEW])
@pytest.mark.parametrize(
    ("options", "text"),
    [
        ([(15, b"\0\6")], "DNSSEC Bogus"),
        ([(10, bytes(8)), (15, b"\0\x16no \xc3\xa9 answer\0")], "No Reachable Authority: no é answer"),
        ([(15, b"\0\0bad \xff byte")], "Other Error: bad \ufffd byte"),
        ([(15, b"\xc0\0")], "EDE 49152"),
        ([(15, b"\0"), (15, b"\0\3")], "Stale Answer"),
        ([(15, b"\0\3"), (15, b"\0\x0fsecond")], "Stale Answer"),
    ],
)
def test_what_a_server_says_of_an_error_is_shown(
    options: list[tuple[int, bytes]], text: str, count: int
) -> None:
    """RFC 8914: the name of its code, and its own words, few or many responses at a time."""
    slots = [answered(_edns_error(*options), START + 1, cookie=number) for number in range(1, count + 1)]
    slots += [asked(QUERY, START, cookie=number) for number in range(1, count + 1)]
    parsed = PROTOCOL().parse(make_slots(*slots))
    assert parsed.response_text.to_list() == [f"DNS Response: SERVFAIL ({text})"] * count
    assert _column(parsed, "dns.extended_error") == [text] * count


def test_who_says_no_more_has_no_column_of_it() -> None:
    """An option that is cut, or none, is nothing to show."""
    parsed = PROTOCOL().parse(make_slots(asked(QUERY), answered(_edns_error((10, bytes(8))))))
    assert "dns.extended_error" not in parsed.attributes
    cut = _edns_error((15, b"\0\6words"))[:-6]
    assert "dns.extended_error" not in PROTOCOL().parse(make_slots(asked(QUERY), answered(cut))).attributes


def test_the_close_of_a_stream_ends_what_was_asked_on_it() -> None:
    """At once, as an error; not if bytes of a response came: the answer may be among those not captured."""
    protocol = PROTOCOL()
    closed: dict[str, Any] = {"flags": Flag.CLOSED, "remote_port": 53}
    parsed = protocol.parse(
        make_slots(
            turn(_framed(QUERY), **closed), turn(_framed(QUERY), _framed(RESPONSE)[:5], cookie=2, **closed)
        )
    )
    assert parsed.error.tolist() == [True, False]
    assert parsed.still_open is not None
    assert parsed.still_open.tolist() == [False, True]
    assert protocol.overdue(LATER * 2)["cookie"].tolist() == [2]


def test_a_query_never_answered_is_an_error_once() -> None:
    """After five seconds of the slots' clock, under its own socket and peer, with nothing of a response."""
    protocol = PROTOCOL()
    protocol.parse(make_slots(asked(QUERY, cookie=7, pid=70)))
    assert not len(protocol.overdue(LATER - 1))
    due = protocol.overdue(LATER).copy()
    assert not len(protocol.overdue(LATER + TIMEOUT_NS))
    assert (due["cookie"].tolist(), due["pid"].tolist(), due["remote_port"].tolist()) == ([7], [70], [53])
    parsed = protocol.parse(due)
    assert _lines(parsed) == [("DNS Query: A www.example.org", None)]
    assert parsed.error.tolist() == [True]
    assert parsed.still_open is None
    assert _column(parsed, "error.type") == ["timeout"]
    assert _column(parsed, "dns.response_code") == [None]
    assert _column(parsed, "dns.answer_count") == [-1]
    assert parsed.base["request_last_ns"].tolist() == [LATER]
    assert due["response_first_ns"].tolist() == [0]
    assert not len(protocol.parse(make_slots(answered(RESPONSE, LATER + 1))).rows)


def test_what_waits_is_bounded() -> None:
    """The oldest queries are forgotten, and counted."""
    protocol = PROTOCOL()
    slots = np.resize(make_slots(asked(QUERY)), 5000)
    for batch in range(4):
        slots["cookie"] = np.arange(5000) + 5000 * batch
        protocol.parse(slots)
    assert protocol.evicted == 20_000 - 8192
    assert protocol.overdue(LATER)["cookie"].tolist() == list(range(20_000 - 8192, 20_000))


def test_two_turns_of_one_socket_are_read_like_datagrams() -> None:
    """A port not followed yet has turns: the second question's turn holds both responses."""
    first, second = query(NAME, number=1), query(NAME, wire.AAAA, number=2)
    both = response(NAME, ADDRESS, number=1) + response(NAME, kind=wire.AAAA, number=2)
    fields: dict[str, Any] = {"transport": Transport.UDP, "remote_port": 5300}
    slots = make_slots(turn(first, **fields), turn(second, both, **fields))
    slots["response_last_ns"][1] += 500
    parsed = PROTOCOL().parse(slots)
    assert sorted(_lines(parsed)) == [
        ("DNS Query: A www.example.org", "DNS Response: NOERROR 1 answer"),
        ("DNS Query: AAAA www.example.org", "DNS Response: NOERROR 0 answers"),
    ]
    assert parsed.base["response_bytes"].sum() == len(both)


def test_streams_are_cut_into_messages() -> None:
    """Queries sent one behind the other over TCP, answered in another order and in another turn."""
    queries = [query(b"%d.test" % number, number=number) for number in range(3)]
    responses = [response(b"%d.test" % number, ADDRESS, number=number) for number in range(3)]
    protocol = PROTOCOL()
    slots = make_slots(
        turn(_framed(*queries), _framed(responses[1]), queue_ns=5),
        turn(b"", _framed(responses[2]), flags=Flag.CONTINUED),
        turn(b"", _framed(responses[0]), flags=Flag.CONTINUED),
    )
    parsed = protocol.parse(slots)
    assert [line[0] for line in _lines(parsed)] == [f"DNS Query: A {number}.test" for number in (1, 2, 0)]
    assert parsed.base["request_bytes"].tolist() == [len(queries[0]) + 2] * 3
    assert not len(protocol.overdue(LATER * 2))


def _stream(*queries: bytes, told: Sequence[bytes], **fields: Any) -> dict[str, object]:  # noqa: ANN401  # of a slot
    """Return a turn of a stream of which the kernel captured what it has room for."""
    asked_bytes, told_bytes = _framed(*queries), _framed(*told)
    sizes = {"request_bytes": len(asked_bytes), "response_bytes": len(told_bytes)}
    sides = asked_bytes[:208], told_bytes[:104]
    return turn(*sides, **{"remote_port": 53, **sizes, **fields})


def test_what_is_answered_out_of_sight_is_answered() -> None:
    """The C library asks for A and AAAA on one stream: the first response fills what is captured.

    The other is there too. Its code is not known, and it is no error, nor overdue.
    """
    protocol = PROTOCOL()
    told = [response(NAME, *[ADDRESS] * 40), response(NAME, kind=wire.AAAA, number=2)]
    slots = make_slots(_stream(QUERY, query(NAME, wire.AAAA, 2), told=told))
    parsed = protocol.parse(slots)
    assert _lines(parsed) == [
        ("DNS Query: A www.example.org", "DNS Response: NOERROR 40 answers"),
        ("DNS Query: AAAA www.example.org", "DNS Response: …"),
    ]
    assert not parsed.error.any()
    assert parsed.truncated.tolist() == [False, True]
    assert _column(parsed, "dns.response_code") == ["NOERROR", None]
    assert parsed.base["response_last_ns"].tolist() == slots["response_last_ns"].tolist() * 2
    assert not len(protocol.overdue(LATER * 2))


def test_one_long_response_answers_nobody_else() -> None:
    """Its length tells that all the bytes are its own: what else was asked still waits."""
    protocol = PROTOCOL()
    slots = make_slots(_stream(query(b"slow.test", number=2), QUERY, told=[response(NAME, *[ADDRESS] * 40)]))
    protocol.parse(slots)
    assert _lines(protocol.parse(protocol.overdue(LATER * 2))) == [("DNS Query: A slow.test", None)]


def test_who_was_answered_out_of_sight_may_be_unknown() -> None:
    """Behind the first response is room for one more, and two wait: no one of them is said to be lost."""
    protocol = PROTOCOL()
    told = [response(NAME, *[ADDRESS] * 40), response(b"b.test", number=3)]
    queries = query(b"slow.test", number=2), QUERY, query(b"b.test", number=3)
    protocol.parse(make_slots(_stream(*queries, told=told)))
    late = protocol.parse(protocol.overdue(LATER * 2))
    assert (len(late.rows), late.error.tolist(), late.truncated.tolist()) == (1, [False], [True])
    assert _column(late, "error.type") == [None]


@pytest.mark.parametrize("other", [{}, {"pid": 5}, {"remote_address": np.full(16, 9, np.uint8)}])
def test_who_goes_on_by_a_stream_reads_no_other_datagram(other: dict[str, Any]) -> None:
    """The C library asks for A and AAAA; the first answer is truncated: the other one is not lost.

    As long as the same process asks the same server the same.
    """
    protocol = PROTOCOL()
    both = QUERY, query(NAME, wire.AAAA, 2)
    cut, told = response(NAME, flags=0x8380), [RESPONSE, response(NAME, kind=wire.AAAA, number=2)]
    datagrams = [asked(both[0], START), asked(both[1], START + 1), answered(cut, START + 2)]
    stamps = {"request_first_ns": START + 9, "request_last_ns": START + 9, "cookie": 2}
    protocol.parse(make_slots(*datagrams, _stream(*both, told=told, **stamps, **other)))
    late = protocol.parse(protocol.overdue(LATER * 2))
    assert _lines(late) == [("DNS Query: AAAA www.example.org", None)]
    assert late.error.tolist() == [bool(other)]


def test_queries_out_of_sight_are_counted_by_their_mean_size() -> None:
    """A load tool sends hundreds before it reads: what has no room is shown without a name, and marked."""
    protocol = PROTOCOL()
    queries = [query(b"n%03d.test" % number, number=number) for number in range(100)]
    told = [response(b"n%03d.test" % number, ADDRESS, number=number) for number in range(100)]
    parsed = protocol.parse(make_slots(_stream(*queries, told=told)))
    assert len(parsed.rows) == 100
    assert Counter(parsed.truncated.tolist()) == {False: 3, True: 97}
    assert not parsed.error.any()
    assert _lines(parsed)[-1] == ("DNS Query: ? ?", "DNS Response: …")
    assert not len(protocol.overdue(LATER * 2))


def test_what_a_stream_claims_to_hide_is_bounded() -> None:
    """Sizes are the sender's: gigabytes behind a query are no million of rows."""
    slots = np.resize(make_slots(_stream(QUERY, told=[RESPONSE])), 500)
    slots["cookie"] = np.arange(500)
    slots["request_bytes"] = slots["response_bytes"] = 1 << 40
    assert len(PROTOCOL().parse(slots).rows) <= 500 + (1 << 16)


def test_a_query_in_flight_is_shown_and_changes_nothing() -> None:
    """Its turn comes again."""
    protocol = PROTOCOL()
    parsed = protocol.parse(make_slots(turn(_framed(QUERY), kind=Kind.OPEN, remote_port=53)))
    assert _lines(parsed) == [("DNS Query: A www.example.org", None)]
    assert parsed.still_open is not None
    assert parsed.still_open.all()
    assert not len(protocol.overdue(LATER * 2))
    parsed = protocol.parse(make_slots(turn(_framed(QUERY), _framed(RESPONSE))))
    assert len(parsed.rows) == 1


def test_unanswered_queries_of_streams_are_overdue_by_themselves() -> None:
    """Each of them comes back as a turn that is just the one."""
    protocol = PROTOCOL()
    protocol.parse(make_slots(turn(_framed(query(b"a.test"), query(b"b.test", number=2)))))
    due = protocol.overdue(LATER)
    assert _lines(protocol.parse(due)) == [
        ("DNS Query: A a.test", None),
        ("DNS Query: A b.test", None),
    ]
    assert due["request_bytes"].tolist() == [len(query(b"a.test")) + 2] * 2


def test_a_response_without_a_question_is_known_by_its_id() -> None:
    """A server that could not read the query says FORMERR and repeats nothing."""
    parsed = PROTOCOL().parse(
        make_slots(asked(query(NAME, number=77)), answered(b"\0\x4d\x80\1" + bytes(8), START + 10))
    )
    assert _lines(parsed) == [("DNS Query: A www.example.org", "DNS Response: FORMERR")]
    assert parsed.error.tolist() == [True]


@pytest.mark.parametrize(
    ("message", "text"),
    [
        (query(b"example.org", wire.AAAA), "DNS Query: AAAA example.org"),
        (query(b""), "DNS Query: A ."),
        (query(b"MiXed.Example"), "DNS Query: A MiXed.Example"),
        (query(b"x", 65280), "DNS Query: TYPE65280 x"),
        (query(b"zone.test", 6, flags=0x2400), "DNS Notify: SOA zone.test"),
        (query(b"a b\\c", 255), "DNS Query: ANY a\\032b\\\\c"),
        (query(b"\x1b[31m"), "DNS Query: A \\027[31m"),
        (response(b"x", ADDRESS, ADDRESS), "DNS Response: NOERROR 2 answers"),
        (response(b"x", code=3), "DNS Response: NXDOMAIN"),
        (response(b"x", flags=0x8380), "DNS Response: NOERROR 0 answers, truncated"),
        (response(b"x", code=12), "DNS Response: RCODE12"),
    ],
)
def test_messages_are_shown_in_words(message: bytes, text: str) -> None:
    """Names in RFC 1035's presentation form, as they were sent; nothing of them can disturb a terminal."""
    slots = [asked(message)]
    if message[2] & 0x80:
        slots = [asked(query(b"x")), answered(message)]
    (line,) = _lines(PROTOCOL().parse(make_slots(*slots)))
    assert (line[0] if line[1] is None else line[1]) == text


def test_edns_extends_the_code() -> None:
    """The OPT record has its upper bits."""
    message = bytearray(response(b"x"))
    message[11] = 1
    message += b"\0\0\x29\x04\xd0\1\0\0\0\0\0"
    parsed = PROTOCOL().parse(make_slots(asked(query(b"x")), answered(bytes(message))))
    assert (_column(parsed, "dns.response_code"), parsed.error.tolist()) == (["BADVERS"], [True])


def test_compressed_names_are_followed_backwards_only() -> None:
    """A pointer to itself or ahead would go on for ever."""
    looped = query(b"x")[:12] + b"\xc0\x0c\0\1\0\1"
    ahead = query(b"x")[:12] + b"\xc0\x0e\1x\0\0\1\0\1"
    assert read_message(looped) is None
    assert read_message(ahead) is None
    owner = record(b"\7example\xc0\x0c", wire.CNAME)
    shown = read_message(response(b"alias.test", owner, ADDRESS))
    assert shown is not None
    assert shown.end == len(response(b"alias.test", owner, ADDRESS))


@pytest.mark.parametrize("length", range(len(RESPONSE)))
def test_cut_messages_show_what_is_there(length: int) -> None:
    """The payload prefix may end anywhere."""
    shown = read_message(RESPONSE[:length])
    if length < 12:
        assert shown is None
        return
    assert shown is not None
    assert (shown.code, shown.answers, shown.end) == (0, 1, CUT)
    whole_question = length >= len(response(NAME))
    assert shown.name == ("www.example.org" if whole_question else None)
    assert not shown.addresses


def test_addresses_are_learnt_with_their_names() -> None:
    """Under the name that was asked for, as long as its aliases and the address hold; only what was asked."""
    protocol = PROTOCOL()
    answer = response(
        NAME,
        record(b"\4real\xc0\x10", wire.CNAME, ttl=30),
        record(bytes((192, 0, 2, 9)), ttl=300, name=b"\xc0\x2d"),
        number=5,
    )
    six = response(NAME, record(bytes(15) + b"\1", wire.AAAA, ttl=7), kind=wire.AAAA, number=6)
    protocol.parse(
        make_slots(
            asked(query(NAME, number=5)),
            asked(query(NAME, wire.AAAA, number=6)),
            answered(answer, START + 100),
            answered(six, START + 200),
            answered(response(b"spoofed.test", ADDRESS, number=8), START + 300),
        )
    )
    assert protocol.take_names() == [
        ("192.0.2.9", "www.example.org", START + 100 + 30_000_000_000),
        ("::1", "www.example.org", START + 200 + 7_000_000_000),
    ]
    assert protocol.take_names() == []


def test_names_nobody_takes_are_bounded() -> None:
    """The oldest are dropped, and counted."""
    protocol = PROTOCOL()
    for number in range(500):
        name, records = (
            b"n%d.test" % number,
            [record(number.to_bytes(3, "big") + b"%c" % last) for last in range(10)],
        )
        protocol.parse(make_slots(asked(query(name)), answered(response(name, *records))))
    assert protocol.evicted == 5000 - 4096
    taken = protocol.take_names()
    assert (len(taken), taken[-1][1]) == (4096, "n499.test")


# --- recognition


def _scores(*turns: dict[str, object]) -> list[int]:
    return list(map(int, PROTOCOL().recognise(make_slots(*turns))))


def test_messages_are_recognised_on_any_port() -> None:
    """By their content, both directions, datagrams and streams."""
    udp: dict[str, Any] = {"transport": Transport.UDP, "remote_port": 999}
    assert (
        _scores(
            asked(QUERY, remote_port=999),
            answered(RESPONSE, remote_port=999),
            asked(query(NAME, edns=True), remote_port=999),
            turn(QUERY, **udp),
            turn(QUERY, RESPONSE, **udp),
            turn(_framed(QUERY), _framed(RESPONSE)),
            turn(_framed(QUERY, query(b"b.test", number=2)), _framed(response(b"b.test", number=2))),
            turn(_framed(QUERY)),
            turn(_framed(QUERY, query(b"b.test", number=2)), _framed(response(b"c.test", number=2))),
        )
        == [LIKELY] * 7 + [POSSIBLE] * 2
    )


@pytest.mark.parametrize("port", [137, 5353, 5355])
def test_namesakes_are_not_recognised(port: int) -> None:
    """NetBIOS, mDNS and LLMNR have the same format and other rules: no id, no response, no server."""
    assert _scores(
        asked(QUERY, remote_port=port),
        turn(QUERY, RESPONSE, transport=Transport.UDP, local_port=port),
    ) == [0, 0]


@pytest.mark.parametrize(
    "message",
    [
        QUERY[:-1],
        QUERY + b"\0",
        query(NAME)[:-2] + b"\0\7",
        query(NAME, flags=0x0140),
        query(NAME, flags=0x0180),
        query(NAME, flags=0x0103),
        query(NAME, flags=0x7900),
        query(NAME, flags=0x2900),
        RESPONSE + b"\0",
        response(NAME, ADDRESS, code=11),
        response(NAME, ADDRESS[:-1]),
        b"\0\1\1\0\0\1\0\0\0\0\0\0" + b"\x40" + b"a" * 64 + b"\0\0\1\0\1",
        QUERY[:4] + b"\0\2" + QUERY[6:],
    ],
)
def test_what_is_nearly_a_message_is_none(message: bytes) -> None:
    """Every field has to have a value that is in use, and the end has to be the end."""
    assert _scores(asked(message)) == [0]
    assert _scores(turn(message, RESPONSE, transport=Transport.UDP)) == [0]


_ZONE, _NEW = query(b"zone.test", 6, flags=0x2800), record(b"\xc0\0\2\1", name=b"\3new\xc0\x0c")


@pytest.mark.parametrize(
    "message",
    [
        query(NAME, 300),
        query(b"My printer\x80._ipp._tcp.example.org"),
        _ZONE[:8] + b"\0\1" + _ZONE[10:] + _NEW,
        response(NAME, ADDRESS, flags=0xA880),
    ],
    ids=["unknown type", "name of a service", "update", "updated"],
)
def test_what_is_rare_is_recognised_on_its_port(message: bytes) -> None:
    """There it is no stranger's; elsewhere it fits too little."""
    assert _scores(asked(message)) == [LIKELY]
    assert _scores(turn(_framed(message), remote_port=53)) == [0 if message[2] & 0x80 else POSSIBLE]
    assert _scores(asked(message, remote_port=999), turn(_framed(message), remote_port=999)) == [0, 0]


@pytest.mark.parametrize("other", [b"HTTP/1.1 200 OK\r\n\r\n", response(b"x")[2:], QUERY])
def test_an_answer_of_somebody_else_is_not_mine(other: bytes) -> None:
    """A request that fits and a response that does not."""
    assert _scores(turn(_framed(QUERY), other), turn(QUERY, other, transport=Transport.UDP)) == [0, 0]


def test_random_bytes_are_not_mistaken() -> None:
    """Neither as datagrams nor as streams."""
    noise = random.Random(5)  # noqa: S311  # not for secrets
    turns = [asked(noise.randbytes(noise.randrange(1, 120))) for _ in range(20_000)]
    turns += [turn(noise.randbytes(60), noise.randbytes(60)) for _ in range(20_000)]
    assert not PROTOCOL().recognise(make_slots(*turns)).any()


# --- against the reference

_NAMES = st.sampled_from(
    [b"a.test", b"A.test", b"b.test", b"", b"x\\.y", b"long-label-of-a-name.example.org"]
)
_RECORDS = st.sampled_from(
    [
        ADDRESS,
        record(bytes(range(16)), wire.AAAA, 5),
        record(b"\1c\xc0\x0c", wire.CNAME, 3),
        wire.OPT,
        b"\0\0\x29\4\xd0\2\0\0\0\0\0",
        edns(b"\0\x0a\0\2ab\0\x0f\0\2\0\3"),
        edns(b"\0\x0f\0\6\0\1told"),
        edns(b"\0\x0f\0\1\0\0\x0f\0\2\1\0"),
        edns(b"\0\x0f\0\6\0\1cut"),
        edns(b"\0\1\0\0" * 16 + b"\0\x0f\0\2\0\3"),
        record(b"", 99, name=b"\1z\0"),
        record(b"short", wire.A),
    ]
)
_KINDS = st.sampled_from([1, 28, 5, 255, 300])
_NUMBERS = st.integers(0, 2)


@st.composite
def _messages(draw: st.DrawFn) -> bytes:
    name, kind, number = draw(_NAMES), draw(_KINDS), draw(_NUMBERS)
    if draw(st.booleans()):
        data = query(
            name, kind, number, edns=draw(st.booleans()), flags=draw(st.sampled_from([0x100, 0x2400, 0]))
        )
    else:
        records = draw(st.lists(_RECORDS, max_size=3))
        code = draw(st.sampled_from([0, 0, 2, 3, 12]))
        data = response(name, *records, kind=kind, number=number, code=code)
    change = draw(st.sampled_from(["none"] * 6 + ["cut", "byte", "bare", "two"]))
    if change == "cut":
        return data[: draw(st.integers(0, len(data)))]
    if change == "byte":
        place = draw(st.integers(0, len(data) - 1))
        return data[:place] + bytes([draw(st.integers(0, 255))]) + data[place + 1 :]
    if change == "bare":
        return data[:4] + bytes(8)
    if change == "two":
        return data[:4] + b"\0\2" + data[6:]
    return data


@st.composite
def _slots(draw: st.DrawFn) -> dict[str, object]:
    at = START + draw(st.integers(0, 40)) * 250_000_000
    cookie, port = draw(st.integers(1, 3)), draw(st.sampled_from([53, 53, 54, 0]))
    role = Role.SERVER if cookie == 3 else Role.CLIENT  # a socket has one
    what = draw(st.sampled_from(["asked", "asked", "answered", "answered", "udp", "tcp", "failed"]))
    fields: dict[str, Any] = {"cookie": cookie, "remote_port": port, "role": role}
    if what in {"asked", "answered"}:
        # Failures are of what is asked, and of clients; what is certain or not read, of what comes.
        flags = [0, 0, Flag.WATCHED, Flag.FAILED if role == Role.CLIENT else 0]
        flags = flags if what == "asked" else [0, 0, Flag.WATCHED, Flag.WATCHED | Flag.UNREAD]
        fields["flags"] = draw(st.sampled_from(flags))
        fields["error"] = draw(st.sampled_from([1, 111]))
        return (asked if what == "asked" else answered)(draw(_messages()), at, **fields)
    if what == "failed":
        failed = {"flags": Flag.FAILED, "error": draw(st.sampled_from([111, 113])), "role": Role.CLIENT}
        return answered(b"", at, **fields | failed)
    sides = [b"".join(draw(st.lists(_messages(), max_size=3))) for _ in range(2)]
    if what == "tcp":
        sides = [_framed(*draw(st.lists(_messages(), max_size=8))) for _ in range(2)]
    kind = draw(st.sampled_from([Kind.TURN, Kind.TURN, Kind.OPEN]))
    stamps = {name: at + step for step, name in enumerate(("request_first_ns", "request_last_ns"))}
    stamps |= {name: at + 9 + step for step, name in enumerate(("response_first_ns", "response_last_ns"))}
    transport = Transport.UDP if what == "udp" else Transport.TCP
    fields["flags"] = draw(st.sampled_from([0, 0, Flag.CLOSED, Flag.CONTINUED]))
    fields |= {**stamps, "kind": kind, "transport": transport, "queue_ns": draw(_NUMBERS)}
    return turn(sides[0], sides[1], **fields)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.lists(_slots(), max_size=6), max_size=4), st.sampled_from([0, 4]))
def test_columns_show_what_the_reference_shows(batches: list[list[dict[str, object]]], few: int) -> None:
    """Whatever the messages, their order, their ids, how they are cut and batched, and how they are read."""
    check_equal([make_slots(*batch) for batch in batches], few)


def _looked_at(messages: list[bytes], few: int) -> list[tuple[object, ...]]:
    """Return what a reader tells of datagrams, id, key and addresses included."""
    told, names, addresses, remarks = Reader(few).look(make_slots(*map(asked, messages)))
    shown: list[tuple[object, ...]] = []
    for row, (one, name) in enumerate(zip(told, names.some(np.arange(len(told))), strict=True)):
        mine = addresses[addresses["place"] == row]
        fields = tuple(one[field].item() for field in MESSAGE.names or () if field not in {"place", "row"})
        learnt = [(bytes(found["packed"]), bool(found["six"]), int(found["ttl"])) for found in mine]
        shown.append((fields, name, learnt, remarks.get(row)) if one["valid"] else ())
    return shown


@settings(max_examples=500, deadline=None)
@given(st.lists(st.binary(max_size=80) | _messages(), min_size=1, max_size=8))
def test_a_glance_tells_what_reading_does(messages: list[bytes]) -> None:
    """Of each message, whatever the others at which one looks at the same time."""
    assert _looked_at(messages, 0) == _looked_at(messages, 1 << 20)


_LONG = b".".join([b"a" * 63] * 3)
_LABELS = b".".join([b"a"] * 127)
_ALIAS = record(b"\1c\xc0\x0c", wire.CNAME, 3)


@pytest.mark.parametrize(
    "message",
    [
        query(_LONG + b"." + b"a" * 61),
        query(_LONG + b"." + b"a" * 62),
        query(_LABELS),
        query(_LABELS + b".a"),
        query(b"a")[:12] + b"\x3f" + b"a" * 40,
        query(b"a")[:12] + b"\1a" * 130,
        query(b"a")[:12] + b"\1a\xc0\x0c\0\1\0\1",
        query(b"a\x2eb\\"),
        query(b"with space.test"),
        query(b"nul\0.test"),
        query(NAME)[:-1],
        response(NAME, *[ADDRESS] * 12),
        response(NAME, *[record(b"", 99, name=b"\0")] * 25),
        response(NAME, ADDRESS, _ALIAS, ADDRESS, record(bytes(range(16)), wire.AAAA, 2), _ALIAS, ADDRESS),
        response(NAME, ADDRESS)[:-1],
        response(NAME, ADDRESS)[:-5],
        response(NAME, record(b"1234", name=b"\3www\4host\xc0\x10")),
        response(NAME, record(b"1234", name=b"\x40bad\0")),
        response(NAME, ADDRESS, record(b"1234", name=b"\x80")),
        response(NAME, record(b"1234", name=b"\1a" * 127 + b"\0")),
        response(NAME, record(b"1234", name=b"\1a" * 128 + b"\0")),
        response(NAME, record(b"12345"), record(b"123456789012345", wire.AAAA)),
        response(NAME) + wire.OPT,
        response(NAME)[:6] + b"\1\1" + response(NAME)[8:],
        b"",
        QUERY[:11],
    ],
)
def test_what_is_built_to_confuse_is_read_as_ever(message: bytes) -> None:
    """Long names, names without an end, records that lie: between others, and last, where the bytes end."""
    messages = [QUERY, message, RESPONSE, message]
    assert _looked_at(messages, 0) == _looked_at(messages, 1 << 20)
    assert sorted(_looked_at(messages, 0)[1:2]) == sorted(_looked_at([message], 0))


def test_most_messages_are_told_by_a_glance(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing is read one by one of what resolvers send, however new the names."""
    monkeypatch.setattr(Reader, "_read", None)
    messages = [query(b"n%d.test" % number, edns=number % 2 > 0) for number in range(100)]
    messages += [response(b"n%d.test" % number, ADDRESS, _ALIAS) for number in range(100)]
    messages.append(response(NAME)[:9] + b"\1" + response(NAME)[10:] + record(bytes(30), 6, name=b"\xc0\x10"))
    assert Reader().look(make_slots(*map(asked, messages)))[0]["valid"].all()


def test_of_an_address_the_latest_name_counts() -> None:
    """An address that many names have is handed over once."""
    slots = [answered(response(b"n%d.test" % number, ADDRESS), START + number) for number in range(200)]
    slots += [asked(query(b"n%d.test" % number), START - 1000) for number in range(200)]
    protocol = PROTOCOL()
    protocol.parse(make_slots(*slots))
    assert protocol.take_names() == [("192.0.2.1", "n199.test", START + 199 + 60_000_000_000)]


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=80) | _messages())
def test_reader_equals_the_reference(data: bytes) -> None:
    """One message, byte by byte the same."""
    ours, theirs = read_message(data), read(data)
    assert (ours is None) == (theirs is None)
    if ours is None or theirs is None:
        return
    assert (ours.response, ours.name, ours.truncated) == (theirs.response, theirs.name, theirs.cut)
    assert (None if ours.end == CUT else ours.end) == theirs.end
    addresses = [(str(ipaddress.ip_address(address)), ttl) for address, ttl in ours.addresses]
    assert addresses == [(str(ipaddress.ip_address(address)), ttl) for address, ttl in theirs.addresses]
