"""HTTP/1 as bytes: request lines, status lines, the headers that matter here, and where a message ends.

Source: RFC 9112, sections 2 to 7. As lenient as its section 2.2 allows a recipient to be: a lone LF ends a
line, and empty lines before a request line are skipped. Nothing here raises, whatever the bytes.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import NamedTuple

from masdeepflow.table import ABSENT

__all__ = [
    "FIRST_FINAL",
    "NOT_HTTP",
    "NO_REQUEST",
    "NO_RESPONSE",
    "SWITCHING_PROTOCOLS",
    "UNKNOWN",
    "VERSIONS",
    "Request",
    "Response",
    "leaves_http",
    "message_end",
    "read_request",
    "read_response",
]

VERSIONS = ["1.0", "1.1"]
FIRST_FINAL = 200
"""Lowest status that answers a request; those below announce, but for `SWITCHING_PROTOCOLS`."""
SWITCHING_PROTOCOLS = 101
UNKNOWN = -1
"""End of a message that the bytes at hand do not tell."""
NOT_HTTP = -2
"""End of a request head behind which another protocol may begin."""

_REMEMBERED = 1024  # distinct header blocks and status lines; they repeat
_EMPTY = (204, 304)  # No Content, Not Modified
_ELLIPSIS = "…"

# RFC 9110 section 9.3, RFC 5789, RFC 4918: a cut line is believed only if it starts with one of these.
_METHODS = (
    rb"(?:GET|HEAD|POST|PUT|DELETE|OPTIONS|TRACE|PATCH"
    rb"|PROPFIND|PROPPATCH|MKCOL|COPY|MOVE|LOCK|UNLOCK|REPORT|SEARCH)"
)
_TARGET_CHARS = rb"[^\x00-\x20\x7f]"
# RFC 9112 section 3.2.3. NATS says CONNECT too, with JSON behind it.
_AUTHORITY = rb"[0-9A-Za-z\[][0-9A-Za-z._~:%\-\[\]]*"
_CUT_VERSION = rb"(?: (?:|H|HT|HTT|HTTP|HTTP/|HTTP/1|HTTP/1\.|HTTP/1\.[01]\r?))?"
_REQUEST_LINE = re.compile(
    rb"[\r\n]*([!#$%&'*+\-.^_`|~0-9A-Za-z]+ " + _TARGET_CHARS + rb"+ HTTP/1\.[01])\r?\n",
)
_CUT_REQUEST_LINE = re.compile(
    rb"[\r\n]*((?:"
    + _METHODS
    + rb" (?:/|[Hh][Tt][Tt][Pp][Ss]?://)"
    + _TARGET_CHARS
    + rb"*|CONNECT "
    + _AUTHORITY
    + rb")"
    + _CUT_VERSION
    + rb")\Z",
)
_STATUS_LINE = re.compile(rb"HTTP/1\.([01]) ([1-9][0-9][0-9])(?:[ \r][^\n]*)?(\n?)")
_ABSOLUTE = re.compile(r"[A-Za-z][A-Za-z0-9+.\-]*://([^/?]*)")
_BLANK_LINE = re.compile(rb"\n\r?\n")
_HEADER = re.compile(rb"(?im)^(host|user-agent|content-length|transfer-encoding):([^\n]*)\n")
# From the line end before it: that of the blank line behind the head, or of the chunk before.
_CHUNK_SIZE = re.compile(rb"\r?\n([0-9A-Fa-f]{1,15})(?:[ \t;][^\n]*|\r)?\n")
_TRAILERS = re.compile(rb"(?:[^\r\n][^\n]*\n)*\r?\n")
_LENGTH = re.compile(rb"[0-9]{1,18}")  # longer numbers would not fit an int64


class Request(NamedTuple):
    """A request head, as far as it is visible.

    text: summary of the log line. path, query: of the target; None where it has none. version: index in
    `VERSIONS`. host: the Host header, else the target's authority. agent: the User-Agent header.
    end: offset behind the body in the bytes given, which may lie beyond them; else `UNKNOWN` or `NOT_HTTP`.
    cut: the request line was not visible whole.
    """

    text: str | None
    method: str | None
    path: str | None
    query: str | None
    version: int
    host: str | None
    agent: str | None
    end: int
    cut: bool = False


class Response(NamedTuple):
    """A status line. text: summary of the log line. version: index in `VERSIONS`. cut: not visible whole."""

    text: str | None
    status: int
    version: int
    cut: bool = False


class _Headers(NamedTuple):
    """length: the Content-Length, `ABSENT` without a valid one. chunked: the last transfer coding is that."""

    host: str | None
    agent: str | None
    length: int
    chunked: bool


NO_REQUEST = Request(None, None, None, None, ABSENT, None, None, NOT_HTTP)
NO_RESPONSE = Response(None, ABSENT, ABSENT)
"""What is read where no head starts."""


def read_request(data: bytes) -> Request:
    """Return the request whose head starts at `data`'s start, `NO_REQUEST` if none does.

    A line that `data` cuts is one only with a known method and a target that starts like one.
    """
    line = _REQUEST_LINE.match(data)
    if line:
        return _whole_request(data, line)
    line = _CUT_REQUEST_LINE.match(data)
    return _cut_request(line) if line else NO_REQUEST


def _whole_request(data: bytes, line: re.Match[bytes]) -> Request:
    text = _decode(line[1])
    method, target, version = text.split(" ")
    head_end, headers = _read_headers(data, line.end())
    path, query, authority = _split(method, target)
    return Request(
        f"HTTP Request: {text}",
        method,
        path,
        query,
        int(version[-1]),
        headers.host or authority,
        headers.agent,
        _request_end(data, method, head_end, headers),
    )


def _cut_request(line: re.Match[bytes]) -> Request:
    text = _decode(line[1]).removesuffix("\r")
    method, target, *version = text.split(" ")
    path, query, authority = _split(method, target)
    return Request(
        f"HTTP Request: {text}{_ELLIPSIS}",
        method,
        path,
        query,
        ABSENT,
        authority if version else None,
        None,
        NOT_HTTP if method == "CONNECT" else UNKNOWN,
        cut=True,
    )


def _request_end(data: bytes, method: str, head_end: int, headers: _Headers) -> int:
    """RFC 9112 section 6.3; a CONNECT is followed by whatever the tunnel carries."""
    if method == "CONNECT":
        return NOT_HTTP
    if head_end == UNKNOWN:
        return UNKNOWN
    if headers.chunked:
        return _chunks_end(data, head_end)
    return head_end if headers.length == ABSENT else head_end + headers.length


def read_response(data: bytes) -> Response:
    """Return the status line that `data` starts with, `NO_RESPONSE` if it does not."""
    return _status(data[: data.find(b"\n") + 1] or data)


@lru_cache(_REMEMBERED)
def _status(line: bytes) -> Response:
    match = _STATUS_LINE.fullmatch(line)
    if not match:
        return NO_RESPONSE
    text, cut = _decode(line.rstrip(b" \r\n")), not match[3]
    return Response(f"HTTP Response: {text}{_ELLIPSIS * cut}", int(match[2]), int(match[1]), cut)


def leaves_http(method: str | None, status: int) -> bool:
    """Whether a tunnel or another protocol begins behind the response (RFC 9110 sections 9.3.6, 15.2.2)."""
    return status == SWITCHING_PROTOCOLS or (method == "CONNECT" and status // 100 == 2)  # noqa: PLR2004  # 2xx


def message_end(data: bytes, method: str | None, status: int) -> int:
    """Return the offset behind the response that `data` starts with, `UNKNOWN` where that can't be told.

    method: of the request it answers. Source: RFC 9112 section 6.3.
    """
    line_end = data.find(b"\n") + 1
    if not line_end or status == ABSENT or leaves_http(method, status):
        return UNKNOWN
    head_end, headers = _read_headers(data, line_end)
    if head_end == UNKNOWN or method == "HEAD" or status // 100 == 1 or status in _EMPTY:
        return head_end
    if headers.chunked:
        return _chunks_end(data, head_end)
    return UNKNOWN if headers.length == ABSENT else head_end + headers.length


def _split(method: str, target: str) -> tuple[str | None, str | None, str | None]:
    """Return path, query and authority of a request target: the four forms of RFC 9112 section 3.2."""
    if method == "CONNECT":
        return None, None, target
    authority = None
    absolute = None if target.startswith("/") else _ABSOLUTE.match(target)
    if absolute:
        authority, target = absolute[1] or None, target[absolute.end() :]
    path, _, query = target.partition("?")
    return path or "/", query or None, authority


def _read_headers(data: bytes, start: int) -> tuple[int, _Headers]:
    """Return the end of the head whose header lines begin at `start`, and the headers visible whole."""
    blank = _BLANK_LINE.search(data, start - 1)
    if blank:
        return blank.end(), _headers(data[start : blank.end()])
    return UNKNOWN, _headers(data[start : data.rfind(b"\n") + 1])


@lru_cache(_REMEMBERED)
def _headers(block: bytes) -> _Headers:
    """Read whole lines. Of repeated fields the first counts."""
    fields: dict[bytes, bytes] = {}
    for name, value in _HEADER.findall(block):
        fields.setdefault(name.lower(), value.strip())
    length = fields.get(b"content-length", b"")
    return _Headers(
        _decode(fields.get(b"host", b"")) or None,
        _decode(fields.get(b"user-agent", b"")) or None,
        int(length) if _LENGTH.fullmatch(length) else ABSENT,
        fields.get(b"transfer-encoding", b"").rpartition(b",")[2].strip().lower() == b"chunked",
    )


def _chunks_end(data: bytes, position: int) -> int:
    """Return the offset behind a chunked body (RFC 9112 section 7.1), `UNKNOWN` if it ends beyond `data`."""
    size = _CHUNK_SIZE.match(data, position - 1)
    while size and int(size[1], 16):
        size = _CHUNK_SIZE.match(data, size.end() + int(size[1], 16))
    trailers = _TRAILERS.match(data, size.end()) if size else None
    return trailers.end() if trailers else UNKNOWN


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "backslashreplace")
