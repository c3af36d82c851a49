"""From a batch of slots to what sinks get: recognise, parse, name, filter. Knows no protocol and no sink."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

import numpy as np

from masdeepflow import filters
from masdeepflow.announced import Announced
from masdeepflow.batch import Slots, word
from masdeepflow.datagrams import Datagrams
from masdeepflow.endpoint import likenesses_of
from masdeepflow.enrich.endpoints import NO_PROTOCOL, Endpoints
from masdeepflow.enrich.process import is_life
from masdeepflow.protocols.registry import Registry
from masdeepflow.schema import ERROR_TYPE, MAX_SERVICES, Flag, Kind, Transport
from masdeepflow.table import ABSENT, Attribute, Encoded, Events, Parsed, Table
from masdeepflow.unanswered import Closes, Ends, explain

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from masdeepflow.endpoint import Endpoint
    from masdeepflow.enrich.directory import Directory, Wanted
    from masdeepflow.enrich.facts import Fact
    from masdeepflow.filters import Filter
    from masdeepflow.protocols.base import Protocol

__all__ = ["Pipeline"]

T = TypeVar("T", bound="np.generic")

_BASE = (
    "request_first_ns",
    "request_last_ns",
    "response_first_ns",
    "response_last_ns",
    "request_bytes",
    "response_bytes",
    "queue_ns",
)
_EVENTS = -1  # asks for endpoints as protocols do
_NO_EVENTS = Events.none()
# A member of an enum would have NumPy cast the whole column to int64 first.
_TURN, _OPEN, _DATAGRAM, _SILENT = int(Kind.TURN), int(Kind.OPEN), int(Kind.DATAGRAM), int(Kind.SILENT)
_CLOSE = int(Kind.CLOSE)
_ENDED = (_CLOSE, int(Kind.CONNECT_FAILED))
_CONTINUED, _CLOSED, _ACCELERATED = int(Flag.CONTINUED), int(Flag.CLOSED), int(Flag.ACCELERATED)
_NO_ROWS = np.zeros(0, np.intp)
_FEW = 4  # turns of a connection: of so few all are looked at, at once


class Pipeline:
    """Turns slots into `Output`; deterministic given the same batches, so that a replay equals the live run.

    redact: applied to every table when set; command lines are left out then.
    """

    def __init__(
        self,
        protocols: Sequence[Protocol],
        directory: Directory,
        shown: Filter,
        redact: Callable[[Table], None] | None = None,
    ) -> None:
        self.registry = Registry(protocols)
        self.endpoints = Endpoints(directory)
        self._directory = directory
        self.set_redact(redact)
        self.shown = shown
        ports = (protocol.datagram_ports for protocol in self.registry.waiting.values())
        self.datagrams = Datagrams(frozenset().union(*ports))
        self._announced = Announced()
        self.records = 0
        """Slots seen, those that only tell of processes not counted."""
        self._parsed_bytes = np.zeros(MAX_SERVICES + 1)  # since `take_parsed_bytes`; what can't be comes last

    def set_redact(self, redact: Callable[[Table], None] | None) -> None:
        """Redact tables from now on, or no longer."""
        self._redact = redact
        if self._directory.show_arguments(shown=redact is None):
            self.endpoints.refresh_all()

    def learn(self, facts: Sequence[Fact]) -> None:
        """Take in what lookups found out: it holds from the next batch on."""
        changed = self._directory.learn(facts)
        if changed:
            self.endpoints.refresh(changed)

    def take_wanted(self) -> Wanted:
        """Return what lookups should find out."""
        return self._directory.take_wanted()

    def process(self, slots: np.ndarray, offset_ns: int) -> tuple[list[Table], Events]:
        """Return the tables and events of one batch (n,), nothing of which refers to `slots` any more.

        offset_ns: Unix time minus the slots' clock.
        """
        if len(slots):  # a replay has batches of nothing but facts
            self.endpoints.freshen()
        slots = Slots.of(slots)
        if int(slots["kind"].max(initial=0)) <= _OPEN:
            turns, rows = None, _NO_ROWS
        else:
            slots, turns, rows = self._sort_out(slots)
        self.records += len(slots)
        codes = self.endpoints.codes(slots, offset_ns)
        self._directory.processes.end_batch()
        tables = self._tables(slots, codes, turns, offset_ns)
        tables += self._overdue(slots, offset_ns)
        if not len(rows):
            return tables, _NO_EVENTS
        told = slots[rows]
        tables += self._abandoned(told, codes[rows], offset_ns)
        events = self._events(told, codes[rows], offset_ns)
        self._forget(told)
        return tables, events

    def _sort_out(self, slots: Slots) -> tuple[Slots, NDArray[np.bool_] | None, NDArray[np.intp]]:
        """Take in what tells of processes; return the rest (n,), which are turns (n,), and events' rows (m,).

        None for turns where all are.
        """
        life = is_life(slots["kind"])
        if life.any():
            slots = self._follow(slots, life)
        kinds = slots["kind"]
        turns: NDArray[np.bool_] = (kinds <= _OPEN) | (kinds == _DATAGRAM)
        if turns.all():
            return slots, None, _NO_ROWS
        return slots, turns, np.flatnonzero(~turns & (kinds != _SILENT))

    def evictions(self) -> dict[str, int]:
        """Return how much had to be forgotten before its time, by table; never less than before.

        What parsers keep is not among it: see `Registry.evictions`.
        """
        announced = {"announced": self._announced.evicted}
        return {**self.endpoints.evictions(), **self._directory.evictions(), **announced}

    def take_parsed_bytes(self, index: int) -> int:
        """Return the bytes of turns that a protocol was recognised in since the last call.

        index: what the kernel counts their service under.
        """
        taken = int(self._parsed_bytes[index])
        self._parsed_bytes[index] = 0
        return taken

    def _follow(self, slots: Slots, life: NDArray[np.bool_]) -> Slots:
        """Take in what slots tell of processes; return the others."""
        rows = np.flatnonzero(life)
        self._directory.processes.follow(slots[rows], rows - np.arange(len(rows)))
        return Slots.of(slots[~life])

    def _overdue(self, slots: Slots, offset_ns: int) -> list[Table]:
        """Return the transactions that, as the batch's stamps tell, will not be answered any more."""
        if not self.registry.waiting or not len(slots):
            return []
        tables = []
        now_ns = _latest(slots)
        for number in self.registry.waiting:
            due = self.registry.overdue(number, now_ns)
            if due is not None:
                tables += self._transactions(number, due, self.endpoints.codes(due, offset_ns), offset_ns)
        return tables

    def names(self, pid: int, port: int, role: int) -> tuple[Endpoint, str] | None:
        """Return an endpoint and the protocol of what the kernel counts by process, port and role.

        None as long as no protocol was recognised there.
        """
        known = self.endpoints.services.get((pid, port, role))
        if known is None or known[1] == NO_PROTOCOL:
            return None
        return known[0].endpoint(), self.registry.name(known[1])

    def seen(self, pid: int, port: int, role: int) -> Endpoint | None:
        """Return an endpoint of what the kernel counts by process, port and role; None if none was seen."""
        known = self.endpoints.services.get((pid, port, role))
        return known and known[0].endpoint()

    def _abandoned(self, events: np.ndarray, codes: NDArray[np.int32], offset_ns: int) -> list[Table]:
        """Return the transactions that waited when their connection was closed, behind its last turn.

        codes: int32 (n,), the endpoints of events (n,).
        """
        closed = np.flatnonzero(events["kind"] == _CLOSE)
        if not len(closed):
            return []
        tables = []
        cookies = events["cookie"][closed]
        for number, left in self.registry.left_waiting(cookies.tolist()):
            rows = closed[np.isin(cookies, np.array(left, cookies.dtype))]
            tables += self._transactions(number, _last_turns(events[rows]), codes[rows], offset_ns)
        return tables

    def _forget(self, events: np.ndarray) -> None:
        # A datagram that is refused does not end its socket.
        over = np.isin(events["kind"], _ENDED) & (events["transport"] != Transport.UDP)
        ended = events["cookie"][over]
        if len(ended):
            cookies = ended.tolist()
            self.registry.forget(cookies)
            self.endpoints.forget(cookies)
            self._announced.forget(cookies)

    def _tables(
        self, slots: np.ndarray, codes: NDArray[np.int32], turns: NDArray[np.bool_] | None, offset_ns: int
    ) -> list[Table]:
        protocols = self._recognise(slots, codes, turns)
        tables = []
        present = np.flatnonzero(np.bincount(protocols, minlength=1)).tolist()
        # What was resolved names the connections that follow, which may be in the same batch.
        for number in sorted(present, key=self.registry.names_addresses, reverse=True):
            mine = protocols == number
            if number == self.registry.unrecognised and turns is not None:
                mine &= turns
            every = bool(mine.all())
            rows = np.flatnonzero(mine)
            if not len(rows):
                continue
            mine_only = (slots, codes) if every else (Slots.of(slots[rows]), codes[rows])
            tables += self._transactions(number, *mine_only, offset_ns)
            if self.registry.names_addresses(number):
                self._learn_names(number, offset_ns)
        return tables

    def _learn_names(self, number: int, offset_ns: int) -> None:
        names = self.registry.take_names(number)
        if names:
            changed = self._directory.learn_names(names, offset_ns)
            self.endpoints.refresh(changed)

    def _recognise(
        self, slots: np.ndarray, codes: NDArray[np.int32], turns: NDArray[np.bool_] | None
    ) -> NDArray[np.int16]:
        """Return each slot's protocol number (n,); slots that are no turns have that of the unrecognised."""
        protocols = self.endpoints.protocols(codes)
        if turns is not None:
            protocols[~turns] = self.registry.unrecognised
        rows = np.flatnonzero(protocols == NO_PROTOCOL)
        if not len(rows):
            return protocols
        unknown = slots[rows]
        firsts, connections = np.unique(unknown["cookie"], return_index=True, return_inverse=True)[1:]
        chosen, sticky = self._choose(unknown, firsts, connections)
        if sticky.any():
            self._follow_datagrams(unknown[sticky], chosen[sticky])
            # Turns before the first that was recognised keep their own answer; those behind it follow it.
            first = _first_sticky(connections, sticky)
            behind = np.arange(len(rows)) >= first
            chosen[behind] = chosen[first[behind]]
            self.endpoints.recognise(codes[rows[behind]], chosen[behind])
        protocols[rows] = chosen
        return protocols

    def _choose(
        self, slots: np.ndarray, firsts: NDArray[np.intp], connections: NDArray[np.intp]
    ) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
        """Return what the registry chooses for slots (n,); not for those behind a first one that decides all.

        firsts: intp (m,), the first slot of each of m connections. connections: intp (n,), that of each slot.
        """
        if _FEW * len(firsts) > len(slots):
            return self.registry.choose(slots)
        chosen = np.full(len(slots), self.registry.unrecognised, np.int16)
        sticky = np.zeros(len(slots), bool)
        chosen[firsts], sticky[firsts] = self.registry.choose(slots.take(firsts))
        left = np.flatnonzero(~sticky[firsts][connections])
        if len(left):
            chosen[left], sticky[left] = self.registry.choose(slots.take(left))
        return chosen, sticky

    def _follow_datagrams(self, slots: np.ndarray, protocols: NDArray[np.int16]) -> None:
        """Have those UDP ports followed datagram by datagram whose turns (n,) were recognised."""
        udp = (slots["transport"] == Transport.UDP) & (slots["kind"] == _TURN)
        if udp.any():
            mine = udp & np.isin(protocols, list(self.registry.waiting))
            self.datagrams.recognised(slots[mine])

    def _transactions(
        self, number: int, slots: np.ndarray, codes: NDArray[np.int32], offset_ns: int
    ) -> list[Table]:
        """Return the transactions of one protocol's turns; turns behind an upgrade are nobody's."""
        nobody = self.registry.unrecognised
        parsed = None if number == nobody else self.registry.parse(number, slots)
        if parsed is None:
            number, parsed = nobody, _unrecognised(slots)
            strange = slots["kind"] == _DATAGRAM
            if strange.any():
                self.datagrams.strange(slots[strange])
        tables = [self._table(number, parsed, slots, codes, offset_ns)]
        if number != nobody:
            self._parsed_bytes += _bytes_by_service(slots)
        if parsed.opaque:
            for cookie in parsed.opaque:
                self.endpoints.set_protocol(cookie, nobody)
            rows = _behind(slots, parsed)
            self._parsed_bytes -= _bytes_by_service(slots[rows])
            tables.append(
                self._table(nobody, _unrecognised(slots[rows]), slots[rows], codes[rows], offset_ns)
            )
        return [table for table in tables if len(table)]

    def _table(
        self, number: int, parsed: Parsed, slots: np.ndarray, codes: NDArray[np.int32], offset_ns: int
    ) -> Table:
        codes, endpoints = self.endpoints.compact(_take_rows(codes, parsed.rows), number)
        table = _table(self.registry.name(number), slots, parsed, codes, endpoints, offset_ns)
        table.shown = self._announced.mark(slots, parsed)
        if self.shown:
            table = _filtered(table, self.shown)
        if self._redact is not None:
            self._redact(table)
        return table

    def _events(self, slots: np.ndarray, codes: NDArray[np.int32], offset_ns: int) -> Events:
        codes, endpoints = self.endpoints.compact(codes, _EVENTS)
        events = _events(slots, codes, endpoints, offset_ns)
        return _filtered_events(events, self.shown) if self.shown else events


def _first_sticky(connections: NDArray[np.intp], sticky: NDArray[np.bool_]) -> NDArray[np.intp]:
    """Return for each row (n,) the first sticky row of the same connection, n where there is none."""
    first = np.full(int(connections.max()) + 1, len(connections), np.intp)
    rows = np.flatnonzero(sticky)[::-1]
    first[connections[rows]] = rows
    return first[connections]


def _last_turns(closes: np.ndarray) -> Slots:
    """Return CLOSE slots (n,) as what is left of the turns that they end: no bytes, and when that was."""
    turns = closes.copy()
    turns["kind"], turns["flags"] = _TURN, closes["flags"] | _CONTINUED | _CLOSED
    turns["turn"] -= 1
    turns["request_first_ns"] = 0
    for side in ("request", "response"):
        turns[f"{side}_bytes"], turns[f"{side}_length"], turns[f"{side}_hash"] = 0, 0, 0
    return Slots.of(turns)


def _unrecognised(slots: np.ndarray) -> Parsed:
    # Of datagrams that nobody can pair, one that asks is a transaction.
    answers = (slots["kind"] == _DATAGRAM) & (slots["request_first_ns"] == 0)
    rows = np.flatnonzero(((slots["flags"] & _CONTINUED) == 0) & ~answers)
    no_text, no = Encoded.absent(len(rows)), np.zeros(len(rows), bool)
    return Parsed(rows, no_text, no_text, error=no, truncated=no)


def _behind(slots: np.ndarray, parsed: Parsed) -> NDArray[np.intp]:
    """Return the rows (m,) of connections that became opaque behind the turn in which they did.

    That is the last one that gave a transaction, else the first with a request: what asks for TLS gives none.
    """
    behind = np.zeros(len(slots), bool)
    turns = slots["kind"] == _TURN
    for cookie in parsed.opaque:
        mine = slots["cookie"] == cookie
        given = parsed.rows[mine[parsed.rows]]
        asked = np.flatnonzero(mine & turns & (slots["request_bytes"] > 0))
        last = given.max() if len(given) else asked[0] if len(asked) else len(slots)
        behind[last + 1 :] |= mine[last + 1 :]
    return np.flatnonzero(behind)


def _bytes_by_service(slots: np.ndarray) -> NDArray[np.float64]:
    """Return the bytes of slots (n,) that are not OPEN, both ways, by service (`MAX_SERVICES` + 1,)."""
    amounts = (slots["request_bytes"] + slots["response_bytes"]) * (slots["kind"] != _OPEN)
    services = np.minimum(slots["service"], MAX_SERVICES)
    return np.bincount(services, amounts, MAX_SERVICES + 1).astype(np.float64, copy=False)


def _latest(slots: Slots) -> int:
    return int(slots.neighbours(_BASE[0], _BASE[3]).max())


def _signed(column: np.ndarray) -> NDArray[np.int64]:
    return column.astype(np.int64)


def _are_all(rows: NDArray[np.intp], size: int) -> bool:
    """Return whether rows (m,) are 0, 1 and so on up to `size`."""
    return len(rows) == size and bool((rows == np.arange(size)).all())


def _take_rows(column: NDArray[T], rows: NDArray[np.intp]) -> NDArray[T]:
    """Return `column` (n,) for `rows` (m,): itself if these are all there are."""
    return column if _are_all(rows, len(column)) else column[rows]


def _where(condition: NDArray[np.bool_], values: NDArray[np.int64]) -> NDArray[np.int64]:
    return values if condition.all() else np.where(condition, values, ABSENT)


def _table(  # noqa: PLR0913, PLR0917  # the parts that a table is made of
    name: str,
    slots: np.ndarray,
    parsed: Parsed,
    codes: NDArray[np.int32],
    endpoints: Sequence[Endpoint],
    offset_ns: int,
) -> Table:
    rows = parsed.rows
    index = slice(None) if _are_all(rows, len(slots)) else rows
    base = {name: word(slots, name)[index] for name in _BASE} | parsed.base
    kinds, flags = slots["kind"][index], slots["flags"][index]
    first, last = base["request_first_ns"], base["response_last_ns"]
    asked, answered = first > 0, base["response_first_ns"] > 0
    both = asked & answered
    start = first if asked.all() else np.where(asked, first, base["response_first_ns"])
    end = np.maximum(np.maximum(last, base["request_last_ns"]), start)
    open_rows = kinds == _OPEN if parsed.still_open is None else parsed.still_open
    attributes = {**parsed.attributes, **_accelerated(flags)}
    lost = _unanswered(parsed) & asked & ~answered & ~open_rows
    if lost.any():
        closed = np.where(flags & _CLOSED > 0, word(slots, "response_last_ns")[index], ABSENT)
        closes = Closes(flags, slots["role"][index], slots["error"][index])
        end, reasons = explain(attributes.get(ERROR_TYPE), lost, Ends(first, end, closed), closes)
        attributes |= reasons
    return Table(
        protocol=name,
        start_ns=start + offset_ns,
        end_ns=end + offset_ns,
        duration_ns=_where(both, last - first),
        ttfb_ns=_where(both, base["response_first_ns"] - first),
        queue_ns=_where(base["queue_ns"] > 0, base["queue_ns"]),
        request_bytes=base["request_bytes"],
        response_bytes=base["response_bytes"],
        error=parsed.error,
        truncated=parsed.truncated,
        still_open=open_rows,
        shown=np.zeros(len(rows), bool),
        endpoint=codes,
        endpoints=endpoints,
        request_text=parsed.request_text,
        response_text=parsed.response_text,
        attributes=attributes,
    )


def _unanswered(parsed: Parsed) -> NDArray[np.bool_]:
    """Return which transactions (m,) have failed, or say why they have no answer though they have not."""
    reasons = parsed.attributes.get(ERROR_TYPE)
    if not isinstance(reasons, Encoded) or not reasons.values:
        return parsed.error
    unanswered: NDArray[np.bool_] = parsed.error | (reasons.codes != ABSENT)
    return unanswered


def _accelerated(flags: NDArray[np.uint32]) -> dict[str, Attribute]:
    flagged = flags & _ACCELERATED > 0
    return {"network.accelerated": np.where(flagged, 1, ABSENT)} if flagged.any() else {}


def _events(
    slots: np.ndarray, codes: NDArray[np.int32], endpoints: Sequence[Endpoint], offset_ns: int
) -> Events:
    first, last = _signed(slots["request_first_ns"]), _signed(slots["response_last_ns"])
    accept, close = slots["kind"] == Kind.ACCEPT, slots["kind"] == Kind.CLOSE
    return Events(
        kind=slots["kind"].copy(),
        time_ns=np.where(last > 0, last, first) + offset_ns,
        duration_ns=np.where(accept | (last == 0), ABSENT, last - first),
        error=slots["error"].astype(np.int32),
        request_bytes=np.where(close, _signed(slots["request_bytes"]), ABSENT),
        response_bytes=np.where(close, _signed(slots["response_bytes"]), ABSENT),
        srtt_us=np.where(close, _signed(slots["srtt_us"]), ABSENT),
        retransmits=np.where(close, _signed(slots["retransmits"]), ABSENT),
        endpoint=codes,
        endpoints=endpoints,
    )


def _take(table: Table, rows: NDArray[np.intp]) -> Table:
    columns = (
        "start_ns",
        "end_ns",
        "duration_ns",
        "ttfb_ns",
        "queue_ns",
        "request_bytes",
        "response_bytes",
        "error",
    )
    flags = ("truncated", "still_open", "shown", "endpoint")
    return Table(
        protocol=table.protocol,
        endpoints=table.endpoints,
        request_text=table.request_text.take(rows),
        response_text=table.response_text.take(rows),
        attributes={
            name: column.take(rows) if isinstance(column, Encoded) else column[rows]
            for name, column in table.attributes.items()
        },
        **{name: getattr(table, name)[rows] for name in (*columns, *flags)},
    )


def _passing(endpoints: Sequence[Endpoint], shown: Filter, protocol: str | None) -> NDArray[np.bool_]:
    examples, like = likenesses_of(endpoints)
    passing = [shown.passes(filters.values_of(endpoints[index], protocol)) for index in examples.tolist()]
    return np.array(passing, bool)[like]


def _filtered(table: Table, shown: Filter) -> Table:
    if not len(table):
        return table
    return _take(table, np.flatnonzero(_passing(table.endpoints, shown, table.protocol)[table.endpoint]))


def _filtered_events(events: Events, shown: Filter) -> Events:
    if not len(events):
        return events
    rows = np.flatnonzero(_passing(events.endpoints, shown, None)[events.endpoint])
    names = (
        "kind",
        "time_ns",
        "duration_ns",
        "error",
        "request_bytes",
        "response_bytes",
        "srtt_us",
        "retransmits",
    )
    return Events(
        endpoint=events.endpoint[rows],
        endpoints=events.endpoints,
        **{name: getattr(events, name)[rows] for name in names},
    )
