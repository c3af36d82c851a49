"""The rules of the HTTP/1 parser: named captures, connections over several turns, and its reference."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masdeepflow.columns import row_hash
from masdeepflow.protocols.base import CERTAIN, POSSIBLE
from masdeepflow.protocols.http import PROTOCOL, pairing
from masdeepflow.schema import ATTRIBUTES, Flag, Kind, Role
from masdeepflow.table import ABSENT, Encoded
from tests.fuzz.fuzz_http import check
from tests.support.slots import MILLISECOND, START, cut, make_slots, turn
from tests.unit.protocols.http_reference import check_equal, rows_of, values

GET = b"GET / HTTP/1.1\r\nHost: a\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"
ROOM = make_slots(turn())["request"].shape[1]
RESPONSE_ROOM = make_slots(turn())["response"].shape[1]

Row = dict[str, Any]


def parse(*turns: dict[str, object], parser: PROTOCOL | None = None) -> list[Row]:
    """Parse turns as one batch; return each transaction's columns by name, absent ones left out."""
    slots = make_slots(*turns)
    parsed = (parser or PROTOCOL()).parse(slots)
    names = ["row", "request", "response", "error", "truncated", *parsed.attributes]
    names += ["request_first_ns", "queue_ns", "request_bytes", "response_bytes", "response_first_ns"]
    rows = [dict(zip(names, row, strict=False)) for row in rows_of(slots, parsed)]
    return [{name: value for name, value in row.items() if value not in (None, ABSENT)} for row in rows]


def one(request: bytes, response: bytes, **fields: object) -> Row:
    """Parse one turn that must give one transaction."""
    (row,) = parse(turn(request, response, **fields))
    return row


def hashed(slots: np.ndarray) -> np.ndarray:
    """Return the slots with the payload hashes that the kernel side would have given them."""
    for side in ("request", "response"):
        lengths = slots[f"{side}_length"]
        slots[f"{side}_hash"] = np.where(lengths > 0, row_hash(slots[side], lengths) | np.uint64(1), 0)
    return slots


def shown(rows: list[Row]) -> list[tuple[str | None, int | None]]:
    """Return path and status of each transaction."""
    return [(row.get("url.path"), row.get("http.response.status_code")) for row in rows]


def score(request: bytes, response: bytes = b"", **fields: object) -> int:
    """Return the score of one turn."""
    return int(PROTOCOL().recognise(make_slots(turn(request, response, **fields)))[0])


def test_attributes_are_declared_in_order() -> None:
    """Attributes are those of the schema, in its order, strings encoded and the status an int64 column."""
    parsed = PROTOCOL().parse(make_slots(turn(GET, OK)))
    assert list(parsed.attributes) == [name for name in ATTRIBUTES if name in parsed.attributes]
    for name, column in parsed.attributes.items():
        assert isinstance(column, Encoded) == (ATTRIBUTES[name].type == "string")
    status = parsed.attributes["http.response.status_code"]
    assert isinstance(status, np.ndarray)
    assert status.dtype == np.int64
    assert parsed.rows.dtype == np.intp
    assert parsed.error.dtype == parsed.truncated.dtype == bool


def test_empty_batch() -> None:
    """No turns give no transactions."""
    parser, empty = PROTOCOL(), make_slots(turn())[:0]
    assert len(parser.parse(empty).rows) == 0
    assert len(parser.recognise(empty)) == 0


CAPTURES: list[tuple[str, bytes, bytes, Row]] = [
    (
        "browser",
        b"GET /path/a%20b?x=1&y=2 HTTP/1.1\r\nHost: example.com:8080\r\nUser-Agent: curl/8.5.0\r\n\r\n",
        b"HTTP/1.1 301 Moved Permanently\r\nLocation: /\r\nContent-Length: 0\r\n\r\n",
        {
            "request": "HTTP Request: GET /path/a%20b?x=1&y=2 HTTP/1.1",
            "response": "HTTP Response: HTTP/1.1 301 Moved Permanently",
            "http.request.method": "GET",
            "url.path": "/path/a%20b",
            "url.query": "x=1&y=2",
            "http.response.status_code": 301,
            "network.protocol.version": "1.1",
            "server.name": "example.com:8080",
            "user_agent.original": "curl/8.5.0",
            "error": False,
            "truncated": False,
        },
    ),
    (
        "any token is a method",
        b"M-SEARCH!#$%&'*+.^_`|~09az /x HTTP/1.1\r\n\r\n",
        OK,
        {"http.request.method": "M-SEARCH!#$%&'*+.^_`|~09az"},
    ),
    ("version 1.0 without host", b"GET / HTTP/1.0\r\n\r\n", OK, {"network.protocol.version": "1.0"}),
    ("reason may be empty", GET, b"HTTP/1.1 200 \r\n\r\n", {"response": "HTTP Response: HTTP/1.1 200"}),
    ("reason may be missing", GET, b"HTTP/1.1 200\r\n\r\n", {"response": "HTTP Response: HTTP/1.1 200"}),
    (
        "lone LF ends lines",
        b"GET /lf HTTP/1.1\nHost: b\nUser-Agent: u\n\n",
        b"HTTP/1.0 404 Not Found\nServer: x\n\nbody",
        {"url.path": "/lf", "server.name": "b", "user_agent.original": "u", "http.response.status_code": 404},
    ),
    ("empty lines before the request", b"\r\n\r\n" + GET, OK, {"url.path": "/", "truncated": False}),
    ("empty line behind the body", GET + b"\r\n", OK, {"url.path": "/", "truncated": False}),
    ("header names ignore case", b"GET / HTTP/1.1\r\nhOST:\t h \r\n\r\n", OK, {"server.name": "h"}),
    ("first of repeated headers", b"GET / HTTP/1.1\r\nHost: 1\r\nHost: 2\r\n\r\n", OK, {"server.name": "1"}),
    (
        "absolute-form",
        b"GET http://proxy.example:81/p?q HTTP/1.1\r\n\r\n",
        OK,
        {"url.path": "/p", "url.query": "q", "server.name": "proxy.example:81"},
    ),
    (
        "absolute-form without path",
        b"GET http://h?q=/ HTTP/1.1\r\n\r\n",
        OK,
        {"url.path": "/", "url.query": "q=/"},
    ),
    (
        "host header before the target's authority",
        b"GET http://a/ HTTP/1.1\r\nHost: b\r\n\r\n",
        OK,
        {"server.name": "b"},
    ),
    ("asterisk-form", b"OPTIONS * HTTP/1.1\r\nHost: a\r\n\r\n", OK, {"url.path": "*"}),
    (
        "url in the query",
        b"GET /go?to=http://b/c HTTP/1.1\r\n\r\n",
        OK,
        {"url.path": "/go", "url.query": "to=http://b/c"},
    ),
    (
        "HEAD",
        b"HEAD /h HTTP/1.1\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n",
        {"url.path": "/h"},
    ),
    ("no content", GET, b"HTTP/1.1 204 No Content\r\n\r\n", {"http.response.status_code": 204}),
    (
        "early hints",
        GET,
        b"HTTP/1.1 103 Early Hints\r\nLink: <a>\r\n\r\n" + OK,
        {"http.response.status_code": 200},
    ),
    (
        "body that looks like a request",
        b"POST /log HTTP/1.1\r\nContent-Length: 54\r\n\r\n" + 2 * GET,
        OK,
        {"url.path": "/log", "request_bytes": 96, "truncated": False},
    ),
    (
        "chunk that looks like a request",
        b"POST /c HTTP/1.1\r\nTransfer-Encoding: gzip, Chunked\r\n\r\n1b;x=y\r\n"
        + GET
        + b"\r\n0\r\nA: b\r\n\r\n",
        OK,
        {"url.path": "/c", "truncated": False},
    ),
    (
        "body beyond the prefix",
        b"PUT /big HTTP/1.1\r\nContent-Length: 5000\r\n\r\n" + 5000 * b"x",
        OK,
        {"url.path": "/big", "truncated": False, "request_bytes": 5043},
    ),
    (
        "head beyond the prefix",
        b"GET /cookies HTTP/1.1\r\nUser-Agent: u\r\nCookie: " + 4000 * b"c" + b"\r\nHost: late\r\n\r\n",
        OK,
        {"url.path": "/cookies", "user_agent.original": "u", "truncated": False},
    ),
    (
        "a megabyte of header line",
        b"GET / HTTP/1.1\r\nX: " + (1 << 20) * b"y" + b"\r\n\r\n",
        OK,
        {"url.path": "/", "request_bytes": (1 << 20) + 23},
    ),
    (
        "invalid UTF-8",
        b"GET /\xff\xfe?\xc3\x28 HTTP/1.1\r\nHost: \x80\r\n\r\n",
        b"HTTP/1.1 200 \xff\r\n\r\n",
        {
            "url.path": "/\\xff\\xfe",
            "url.query": "\\xc3(",
            "server.name": "\\x80",
            "response": "HTTP Response: HTTP/1.1 200 \\xff",
        },
    ),
    ("UTF-8", "GET /grüße HTTP/1.1\r\n\r\n".encode(), OK, {"url.path": "/grüße"}),
    (
        "terminal escapes stay raw for the sinks to escape",
        b"GET / HTTP/1.1\r\nUser-Agent: \x1b[2J\x07\r\n\r\n",
        b"HTTP/1.1 200 \x1b[31mred\r\n\r\n",
        {"user_agent.original": "\x1b[2J\x07", "response": "HTTP Response: HTTP/1.1 200 \x1b[31mred"},
    ),
    ("not a number as length", b"POST / HTTP/1.1\r\nContent-Length: 1x\r\n\r\n", OK, {"truncated": False}),
    (
        "length beyond 64 bits",
        b"POST / HTTP/1.1\r\nContent-Length: " + 40 * b"9" + b"\r\n\r\n",
        OK,
        {"url.path": "/"},
    ),
    (
        "chunk size beyond 64 bits",
        b"POST / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + 40 * b"f" + b"\r\n",
        OK,
        {},
    ),
    ("response that is none", GET, b"+OK\r\n", {"url.path": "/", "truncated": False}),
    ("status of two digits", GET, b"HTTP/1.1 20\r\n\r\n", {"url.path": "/", "truncated": False}),
]


@pytest.mark.parametrize(
    ("request_", "response", "expected"), [case[1:] for case in CAPTURES], ids=[c[0] for c in CAPTURES]
)
def test_captures(request_: bytes, response: bytes, expected: Row) -> None:
    """One turn of one request is one transaction, with what its heads say."""
    row = one(request_, response)
    assert {name: row.get(name) for name in expected} == expected


def test_absent_attributes() -> None:
    """A query, a Host or a User-Agent that is not there, or not whole within the prefix, is absent."""
    row = one(b"GET /? HTTP/1.1\r\nHost:\r\nUser-Agent: " + ROOM * b"u" + b"\r\n\r\n", OK)
    assert not {"url.query", "server.name", "user_agent.original"} & row.keys()


def test_connect_has_no_path() -> None:
    """A CONNECT names an authority, no path; rejected it leaves the connection HTTP."""
    slots = make_slots(
        turn(b"CONNECT db:443 HTTP/1.1\r\n\r\n", b"HTTP/1.1 407 No\r\nContent-Length: 0\r\n\r\n")
    )
    parsed = PROTOCOL().parse(slots)
    assert values(parsed.attributes["url.path"]) == [None]
    assert values(parsed.attributes["server.name"]) == ["db:443"]
    assert parsed.opaque == []


@pytest.mark.parametrize(
    "request_", [b"GET /" + 9999 * b"a", b"GET /" + (ROOM - 9) * b"a" + b" HTTP/1.1\r\n\r\n"]
)
def test_cut_request_line(request_: bytes) -> None:
    """A request line cut at the payload limit ends in an ellipsis; the response tells its version."""
    row = one(request_, OK)
    visible = request_[:ROOM].decode()
    assert row["request"] == f"HTTP Request: {visible}…"
    assert row["truncated"]
    assert row["url.path"] == visible.split(" ")[1]
    assert row["network.protocol.version"] == "1.1"


def test_cut_status_line() -> None:
    """A status line cut at the payload limit ends in an ellipsis and is truncated."""
    row = one(GET, b"HTTP/1.1 200 " + 999 * b"r")
    assert row["response"] == "HTTP Response: HTTP/1.1 200 " + (RESPONSE_ROOM - 13) * "r" + "…"
    assert row["truncated"]


@pytest.mark.parametrize(
    ("role", "status", "error"),
    [
        (Role.SERVER, 404, False),
        (Role.SERVER, 500, True),
        (Role.CLIENT, 399, False),
        (Role.CLIENT, 404, True),
    ],
)
def test_error_by_role(role: Role, status: int, *, error: bool) -> None:
    """Servers fail with 5xx, clients with 4xx too (OpenTelemetry semantic conventions)."""
    assert one(GET, b"HTTP/1.1 %d X\r\n\r\n" % status, role=role)["error"] is error


def test_unanswered() -> None:
    """A request whose connection was closed before any response byte is an error without a response."""
    row = one(GET, b"", flags=Flag.CLOSED)
    assert row["error"]
    assert "response" not in row
    assert not one(GET, b"")["error"]


def test_response_whose_bytes_were_not_read() -> None:
    """A response that came but could not be read is no error; its transaction is truncated."""
    row = one(GET, OK, response_length=0, flags=Flag.CLOSED | Flag.NO_PAYLOAD)
    assert not row["error"]
    assert row["truncated"]


def test_keep_alive() -> None:
    """Each turn of a connection is a transaction of its own."""
    rows = parse(*[turn(b"GET /%d HTTP/1.1\r\n\r\n" % number, OK) for number in range(5)])
    assert shown(rows) == [(f"/{number}", 200) for number in range(5)]
    assert [row["row"] for row in rows] == list(range(5))


def pipelined(*paths: str) -> bytes:
    """Return short requests, one behind the other."""
    return b"".join(f"GET {path} HTTP/1.1\r\n\r\n".encode() for path in paths)


def test_pipelining() -> None:
    """Every head in the prefix is a transaction, with its own response and its own share of the bytes."""
    not_found = b"HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n"
    rows = parse(turn(pipelined("/a", "/b"), OK + not_found))
    assert shown(rows) == [("/a", 200), ("/b", 404)]
    assert [row["request_bytes"] for row in rows] == [19, 19]
    assert [row["response_bytes"] for row in rows] == [len(OK), len(not_found)]
    assert [row["truncated"] for row in rows] == [False, False]


def test_pipelined_head_response() -> None:
    """The length that a response to HEAD tells is not skipped: no body follows."""
    head = b"HTTP/1.1 200 OK\r\nContent-Length: 999\r\n\r\n"
    rows = parse(turn(b"HEAD /h HTTP/1.1\r\n\r\n" + pipelined("/g"), head + OK))
    assert shown(rows) == [("/h", 200), ("/g", 200)]


@pytest.mark.parametrize("status", [204, 304])
def test_pipelined_response_without_body(status: int) -> None:
    """Nor that of a response that never has a body."""
    empty = b"HTTP/1.1 %d X\r\nContent-Length: 999\r\n\r\n" % status
    assert shown(parse(turn(pipelined("/a", "/b"), empty + OK))) == [("/a", status), ("/b", 200)]


def test_pipelined_chunks() -> None:
    """Chunked bodies are skipped on both sides."""
    chunks = b"Transfer-Encoding: chunked\r\n\r\n5\r\nHTTP/\r\n0\r\n\r\n"
    request = b"POST /p HTTP/1.1\r\n" + chunks + pipelined("/g")
    rows = parse(turn(request, b"HTTP/1.1 200 OK\r\n" + chunks + b"HTTP/1.1 404 No\r\n\r\n"))
    assert shown(rows) == [("/p", 200), ("/g", 404)]


def test_pipelined_responses_beyond_the_prefix() -> None:
    """Requests whose responses lie beyond the prefix have no status; they are truncated and no error."""
    long = b"HTTP/1.1 200 OK\r\nContent-Length: 9000\r\n\r\n" + 9000 * b"x"
    rows = parse(turn(pipelined("/a", "/b"), long + OK, flags=Flag.CLOSED))
    assert shown(rows) == [("/a", 200), ("/b", None)]
    assert [row["truncated"] for row in rows] == [False, True]
    assert not any(row["error"] for row in rows)
    assert [row["response_bytes"] for row in rows] == [len(long), len(OK)]


def test_pipelined_requests_beyond_the_prefix() -> None:
    """Requests beyond the prefix are not guessed at; the last one that is visible is truncated."""
    upload = b"POST /b HTTP/1.1\r\nContent-Length: 900\r\n\r\n" + 900 * b"x"
    rows = parse(turn(pipelined("/a") + upload + GET, OK + OK))
    assert [(row["url.path"], row["truncated"]) for row in rows] == [("/a", False), ("/b", True)]


def test_pipelined_requests_answered_later() -> None:
    """A request known to be unanswered waits for its response, which comes behind the next request."""
    rows = parse(turn(pipelined("/a", "/b"), OK), turn(pipelined("/c"), OK + OK, queue_ns=7))
    assert [(row["row"], row["url.path"]) for row in rows] == [(0, "/a"), (1, "/b"), (1, "/c")]
    assert [row["request_first_ns"] for row in rows] == [START, START, START + 10 * MILLISECOND]


def test_pipelined_responses_in_a_continued_slot() -> None:
    """A waiting request takes its response from a slot that continues its turn and repeats its requests."""
    first = turn(pipelined("/a", "/b"), OK, flags=Flag.IDLE)
    rows = parse(first, turn(pipelined("/a", "/b"), OK, turn=1, flags=Flag.CONTINUED))
    assert [(row["row"], row["url.path"]) for row in rows] == [(0, "/a"), (1, "/b")]
    assert rows[1]["request_bytes"] == 19


def test_pipelined_requests_unanswered_at_the_close() -> None:
    """What waits when its connection is closed is unanswered: an error, with no response stamps."""
    rows = parse(turn(pipelined("/a", "/b"), OK, flags=Flag.CLOSED))
    assert [(row["error"], row["response_first_ns"] > 0) for row in rows] == [(False, True), (True, False)]


def upload(length: int = 1000) -> bytes:
    """Return the head of an upload."""
    return b"PUT /u HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\nExpect: 100-continue\r\n\r\n" % length


def test_100_continue() -> None:
    """A request that is told to continue is one transaction over two turns, timed from its first byte."""
    body = 38 * GET[:-1] + b"x" * 12
    (row,) = parse(turn(upload(), CONTINUE, queue_ns=5), turn(body, OK, queue_ns=9))
    assert (row["row"], row["url.path"], row["http.response.status_code"]) == (1, "/u", 200)
    assert (row["request_first_ns"], row["queue_ns"]) == (START, 5)
    assert row["request_bytes"] == len(upload()) + 1000
    assert row["response_bytes"] == len(CONTINUE) + len(OK)


def test_100_continue_over_batches() -> None:
    """What waits is kept from batch to batch."""
    parser = PROTOCOL()
    assert parse(turn(upload(), CONTINUE), parser=parser) == []
    assert shown(parse(turn(1000 * b"x", OK, turn=2), parser=parser)) == [("/u", 200)]
    assert shown(parse(turn(GET, OK, turn=3), parser=parser)) == [("/", 200)]


def test_100_continue_and_chunks() -> None:
    """A chunked body in a turn of its own is no request."""
    head = b"POST /c HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n"
    assert shown(parse(turn(head, CONTINUE), turn(b"3\r\nabc\r\n0\r\n\r\n", OK))) == [("/c", 200)]


def test_100_continue_then_closed() -> None:
    """A request that never got more than an interim response is unanswered."""
    (row,) = parse(turn(upload(), CONTINUE, flags=Flag.CLOSED))
    assert row["error"]
    assert "response" not in row


def test_early_response() -> None:
    """The rest of an upload that was answered early is no request, even if it looks like one."""
    head = b"PUT /u HTTP/1.1\r\nContent-Length: 100\r\n\r\n"
    rest = 2 * GET + b"y" * (90 - 2 * len(GET))
    rows = parse(turn(head + 10 * b"x", OK), turn(rest + pipelined("/next"), OK))
    assert shown(rows) == [("/u", 200), ("/next", 200)]
    assert rows[1]["request_bytes"] == 22


def test_rest_of_an_upload_alone() -> None:
    """A turn that holds nothing but the rest of an answered upload gives nothing."""
    head = b"PUT /u HTTP/1.1\r\nContent-Length: 100\r\n\r\n"
    rows = parse(turn(head + 10 * b"x", OK), turn(90 * b"x", b"", flags=Flag.CLOSED))
    assert len(rows) == 1


def test_response_that_goes_on_beside_its_request() -> None:
    """Where both bodies go on, one that looks like a status line is no second response."""
    head = b"PUT /echo HTTP/1.1\r\nContent-Length: 100\r\n\r\n"
    assert shown(parse(turn(head + 10 * b"x", OK), turn(90 * b"x", OK))) == [("/echo", 200)]


def test_rest_of_an_upload_of_unknown_length() -> None:
    """Bytes that continue something unseen and get no status line give nothing."""
    head = b"PUT /u HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab"
    assert shown(parse(turn(head, OK), turn(b"cde\r\n0\r\n\r\n", b"", flags=Flag.CLOSED))) == [("/u", 200)]


def test_continued_slots_are_no_transactions() -> None:
    """More response bytes of a turn that was reported give nothing, whatever they look like."""
    rows = parse(turn(GET, OK, flags=Flag.IDLE), turn(GET, OK, turn=1, flags=Flag.CONTINUED | Flag.CLOSED))
    assert len(rows) == 1


def test_lost_turns() -> None:
    """Where slots were lost, what waited is dropped rather than given another request's response."""
    parser = PROTOCOL()
    assert shown(parse(turn(upload(), CONTINUE), turn(GET, OK, turn=5), parser=parser)) == [("/", 200)]
    assert parser._pairing.cookies == []


def test_open_turns() -> None:
    """A turn in flight gives its request, and changes nothing for the turn that follows."""
    parser = PROTOCOL()
    flight = parse(turn(upload(), CONTINUE, kind=Kind.OPEN), turn(upload(), CONTINUE, turn=1), parser=parser)
    assert shown(flight) == [("/u", None)]
    body = turn(1000 * b"x", b"", kind=Kind.OPEN, turn=2)
    assert shown(parse(body, body, parser=parser)) == [("/u", None), ("/u", None)]
    (row,) = parse(turn(1000 * b"x", OK, turn=2), parser=parser)
    assert row["request_bytes"] == len(upload()) + 1000


def test_server_first() -> None:
    """A response that nobody asked for is a transaction without a request."""
    response = b"HTTP/1.1 408 Request Timeout\r\nConnection: close\r\n\r\n"
    row = one(b"", response, flags=Flag.SERVER_FIRST | Flag.CLOSED)
    assert row["response"] == "HTTP Response: HTTP/1.1 408 Request Timeout"
    assert "request" not in row
    assert row["error"]
    assert not row["truncated"]


def test_request_out_of_sight() -> None:
    """A response behind bytes that are no request is counted, without a request."""
    row = one(b"rest of an upload that began before the agent", OK)
    assert not row["truncated"]
    assert "request" not in row
    assert row["http.response.status_code"] == 200


@pytest.mark.parametrize(
    ("request_", "status"),
    [(b"GET /ws HTTP/1.1\r\nUpgrade: websocket\r\n\r\n", 101), (b"CONNECT db:443 HTTP/1.1\r\n\r\n", 200)],
)
def test_opaque(request_: bytes, status: int) -> None:
    """An upgrade and a tunnel are reported; what follows on the connection is not HTTP."""
    slots = make_slots(
        turn(request_, b"HTTP/1.1 %d X\r\n\r\n" % status, cookie=7),
        turn(GET, OK, cookie=7),
        turn(GET, OK, cookie=8),
    )
    parsed = PROTOCOL().parse(slots)
    assert parsed.opaque == [7]
    assert parsed.rows.tolist() == [0, 2]
    assert values(parsed.attributes["http.response.status_code"]) == [status, 200]


def test_opaque_not_while_open() -> None:
    """A turn in flight does not make its connection opaque: the turn comes again."""
    slots = make_slots(turn(GET, b"HTTP/1.1 101 X\r\n\r\n", kind=Kind.OPEN))
    assert PROTOCOL().parse(slots).opaque == []


def test_forget() -> None:
    """Nothing is kept of a forgotten connection."""
    parser = PROTOCOL()
    parse(turn(upload(), CONTINUE, cookie=3), parser=parser)
    parser.forget([3, 4])
    assert parser._pairing.cookies == []


def test_state_is_bounded() -> None:
    """So many connections are kept and no more, the oldest dropped first; so many requests wait on one."""
    parser = PROTOCOL()
    many = range(1, pairing._CONNECTIONS + 101)
    for first in range(1, len(many), 512):
        parse(*[turn(upload(), CONTINUE, cookie=c) for c in many[first - 1 : first + 511]], parser=parser)
    assert len(parser._pairing.cookies) == pairing._CONNECTIONS
    assert min(parser._pairing.cookies) == 101
    assert parser.evicted == 100
    rows = parse(*[turn(pipelined("/a", "/b"), OK, cookie=1) for _ in range(200)], parser=parser)
    kept = parser._pairing._connections[1].waiting
    assert len(kept) <= pairing._WAITING
    assert len(rows) + len(kept) == 400


LONG_TARGET = b"GET /" + 9999 * b"a"

RECOGNISED = {
    "request and response": (GET, OK, CERTAIN),
    "request alone": (GET, b"", CERTAIN),
    "response begun": (GET, b"HTT", CERTAIN),
    "empty line before": (b"\r\n" + GET, OK, CERTAIN),
    "unknown method": (b"FROB /x HTTP/1.0\r\n", b"", CERTAIN),
    "lone LF": (b"GET / HTTP/1.1\n\n", b"", CERTAIN),
    "long line, answered": (LONG_TARGET, OK, CERTAIN),
    "long line, waiting": (LONG_TARGET, b"", POSSIBLE),
    "long line of a proxy": (b"GET http://h/" + 9999 * b"a", b"", POSSIBLE),
    "line in the making": (b"POST /x HTT", b"", POSSIBLE),
    "response alone": (b"", b"HTTP/1.1 408 Request Timeout\r\n\r\n", CERTAIN),
    "rest of a body": (b"\x00\x01 body", OK, POSSIBLE),
    "TLS sent to an HTTP server": (
        b"\x16\x03\x01\x02\x00\x01\x00",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        POSSIBLE,
    ),
}


@pytest.mark.parametrize(("request_", "response", "expected"), RECOGNISED.values(), ids=RECOGNISED)
def test_recognised(request_: bytes, response: bytes, expected: int) -> None:
    """Whole lines are certain, cut ones as good as what answers them."""
    assert score(request_, response) == expected


def test_recognised_with_stale_bytes() -> None:
    """Bytes behind the valid length do not count."""
    slots = make_slots(turn(GET, OK), turn(GET, OK))
    slots["request_length"], slots["response_length"] = (0, 3), (0, 0)
    assert PROTOCOL().recognise(slots).tolist() == [0, 0]


FOREIGN = {
    "RTSP": (b"OPTIONS rtsp://h/s RTSP/1.0\r\nCSeq: 1\r\n\r\n", b"RTSP/1.0 200 OK\r\nCSeq: 1\r\n\r\n"),
    "SIP": (b"INVITE sip:bob@h SIP/2.0\r\nVia: SIP/2.0/UDP h\r\n\r\n", b"SIP/2.0 100 Trying\r\n\r\n"),
    "HTTP/2 preface": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b"\x00\x00\x00\x04\x00\x00\x00\x00\x00"),
    "HTTP/2 preface waiting": (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", b""),
    "HTTP/0.9": (b"GET /\r\n", b"<html></html>"),
    "HTTP/0.9 by name": (b"GET / HTTP/0.9\r\n\r\n", b""),
    "HTTP/1.2": (b"GET / HTTP/1.2\r\n\r\n", b""),
    "redis inline": (b"GET key\r\n", b"$-1\r\n"),
    "redis inline waiting": (b"GET key\r\n", b""),
    "redis inline in the making": (b"GET key", b""),
    "redis with a long key": (b"GET " + 9999 * b"k", b"$-1\r\n"),
    "redis asked for a page": (GET, b"-ERR wrong number of arguments for 'get' command\r\n"),
    "redis": (b"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", b"$-1\r\n"),
    "memcached": (b"get key\r\n", b"END\r\n"),
    "SMTP": (b"EHLO client\r\n", b"250 server\r\n"),
    "SMTP greeting": (b"", b"220 mail ESMTP\r\n"),
    "ICY": (b"SOURCE /mount ICE/1.0\r\n", b"ICY 200 OK\r\n"),
    "ICY answer": (b"GET /mount HTTP/1.0\r\n\r\n", b"ICY 200 OK\r\n"),
    "ICAP": (b"OPTIONS icap://h/s ICAP/1.0\r\n\r\n", b"ICAP/1.0 200 OK\r\n"),
    "TLS": (b"\x16\x03\x01\x02\x00\x01\x00", b"\x16\x03\x03\x00\x7a\x02"),
    "SSH": (b"SSH-2.0-OpenSSH_9.6\r\n", b"SSH-2.0-OpenSSH_9.6\r\n"),
    "MySQL on port 80": (b"\x21\x00\x00\x00\x03SELECT 1", b"\x01\x00\x00\x01\x01"),
    "PostgreSQL": (b"Q\x00\x00\x00\x0dSELECT 1\x00", b"T\x00\x00\x00\x21"),
    "method that is no token": (b"GE(T) / HTTP/1.1\r\n\r\n", b""),
    "two spaces": (b"GET  / HTTP/1.1\r\n\r\n", b""),
    "control character in the target": (b"GET /\x00 HTTP/1.1\r\n\r\n", b""),
    "sentence": (b"the quick brown fox HTTP/1.1\r\n", b""),
    "status without HTTP/1": (b"", b"HTTP/2 200\r\n\r\n"),
    "status that is no number": (b"", b"HTTP/1.1 OK\r\n\r\n"),
    "nothing": (b"", b""),
}


@pytest.mark.parametrize(("request_", "response"), FOREIGN.values(), ids=FOREIGN)
def test_foreign_protocols(request_: bytes, response: bytes) -> None:
    """What is not HTTP/1 is not taken for it."""
    assert score(request_, response) == 0


def test_parsing_is_encoded() -> None:
    """Columns are dictionary-encoded: each distinct value stands once."""
    parsed = PROTOCOL().parse(
        make_slots(*[turn(GET, OK, turn=n) for n in range(9)], turn(GET + b"x", OK, turn=9))
    )
    for column in (parsed.request_text, parsed.response_text, *parsed.attributes.values()):
        if isinstance(column, Encoded):
            assert len(set(column.values)) == len(column.values)
            assert column.codes.dtype == np.int32


def test_what_comes_again_is_known() -> None:
    """New requests are glanced at, the same ones read when they come again, and known from then on."""
    slots = hashed(
        make_slots(*[turn(b"GET /%d HTTP/1.1\r\nHost: h\r\n\r\n" % n, OK, cookie=n) for n in range(4)])
    )
    parser = PROTOCOL(few=1)
    for known in (0, 4, 4):
        parsed = parser.parse(slots)
        assert values(parsed.attributes["url.path"]) == ["/0", "/1", "/2", "/3"]
        assert len(parser._known_requests) == known


METHODS = [b"GET", b"POST", b"PUT", b"HEAD", b"CONNECT", b"OPTIONS", b"frob", b"PRI", b"GE(T)", b""]
TARGETS = [
    b"/",
    b"/a?b=c",
    b"/?",
    b"?q",
    b"*",
    b"h:443",
    b"http://h",
    b"http://h/x?y",
    b"HTTP://?z",
    b"/\xff",
    b"x://",
]
FIELDS = [
    b"Host: h",
    b"host:",
    b"User-Agent: \xc3\xa9 \x1b[1m",
    b"Expect: 100-continue",
    b"Content-Length: 3",
    b"Content-Length: 30",
    b"content-length: 00000000000000000001",
    b"Content-Length: -1",
    b"Transfer-Encoding: chunked",
    b"Transfer-Encoding: chunked, gzip",
    b"no colon",
    b" Host: folded",
]
BODIES = [
    b"",
    b"",
    b"abc",
    b"3\r\nabc\r\n0\r\n\r\n",
    b"3\nabc\n00;x\nT: v\n\n",
    b"fffffffffffffff\r\n",
    GET,
    b"x" * 30,
    b"\r\n",
]
STATUSES = [
    b"200 OK",
    b"200",
    b"204 ",
    b"304 X",
    b"100 Continue",
    b"103 Hints",
    b"101 X",
    b"404 \xff",
    b"500",
    b"99",
    b"2000",
]


def joined(draw: st.DrawFn, start: bytes) -> bytes:
    """Return a head that starts with a line, and a body."""
    line_end = draw(st.sampled_from([b"\r\n", b"\r\n", b"\n"]))
    fields = draw(st.lists(st.sampled_from(FIELDS), max_size=3))
    return line_end.join([start, *fields, b"", b""]) + draw(st.sampled_from(BODIES))


@st.composite
def requests(draw: st.DrawFn) -> bytes:
    """Requests, most of them valid."""
    words = draw(st.sampled_from(METHODS)), draw(st.sampled_from(TARGETS)) * draw(st.sampled_from([1, 1, 20]))
    version = draw(st.sampled_from([b"HTTP/1.1", b"HTTP/1.1", b"HTTP/1.0", b"HTTP/2.0", b""]))
    return joined(draw, b" ".join([*words, version]))


@st.composite
def responses(draw: st.DrawFn) -> bytes:
    """Responses, most of them valid."""
    version = draw(st.sampled_from([b"HTTP/1.1 ", b"HTTP/1.1 ", b"HTTP/1.0 ", b"ICY "]))
    return joined(draw, version + draw(st.sampled_from(STATUSES)))


def streams(messages: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    """One side of a turn: messages one behind the other, cut, mutated, or anything at all."""
    whole = st.lists(messages, max_size=3).map(b"".join)
    parts = st.builds(lambda data, a, b: data[a:b], whole, st.integers(0, 40), st.integers(0, 150))
    mutated = st.builds(
        lambda data, at, new: data[:at] + new + data[at + 1 :],
        whole,
        st.integers(0, 60),
        st.binary(max_size=2),
    )
    return st.one_of(
        whole,
        whole,
        messages,
        parts,
        mutated,
        st.binary(max_size=60),
        st.sampled_from([b"", b"x" * 27, b"\r\n"]),
    )


SIDES = st.one_of(
    st.tuples(streams(requests()), streams(responses())),
    # Turns that leave something for the next, so that it is seldom without a past.
    st.sampled_from(
        [
            (upload(30), CONTINUE),
            (upload(30) + 9 * b"x", OK),
            (21 * b"x", OK),
            (pipelined("/a", "/b"), OK),
            (pipelined("/a", "/b", "/c"), OK[:-1]),
            (b"CONNECT h:1 HTTP/1.1\r\n\r\n" + GET, b""),
        ]
    ),
)
STEPS = st.sampled_from(["turn", "turn", "turn", "open", "continued", "lost"])


@st.composite
def connections(draw: st.DrawFn) -> list[dict[str, object]]:
    """Turns of two connections as the kernel numbers and flags them."""
    turns, numbers = [], {1: 0, 2: 0}
    for _ in range(draw(st.integers(1, 8))):
        cookie, step = draw(st.sampled_from([1, 1, 2])), draw(STEPS)
        numbers[cookie] += {"turn": 1, "lost": 2}.get(step, 0)
        flags = draw(st.sampled_from([0, 0, 0, Flag.IDLE, Flag.CLOSED]))
        turns.append(
            turn(
                *draw(SIDES),
                cookie=cookie,
                turn=numbers[cookie] + (step == "open"),
                kind=Kind.OPEN if step == "open" else Kind.TURN,
                role=draw(st.sampled_from(Role)),
                flags=flags | (Flag.CONTINUED if step == "continued" else 0),
                queue_ns=draw(st.integers(0, 3)),
            )
        )
    return turns


@settings(max_examples=400, deadline=None)
@given(
    turns=connections(),
    split=st.integers(0, 8),
    request=st.sampled_from([24, 64, ROOM]),
    response=st.sampled_from([16, 40, RESPONSE_ROOM]),
)
def test_equals_reference(turns: list[dict[str, object]], split: int, request: int, response: int) -> None:
    """Whatever the turns, the batches and the payload sizes, the columns are those of the reference."""
    slots = cut(make_slots(*turns), request, response)
    check_equal([slots[:split], slots[split:]])
    slots = hashed(slots)
    check_equal([slots[:split], slots[split:]])


@settings(max_examples=100, deadline=None)
@given(turns=connections())
def test_batches_do_not_matter(turns: list[dict[str, object]]) -> None:
    """Turn by turn or all at once, the transactions are the same."""
    slots = make_slots(*turns)
    whole, single = PROTOCOL(), PROTOCOL()
    together = whole.parse(slots)
    if together.opaque:
        return
    apart = [
        row for number in range(len(slots)) for row in rows_of(slots[[number]], single.parse(slots[[number]]))
    ]
    assert [row[1:] for row in rows_of(slots, together)] == [row[1:] for row in apart]


@settings(max_examples=100, deadline=None)
@given(turns=connections())
def test_recognised_requests_are_reported(turns: list[dict[str, object]]) -> None:
    """A turn taken for HTTP by its request alone gives a transaction; any other such turn gives none."""
    slots = make_slots(
        *[{**fields, "response": b"", "flags": Flag.CLOSED, "cookie": n} for n, fields in enumerate(turns)]
    )
    for few in (1, len(slots) + 1):
        scores, parsed = PROTOCOL(few).recognise(slots), PROTOCOL(few).parse(slots)
        assert set(np.flatnonzero(scores)) == set(parsed.rows)


@pytest.mark.parametrize("data", [b"", b"\x00", bytes(range(256)), b"\x01\x02\x00\x03\x04\x00" * 9])
def test_fuzz_harness(data: bytes) -> None:
    """The fuzz harness holds its invariant on a few inputs, so that it does not rot."""
    check(data)


BAD = b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n"
LONG = ROOM * b"x"


@pytest.mark.parametrize(
    ("request_", "response", "truncated"),
    [
        (b"HELLO\r\n\r\n", BAD, False),
        (b"GET / HTTP/9.9\r\nX: " + LONG + b"\r\n\r\n", BAD, False),
        (b"GET  /two-spaces HTTP/1.1\r\n\r\n", BAD, False),
        (b"no line end", BAD, False),
        (LONG + b"x", BAD, True),
        (b"\r\n\r\n" + LONG, BAD, True),
        (GET + b"HELLO\r\n\r\n", OK + BAD, False),
        (GET + b"HELLO\r\n\r\n" + LONG, OK + BAD, False),
        (GET + LONG, OK + BAD, True),
        (b"POST / HTTP/1.1\r\nContent-Length: 300\r\n\r\n" + 300 * b"x" + GET, OK + OK, True),
        (GET, b"HELLO\r\n" + LONG, False),
        (GET, b"HELLO", False),
        (GET, LONG, True),
        (GET + GET, OK + b"HELLO\r\n" + LONG, False),
        (GET + GET, OK + LONG, True),
        (GET + GET, b"HTTP/1.1 200 OK\r\n\r\nto the end", False),
    ],
)
def test_only_what_the_prefix_cuts_is_truncated(request_: bytes, response: bytes, *, truncated: bool) -> None:
    """A line that is visible whole and is none is not truncated: nothing more is to be had of it."""
    slots = make_slots(turn(request_, response, flags=Flag.CLOSED))
    assert parse(turn(request_, response, flags=Flag.CLOSED))[-1]["truncated"] is truncated
    check_equal([slots])
