"""Whether turns of connections not known yet are this protocol's.

A few column comparisons sort out nearly all that is not. What is left is looked at turn by turn: message has
to follow message up to the last byte or the end of the prefix, both ways, each with what belongs in it, and
the first of the response has to answer the first of the request.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from masdeepflow.columns import prefix
from masdeepflow.protocols.base import CERTAIN, LIKELY, POSSIBLE
from masdeepflow.protocols.postgresql.connection import Turn, read_turns
from masdeepflow.protocols.postgresql.requests import HEADER_BYTES
from masdeepflow.redact import summarize_sql

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from numpy.typing import NDArray

__all__ = ["recognise"]

_NOT_MINE = 0
_ROUNDS = 4
"""How often the first turn of each connection that is left is looked at, before all are."""
_FIRST = np.zeros(256, bool)
_FIRST[list(b"QPBEDCSFX")] = True
_MAJOR_3, _CODES = 0x0003, (0x04D2162E, 0x04D2162F, 0x04D21630)
_CANCEL, _TLS, _GSS = _CODES
_CODE_BYTES = 8
_STARTUP_BYTES = 10_000  # the server's own limit
_CANCEL_BYTES = range(16, 269)  # with a secret key of 4 bytes, since version 3.2 of up to 256

_PARAMETERS = re.compile(rb"(?:[ -~]+\0[^\0]*\0)+\0\Z")
_CUT_PARAMETERS = re.compile(rb"(?:[ -~]+\0[^\0]*\0)*(?:[ -~]+\0[^\0]*|[ -~]*)\Z")
_NO_CONTROLS = rb"[^\x00-\x08\x0e-\x1f\x7f]*"
_TEXT = re.compile(_NO_CONTROLS + rb"\0\Z")
_CUT_TEXT = re.compile(_NO_CONTROLS + rb"\0?\Z")
_STATEMENT_TEXT = 64  # bytes of a statement that are looked at: behind them it may hold anything
_NAME = rb"[^\x00-\x1f\x7f]{0,63}\0"
_NAMES = re.compile(_NAME)
_CUT_NAME = re.compile(rb"[^\x00-\x1f\x7f]{0,63}\Z")
_NAME_BYTES = 64
_PAYLOAD_BYTES = 8000  # of a notification, the server's own limit
_SETTING_BYTES = 1024
_SETTING = re.compile(rb"[A-Za-z_.]{1,63}(?:\0|\Z)|\Z")
_TAG = re.compile(rb"[A-Z][A-Z ]{1,40}(?: \d{1,20}){0,2}\0?\Z")
_SEVERITY = rb"ERROR|FATAL|PANIC|WARNING|NOTICE|DEBUG|INFO|LOG"
_NOTICE = re.compile(rb"S[^\0]{1,20}\0(?:V(?:" + _SEVERITY + rb")\0)?C[0-9A-Z]{5}\0M")
_CUT_NOTICE = re.compile(rb"(?:S[^\0]{0,20}(?:\0(?:V[A-Z]{0,7}(?:\0C?[0-9A-Z]{0,5})?)?)?)?\Z")
_WIDTH, _NUMBER = 2, 4
"""Bytes of the two kinds of integers."""
_COLUMN_BYTES = 19  # of a description, with an empty name
_METHODS = 16  # numbers of authentication requests are below


class _Part(NamedTuple):
    """A message. length: of its body. body: as far as captured."""

    kind: str
    length: int
    body: bytes

    @property
    def cut(self) -> bool:
        """Whether some of it was not captured."""
        return len(self.body) < self.length


_NEVER = _Part("", 0, b"")


def recognise(slots: np.ndarray) -> NDArray[np.uint8]:
    """Return a score (n,), uint8, for turns of connections not known yet: 0 is "not mine".

    It is 0 too behind a turn that makes the connection this protocol's: those are not looked at.
    """
    scores = np.zeros(len(slots), np.uint8)
    rows = np.flatnonzero(_may_be(slots))
    for _ in range(_ROUNDS):
        cookies = slots["cookie"][rows]
        first = np.unique(cookies, return_index=True)[1]
        _score(slots, rows[first], scores)
        sure = cookies[first[scores[rows[first]] >= LIKELY]]
        left = ~np.isin(cookies, sure)
        left[first] = False
        rows = rows[left]
    _score(slots, rows, scores)
    return scores


def _score(slots: np.ndarray, rows: NDArray[np.intp], scores: NDArray[np.uint8]) -> None:
    """Put the scores of `rows` (m,) into `scores` (n,)."""
    for turn in read_turns(slots, rows):
        scores[turn.row] = _score_startup(turn) if turn.request[0] == 0 else _score_messages(turn)


def _may_be(slots: np.ndarray) -> NDArray[np.bool_]:
    """Return which turns (n,) start with what may be a message's head, or a startup packet's."""
    head = prefix(slots["request"], 8).byteswap()
    captured, total = slots["request_length"], slots["request_bytes"]
    first = (head >> np.uint64(56)).astype(np.intp)
    length = (head >> np.uint64(24)) & np.uint64(0xFFFFFFFF)
    message = _FIRST[first] & (captured >= HEADER_BYTES) & (length + np.uint64(1) <= total)
    code = head & np.uint64(0xFFFFFFFF)
    starts = (code >> np.uint64(16) == _MAJOR_3) | np.isin(code, _CODES)
    startup = starts & (captured >= _CODE_BYTES) & (head >> np.uint64(32) == total)
    may_be: NDArray[np.bool_] = message | (startup & (total < _STARTUP_BYTES))
    return may_be


def _score_startup(turn: Turn) -> int:
    code = int.from_bytes(turn.request[4:_CODE_BYTES], "big")
    if code == _CANCEL:
        return LIKELY if turn.request_bytes in _CANCEL_BYTES and not turn.response_bytes else _NOT_MINE
    if code in {_TLS, _GSS}:
        return _score_encryption(turn, b"S" if code == _TLS else b"G")
    whole = len(turn.request) == turn.request_bytes
    parameters = turn.request[_CODE_BYTES:]
    if b"user\0" not in parameters or not (_PARAMETERS if whole else _CUT_PARAMETERS).match(parameters):
        return _NOT_MINE
    if not turn.response_bytes:
        return LIKELY
    return CERTAIN if _fits(turn, "RENv") else _NOT_MINE


def _score_encryption(turn: Turn, accepted: bytes) -> int:
    if turn.request_bytes != _CODE_BYTES:
        return _NOT_MINE
    if turn.response_bytes > 1:
        return CERTAIN if _fits(turn, "E") else _NOT_MINE
    return CERTAIN if turn.response in {b"N", accepted, b""} else _NOT_MINE


def _score_messages(turn: Turn) -> int:
    asked = list(_parts(turn.request, turn.request_bytes))
    if not asked or not all(_ASKS.get(part.kind, _is_never)(part) for part in asked):
        return _NOT_MINE
    first = asked[0]
    if first.kind in "QP" and not _is_statement(first) and turn.response[:1] != b"E":
        return _NOT_MINE
    if turn.response_bytes:
        return LIKELY if _fits(turn, _ANSWERS[first.kind] + "ENSA") else _NOT_MINE
    return POSSIBLE if first.kind in "QPX" else _NOT_MINE


def _is_statement(part: _Part) -> bool:
    """Whether it begins with a keyword of statements, with a comment, which may hide it, or is empty."""
    text = part.body if part.kind == "Q" else part.body.partition(b"\0")[2]
    return (
        not text.strip(b" ;\0")
        or text.startswith((b"/*", b"--"))
        or bool(summarize_sql(text.decode("utf-8", "replace"))[0])
    )


def _fits(turn: Turn, firsts: str) -> bool:
    """Whether the response is messages to its end, of which the first is one of `firsts`."""
    answers = list(_parts(turn.response, turn.response_bytes))
    return (
        bool(answers)
        and answers[0].kind in firsts
        and all(_SAYS.get(part.kind, _is_never)(part) for part in answers)
    )


def _parts(data: bytes, total: int) -> Iterator[_Part]:
    """Yield messages as far as captured, and one that is never valid if they cannot fill `total` bytes."""
    at = 0
    while at + HEADER_BYTES <= len(data):
        length = int.from_bytes(data[at + 1 : at + HEADER_BYTES], "big") - (HEADER_BYTES - 1)
        end = at + HEADER_BYTES + length
        if length < 0 or end > total:
            yield _NEVER
            return
        yield _Part(chr(data[at]), length, data[at + HEADER_BYTES : end])
        at = end
    # What follows the last message has to be a head that was cut.
    if at != total and (len(data) >= total or total - at < HEADER_BYTES or not _is_head(data[at:])):
        yield _NEVER


def _is_head(start: bytes) -> bool:
    return not start or (chr(start[0]) in _SAYS.keys() | _ASKS.keys() and start[1:2] in {b"", b"\0"})


def _is_never(_part: _Part) -> bool:
    return False


def _is_empty(part: _Part) -> bool:
    return part.length == 0


def _is_anything(_part: _Part) -> bool:
    return True


def _is_text(body: bytes, *, cut: bool) -> bool:
    looked_at = body[:_STATEMENT_TEXT]
    return bool((_CUT_TEXT if cut or len(body) > _STATEMENT_TEXT else _TEXT).match(looked_at))


def _is_query(part: _Part) -> bool:
    return part.length > 0 and _is_text(part.body, cut=part.cut) and (part.cut or part.body.endswith(b"\0"))


def _is_parse(part: _Part) -> bool:
    """Name, statement, number of parameters (2), their types (4 each)."""
    name, nul, rest = part.body.partition(b"\0")
    if not nul or not _NAMES.match(name + nul):
        return part.cut and not nul and bool(_NAMES.match(name + b"\0"))
    statement, nul, types = rest.partition(b"\0")
    if part.cut:
        return _is_text(statement, cut=True)
    numbers = int.from_bytes(types[:2], "big")
    return bool(nul) and _is_text(statement + nul, cut=False) and len(types) == 2 + 4 * numbers


def _is_bind(part: _Part) -> bool:
    """Portal, statement, formats of the values (2 each), the values, formats of the result."""
    names = _NAMES.match(part.body)
    names = names and _NAMES.match(part.body, names.end())
    if not names:
        return False
    body, at = part.body, _skip_formats(part.body, names.end())
    if at is None:
        return False
    values, at = int.from_bytes(body[at : at + 2], "big"), at + 2
    for _ in range(values):
        if at >= len(body):
            break
        length = int.from_bytes(body[at : at + 4], "big", signed=True)
        at += 4 + max(length, 0)
    if part.cut and at >= len(body):
        return at <= part.length
    return _skip_formats(body, at) == part.length or part.cut


def _skip_formats(body: bytes, at: int) -> int | None:
    """Return where a list of formats, each 0 or 1, ends, None if it is none."""
    end = at + 2 + 2 * int.from_bytes(body[at : at + 2], "big")
    formats = body[at + 2 : end]
    return end if set(formats[::2]) <= {0} and set(formats[1::2]) <= {0, 1} else None


def _is_name(part: _Part, before: int, behind: int) -> bool:
    """Whether there is a name, with so many bytes before and behind it."""
    if not before + 1 + behind <= part.length <= before + _NAME_BYTES + behind:
        return False
    name = _NAMES.match(part.body, before)
    if name is None:
        return part.cut and bool(_CUT_NAME.match(part.body, before))
    return part.length == name.end() + behind


def _is_execute(part: _Part) -> bool:
    return _is_name(part, 0, 4)


def _is_about(part: _Part) -> bool:
    return part.body[:1] in {b"", b"S", b"P"} and _is_name(part, 1, 0)


def _is_call(part: _Part) -> bool:
    """Function (4), formats, values, format of the result (2)."""
    at = _skip_formats(part.body, 4)
    return at is not None and at + 2 * _WIDTH <= part.length


def _first_number(part: _Part) -> int:
    return int.from_bytes(part.body[:_WIDTH], "big")


def _is_tag(part: _Part) -> bool:
    return bool(_TAG.match(part.body)) and (part.cut or part.body.endswith(b"\0"))


def _is_description(part: _Part) -> bool:
    """Number of columns (2), each a name with its zero and 18 bytes."""
    columns = _first_number(part)
    name = _NAMES.match(part.body, _WIDTH) or (part.cut and _CUT_NAME.match(part.body, _WIDTH))
    whole = part.length >= _WIDTH + _COLUMN_BYTES * columns
    return whole and (bool(name) if columns else part.length == _WIDTH)


def _is_types(part: _Part) -> bool:
    return part.length == _WIDTH + _NUMBER * _first_number(part) or len(part.body) < _WIDTH


def _is_row(part: _Part) -> bool:
    return part.length >= _WIDTH + _NUMBER * _first_number(part)


def _is_notice(part: _Part) -> bool:
    return bool(_NOTICE.match(part.body)) or (part.cut and bool(_CUT_NOTICE.match(part.body)))


def _is_ready(part: _Part) -> bool:
    return part.length == 1 and part.body in {b"", b"I", b"T", b"E"}


def _is_copy(part: _Part) -> bool:
    """Format (1), number of columns (2), their formats (2 each)."""
    columns = int.from_bytes(part.body[1 : 1 + _WIDTH], "big")
    whole = part.length == 1 + _WIDTH + _WIDTH * columns or len(part.body) <= _WIDTH
    return whole and part.length > _WIDTH and part.body[:1] in {b"", b"\0", b"\1"}


def _is_parameter(part: _Part) -> bool:
    ends = part.cut or part.body.endswith(b"\0")
    return _WIDTH < part.length < _SETTING_BYTES and ends and bool(_SETTING.match(part.body))


def _is_notification(part: _Part) -> bool:
    """Process (4), channel, payload."""
    channel = _NAMES.match(part.body, _NUMBER) or (part.cut and _CUT_NAME.match(part.body, _NUMBER))
    return bool(channel) and _NUMBER + 1 < part.length < _NUMBER + _NAME_BYTES + _PAYLOAD_BYTES


def _is_authentication(part: _Part) -> bool:
    return part.length >= _NUMBER and int.from_bytes(part.body[:_NUMBER], "big") < _METHODS


_ASKS: dict[str, Callable[[_Part], bool]] = {
    "Q": _is_query,
    "P": _is_parse,
    "B": _is_bind,
    "E": _is_execute,
    "D": _is_about,
    "C": _is_about,
    "F": _is_call,
    "S": _is_empty,
    "H": _is_empty,
    "X": _is_empty,
    "d": _is_anything,
    "c": _is_empty,
}
_SAYS: dict[str, Callable[[_Part], bool]] = {
    "1": _is_empty,
    "2": _is_empty,
    "3": _is_empty,
    "n": _is_empty,
    "I": _is_empty,
    "s": _is_empty,
    "c": _is_empty,
    "t": _is_types,
    "T": _is_description,
    "D": _is_row,
    "d": _is_anything,
    "C": _is_tag,
    "E": _is_notice,
    "N": _is_notice,
    "S": _is_parameter,
    "A": _is_notification,
    "G": _is_copy,
    "H": _is_copy,
    "W": _is_copy,
    "Z": _is_ready,
    "V": _is_anything,
    "R": _is_authentication,
    "K": _is_anything,
    "v": _is_anything,
}
_ANSWERS = {
    "Q": "TCIGHW",
    "P": "1",
    "B": "2",
    "E": "DCIsGHW",
    "D": "tTn",
    "C": "3",
    "S": "Z",
    "F": "V",
    "H": "",
    "X": "",
    "d": "",
    "c": "",
}
"""Type of a request's first message -> types of its response's first, besides what may come at any time."""
