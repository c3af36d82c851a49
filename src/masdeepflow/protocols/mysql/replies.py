"""What a server answers: OK, ERR, EOF, result sets and the rest, as far as the payload prefix shows.

Sources: MySQL Source Code Documentation, page_protocol_basic_response_packets and
page_protocol_com_query_response; MariaDB Knowledge Base, "Result Set Packets" (cached metadata) and
"ERR_Packet" (progress). Nothing here raises or keeps state, whatever the bytes.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from masdeepflow.protocols.mysql.commands import HEADER_BYTES, Answer, decode

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "ERROR",
    "FILE",
    "MORE",
    "NO_ANSWER",
    "NO_REPLY",
    "OK",
    "UNANSWERED",
    "UNKNOWN",
    "UNSEEN",
    "Packets",
    "Reply",
    "prepared_id",
    "read_error",
    "read_last_reply",
    "read_reply",
    "result_set",
    "says_ok",
]

UNKNOWN = -1
"""End of a reply that lies beyond the payload prefix."""

OK_BYTE, ERROR, EOF_BYTE, FILE_BYTE = 0x00, 0xFF, 0xFE, 0xFB
"""First byte of a reply, by what it is."""
_MORE_RESULTS, _CURSOR_EXISTS = 0x0008, 0x0040
_EOF_BYTES = 5
_EOF_HEADER, _EOF = b"\5\0\0", b"\xfe"
_OK_BYTES = 7  # of an OK packet since MySQL 4.1
_FLAGGED = 2  # bytes of a column count with MariaDB's flag behind it
_PREPARED_BYTES = 12
_ID_BYTES = 4
_NO_DEFINITIONS = {2, 4}  # lengths of a column count behind a 0; an OK packet has 3, 5 or from 7 bytes
_LENENC_WIDTHS = {0xFC: 2, 0xFD: 3, 0xFE: 8}
_OK_ANSWERS = frozenset({Answer.RESULTS, Answer.PREPARED})
_PROGRESS = b"\xff\xff\xff"
_STATE = re.compile(rb"#([0-9A-Z]{5})")
_REMEMBERED = 4096


@dataclass(slots=True, eq=False)
class Reply:
    """A reply as a transaction shows it; equal only to itself.

    text: of the log line. code, message: of an error. truncated: something shown was cut.
    """

    text: str | None
    error: bool = False
    code: str | None = None
    message: str | None = None
    truncated: bool = False


OK = Reply("MySQL Response: OK")
EOF = Reply("MySQL Response: EOF")
FILE = Reply("MySQL Response: Request for a local file")
COLUMNS = Reply("MySQL Response: Columns")
ROWS = Reply("MySQL Response: Rows")
EVENTS = Reply("MySQL Response: Events")
MORE = Reply(None)
"""A question of an authentication method: the client's answer is the next turn."""
NO_REPLY = Reply(None)
"""None yet, or none at all."""
UNANSWERED = Reply(None, error=True)
"""None, and the connection is closed."""
NO_ANSWER = frozenset({NO_REPLY, UNANSWERED})
UNSEEN = Reply(None, truncated=True)
"""One that is beyond the payload prefix."""


@lru_cache(_REMEMBERED)
def result_set(columns: int) -> Reply:
    """Return the reply that starts with a result set."""
    return Reply(f"MySQL Response: Result set, {columns} column{'s' * (columns != 1)}")


@lru_cache(_REMEMBERED)
def read_error(packet: bytes) -> Reply:
    """Return the reply of an ERR packet with its header, as far as captured.

    ::

        | length | seq | FF | code (2) | '#' and SQLSTATE (5), once the client is known | message
    """
    body = packet[HEADER_BYTES:]
    cut = int.from_bytes(packet[:3], "little") > len(body)
    code, text = str(int.from_bytes(body[1:3], "little")), body[3:]
    state = _STATE.match(text)
    message = decode(text[state.end() :] if state else text, cut=cut)
    shown = f"{code} ({state[1].decode()})" if state else code
    return Reply(
        f"MySQL Response: ERR {shown}: {message}", error=True, code=code, message=message, truncated=cut
    )


class Packets:
    """Walks over the packets of a response.

    data: the response, as far as captured. start: of the current packet's body. end: of the packet, which may
    lie beyond `data`. first: its first byte, `UNKNOWN` of an empty packet.
    """

    __slots__ = ("_sequence", "data", "end", "first", "start")

    def __init__(self, data: bytes, at: int) -> None:
        """Stand before the packet that starts at `at`."""
        self.data = data
        self.end = self.start = at
        self.first = UNKNOWN
        self._sequence = UNKNOWN

    def advance(self) -> bool:
        """Go to the next packet; False if it is beyond the prefix, or does not continue the sequence."""
        data, at = self.data, self.end
        body = at + HEADER_BYTES
        if body > len(data):
            return False
        end = body + data[at] + (data[at + 1] << 8) + (data[at + 2] << 16)
        sequence = data[at + 3]
        if body == len(data) < end or self._sequence not in {UNKNOWN, sequence}:
            return False
        self._sequence = (sequence + 1) & 0xFF
        self.start, self.end = body, end
        self.first = data[body] if body < end else UNKNOWN
        return True

    def jump(self, count: int) -> bool:
        """Go over `count` packets, as `advance` does, whatever they hold."""
        data, size, end, sequence = self.data, len(self.data), self.end, self._sequence
        for _ in range(count):
            at, body = end, end + HEADER_BYTES
            if body > size or sequence not in {UNKNOWN, data[at + 3]}:
                return False
            end = body + data[at] + (data[at + 1] << 8) + (data[at + 2] << 16)
            if body == size < end:
                return False
            sequence = (data[at + 3] + 1) & 0xFF
        self.end, self._sequence = end, sequence
        return True

    def skip(self, count: int) -> bool:
        """Go to the packet behind the next `count`; False as `advance`, and at an error in their place."""
        return all(self.advance() and self.first != ERROR for _ in range(count)) and self.advance()

    @property
    def length(self) -> int:
        """Bytes of the current packet's body."""
        return self.end - self.start

    def number(self, offset: int, width: int) -> int:
        """Return an integer of the body, 0 if it is beyond the prefix."""
        at = self.start + offset
        data = self.data[at : min(at + width, self.end)]
        return int.from_bytes(data, "little") if len(data) == width else 0

    def lenenc(self, offset: int) -> tuple[int, int]:
        """Return a length-encoded integer of the body, and the offset behind it."""
        first = self.number(offset, 1)
        width = _LENENC_WIDTHS.get(first)
        return (self.number(offset + 1, width), offset + 1 + width) if width else (first, offset + 1)

    def error(self) -> Reply:
        """Return the ERR packet that is the current one."""
        return read_error(self.data[self.start - HEADER_BYTES : self.end])


def says_ok(answer: bytes) -> bool:
    """Whether a reply starts with an OK packet, whatever the results behind it are."""
    return answer[HEADER_BYTES : HEADER_BYTES + 1] == b"\0"


def prepared_id(answer: bytes) -> int | None:
    """Return the statement id of a reply to a prepare, None if it is cut."""
    number = answer[HEADER_BYTES + 1 : HEADER_BYTES + 1 + _ID_BYTES]
    return int.from_bytes(number, "little") if len(number) == _ID_BYTES else None


def read_reply(answer: Answer, response: bytes, at: int) -> tuple[Reply, int]:
    """Return the reply that starts at `at`, and where it ends, or `UNKNOWN`.

    response: as far as captured. Of several results the first is shown, unless one is an error.
    """
    packets = Packets(response, at)
    if not _first(packets):
        return (MORE if answer is Answer.LOGIN else UNSEEN), UNKNOWN
    if packets.first == ERROR:
        return packets.error(), packets.end
    return _READERS[answer](packets)


def read_last_reply(answer: Answer, response: bytes, at: int) -> Reply:
    """Return the reply as `read_reply` does: quicker, for one whose end does not matter.

    Where no error can hide behind it, the first packet alone tells.
    """
    body = at + HEADER_BYTES
    if ERROR not in response and body + 1 < len(response) and response[at + 1 : at + 3] == b"\0\0":
        length, first, second = response[at], response[body], response[body + 1]
        if answer in _OK_ANSWERS and first == OK_BYTE and length >= _PREPARED_BYTES:
            return OK
        if answer is Answer.RESULTS:
            if first == OK_BYTE and length >= _OK_BYTES:
                return OK
            if 0 < first < FILE_BYTE and (length == 1 or (length == _FLAGGED and second <= 1)):
                return result_set(first)
    return read_reply(answer, response, at)[0]


def _first(packets: Packets) -> bool:
    """Go to the first packet that is no report of MariaDB's on progress."""
    while packets.advance():
        if not packets.data.startswith(_PROGRESS, packets.start, packets.end):
            return True
    return False


def _read_login(packets: Packets) -> tuple[Reply, int]:
    """Go over what the authentication method asks: neither OK nor ERR can be mistaken for it."""
    while packets.first not in {OK_BYTE, ERROR}:
        if not packets.advance():
            return MORE, UNKNOWN
    return (packets.error() if packets.first == ERROR else OK), packets.end


def _read_status(packets: Packets) -> tuple[Reply, int]:
    return {OK_BYTE: OK, EOF_BYTE: EOF}.get(packets.first, UNSEEN), packets.end


def _read_results(packets: Packets) -> tuple[Reply, int]:
    shown: Reply | None = None
    while True:
        reply, more = _read_result(packets)
        if reply.error:
            return reply, packets.end
        shown = shown or reply
        if more is None or (more and not packets.advance()):
            return shown, UNKNOWN
        if not more:
            return shown, packets.end
        if packets.first == ERROR:
            return packets.error(), packets.end


def _read_result(packets: Packets) -> tuple[Reply, bool | None]:
    """Return one result and whether another follows, None where that is beyond the prefix."""
    if packets.first == OK_BYTE and packets.length not in _NO_DEFINITIONS:
        return OK, bool(_ok_status(packets) & _MORE_RESULTS)
    if packets.first == EOF_BYTE:
        return EOF, False
    if packets.first == FILE_BYTE:
        return FILE, False
    columns, defined = _column_count(packets)
    return _read_rows(packets, result_set(columns), columns if defined else 0)


def _ok_status(packets: Packets) -> int:
    """Read the status flags of an OK packet, page_protocol_basic_ok_packet."""
    _, at = packets.lenenc(1)
    _, at = packets.lenenc(at)
    return packets.number(at, 2)


def _column_count(packets: Packets) -> tuple[int, bool]:
    """Return the number of columns, and whether their definitions follow.

    MySQL puts that flag in front of the count (CLIENT_OPTIONAL_RESULTSET_METADATA), MariaDB behind it
    (MARIADB_CLIENT_CACHE_METADATA); a count of 0 does not exist, which tells the two apart.
    """
    columns, at = packets.lenenc(0)
    if at == packets.length:
        return columns, True
    flag = packets.number(at, 1)
    if columns > 1 or (columns == 1 and flag <= 1):
        return columns, flag != 0
    return packets.lenenc(at)[0], columns == 1


def _read_rows(packets: Packets, reply: Reply, definitions: int) -> tuple[Reply, bool | None]:
    """Walk over a result set, to the EOF behind its rows or the error among them.

    There is an EOF behind the definitions too, unless CLIENT_DEPRECATE_EOF makes the last one an OK packet,
    which is longer. Where a cursor was opened, the first is the only one: its rows are fetched later.
    """
    going = packets.skip(definitions)
    if going and packets.first == EOF_BYTE and packets.length == _EOF_BYTES:
        if packets.number(3, 2) & _CURSOR_EXISTS:
            return reply, False
        going = packets.advance()
    while going and packets.first not in {EOF_BYTE, ERROR}:
        going = packets.advance()
    if packets.first == ERROR:
        return packets.error(), False
    return reply, _more_results(packets) if going else None


def _more_results(packets: Packets) -> bool:
    status = packets.number(3, 2) if packets.length == _EOF_BYTES else _ok_status(packets)
    return bool(status & _MORE_RESULTS)


def _read_prepared(packets: Packets) -> tuple[Reply, int]:
    """page_protocol_com_stmt_prepare: 00, statement id (4), columns (2), parameters (2), 00, warnings (2)."""
    if packets.first != OK_BYTE or packets.length < _PREPARED_BYTES:
        return UNSEEN, packets.end
    for definitions in (packets.number(7, 2), packets.number(5, 2)):
        if not packets.jump(definitions):
            return OK, UNKNOWN
        if definitions:
            _pass_eof(packets)
    return OK, packets.end


def _pass_eof(packets: Packets) -> None:
    """Go over the EOF behind definitions, which CLIENT_DEPRECATE_EOF drops; else stay."""
    if packets.data.startswith(_EOF_HEADER, packets.end) and packets.data.startswith(
        _EOF, packets.end + HEADER_BYTES
    ):
        packets.advance()


def _read_columns(packets: Packets) -> tuple[Reply, int]:
    return _read_until_eof(packets, COLUMNS)


def _read_fetched(packets: Packets) -> tuple[Reply, int]:
    return _read_until_eof(packets, ROWS)


def _read_until_eof(packets: Packets, reply: Reply) -> tuple[Reply, int]:
    if packets.first == EOF_BYTE:
        return EOF, packets.end
    while packets.advance():
        if packets.first == ERROR:
            return packets.error(), packets.end
        if packets.first == EOF_BYTE:
            return reply, packets.end
    return reply, UNKNOWN


def _read_text(packets: Packets) -> tuple[Reply, int]:
    cut = packets.end > len(packets.data)
    text = decode(packets.data[packets.start : packets.end], cut=cut)
    return Reply(f"MySQL Response: {text}", truncated=cut), packets.end


def _read_events(packets: Packets) -> tuple[Reply, int]:
    return (EVENTS, UNKNOWN) if packets.first == OK_BYTE else _read_status(packets)


_READERS: dict[Answer, Callable[[Packets], tuple[Reply, int]]] = {
    Answer.STATUS: _read_status,
    Answer.RESULTS: _read_results,
    Answer.PREPARED: _read_prepared,
    Answer.COLUMNS: _read_columns,
    Answer.ROWS: _read_fetched,
    Answer.TEXT: _read_text,
    Answer.EVENTS: _read_events,
    Answer.LOGIN: _read_login,
}
