"""NATS turns that are understood by themselves, as columns; and the columns of all transactions."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from masdeepflow.pipelined import BATCH_MOST
from masdeepflow.protocols.nats.exchanges import TURN_MOST
from masdeepflow.protocols.nats.shown import NO_ANSWER
from masdeepflow.protocols.nats.wire import CLIENT_PONG, ERR, OK, PONG, Seen
from masdeepflow.schema import Kind
from masdeepflow.table import Encoded, Parsed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from masdeepflow.protocols.nats.exchanges import Exchange, Read
    from masdeepflow.protocols.nats.shown import Answer, Command

__all__ = ["parsed_of", "plain_turns", "transactions"]

_SPREAD = np.uint64(0x9E3779B97F4A7C15)
_TURN, _OPEN = int(Kind.TURN), int(Kind.OPEN)
_ASKED_AT = ("request_first_ns", "queue_ns")
_STAMPS = ("response_first_ns", "response_last_ns")


def plain_turns(slots: np.ndarray, asked: Seen, told: Seen) -> tuple[NDArray[np.bool_], NDArray[np.int64]]:
    """Return which turns (n,) are understood by themselves, and what answers each command (m,), -1: nothing.

    In these, all requests are answered that need to be, and nothing of what they are answered is hidden.
    """
    count = len(slots)
    request_rest = slots["request_bytes"].astype(np.int64) - asked.ended
    response_rest = slots["response_bytes"].astype(np.int64) - told.ended
    tied = np.flatnonzero((asked.key > 0) & (asked.end >= 0))
    partner = np.full(len(asked.row), -1)
    repeated = np.zeros(count, bool)
    if len(tied):
        partner[tied], repeated = _partners(asked, told, tied, count)
    odd = (told.verb == OK) | (told.verb == ERR)
    waits = (asked.key > 0) & (partner < 0)
    bad = np.zeros(count, bool)
    bad[told.row[odd]] = True
    bad[asked.row[waits]] = True
    asks = np.zeros(count, bool)
    asks[asked.row[asked.key > 0]] = True
    some = np.zeros(count, bool)
    some[asked.row[(asked.end >= 0) & (asked.verb != CLIENT_PONG)]] = True
    pongs = np.zeros(count, bool)
    pongs[asked.row[asked.verb == CLIENT_PONG]] = True
    more = asked.good & (request_rest > 0)
    plain = (slots["kind"] == _TURN) & ~bad & ~repeated & (request_rest >= 0)
    plain &= (response_rest >= 0) & (asked.good | ~asks)
    plain &= ~asks | (told.good & (response_rest == 0))
    pinged = np.zeros(count, bool)
    pinged[told.row[told.verb == PONG]] = True
    plain &= ~more | (some & ~asks & ~pongs & ~pinged)
    return plain, partner


def _partners(
    asked: Seen, told: Seen, tied: NDArray[np.intp], count: int
) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """Return what of the same turn answers each of the commands `tied` (m,), -1 for nothing.

    And in which turns (n,) two of them wait for the same.
    """
    repeated = np.zeros(count, bool)
    answers = np.flatnonzero((told.key > 0) & (told.end >= 0))
    rows, keys = asked.row[tied], asked.key[tied]
    one_each = np.array_equal(rows, told.row[answers]) and bool((rows[1:] > rows[:-1]).all())
    if one_each and np.array_equal(keys, told.key[answers]):
        return answers, repeated
    own = asked.key[tied] ^ (asked.row[tied].astype(np.uint64) * _SPREAD)
    other = told.key[answers] ^ (told.row[answers].astype(np.uint64) * _SPREAD)
    order = np.argsort(own, kind="stable")
    same = own[order][1:] == own[order][:-1]
    repeated[asked.row[tied[order[1:][same]]]] = True
    if not len(answers):
        return np.full(len(tied), -1), repeated
    order = np.argsort(other, kind="stable")
    places = np.minimum(np.searchsorted(other[order], own), len(order) - 1)
    found = order[places]
    return np.where(other[found] == own, answers[found], -1), repeated


class _Columns(NamedTuple):
    """m transactions. command, answer: int64 (m,), -1 for the last value. The rest as in `Parsed`.

    late: bool (m,), it began with the turn's last byte (see `Turn`).
    """

    rows: NDArray[np.intp]
    command: NDArray[np.int64]
    answer: NDArray[np.int64]
    request_bytes: NDArray[np.int64]
    response_bytes: NDArray[np.int64]
    truncated: NDArray[np.bool_]
    late: NDArray[np.bool_]


def transactions(
    slots: np.ndarray,
    asked: Seen,
    told: Seen,
    plain: NDArray[np.bool_],
    partner: NDArray[np.int64],
) -> _Columns:
    """Return the transactions of plain turns (n,), and those that turns in flight show.

    `command` and `answer` are messages of `asked` and `told`.
    """
    in_flight = slots["kind"] == _OPEN
    total = slots["request_bytes"].astype(np.int64)
    mine = (plain | in_flight)[asked.row] & (asked.verb != CLIENT_PONG)
    mine &= (asked.end >= 0) | in_flight[asked.row]
    chosen = np.flatnonzero(mine)
    row = asked.row[chosen]
    answer = np.where(in_flight[row], -1, partner[chosen])
    end = np.where(asked.end[chosen] < 0, total[row], np.minimum(asked.end[chosen], total[row]))
    size = np.where(answer >= 0, told.end[answer] - told.start[answer], 0) if len(told.end) else 0 * row
    late = (answer >= 0) & _late(asked)[chosen]
    own = _Columns(row, chosen, answer, end - asked.start[chosen], size, asked.end[chosen] < 0, late)
    rest = np.where(plain & asked.good, total - asked.ended, 0)
    if not (rest > 0).any():
        return own
    return _joined(own, _hidden(asked, rest))


def _late(asked: Seen) -> NDArray[np.bool_]:
    """Return which messages (m,) come behind one without an answer, or end a turn that they did not begin."""
    count = len(asked.row)
    first = np.ones(count, bool)
    first[1:] = asked.row[1:] != asked.row[:-1]
    last = np.append(first[1:], True)[:count]
    silent = asked.key == 0
    before = np.cumsum(silent) - silent
    begins = np.maximum.accumulate(np.where(first, np.arange(count), 0))
    late: NDArray[np.bool_] = ~first & (last | (before > before[begins]))
    return late


def _hidden(asked: Seen, rest: NDArray[np.int64]) -> _Columns:
    """Return the transactions behind those seen, in turns (n,) of which `rest` bytes were not read.

    They are taken to be like the last that was seen whole, and as long as all of them are on the average.
    """
    count = len(rest)
    whole = np.flatnonzero((asked.end >= 0) & (rest[asked.row] > 0))
    row = asked.row[whole]
    seen = np.bincount(row, minlength=count)
    first, last = np.full(count, -1), np.full(count, -1)
    first[row[::-1]], last[row] = whole[::-1], whole
    rows = np.flatnonzero(seen)
    span = asked.end[last[rows]] - asked.start[first[rows]]
    number = np.clip((rest[rows] * seen[rows] + span // 2) // span, 1, TURN_MOST)
    if int(number.sum()) > BATCH_MOST:
        number = np.minimum(number, max(BATCH_MOST // len(number), 1))
    which = np.repeat(np.arange(len(rows)), number)
    rank = np.arange(len(which)) - np.repeat(np.cumsum(number) - number, number)
    command = last[rows][which]
    cut = np.full(count, -1)
    tail = np.flatnonzero((asked.end < 0) & (rest[asked.row] > 0))
    cut[asked.row[tail]] = tail
    own = cut[rows][which]
    command = np.where((rank == 0) & (own >= 0), own, command)
    each, more = rest[rows] // number, rest[rows] % number
    size = each[which] + np.where(rank == number[which] - 1, more[which], 0)
    none = np.zeros(len(which), np.int64)
    return _Columns(rows[which], command, none - 1, size, none, none == 0, none > 0)


def _joined(one: _Columns, other: _Columns) -> _Columns:
    """Return both, by turn."""
    order = np.argsort(np.concatenate([one.rows, other.rows]), kind="stable")
    return _Columns(*(np.concatenate(pair)[order] for pair in zip(one, other, strict=True)))


def _integers(exchanges: list[Exchange], name: str) -> NDArray[np.int64]:
    return np.array([getattr(exchange, name) for exchange in exchanges], np.int64)


def _followed(exchanges: list[Exchange], asked: int, told: int, none: int) -> _Columns:
    """Return the columns of exchanges, whose values come behind those `asked` and `told`. none: no answer."""
    places = [none if exchange.answer is None else place for place, exchange in enumerate(exchanges, told)]
    return _Columns(
        _integers(exchanges, "row"),
        np.arange(len(exchanges)) + asked,
        np.array(places, np.int64),
        _integers(exchanges, "request_bytes"),
        _integers(exchanges, "response_bytes"),
        np.array([exchange.truncated for exchange in exchanges], bool),
        np.zeros(len(exchanges), bool),
    )


def parsed_of(
    slots: np.ndarray,
    columns: _Columns,
    commands: Read[Command],
    answers: Read[Answer],
    exchanges: list[Exchange],
) -> Parsed:
    """Return all transactions: those of columns, and those of turns that were followed."""
    asked, told = list(commands.values), [*answers.values, NO_ANSWER]
    command = commands.codes[columns.command]
    none = len(told) - 1
    answer = np.full(len(columns.rows), none)
    has = columns.answer >= 0
    answer[has] = answers.codes[columns.answer[has]]
    made = columns._replace(command=command, answer=answer)
    base = {name: slots[name][made.rows].astype(np.int64) for name in (*_ASKED_AT, *_STAMPS)}
    if made.late.any():
        last = slots["request_last_ns"][made.rows[made.late]].astype(np.int64)
        base["queue_ns"][made.late] *= last == base["request_first_ns"][made.late]
        base["request_first_ns"][made.late] = last
    if exchanges:
        own = _followed(exchanges, len(asked), len(told), none)
        asked += [exchange.command for exchange in exchanges]
        told += [exchange.answer or NO_ANSWER for exchange in exchanges]
        order = np.argsort(np.concatenate([made.rows, own.rows]), kind="stable")
        for name in base:
            column = slots[name][own.rows] if name in _STAMPS else _integers(exchanges, name)
            base[name] = np.concatenate([base[name], column.astype(np.int64)])[order]
        made = _joined(made, own)
    answered = np.array([value is not NO_ANSWER for value in told], bool)[made.answer]
    for name in _STAMPS:
        base[name][~answered] = 0
    base |= {"request_bytes": made.request_bytes, "response_bytes": made.response_bytes}

    def shown(values: Sequence[Command | Answer], codes: NDArray[np.int64], name: str) -> Encoded:
        texts = Encoded.from_list([getattr(value, name) for value in values])
        return Encoded.by(codes, texts.codes, texts.values)

    cut = np.array([value.truncated for value in asked], bool)[made.command]
    cut |= np.array([value.truncated for value in told], bool)[made.answer]
    return Parsed(
        made.rows,
        shown(asked, made.command, "text"),
        shown(told, made.answer, "text"),
        np.array([value.error for value in told], bool)[made.answer],
        made.truncated | cut,
        {
            "messaging.system": Encoded(np.zeros(len(made.rows), np.int32), ["nats"]),
            "messaging.operation.name": shown(asked, made.command, "operation"),
            "messaging.destination.template": shown(asked, made.command, "subject"),
            "error.type": shown(told, made.answer, "failure"),
        },
        base,
    )
