"""Whether turns of connections not known yet are this protocol's.

A few column comparisons sort out nearly all that is not. What is left is looked at turn by turn: every length
and sequence number that is visible has to fit, and the bodies have to be what the commands ask for.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import numpy as np

from masdeepflow.columns import prefix
from masdeepflow.protocols.base import CERTAIN, LIKELY, POSSIBLE
from masdeepflow.protocols.mysql.commands import (
    COMMANDS,
    HEADER_BYTES,
    LAST_STATEMENT,
    Answer,
    Code,
    statement_text,
)
from masdeepflow.protocols.mysql.connection import Turn, read_turns
from masdeepflow.protocols.mysql.handshake import is_refusal, read_greeting, read_login
from masdeepflow.protocols.mysql.replies import EOF_BYTE, ERROR, FILE_BYTE, OK_BYTE, Packets
from masdeepflow.redact import summarize_sql

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

__all__ = ["recognise"]

_NOT_MINE = 0
_GREETINGS = (0x09, 0x0A, ERROR)
_KNOWN = np.zeros(256, bool)
_KNOWN[list(COMMANDS)] = True

_LOGIN_BYTES = 32  # before the user
_TLS = re.compile(rb"\x16\x03[\x00-\x04]")
_PRINTABLE = re.compile(rb"[^\x00-\x1f\x7f]*\Z")
_PLAIN_TEXT = re.compile(rb"[^\x00-\x08\x0b\x0c\x0e-\x1f\x7f]*\Z")
_CHECKED_BYTES = 64  # of a statement: behind them it may hold anything
_ERROR = re.compile(rb"\xff(?P<code>..)#[0-9A-Z]{5}[^\x00-\x08\x0e-\x1f\x7f]*\Z", re.DOTALL)
_ERROR_CODES = range(1000, 65535)
_DEFINITION = b"\x03def"
_EOF_BYTES = 5
_OK_BYTES = 7
_PREPARED_BYTES = range(12, 14)
_IDS = 1 << 24
_EXECUTE_FLAGS = b"\x10"
_BINLOG_FLAGS = b"\x04"
_BULK_FLAGS = {b"\x00\0", b"\x40\0", b"\x80\0", b"\xc0\0"}
_MORE_DATA = 0x01
_EVENT_BYTES = 19
_COUNT_BYTES = range(1, 5)


def recognise(slots: np.ndarray) -> NDArray[np.uint8]:
    """Return a score (n,), uint8, for turns of connections not known yet: 0 is "not mine"."""
    scores = np.zeros(len(slots), np.uint8)
    for turn in read_turns(slots, np.flatnonzero(_may_be(slots))):
        scores[turn.row] = _score(turn)
    return scores


def _may_be(slots: np.ndarray) -> NDArray[np.bool_]:
    """Return which turns (n,) start with what may be a packet's header, both ways."""
    request, response = prefix(slots["request"], 8), prefix(slots["response"], 8)
    starts = (request >> np.uint64(32)) & np.uint64(0xFF)
    sequence = (request >> np.uint64(24)) & np.uint64(0xFF)
    whole = (request & np.uint64(0xFFFFFF)) + np.uint64(HEADER_BYTES) <= slots["request_bytes"]
    asks = (sequence == 0) & _KNOWN[starts.astype(np.intp)] & (slots["request_length"] > HEADER_BYTES)
    logs_in = (sequence == 1) & (slots["request_length"] >= HEADER_BYTES + _LOGIN_BYTES)
    answers = (response >> np.uint64(32)) & np.uint64(0xFF)
    sequence = (response >> np.uint64(24)) & np.uint64(0xFF)
    greets = (sequence <= 1) & np.isin(answers, _GREETINGS) & (slots["response_length"] > HEADER_BYTES)
    may_be: NDArray[np.bool_] = ((asks | logs_in) & whole) | greets
    return may_be


def _score(turn: Turn) -> int:
    if read_greeting(turn.response, turn.response_bytes):
        return CERTAIN
    if not turn.request_bytes:
        return CERTAIN if is_refusal(turn.response, turn.response_bytes) else _NOT_MINE
    if turn.request[3:4] == b"\1":
        return _score_login(turn)
    return _score_commands(turn)


def _score_login(turn: Turn) -> int:
    """A login of MySQL 4.1 or later, or the request for TLS with TLS behind it."""
    login = read_login(turn.request)
    if login is None or turn.request[13:32] != bytes(19):
        return _NOT_MINE
    if login.tls:
        tls = turn.request[HEADER_BYTES + _LOGIN_BYTES :]
        answered = _TLS.match(turn.response) if turn.response_bytes else None
        return _NOT_MINE if tls and not _TLS.match(tls) else LIKELY if answered else POSSIBLE
    user = turn.request[HEADER_BYTES + _LOGIN_BYTES :].partition(b"\0")[0]
    length = int.from_bytes(turn.request[:3], "little")
    if not _PRINTABLE.match(user) or length + HEADER_BYTES != turn.request_bytes:
        return _NOT_MINE
    return _answered(turn, Answer.LOGIN, 1, sequence=2)


def _score_commands(turn: Turn) -> int:
    answers = _commands(turn)
    if answers is None:
        return _NOT_MINE
    awaited = [answer for answer in answers if answer is not Answer.NONE]
    return _answered(turn, awaited[0] if awaited else Answer.NONE, len(awaited), sequence=1)


def _commands(turn: Turn) -> list[Answer] | None:
    """Return what the commands that fill a request ask for; None if they do not, or one of them is none."""
    packets = Packets(turn.request, 0)
    answers = []
    while packets.end < turn.request_bytes:
        packets = Packets(turn.request, packets.end)
        if not packets.advance() or turn.request[packets.start - 1]:
            return None
        code = packets.first
        body = turn.request[packets.start + 1 : packets.end]
        if code not in COMMANDS or not _plausible(code, body, packets.length - 1):
            return None
        answers.append(COMMANDS[code].answer)
    return answers if packets.end == turn.request_bytes else None


def _plausible(code: int, body: bytes, length: int) -> bool:
    """Whether `length` bytes, of which `body` is captured, are what follows a command byte."""
    lengths, check = _BODIES.get(code, (range(0), _is_anything))
    return length in lengths and check(body)


def _is_anything(_body: bytes) -> bool:
    return True


def _is_statement(body: bytes) -> bool:
    text = statement_text(body)
    if not _PLAIN_TEXT.match(text[:_CHECKED_BYTES]):
        return False
    # A long comment may hide the keyword.
    return text.startswith(b"/*") or bool(summarize_sql(text.decode("utf-8", "replace"))[0])


def _is_name(body: bytes) -> bool:
    return _PRINTABLE.match(body) is not None


def _starts_with_name(body: bytes) -> bool:
    name, nul, _ = body.partition(b"\0")
    return bool(name and nul) and _is_name(name)


def _is_binlog_dump(body: bytes) -> bool:
    """Position (4), flags (2): 0 to 3, server id (4), file name."""
    return body[4:6] < _BINLOG_FLAGS and body[5:6] == b"\0" and _is_name(body[10:])


def _is_id(body: bytes) -> bool:
    """Servers count statements from 1."""
    statement = int.from_bytes(body[:4], "little")
    return 0 < statement < _IDS or statement == LAST_STATEMENT


def _is_execute(body: bytes) -> bool:
    """Statement id (4), flags (1), iterations: 1 (4)."""
    return _is_id(body) and body[4:5] < _EXECUTE_FLAGS and body[5:9] == b"\1\0\0\0"


def _is_bulk_execute(body: bytes) -> bool:
    """Statement id (4), flags (2): 64 and 128 are in use."""
    return _is_id(body) and body[4:6] in _BULK_FLAGS


_ANY = 1 << 24
_BODIES: dict[int, tuple[range, Callable[[bytes], bool]]] = {
    Code.QUIT: (range(1), _is_anything),
    Code.INIT_DB: (range(1, 257), _is_name),
    Code.QUERY: (range(1, _ANY), _is_statement),
    Code.FIELD_LIST: (range(2, 513), _starts_with_name),
    0x09: (range(1), _is_anything),  # Statistics
    0x0A: (range(1), _is_anything),  # Process Info
    Code.PROCESS_KILL: (range(4, 5), _is_anything),
    0x0D: (range(1), _is_anything),  # Debug
    Code.PING: (range(1), _is_anything),
    Code.CHANGE_USER: (range(3, _ANY), _starts_with_name),
    Code.BINLOG_DUMP: (range(10, 1024), _is_binlog_dump),
    Code.STMT_PREPARE: (range(1, _ANY), _is_statement),
    Code.STMT_EXECUTE: (range(9, _ANY), _is_execute),
    Code.STMT_SEND_LONG_DATA: (range(6, _ANY), _is_id),
    Code.STMT_CLOSE: (range(4, 5), _is_id),
    Code.STMT_RESET: (range(4, 5), _is_id),
    Code.SET_OPTION: (range(2, 3), _is_anything),
    Code.STMT_FETCH: (range(8, 9), _is_id),
    Code.RESET_CONNECTION: (range(1), _is_anything),
    Code.STMT_BULK_EXECUTE: (range(6, _ANY), _is_bulk_execute),
}
"""Command byte -> bytes that follow it, and a check of them. What is left out is rare, or fits too much."""


def _answered(turn: Turn, answer: Answer, awaited: int, sequence: int) -> int:
    """Return the score of a turn whose request fits, by its response."""
    if not turn.response_bytes:
        return POSSIBLE
    packets = Packets(turn.response, 0)
    if answer is Answer.NONE or turn.response[3:4] != bytes([sequence]) or not packets.advance():
        return _NOT_MINE
    fits = _is_error(packets) if packets.first == ERROR else _ANSWERS[answer](packets)
    return LIKELY if fits and _chained(packets, turn, awaited) else _NOT_MINE


def _chained(packets: Packets, turn: Turn, awaited: int) -> bool:
    """Whether packet follows packet to the end of the response, as far as captured."""
    while packets.advance():
        pass
    if packets.end >= turn.response_bytes:
        return packets.end == turn.response_bytes
    follows = turn.response[packets.end + HEADER_BYTES - 1 : packets.end + HEADER_BYTES]
    hidden = not follows and len(turn.response) < turn.response_bytes
    return hidden or (awaited > 1 and follows == b"\1")


def _is_error(packets: Packets) -> bool:
    found = _ERROR.match(packets.data[packets.start : packets.end])
    return found is not None and int.from_bytes(found["code"], "little") in _ERROR_CODES


def _is_ok(packets: Packets) -> bool:
    return packets.first == OK_BYTE and packets.length >= _OK_BYTES


def _is_eof(packets: Packets) -> bool:
    return packets.first == EOF_BYTE and packets.length == _EOF_BYTES


def _is_status(packets: Packets) -> bool:
    return _is_ok(packets) or _is_eof(packets)


def _is_definition(packets: Packets) -> bool:
    return packets.data.startswith(_DEFINITION, packets.start) or _is_eof(packets)


def _are_results(packets: Packets) -> bool:
    if packets.first == FILE_BYTE:
        return packets.length > 1 and _is_text(packets)
    if packets.first in {OK_BYTE, EOF_BYTE}:
        return _is_ok(packets)
    return packets.length in _COUNT_BYTES and packets.advance() and _is_definition(packets)


def _is_prepared(packets: Packets) -> bool:
    """A zero stands between the counts of columns and parameters and that of warnings."""
    zero = packets.data[packets.start + 9 : packets.start + 10]
    return packets.first == OK_BYTE and packets.length in _PREPARED_BYTES and zero == b"\0"


def _is_row(packets: Packets) -> bool:
    return packets.first == OK_BYTE or _is_eof(packets)


def _is_event(packets: Packets) -> bool:
    """00 in front of an event, whose head has 19 bytes."""
    return packets.first == OK_BYTE and packets.length > _EVENT_BYTES


def _is_text(packets: Packets) -> bool:
    return _PRINTABLE.match(packets.data[packets.start : packets.end]) is not None


def _is_login_reply(packets: Packets) -> bool:
    return _is_ok(packets) or packets.first in {EOF_BYTE, _MORE_DATA}


_ANSWERS: dict[Answer, Callable[[Packets], bool]] = {
    Answer.STATUS: _is_status,
    Answer.RESULTS: _are_results,
    Answer.PREPARED: _is_prepared,
    Answer.COLUMNS: _is_definition,
    Answer.ROWS: _is_row,
    Answer.TEXT: _is_text,
    Answer.EVENTS: _is_event,
    Answer.LOGIN: _is_login_reply,
}
