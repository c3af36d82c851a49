"""HTTP/1 turn by turn in obvious code: what the column parser must equal.

No regular expressions, no caches, no columns. Below, what holds the two equal.
"""

from __future__ import annotations

from copy import deepcopy
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from masdeepflow.protocols.http import PROTOCOL
from masdeepflow.schema import Flag, Kind, Role
from masdeepflow.table import ABSENT, Encoded

if TYPE_CHECKING:
    from masdeepflow.table import Attribute, Parsed

TOKEN = frozenset(b"!#$%&'*+-.^_`|~0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz")
AUTHORITY = b"0123456789abcdefghijklmnopqrstuvwxyz[]._~:%-"
KNOWN_METHODS = b"GET HEAD POST PUT DELETE OPTIONS TRACE PATCH".split()
KNOWN_METHODS += b"PROPFIND PROPPATCH MKCOL COPY MOVE LOCK UNLOCK REPORT SEARCH".split()
HEX = b"0123456789abcdefABCDEF"
BASE = (
    "request_first_ns",
    "queue_ns",
    "request_bytes",
    "response_bytes",
    "response_first_ns",
    "response_last_ns",
)


@dataclass
class Head:
    """A request head. end: offset behind its body; None where unknown."""

    text: str
    method: str
    path: str | None = None
    query: str | None = None
    version: str | None = None
    host: str | None = None
    agent: str | None = None
    cut: bool = False
    end: int | None = None


@dataclass
class Status:
    """A status line, and the headers behind it as far as they are visible."""

    text: str
    code: int
    version: str
    cut: bool


@dataclass
class Transaction:
    """What is reported: the columns of `Parsed`, one row of them."""

    row: int
    head: Head | None
    request_first_ns: int
    queue_ns: int
    request_bytes: int = 0
    response_bytes: int = 0
    status: Status | None = None
    answered: bool = False
    error: bool = False
    truncated: bool = False
    response_first_ns: int = 0
    response_last_ns: int = 0

    def visible(self) -> tuple[object, ...]:
        """Return what can be compared with a row of the parser's columns."""
        head, status = self.head, self.status
        version = head.version if head and head.version else status.version if status else None
        return (
            self.row,
            head.text if head else None,
            status.text if status else None,
            self.error,
            self.truncated,
            head.method if head else None,
            head.path if head else None,
            head.query if head else None,
            status.code if status else ABSENT,
            version,
            head.host if head else None,
            head.agent if head else None,
            self.request_first_ns,
            self.queue_ns,
            self.request_bytes,
            self.response_bytes,
            self.response_first_ns,
            self.response_last_ns,
        )


@dataclass
class Connection:
    """What is known of a connection between turns."""

    turn: int
    body_left: int = 0
    response_left: int = 0
    queue: list[Transaction] = field(default_factory=list)


def text_of(data: bytes) -> str:
    """Decode as the parser does."""
    return data.decode("utf-8", "backslashreplace")


def lines_of(data: bytes) -> list[bytes]:
    """Return the whole lines, each without its LF; a last one without LF is left out."""
    return data.split(b"\n")[:-1]


def request_head(data: bytes) -> Head | None:
    """Read a request head at the very start of `data`, empty lines before it allowed."""
    start = 0
    while start < len(data) and data[start] in b"\r\n":
        start += 1
    if b"\n" not in data[start:]:
        return cut_head(data[start:])
    line = data[start : data.index(b"\n", start)]
    line = line[:-1] if line.endswith(b"\r") else line
    words = line.split(b" ")
    if len(words) != 3 or words[2] not in (b"HTTP/1.0", b"HTTP/1.1"):
        return None
    if not words[0] or not TOKEN.issuperset(words[0]) or not words[1] or not plain(words[1]):
        return None
    head = Head("HTTP Request: " + text_of(line), text_of(words[0]), version=words[2][5:].decode())
    rest = data[data.index(b"\n", start) + 1 :]
    fields, length = headers(rest)
    authority = fill_target(head, text_of(words[1]))
    head.host = text_of(fields.get(b"host", b"")) or authority
    head.agent = text_of(fields.get(b"user-agent", b"")) or None
    if length is not None and head.method != "CONNECT":
        body = body_length(rest[length:], fields, missing=0)
        head.end = None if body is None else len(data) - len(rest) + length + body
    return head


def cut_head(data: bytes) -> Head | None:
    """Read a request line that ends with `data`, not with a line end."""
    words = data.split(b" ")
    if len(words) not in (2, 3) or not plain(words[1]):
        return None
    target = words[1].lower()
    if words[0] == b"CONNECT":
        if not target or not all(char in AUTHORITY for char in target) or target[:1] in b"._~:%-]":
            return None
    elif words[0] not in KNOWN_METHODS or not target.startswith((b"/", b"http://", b"https://")):
        return None
    if len(words) == 3 and not any(
        version.startswith(words[2]) for version in (b"HTTP/1.0\r", b"HTTP/1.1\r")
    ):
        return None
    line = data[:-1] if data.endswith(b"\r") else data
    head = Head("HTTP Request: " + text_of(line) + "…", text_of(words[0]), cut=True)
    authority = fill_target(head, text_of(words[1]))
    head.host = authority if len(words) == 3 else None
    return head


def plain(target: bytes) -> bool:
    """Whether there is no space and no control character."""
    return all(byte > 0x20 and byte != 0x7F for byte in target)


def fill_target(head: Head, target: str) -> str | None:
    """Set path and query, return the authority."""
    if head.method == "CONNECT":
        return target
    authority = None
    scheme, mark, rest = target.partition("://")
    letters = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ"
    if mark and scheme and scheme[0] in letters and set(scheme) <= set(letters + "0123456789+.-"):
        cut = min([rest.index(stop) for stop in "/?" if stop in rest], default=len(rest))
        authority, target = rest[:cut] or None, rest[cut:]
    path, _, query = target.partition("?")
    head.path, head.query = path or "/", query or None
    return authority


def headers(data: bytes) -> tuple[dict[bytes, bytes], int | None]:
    """Return the header fields whose lines are whole, and the length up to the empty line if there is one."""
    fields: dict[bytes, bytes] = {}
    length = 0
    for line in lines_of(data):
        length += len(line) + 1
        if line in (b"", b"\r"):
            return fields, length
        name, colon, value = line.partition(b":")
        if colon:
            fields.setdefault(name.lower(), value.strip())
    return fields, None


def body_length(data: bytes, fields: dict[bytes, bytes], missing: int | None) -> int | None:
    """Return the length of the body that starts with `data`; `missing` if no header tells."""
    if fields.get(b"transfer-encoding", b"").split(b",")[-1].strip().lower() == b"chunked":
        return chunked_length(data)
    length = fields.get(b"content-length", b"")
    return int(length) if length.isdigit() and len(length) <= 18 else missing


def chunked_length(data: bytes) -> int | None:
    """Return the length of a chunked body, None if its end is not in `data` or it is not one."""
    position = 0
    while True:
        size = chunk_size(data[position:])
        if size is None:
            return None
        position = data.index(b"\n", position) + 1
        if size == 0:
            break
        position += size
        if data[position : position + 1] == b"\r":
            position += 1
        if data[position : position + 1] != b"\n":
            return None
        position += 1
    for line in lines_of(data[position:]):
        position += len(line) + 1
        if line in (b"", b"\r"):
            return position
        if line.startswith(b"\r"):
            return None
    return None


def chunk_size(data: bytes) -> int | None:
    """Return the number that the first line of `data` starts with."""
    if b"\n" not in data:
        return None
    line = data[: data.index(b"\n")]
    line = line[:-1] if line.endswith(b"\r") else line
    digits = 0
    while digits < len(line) and line[digits] in HEX:
        digits += 1
    if not 1 <= digits <= 15 or (line[digits:] and line[digits] not in b" \t;"):
        return None
    return int(line[:digits], 16)


def status_line(data: bytes) -> Status | None:
    """Read the status line at the start of `data`."""
    cut = b"\n" not in data
    line = data if cut else data[: data.index(b"\n")]
    if line[:9] not in (b"HTTP/1.0 ", b"HTTP/1.1 ") or not line[9:12].isdigit() or len(line) < 12:
        return None
    if line[9:10] == b"0" or line[12:13] not in (b"", b" ", b"\r"):
        return None
    text = "HTTP Response: " + text_of(line.rstrip(b" \r\n")) + ("…" if cut else "")
    return Status(text, int(line[9:12]), line[5:8].decode(), cut)


def response_length(data: bytes, method: str | None, code: int) -> int | None:
    """Return the length of the response that `data` starts with, None where it can't be told."""
    if b"\n" not in data or is_switch(method, code):
        return None
    first = data.index(b"\n") + 1
    fields, length = headers(data[first:])
    if length is None:
        return None
    if method == "HEAD" or code < 200 or code in (204, 304):
        return first + length
    body = body_length(data[first + length :], fields, missing=None)
    return None if body is None else first + length + body


def is_switch(method: str | None, code: int) -> bool:
    """Whether something other than HTTP follows."""
    return code == 101 or (method == "CONNECT" and 200 <= code <= 299)


class Reference:
    """The protocol, one turn at a time."""

    def __init__(self) -> None:
        """Start with no connections."""
        self.connections: dict[int, Connection] = {}
        self.opaque: list[int] = []

    def parse(self, slots: np.ndarray) -> list[Transaction]:
        """Return the transactions of a batch, in order; `opaque` tells which connections left HTTP in it."""
        self.opaque = []
        reported = []
        for row, slot in enumerate(slots):
            if int(slot["cookie"]) not in self.opaque:
                reported += self.turn(row, slot)
        return reported

    def turn(self, row: int, slot: np.void) -> list[Transaction]:
        """Return what one turn ends."""
        connection = self.find(slot)
        if connection is None:
            return []
        if not slot["flags"] & Flag.CONTINUED:
            requests(connection, slot)
        reported, more, switched = responses(connection, slot)
        if switched:
            connection.queue = []
        reported += given_up(connection, slot, more=more)
        for transaction in reported:
            finish(transaction, row, slot)
        if slot["kind"] != Kind.OPEN:
            self.keep(connection, slot, switched=switched)
        return reported

    def find(self, slot: np.void) -> Connection | None:
        """Return the connection as it was; None if the turn only goes on with something unknown."""
        cookie, number = int(slot["cookie"]), int(slot["turn"])
        continued = bool(slot["flags"] & Flag.CONTINUED)
        connection = self.connections.get(cookie)
        if connection is None or connection.turn != (number if continued else number - 1):
            return None if continued else Connection(number)
        connection = deepcopy(connection)
        connection.turn = number
        return connection

    def keep(self, connection: Connection, slot: np.void, *, switched: bool) -> None:
        """Keep what the next turn needs."""
        cookie = int(slot["cookie"])
        self.connections.pop(cookie, None)
        if switched:
            self.opaque.append(cookie)
        elif not slot["flags"] & Flag.CLOSED and (connection.queue or connection.body_left):
            self.connections[cookie] = connection


def given_up(connection: Connection, slot: np.void, *, more: str) -> list[Transaction]:
    """Return the requests that are reported without a response."""
    hidden = more != "nothing"
    closed, in_flight = bool(slot["flags"] & Flag.CLOSED), slot["kind"] == Kind.OPEN
    crowded = len(connection.queue) > 64
    if not (hidden or in_flight or closed or slot["response_bytes"] == 0 or crowded):
        return []
    for transaction in connection.queue:
        transaction.truncated |= more == "cut"
        transaction.answered = hidden
        transaction.error = closed and not hidden and not in_flight
    taken, connection.queue = connection.queue, []
    return taken


def finish(transaction: Transaction, row: int, slot: np.void) -> None:
    """Set what depends on the turn that ends a transaction."""
    transaction.row = row
    if transaction.answered:
        transaction.response_first_ns = int(slot["response_first_ns"])
        transaction.response_last_ns = int(slot["response_last_ns"])
    if transaction.status:
        transaction.error = transaction.status.code >= (400 if slot["role"] == Role.CLIENT else 500)
        transaction.truncated |= transaction.status.cut
    if transaction.head:
        transaction.truncated |= transaction.head.cut


def requests(connection: Connection, slot: np.void) -> None:
    """Put the turn's requests into the queue."""
    data, total = slot["request"][: slot["request_length"]].tobytes(), int(slot["request_bytes"])
    position: int | None = connection.body_left
    skipped = connection.body_left
    fresh: list[Transaction] = []
    starts: list[int] = []
    while position is not None and position < len(data):
        head = request_head(data[position:])
        if head is None:
            break
        fresh.append(Transaction(0, head, int(slot["request_first_ns"]), int(slot["queue_ns"])))
        starts.append(position)
        position = None if head.end is None else position + head.end
    if not fresh and not skipped:
        position = None
    for number, transaction in enumerate(fresh):
        stop = starts[number + 1] if number + 1 < len(fresh) else total
        transaction.request_bytes = stop - starts[number]
    if connection.queue:
        connection.queue[-1].request_bytes += min([*starts, total])
    connection.queue += fresh
    if connection.queue and position is not None and position < total and goes_on(data, position, total):
        connection.queue[-1].truncated = True
    connection.body_left = 0 if position is None else max(position - total, 0)
    only_body = total and total <= skipped
    if not connection.queue and not only_body:
        unseen = Transaction(0, None, int(slot["request_first_ns"]), int(slot["queue_ns"]), total)
        unseen.truncated = goes_on(data, skipped, total)
        connection.queue.append(unseen)


def goes_on(data: bytes, position: int, total: int) -> bool:
    """Whether what begins at `position` is not seen up to the end of its line, though more was sent."""
    while position < len(data) and data[position] in b"\r\n":
        position += 1
    return total > len(data) and 0x0A not in data[position:]


def responses(connection: Connection, slot: np.void) -> tuple[list[Transaction], str, bool]:
    """Return the transactions answered, what there may be of more responses, and whether HTTP is over.

    That is `nothing`, `something` (a line that is no status line, or what a body of unknown length may have
    hidden) or `cut` (bytes beyond the prefix).
    """
    data, total = slot["response"][: slot["response_length"]].tobytes(), int(slot["response_bytes"])
    position: int | None = connection.response_left
    counted = connection.response_left
    answered: list[Transaction] = []
    switched, no_status = False, False
    while connection.queue and position is not None and position < len(data):
        status = status_line(data[position:])
        if status is None:
            no_status = b"\n" in data[position:]
            position = None
            break
        first = connection.queue[0]
        method = first.head.method if first.head else None
        length = response_length(data[position:], method, status.code)
        position = None if length is None else position + length
        if status.code < 200 and status.code != 101:
            continue
        first.status = status
        first.answered = True
        answered.append(connection.queue.pop(0))
        switched = is_switch(method, status.code)
        known = bool(connection.queue) and position is not None
        stop = min(position or 0, total) if known else total
        first.response_bytes += max(stop - counted, 0)
        counted = stop
    if connection.queue and connection.queue[0].head is None:
        connection.queue = []
    if connection.queue:
        connection.queue[0].response_bytes += max(total - counted, 0)
    connection.response_left = 0 if position is None else max(position - total, 0)
    if position is not None and position >= total:
        return answered, "nothing", switched
    return answered, "cut" if total > len(data) and not no_status else "something", switched


def values(column: Attribute) -> list[object]:
    """Return a column's values."""
    return list(column.to_list()) if isinstance(column, Encoded) else column.tolist()


def rows_of(slots: np.ndarray, parsed: Parsed) -> list[tuple[object, ...]]:
    """Return the parser's columns row by row, in the order of `Transaction.visible`."""
    base = [parsed.base.get(name, slots[name][parsed.rows].astype(np.int64)).tolist() for name in BASE]
    shown = [values(parsed.request_text), values(parsed.response_text)]
    flags = [parsed.error.tolist(), parsed.truncated.tolist()]
    attributes = [values(column) for column in parsed.attributes.values()]
    return list(zip(parsed.rows.tolist(), *shown, *flags, *attributes, *base, strict=True))


def check_equal(batches: list[np.ndarray]) -> None:
    """Hold parser and reference equal over batches; a connection that left HTTP is not followed further.

    Whether new requests are read one by one, or glanced at as columns.
    """
    for parser in (PROTOCOL(), PROTOCOL(few=1)):
        _check_equal(batches, parser)


def _check_equal(batches: list[np.ndarray], parser: PROTOCOL) -> None:
    reference, gone = Reference(), np.zeros(0, np.uint64)
    for batch in batches:
        slots = batch[~np.isin(batch["cookie"], gone)]
        parsed, expected = parser.parse(slots), reference.parse(slots)
        assert rows_of(slots, parsed) == [transaction.visible() for transaction in expected]
        assert parsed.opaque == reference.opaque
        gone = np.append(gone, np.array(parsed.opaque, np.uint64))
