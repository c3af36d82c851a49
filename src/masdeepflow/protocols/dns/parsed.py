"""From paired messages to columns."""

from __future__ import annotations

import errno
from dataclasses import replace
from functools import cache
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from masdeepflow.protocols.dns.glances import ASKED_ANEW, MESSAGE
from masdeepflow.protocols.dns.waiting import is_doubtful, is_elsewhere
from masdeepflow.protocols.dns.words import (
    NO_ERROR,
    NO_SUCH_NAME,
    code_name,
    extended_error,
    query_line,
    response_line,
    type_name,
)
from masdeepflow.recall import renumber
from masdeepflow.table import ABSENT, Encoded, Parsed
from masdeepflow.unanswered import ANSWERED_ELSEWHERE, RETRIED, TIMEOUT

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from masdeepflow.protocols.dns.names import Names

__all__ = ["Transactions", "no_responses", "timed_out", "to_parsed"]

_ANSWERS_BITS, _KIND_BITS, _OPCODE_BITS, _EXTENDED_BITS, _REMARK_BITS = 16, 16, 4, 17, 14
_NOBODY = np.zeros(1, MESSAGE)
for _name in ("kind", "code", "answers"):
    _NOBODY[_name] = ABSENT


class Transactions(NamedTuple):
    """m queries with their responses, if any.

    rows: intp, the slot of the response, or that of the query while it waits. asked, answered: messages (m,),
    of dtype `MESSAGE`; of `no_responses` without a response, its code `ABSENT` if it was not captured. names:
    of the queries' places. remarks: texts of errors, by the responses' places. ended_ns: int64, when a query
    without a response was asked again or, for the reason `errno`, had failed, 0 where its connection's close
    ended it, else `ABSENT`; None if it is that everywhere. errno: int32, else 0.
    """

    rows: NDArray[np.intp]
    asked: np.ndarray
    answered: np.ndarray
    names: Names
    ended_ns: NDArray[np.int64] | None
    errno: NDArray[np.int32]
    remarks: Mapping[int, str]


def no_responses(count: int) -> np.ndarray:
    """Return what stands for responses (count,) that there are none of."""
    return _NOBODY.repeat(count)


def to_parsed(slots: np.ndarray, found: Transactions) -> Parsed:
    """Return the transactions in the order of their slots.

    One that waits is not shown while nothing tells who asks: its response will.
    """
    unknown = ~found.answered["valid"] & (slots["remote_port"][found.rows] == 0)
    order = np.argsort(found.rows, kind="stable")
    if unknown.any():
        order = order[~unknown[order]]
    asked, answered = found.asked.take(order), found.answered.take(order)
    base = {
        "request_first_ns": asked["first_ns"],
        "queue_ns": asked["queue_ns"],
        "request_bytes": asked["size"],
        "response_first_ns": answered["first_ns"],
        "response_last_ns": answered["last_ns"],
        "response_bytes": answered["size"],
    }
    code = answered["code"].copy()
    text, name = _asked(asked, found.names)
    parsed = Parsed(
        found.rows[order],
        text,
        _response_text(answered, found.remarks),
        (code != ABSENT) & (code != NO_ERROR) & (code != NO_SUCH_NAME),
        (asked["key"] == 0) | (answered["valid"] & (code == ABSENT)),
        {
            **_attributes(name, asked["kind"], code, answered["answers"], Encoded.absent(len(order))),
            **_extended(answered, found.remarks),
        },
        {name: column.copy() for name, column in base.items()},
        still_open=~answered["valid"],
    )
    if found.ended_ns is None:
        return parsed
    return _with_ended(parsed, found.ended_ns[order], found.errno[order], asked["last_ns"])


def _with_ended(
    parsed: Parsed, ended_ns: NDArray[np.int64], errnos: NDArray[np.int32], last_ns: NDArray[np.int64]
) -> Parsed:
    """Mark the transactions that are over without a response. last_ns: int64 (m,), of the queries' bytes."""
    told, over = ended_ns > 0, ended_ns != ABSENT
    numbers, codes = np.unique(errnos, return_inverse=True)
    names = [_reason(number) for number in numbers.tolist()]
    column = Encoded(np.where(told, codes, ABSENT).astype(np.int32), names)
    return replace(
        parsed,
        error=parsed.error | over,
        still_open=parsed.still_open & ~over,
        attributes=parsed.attributes | {"error.type": column},
        base=parsed.base | {"request_last_ns": np.where(told, ended_ns, last_ns)},
    )


def _reason(number: int) -> str:
    """Return `error.type` by errno; 0 is of a query that was asked again."""
    return errno.errorcode.get(number, f"errno {number}") if number else RETRIED


def _attributes(
    name: Encoded,
    kind: NDArray[np.int32],
    code: NDArray[np.int32],
    answers: NDArray[np.int32],
    error: Encoded,
) -> dict[str, Encoded | np.ndarray]:
    return {
        "dns.question.name": name,
        "dns.question.type": _column(kind, type_name),
        "dns.response_code": _column(code, code_name),
        "dns.answer_count": answers.astype(np.int64),
        "error.type": error,
    }


def _column(numbers: NDArray[np.int32], show: Callable[[int], str]) -> Encoded:
    """Return what each number (m,), `ABSENT` or small, is called."""
    places = numbers + 1
    codes, present = renumber(places, int(places.max(initial=0)) + 1)
    if present and not present[0]:
        return Encoded(codes - np.int32(1), [show(place - 1) for place in present[1:]])
    return Encoded(codes, [show(place - 1) for place in present])


def _asked(asked: np.ndarray, names: Names) -> tuple[Encoded, Encoded]:
    """Return the lines of queries (m,), and their names."""
    opcodes, kinds, places = asked["opcode"].astype(np.int64), asked["kind"].copy(), asked["place"].copy()
    encoded = cache(lambda: names.encoded(places))

    def lines() -> tuple[NDArray[np.int32], list[str]]:
        codes, values = encoded()
        numbers = (codes << _KIND_BITS + 1 | kinds + 1) << _OPCODE_BITS | opcodes
        first, inverse = np.unique(numbers, return_index=True, return_inverse=True)[1:]
        shown = [values[code] for code in codes[first].tolist()]
        return inverse.astype(np.int32), _lines(opcodes[first], kinds[first], shown)

    def some(rows: NDArray[np.integer]) -> list[str | None]:
        return [*_lines(opcodes[rows], kinds[rows], names.some(places[rows]))]

    def shown() -> tuple[NDArray[np.int32], list[str]]:
        codes, values = encoded()
        table = Encoded.from_list(values)
        return table.codes[codes], table.values

    rows = np.arange(len(places))
    return Encoded.later(rows, lines, some), Encoded.later(rows, shown)


def _lines(opcodes: NDArray[np.int64], kinds: NDArray[np.int32], names: list[str | None]) -> list[str]:
    return list(map(query_line, opcodes.tolist(), kinds.tolist(), names))


def _extended(answered: np.ndarray, remarks: Mapping[int, str]) -> dict[str, Encoded]:
    """Return the attribute of errors that RFC 8914 tells more of, if there are any among responses (m,)."""
    rows = np.flatnonzero(answered["extended"])
    if not len(rows):
        return {}
    texts: list[str | None] = [None] * len(answered)
    for row, extended, place in zip(
        rows.tolist(), answered["extended"][rows].tolist(), answered["place"][rows].tolist(), strict=True
    ):
        texts[row] = extended_error(extended, remarks.get(place, ""))
    return {"dns.extended_error": Encoded.from_list(texts)}


def _response_text(answered: np.ndarray, remarks: Mapping[int, str]) -> Encoded:
    names = ("code", "answers", "truncated", "valid", "extended", "unread")
    columns = [answered[name].copy() for name in names]
    code, answers, truncated, valid, extended, unread = columns
    said, texts = _numbered(answered, remarks)

    def make() -> tuple[NDArray[np.int32], list[str]]:
        numbers = ((code.astype(np.int64) << _ANSWERS_BITS | answers) << 1 | truncated) << 1 | valid
        numbers = ((numbers << _EXTENDED_BITS | extended) << _REMARK_BITS | said) << 1 | unread
        first, inverse = np.unique(numbers, return_index=True, return_inverse=True)[1:]
        chosen = zip(*(column[first].tolist() for column in (*columns, said)), strict=True)
        lines = [
            response_line(number, count, extended_error(more, texts[text]), truncated=cut, unread=left)
            if there
            else None
            for number, count, cut, there, more, left, text in chosen
        ]
        shown = Encoded.from_list(lines)
        return shown.codes[inverse], shown.values

    return Encoded.later(np.arange(len(code)), make)


def _numbered(answered: np.ndarray, remarks: Mapping[int, str]) -> tuple[NDArray[np.int64], list[str]]:
    """Return numbers (m,) of the distinct texts of errors, which come with them; the first is of none."""
    numbers, texts = np.zeros(len(answered), np.int64), {"": 0}
    if remarks:
        for row in np.flatnonzero(answered["extended"]).tolist():
            remark = remarks.get(int(answered["place"][row]), "")
            numbers[row] = texts.setdefault(remark, len(texts))
    return numbers, list(texts)


def timed_out(messages: np.ndarray, names: Names, due: np.ndarray, timeout_ns: int) -> Parsed:
    """Return a transaction for each query (n,), as nobody was seen to answer it for `timeout_ns`.

    due: (n,), as `Queries.overdue` gave them. What may have been answered, or was elsewhere, is no error.
    """
    size = len(messages)
    text, name = _asked(messages, names)
    doubtful, elsewhere, anew = is_doubtful(due), is_elsewhere(due), due["error"] == ASKED_ANEW
    elsewhere &= ~anew
    nothing = np.full(size, ABSENT, np.int32)
    reason = np.select([doubtful & ~anew, elsewhere, anew], [ABSENT, 1, 2], 0).astype(np.int32)
    ended = np.where(anew, due["request_last_ns"].astype(np.int64), messages["first_ns"] + timeout_ns)
    return Parsed(
        messages["row"].copy(),
        text,
        Encoded.absent(size),
        ~(reason == ABSENT) & ~elsewhere,
        (messages["key"] == 0) | (reason == ABSENT),
        _attributes(
            name, messages["kind"], nothing, nothing, Encoded(reason, [TIMEOUT, ANSWERED_ELSEWHERE, RETRIED])
        ),
        {"request_last_ns": ended},
    )
