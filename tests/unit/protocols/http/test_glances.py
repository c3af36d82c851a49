"""What a glance at requests tells is what reading them gives."""

from __future__ import annotations

from operator import attrgetter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masdeepflow.coded import Coded
from masdeepflow.protocols.http.glances import Requests, Unread, glance
from masdeepflow.protocols.http.heads import UNKNOWN, read_request
from masdeepflow.table import ABSENT

WIDTH = 64
LINES = [
    b"GET / HTTP/1.1\r\n",
    b"POST /a?b=c HTTP/1.0\r\n",
    b"OPTIONS * HTTP/1.1\r\n",
    b"DELETE /\xc3\xa9 HTTP/1.1\r\n",
    b"PATCH http://h/ HTTP/1.1\r\n",
    b"GET  HTTP/1.1\r\n",
    b"GET / HTTP/1.1\n",
    b"GET / HTTP/1.2\r\n",
    b"GET /a b HTTP/1.1\r\n",
    b"GET /a\x7f HTTP/1.1\r\n",
    b"GET / HTTP/2.0\r\n",
    b"CONNECT h:1 HTTP/1.1\r\n",
    b"PROPFIND / HTTP/1.1\r\n",
    b"\r\nGET / HTTP/1.1\r\n",
    b"HTTP/1.1\r\n",
    b"GET /",
    b"",
]
PIECES = [b"\r\n", b"\n", b"Host: h\r\n", b"content-length: 3\r\n", b"Transfer-Encoding: chunked\r\n"]
PIECES += [b"User-Agent: u\n", b"Content-Type: t\r\n", b"body", b"0\r\n\r\n", b"Cookie: c"]
REQUESTS = st.builds(
    lambda line, rest: (line + b"".join(rest))[:WIDTH],
    st.sampled_from(LINES) | st.binary(max_size=12),
    st.lists(st.sampled_from(PIECES) | st.binary(max_size=4), max_size=5),
)


def _columns(requests: list[bytes], stale: bytes) -> tuple[np.ndarray, np.ndarray]:
    """Return payloads (k, WIDTH) with other bytes behind the valid ones, and lengths (k,)."""
    filler = (stale * WIDTH)[:WIDTH]
    rows = [np.frombuffer(data + filler[len(data) :], np.uint8) for data in requests]
    return np.array(rows, np.uint8).reshape(-1, WIDTH), np.array(list(map(len, requests)), np.uint16)


@settings(max_examples=600, deadline=None)
@given(
    st.lists(REQUESTS, min_size=1, max_size=6),
    st.sampled_from([b"\0", b"\r\n\r\n", b"Content-Length: 1\r\n"]),
)
def test_a_glance_tells_what_reading_gives(requests: list[bytes], stale: bytes) -> None:
    """Method, version and end of those it is enough for; their bytes are still there to be read."""
    fits, told, unread = glance(*_columns(requests, stale))
    read = [read_request(data) for data, fitting in zip(requests, fits.tolist(), strict=True) if fitting]
    assert unread.requests == read
    for code, whole in zip(told.codes.tolist(), read, strict=True):
        assert told.values[code] == whole._replace(text=None, path=None, query=None, host=None, agent=None)
    assert len(told.codes) == len(read)


@pytest.mark.parametrize(
    ("request_", "end"),
    [
        (b"GET / HTTP/1.1\r\nHost: h\r\n\r\n", 27),
        (b"GET / HTTP/1.1\r\n\r\n", 18),
        (b"OPTIONS * HTTP/1.0\r\nUser-Agent: u\n\n", 35),
        (b"POST /a?b HTTP/1.1\r\nContent-Length: 2000\r\nX: ", UNKNOWN),
        (b"DELETE /\xff HTTP/1.1\r\n", UNKNOWN),
    ],
)
def test_the_usual_requests_need_no_more(request_: bytes, end: int) -> None:
    """Heads without a body, and those that go on beyond what was captured."""
    fits, told, _ = glance(*_columns([request_], b"\0"))
    assert fits.tolist() == [True]
    assert [told.values[code].end for code in told.codes.tolist()] == [end]


@pytest.mark.parametrize(
    "request_",
    [
        b"POST / HTTP/1.1\r\nContent-Length: 2\r\n\r\nok",
        b"GET / HTTP/1.1\r\nTRANSFER-ENCODING: chunked\r\n\r\n",
        b"CONNECT h:1 HTTP/1.1\r\n\r\n",
        b"SELECT 1",
    ],
)
def test_what_a_glance_is_not_enough_for(request_: bytes) -> None:
    """Bodies, tunnels, and whatever is no common request."""
    fits, told, unread = glance(*_columns([request_], b"\0"))
    assert fits.tolist() == [False]
    assert (len(told.codes), unread.requests) == (0, [])


def test_columns_of_read_and_unread_requests() -> None:
    """Both show the same, in any order and choice of rows."""
    data = [b"GET /%d HTTP/1.1\r\nHost: h%d\r\n\r\n" % (n, n % 2) for n in range(3)]
    _, told, unread = glance(*_columns(data[1:], b"\0"))
    codes = np.array([len(told.values), *told.codes], np.int32)
    own = np.array([ABSENT, 0, 1], np.int32)
    requests = Requests(Coded(codes, [*told.values, read_request(data[0])]), own, unread)
    assert requests.strings(attrgetter("path")).to_list() == ["/0", "/1", "/2"]
    hosts = requests.strings(attrgetter("host"))
    assert (hosts.to_list(), sorted(hosts.values)) == (["h0", "h1", "h0"], ["h0", "h1"])
    order = np.array([3, 2, 0, 1])
    joined = requests.joined([read_request(b"GET /x HTTP/1.1\r\n\r\n")], order)
    assert joined.strings(attrgetter("path")).to_list() == ["/x", "/2", "/0", "/1"]
    assert joined.take(np.array([1, 0])).strings(attrgetter("path")).to_list() == ["/2", "/x"]


def test_some_requests_are_read_without_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """One request in flight does not cost the lines of all others of its batch."""
    data = [b"GET /%d HTTP/1.1\r\n\r\n" % number for number in range(3)]
    _, told, unread = glance(*_columns(data[1:], b"\0"))
    codes = np.array([len(told.values), *told.codes], np.int32)
    own = np.array([ABSENT, 0, 1], np.int32)
    requests = Requests(Coded(codes, [*told.values, read_request(data[0])]), own, unread)
    monkeypatch.setattr(Unread, "requests", None)
    assert requests.strings(attrgetter("path")).some(np.array([2, 0])) == ["/2", "/0"]
