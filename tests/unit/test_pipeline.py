"""From slots to tables and events, with protocols whose answers stand in the first bytes of each request."""

from __future__ import annotations

import gc
from dataclasses import fields
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from masdeepflow import filters
from masdeepflow.enrich import endpoints
from masdeepflow.enrich.directory import Directory
from masdeepflow.enrich.facts import ProcessFact
from masdeepflow.enrich.identity import Identity
from masdeepflow.enrich.process import is_life
from masdeepflow.pipeline import Pipeline
from masdeepflow.protocols import registry
from masdeepflow.protocols.base import CERTAIN, LIKELY, POSSIBLE
from masdeepflow.redaction import redact_table
from masdeepflow.schema import Flag, Kind, Role, Transport
from masdeepflow.table import ABSENT, Encoded, Events, Parsed, Table
from tests.support import dns_wire
from tests.support.slots import DTYPE, MILLISECOND, START, cgroup, execute, fork, make_slots, turn

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

OFFSET = 10**18
SCORES = {b"C": CERTAIN, b"L": LIKELY, b"P": POSSIBLE}
ALL = filters.parse([], [])


class Toy:
    """A protocol named by a letter: a request that starts with it and C, L or P is its, so surely.

    X as second letter makes the connection opaque; continuations give no row.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.forgotten: list[int] = []

    def recognise(self, slots: np.ndarray) -> NDArray[np.uint8]:
        """Score by the second letter."""
        mine = slots["request"][:, 0] == ord(self.name)
        scores = [SCORES.get(bytes([letter]), 0) for letter in slots["request"][:, 1].tolist()]
        return np.where(mine, scores, 0).astype(np.uint8)

    def parse(self, slots: np.ndarray) -> Parsed:
        """Show each request as it is."""
        rows = np.flatnonzero((slots["flags"] & Flag.CONTINUED) == 0)
        texts = [bytes(slot["request"][: slot["request_length"]]).decode("latin-1") for slot in slots[rows]]
        return Parsed(
            rows,
            Encoded.from_list(list(texts)),
            Encoded.absent(len(rows)),
            error=np.array(["E" in text for text in texts], bool),
            truncated=np.zeros(len(rows), bool),
            attributes={"db.query.text": Encoded.from_list(list(texts)), "size": np.arange(len(rows))},
            opaque=slots["cookie"][rows][[text[1:2] == "X" for text in texts]].tolist(),
        )

    def forget(self, cookies: Sequence[int]) -> None:
        """Note which connections are closed."""
        self.forgotten += cookies


class Resolving(Toy):
    """A protocol whose every turn tells the name of the server's address."""

    def take_names(self) -> list[tuple[str, str, int]]:
        """Tell it again and again."""
        return [("127.0.0.1", "server.example", 10**12)]


class Waiting(Toy):
    """Waits for the answer to requests with a `w` behind the second letter; gives continuations, too."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.asked: set[int] = set()

    def parse(self, slots: np.ndarray) -> Parsed:
        """Take in what asks."""
        self.asked.update(slots["cookie"][slots["request"][:, 2] == ord("w")].tolist())
        self.turns = [
            (int(slot["turn"]), int(slot["flags"]), int(slot["request_bytes"]), int(slot["response_bytes"]))
            for slot in slots
        ]
        slots = slots.view(np.ndarray).copy()
        slots["flags"] = 0
        return super().parse(slots)

    def waiting(self, cookies: Sequence[int]) -> list[int]:
        """Return what asked."""
        return [cookie for cookie in cookies if cookie in self.asked]


class Failing(Toy):
    """A protocol whose parser has a defect."""

    def parse(self, slots: np.ndarray) -> Parsed:
        """Fail."""
        raise ValueError(slots)


def _pipeline(*protocols: Toy, shown: filters.Filter = ALL, **more: Any) -> Pipeline:  # noqa: ANN401
    return Pipeline(protocols or (Toy("a"), Toy("b")), Directory(), shown, **more)


def _tables(*turns: dict[str, object], pipeline: Pipeline | None = None) -> dict[str, Table]:
    tables, _ = (pipeline or _pipeline()).process(make_slots(*turns), OFFSET)
    assert len({table.protocol for table in tables}) == len(tables)
    return {table.protocol: table for table in tables}


def _texts(*turns: dict[str, object], pipeline: Pipeline | None = None) -> dict[str, list[str | None]]:
    tables = _tables(*turns, pipeline=pipeline)
    return {name: table.request_text.to_list() for name, table in tables.items()}


def _events(*turns: dict[str, object]) -> Events:
    return _pipeline().process(make_slots(*turns), OFFSET)[1]


def _columns(batch: Table | Events) -> Iterator[tuple[str, np.ndarray]]:
    """Yield every array of a table or of events, codes of encoded columns included."""
    for field in fields(batch):
        value = getattr(batch, field.name)
        if isinstance(value, dict):
            yield from ((name, _array(column)) for name, column in value.items())
        elif isinstance(value, Encoded | np.ndarray):
            yield field.name, _array(value)


def _batches(tables: list[Table], events: Events) -> list[Table | Events]:
    return [*tables, events]


def _array(column: Encoded | np.ndarray) -> np.ndarray:
    return column.codes if isinstance(column, Encoded) else column


# --- columns of a transaction ---


def test_stamps_and_sizes_become_columns() -> None:
    """Times are Unix time, durations start at the first request byte, sizes count what payload leaves out."""
    table = _tables(
        turn(
            b"aL",
            b"x" * 1000,
            request_last_ns=START + 5,
            response_first_ns=START + 2 * MILLISECOND,
            response_last_ns=START + 9 * MILLISECOND,
            queue_ns=77,
        )
    )["a"]
    assert table.start_ns.tolist() == [START + OFFSET]
    assert table.end_ns.tolist() == [START + 9 * MILLISECOND + OFFSET]
    assert table.duration_ns.tolist() == [9 * MILLISECOND]
    assert table.ttfb_ns.tolist() == [2 * MILLISECOND]
    assert table.queue_ns.tolist() == [77]
    assert (table.request_bytes.tolist(), table.response_bytes.tolist()) == ([2], [1000])
    assert table.endpoints[table.endpoint[0]].cookie == 1


def test_a_request_without_response_has_no_duration() -> None:
    """It ends with its own last byte."""
    table = _tables(turn(b"aL", request_last_ns=START + 500))["a"]
    assert (table.duration_ns.tolist(), table.ttfb_ns.tolist()) == ([ABSENT], [ABSENT])
    assert table.end_ns.tolist() == [START + 500 + OFFSET]


def test_a_request_cut_short_by_the_close_ends_with_it() -> None:
    """Where the parser calls it an error: then it tells why, and how long it waited."""
    closed: dict[str, Any] = {"flags": Flag.CLOSED, "response_last_ns": START + 20 * MILLISECOND}
    turns = turn(b"aLE", **closed), turn(b"aLE"), turn(b"aL", **closed), turn(b"aLE", b"x")
    table = _tables(*turns, turn(b"aLE", kind=Kind.OPEN))["a"]
    reasons, waited = table.attributes["error.type"], table.attributes["masdeepflow.waited_ns"]
    assert isinstance(reasons, Encoded)
    assert isinstance(waited, np.ndarray)
    assert reasons.to_list() == ["closed", None, None, None, None]
    assert waited.tolist() == [20 * MILLISECOND] + [ABSENT] * 4
    assert table.end_ns[0] == START + 20 * MILLISECOND + OFFSET
    assert table.duration_ns.tolist() == [ABSENT, ABSENT, ABSENT, MILLISECOND, ABSENT]
    assert "error.type" not in _tables(turn(b"aL", b"x"), turn(b"aLE", b"x"))["a"].attributes


def test_a_response_without_request_starts_with_itself() -> None:
    """Where the server speaks first, as in MySQL's greeting, there is nothing that could have waited."""
    table = _tables(turn(b"", b"hello", response_last_ns=START + 3 * MILLISECOND))["tcp"]
    assert table.start_ns.tolist() == [START + MILLISECOND + OFFSET]
    assert table.end_ns.tolist() == [START + 3 * MILLISECOND + OFFSET]
    assert (table.duration_ns.tolist(), table.ttfb_ns.tolist()) == ([ABSENT], [ABSENT])


def test_unknown_socket_wait_is_absent() -> None:
    """Only servers know how long a request lay in the buffer."""
    assert _tables(turn(b"aL"))["a"].queue_ns.tolist() == [ABSENT]


def test_mixed_rows_keep_their_own_values() -> None:
    """Absent values of one row are no reason for those of another."""
    table = _tables(turn(b"aL", b"x", queue_ns=5), turn(b"a"), turn(b"a", b"x"))["a"]
    assert (table.duration_ns >= 0).tolist() == [True, False, True]
    assert table.queue_ns.tolist() == [5, ABSENT, ABSENT]


def test_a_parser_may_replace_base_columns() -> None:
    """A transaction that began in an earlier turn takes its stamps from there."""

    class Replacing(Toy):
        def parse(self, slots: np.ndarray) -> Parsed:
            parsed = super().parse(slots)
            first = slots["request_first_ns"].astype(np.int64) - 1000
            parsed.base = {"request_first_ns": first, "queue_ns": np.array([9] * len(slots))}
            return parsed

    table = _tables(turn(b"aL", b"x"), pipeline=_pipeline(Replacing("a")))["a"]
    assert table.start_ns.tolist() == [START - 1000 + OFFSET]
    assert table.duration_ns.tolist() == [MILLISECOND + 1000]
    assert table.queue_ns.tolist() == [9]


def test_a_turn_may_give_several_transactions_or_none() -> None:
    """Pipelined requests are rows of their own, each with the stamps of its turn."""

    class Pipelining(Toy):
        def parse(self, slots: np.ndarray) -> Parsed:
            rows = np.repeat(np.arange(len(slots)), slots["request_segments"])
            none, no = Encoded.absent(len(rows)), np.zeros(len(rows), bool)
            return Parsed(rows, none, none, error=no, truncated=no)

    first, second = turn(b"aL", cookie=1, request_segments=0), turn(b"aL", cookie=2, request_segments=2)
    table = _tables(first, second, pipeline=_pipeline(Pipelining("a")))["a"]
    assert table.start_ns.tolist() == [START + 10 * MILLISECOND + OFFSET] * 2
    assert [table.endpoints[code].cookie for code in table.endpoint] == [2, 2]


def test_open_turns_are_shown_once() -> None:
    """A request that waits is marked, and so is its turn when it comes with its response."""
    table = _tables(
        turn(b"aL", kind=Kind.OPEN, flags=Flag.OPENED),
        turn(b"aL", b"x", flags=Flag.OPENED),
        turn(b"aL", b"x"),
    )["a"]
    assert table.still_open.tolist() == [True, False, False]
    assert table.shown.tolist() == [False, True, False]


# --- recognition ---


def test_each_protocol_has_one_table_with_its_turns() -> None:
    """Turns nobody knows are tcp; a protocol without turns has no table."""
    texts = _texts(
        turn(b"aL1", cookie=1), turn(b"bL2", cookie=2), turn(b"aL3", cookie=3), turn(b"?", cookie=4)
    )
    assert texts == {"a": ["aL1", "aL3"], "b": ["bL2"], "tcp": [None]}
    assert _texts() == {}


def test_a_likely_turn_decides_for_those_behind_it() -> None:
    """Later bytes are the protocol's whatever they are, in the same batch and in later ones."""
    pipeline = _pipeline()
    assert _texts(turn(b"?"), turn(b"aL"), turn(b"?"), turn(b"bC"), pipeline=pipeline) == {
        "tcp": [None],
        "a": ["aL", "?", "bC"],
    }
    assert _texts(turn(b"bC"), pipeline=pipeline) == {"a": ["bC"]}


def test_a_possible_turn_decides_for_itself_only() -> None:
    """The next turn is looked at anew."""
    pipeline = _pipeline()
    assert _texts(turn(b"aP"), turn(b"?"), turn(b"bP"), pipeline=pipeline) == {
        "a": ["aP"],
        "tcp": [None],
        "b": ["bP"],
    }
    assert _texts(turn(b"bL"), pipeline=pipeline) == {"b": ["bL"]}


def test_connections_are_recognised_apart() -> None:
    """What one connection speaks says nothing about another, however they are interleaved."""
    texts = _texts(
        turn(b"aL", cookie=1),
        turn(b"bL", cookie=2),
        turn(b"1", cookie=1),
        turn(b"2", cookie=2),
        turn(b"3", cookie=3),
    )
    assert texts == {"a": ["aL", "1"], "b": ["bL", "2"], "tcp": [None]}


def test_turns_behind_the_first_that_decides_are_not_looked_at() -> None:
    """A busy new connection costs one look; others are looked at turn by turn, and their first counts too."""
    looked: list[int] = []

    class Counting(Toy):
        def recognise(self, slots: np.ndarray) -> NDArray[np.uint8]:
            looked.append(len(slots))
            return super().recognise(slots)

    toy = Counting("a")
    sure = [turn(b"aL", cookie=1), *[turn(b"?", cookie=1)] * 20]
    late = [turn(b"?", cookie=2), *[turn(b"aP", cookie=2)] * 20, turn(b"aL", cookie=2), turn(b"?", cookie=2)]
    texts = _texts(*sure, *late, pipeline=_pipeline(toy))
    assert texts == {"a": ["aL", *["?"] * 20, *["aP"] * 20, "aL", "?"], "tcp": [None]}
    assert looked == [2, len(late)]


def test_a_connection_keeps_its_protocol_in_another_process() -> None:
    """A connection that was handed on to a worker is still the same conversation."""
    pipeline = _pipeline()
    assert _texts(turn(b"?", pid=3), pipeline=pipeline) == {"tcp": [None]}
    _texts(turn(b"aL", pid=1), pipeline=pipeline)
    assert _texts(turn(b"?", pid=2), turn(b"?", pid=3), pipeline=pipeline) == {"a": ["?", "?"]}


def test_a_closed_connection_is_forgotten_everywhere() -> None:
    """Protocols drop their state, and a cookie that comes again is a new connection."""
    toy = Toy("a")
    pipeline = _pipeline(toy)
    for kind in (Kind.CLOSE, Kind.CONNECT_FAILED):
        assert _texts(turn(b"aL"), turn(b"?"), pipeline=pipeline) == {"a": ["aL", "?"]}
        pipeline.process(make_slots(turn(kind=kind), turn(kind=Kind.ACCEPT, cookie=2)), OFFSET)
        assert toy.forgotten == [1]
        assert _texts(turn(b"?"), pipeline=pipeline) == {"tcp": [None]}
        toy.forgotten.clear()
        pipeline.process(make_slots(turn(kind=Kind.CLOSE)), OFFSET)
        toy.forgotten.clear()
    assert len(pipeline.endpoints) == 1  # the one that was only accepted


def test_a_refused_datagram_does_not_end_its_socket() -> None:
    """What waits on it is still waited for: somebody may listen by the time it asks again."""
    toy = Toy("a")
    pipeline = _pipeline(toy)
    _texts(turn(b"aL", transport=Transport.UDP), pipeline=pipeline)
    refused = turn(kind=Kind.CONNECT_FAILED, transport=Transport.UDP, error=111)
    _, events = pipeline.process(make_slots(refused), OFFSET)
    assert (events.kind.tolist(), events.error.tolist()) == ([Kind.CONNECT_FAILED], [111])
    assert toy.forgotten == []


def test_what_waits_ends_with_its_connection() -> None:
    """A turn that was written when its answer paused is not written again: the close stands for it."""
    toy = Waiting("a")
    pipeline = _pipeline(toy)
    _texts(turn(b"aLw", turn=7, flags=Flag.IDLE), turn(b"aL", cookie=2), pipeline=pipeline)
    closes = [turn(kind=Kind.CLOSE, turn=8, request_bytes=3, response_bytes=5, cookie=one) for one in (1, 2)]
    (table,), events = pipeline.process(make_slots(*closes), OFFSET)
    assert toy.turns == [(7, Flag.CONTINUED | Flag.CLOSED, 0, 0)]
    assert table.protocol == "a"
    assert table.endpoint.tolist() == [0]
    assert len(events) == 2
    assert toy.forgotten == [1, 2]


def test_turns_in_the_batch_of_their_close_are_still_the_protocols() -> None:
    """A short connection comes and goes within one batch."""
    assert _texts(turn(b"aL"), turn(b"?"), turn(kind=Kind.CLOSE)) == {"a": ["aL", "?"]}


def test_bytes_that_were_recognised_are_counted_by_service() -> None:
    """Of every finished turn, the rest of one too; what is opaque, in flight or unknown is not among them."""
    pipeline = _pipeline(Toy("a"), Failing("b"))
    turns = [
        turn(b"aC", b"1234", service=1),
        turn(b"", b"56", service=1, flags=Flag.CONTINUED),
        turn(b"aC", b"", service=1, kind=Kind.OPEN),
        turn(b"aC", b"123", service=511, cookie=2),
        turn(b"aX", b"", service=511, cookie=2),
        turn(b"", b"12345678", service=511, cookie=2, flags=Flag.CONTINUED),
        turn(b"?", b"??", service=3, cookie=3),
        turn(b"bC", b"failed", service=4, cookie=4),
        turn(b"aC", b"no such service", service=2**32 - 1, cookie=5),
    ]
    for _ in range(2):
        pipeline.process(make_slots(*turns), OFFSET)
    assert [pipeline.take_parsed_bytes(index) for index in (1, 3, 4, 511)] == [16, 0, 0, 7]
    assert pipeline.take_parsed_bytes(1) == 0


def test_an_opaque_connection_is_nobodys_from_then_on() -> None:
    """Behind an upgrade bytes are not parsed, whatever they look like."""
    pipeline = _pipeline()
    assert _texts(turn(b"aL"), turn(b"aX"), pipeline=pipeline) == {"a": ["aL", "aX"]}
    assert _texts(turn(b"aL"), turn(b"bC"), pipeline=pipeline) == {"tcp": [None, None]}


def test_a_failing_parser_costs_only_its_own_details() -> None:
    """Its turns are counted as tcp, the other protocols are not touched, and the failure is counted."""
    pipeline = _pipeline(Failing("a"), Toy("b"))
    assert _texts(turn(b"aL", cookie=1), turn(b"bL", cookie=2), pipeline=pipeline) == {
        "tcp": [None],
        "b": ["bL"],
    }
    assert pipeline.registry.errors.total() == 1


def test_continuations_of_unknown_turns_are_no_turns() -> None:
    """More bytes of a turn that was counted before are not counted again."""
    assert _texts(turn(b"?"), turn(b"", b"x", flags=Flag.CONTINUED)) == {"tcp": [None]}


def test_what_is_resolved_names_connections_of_the_same_batch() -> None:
    """A client resolves a name and connects within the same milliseconds."""
    pipeline = _pipeline(Toy("a"), Resolving("z"))
    tables, _ = pipeline.process(make_slots(turn(b"aL", cookie=1), turn(b"zL", cookie=2)), OFFSET)
    peers = {table.protocol: dict(table.endpoints[0].peer) for table in tables}
    assert peers["a"]["peer.dns.name"] == "server.example"


def test_memory_is_flat_over_processes_that_come_and_go() -> None:
    """A host that starts a process a request does not make the agent grow by what each of them was."""
    pipeline = _real()
    alive = []
    for start in range(1, 6001, 250):
        records = []
        for pid in range(start, start + 250):
            ends = {"cookie": pid, "pid": pid, "comm": b"curl", "local_port": 1024 + pid}
            records += [
                fork(pid, 1),
                cgroup(pid, f"docker/{pid:064x}"),
                execute(pid, b"curl", b"http://example.org/%d" % pid),
                turn(b"GET / HTTP/1.1\r\n\r\n", b"HTTP/1.1 200 OK\r\n\r\n", **ends),
                turn(kind=Kind.CLOSE, **ends),  # type: ignore[arg-type]
            ]
        pipeline.process(make_slots(*records), OFFSET)
        pipeline.take_wanted()
        alive.append(sum(isinstance(one, Identity) for one in gc.get_objects()))
    assert max(alive) <= 2048 + 2 * 1024 + 250
    assert alive[-1] <= alive[len(alive) // 2] + 1024


def test_what_had_to_be_forgotten_is_told_by_table() -> None:
    """Whatever keeps something between batches, parsers aside."""
    assert _pipeline().evictions() == dict.fromkeys(("connections", "containers", "names", "announced"), 0)


def test_lost_turns_can_be_named() -> None:
    """What the kernel counts by process, port and role gets the service and protocol that were seen."""
    pipeline = _pipeline()
    assert pipeline.names(100, 80, Role.CLIENT) is None
    _texts(turn(b"aL"), pipeline=pipeline)
    found = pipeline.names(100, 80, Role.CLIENT)
    assert found is not None
    assert (found[0].service, found[0].role, found[1]) == ("client", "client", "a")
    assert pipeline.names(100, 80, Role.SERVER) is None


PLAIN_TURNS = st.lists(
    st.tuples(
        st.integers(1, 3),
        st.integers(1, 2),
        st.sampled_from([b"aC", b"aL", b"aP", b"bC", b"bL", b"bP", b"?", b""]),
        st.sampled_from([Kind.TURN, Kind.OPEN]),
    ),
    max_size=12,
)


@given(PLAIN_TURNS, st.data())
def test_where_batches_end_makes_no_difference(
    drawn: list[tuple[int, int, bytes, Kind]], data: st.DataObject
) -> None:
    """The same turns give the same transactions, read at once or in any number of steps.

    That holds for connections that several processes use, too: what one sends tells the protocol of all.
    """
    slots = make_slots(
        *(turn(request, cookie=cookie, pid=pid, kind=kind) for cookie, pid, request, kind in drawn)
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(slots)), max_size=4)))
    assert _rows(_pipeline(), np.split(slots, cuts)) == _rows(_pipeline(), [slots])


def _rows(pipeline: Pipeline, batches: Sequence[np.ndarray]) -> dict[str, list[tuple[Any, ...]]]:
    """Return the transactions of all batches by protocol, each as a tuple of all it says."""
    rows: dict[str, list[tuple[Any, ...]]] = {}
    for batch in batches:
        for table in pipeline.process(batch, OFFSET)[0]:
            columns = [
                column.tolist() for name, column in _columns(table) if name in ("start_ns", "still_open")
            ]
            texts = table.request_text.to_list()
            cookies = [table.endpoints[code].cookie for code in table.endpoint.tolist()]
            rows.setdefault(table.protocol, []).extend(zip(*columns, texts, cookies, strict=True))
    return rows


# --- events ---


def test_events_tell_what_happened_to_connections() -> None:
    """Each kind with the time at which it happened, and what only it knows."""
    stamps: dict[str, Any] = {"request_first_ns": START, "response_last_ns": START + 50}
    totals: dict[str, Any] = {"request_bytes": 11, "response_bytes": 22, "srtt_us": 33, "retransmits": 4}
    events = _events(
        turn(kind=Kind.CONNECT, **stamps, **totals),
        turn(kind=Kind.CONNECT_FAILED, error=111, **stamps, **totals),
        turn(kind=Kind.ACCEPT, request_first_ns=START, **totals),
        turn(kind=Kind.CLOSE, **stamps, **totals),
    )
    assert events.kind.tolist() == [Kind.CONNECT, Kind.CONNECT_FAILED, Kind.ACCEPT, Kind.CLOSE]
    assert (events.time_ns - START - OFFSET).tolist() == [50, 50, 0, 50]
    assert events.duration_ns.tolist() == [50, 50, ABSENT, 50]
    assert events.error.tolist() == [0, 111, 0, 0]
    assert events.request_bytes.tolist() == [ABSENT, ABSENT, ABSENT, 11]
    assert events.response_bytes.tolist() == [ABSENT, ABSENT, ABSENT, 22]
    assert events.srtt_us.tolist() == [ABSENT, ABSENT, ABSENT, 33]
    assert events.retransmits.tolist() == [ABSENT, ABSENT, ABSENT, 4]


def test_events_are_no_transactions() -> None:
    """Connection events give no rows, turns no events, and each finds its own endpoint."""
    pipeline = _pipeline()
    slots = make_slots(
        turn(kind=Kind.CONNECT, cookie=5), turn(b"aL", cookie=6), turn(kind=Kind.CLOSE, cookie=7)
    )
    (table,), events = pipeline.process(slots, OFFSET)
    assert [events.endpoints[code].cookie for code in events.endpoint] == [5, 7]
    assert [table.endpoints[code].cookie for code in table.endpoint] == [6]
    assert pipeline.records == 3


# --- filters and redaction ---


@pytest.mark.parametrize(
    ("include", "exclude", "left"),
    [
        (["pid=1"], [], {"a": ["aL1"], "events": [1]}),
        ([], ["pid=1"], {"b": ["bL2"], "events": [2]}),
        (["protocol=b"], [], {"b": ["bL2"], "events": [1, 2]}),
        (["comm=x"], [], {"a": ["aL1"], "events": [1]}),
        (["port=81"], [], {"b": ["bL2"], "events": [2]}),
        (["port=82"], [], {"events": []}),
    ],
)
def test_filters_take_rows_and_events(
    include: list[str], exclude: list[str], left: dict[str, list[object]]
) -> None:
    """What is left out is in no table at all; events have no protocol and pass its filter."""
    first: dict[str, Any] = {"pid": 1, "cookie": 1, "comm": b"x"}
    second: dict[str, Any] = {"pid": 2, "cookie": 2, "remote_port": 81}
    slots = make_slots(
        turn(b"aL1", **first),
        turn(b"bL2", **second),
        *(turn(kind=Kind.CONNECT, **who) for who in (first, second)),
    )
    tables, events = _pipeline(shown=filters.parse(include, exclude)).process(slots, OFFSET)
    got: dict[str, list[Any]] = {table.protocol: table.request_text.to_list() for table in tables}
    assert got | {"events": [events.endpoints[code].pid for code in events.endpoint]} == left
    for table in tables:
        assert {len(column) for _, column in _columns(table)} == {1}


def test_filters_take_whole_rows() -> None:
    """Every column of a row that is left is that row's, attributes of either type included."""
    turns = [turn(b"aL%d" % pid, b"x" * pid, pid=pid, cookie=pid, queue_ns=pid) for pid in (1, 2, 3)]
    table = _tables(*turns, pipeline=_pipeline(shown=filters.parse(["pid=2"], [])))["a"]
    _check(table)
    assert table.request_text.to_list() == ["aL2"]
    assert (table.response_bytes.tolist(), table.queue_ns.tolist()) == ([2], [2])
    assert (table.attributes["db.query.text"].to_list(), table.attributes["size"].tolist()) == (["aL2"], [1])  # type: ignore[union-attr]
    assert table.endpoints[table.endpoint[0]].pid == 2


def test_filters_see_the_port_of_the_server() -> None:
    """For either side of a connection a service is its server's port."""
    pipeline = _pipeline(shown=filters.parse(["port=80"], []))
    server: dict[str, Any] = {"role": Role.SERVER, "local_port": 80, "remote_port": 50000}
    assert _texts(turn(b"aL1", cookie=1), turn(b"aL2", cookie=2, **server), pipeline=pipeline) == {
        "a": ["aL1", "aL2"]
    }


def test_every_table_is_redacted() -> None:
    """Before any sink sees it; what the filter left out costs no work."""
    seen: list[str] = []
    pipeline = _pipeline(
        shown=filters.parse(["protocol=a"], []),
        redact=lambda table: seen.extend(table.request_text.to_list()),
    )
    _texts(turn(b"aL", cookie=1), turn(b"bL", cookie=2), pipeline=pipeline)
    assert seen == ["aL"]


# --- any slots whatever ---


def _wild(seed: int, count: int) -> np.ndarray:
    """Return slots of which some fields hold random bytes, and some slots nothing else."""
    random = np.random.default_rng(seed)
    requests = [b"GET /a HTTP/1.1\r\nHost: b\r\n\r\n", b"\x09\0\0\0\x03SELECT 1", b"aL", b"\x16\x03\x01", b""]
    responses = [b"HTTP/1.1 200 OK\r\n\r\n", b"\7\0\0\1\0\0\0\2\0\0\0", b"J\0\0\0\n8.0.1\0" + bytes(70), b""]
    slots = make_slots(
        *(
            turn(
                requests[random.integers(len(requests))],
                responses[random.integers(len(responses))],
                cookie=random.integers(1, 5),
                kind=random.choice([1, 1, 1, 2, 3, 4, 5, 6]),
            )
            for _ in range(count)
        )
    )
    for name in random.choice(DTYPE.names or (), random.integers(0, 8), replace=False):
        rows = random.random(count) < random.choice([0.1, 1.0])
        noise = np.frombuffer(random.bytes(count * DTYPE.itemsize), DTYPE)
        slots[name][rows] = noise[name][rows]
    return slots


def _protocols() -> list[Any]:
    return [*registry.load(), Toy("a")]


def _real(**more: Any) -> Pipeline:  # noqa: ANN401
    return Pipeline(_protocols(), Directory(), ALL, **more)


def test_what_facts_change_is_shown_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many connections some at a time; batches of nothing, which only replays have, make no difference."""
    monkeypatch.setattr(endpoints, "_AT_ONCE", 1)
    pipeline = _pipeline()
    turns = [turn(b"aC", b"x", cookie=cookie, pid=7, comm=b"a") for cookie in (1, 2, 3)]
    _tables(*turns, pipeline=pipeline)
    pipeline.learn([ProcessFact(7, "a", "nginx")])
    for named in (2, 3):
        pipeline.process(make_slots(), OFFSET)
        table = _tables(*turns, pipeline=pipeline)["a"]
        assert [end.executable for end in table.endpoints].count("nginx") == named


WILD = st.lists(st.tuples(st.integers(0, 2**32), st.integers(0, 8)), min_size=1, max_size=4)


@given(WILD, st.booleans())
def test_no_slots_make_the_pipeline_raise(batches: list[tuple[int, int]], redact: bool) -> None:  # noqa: FBT001
    """Whatever the bytes, all columns of a table are as long as each other and point to what is there."""
    pipeline = _real(redact=redact_table if redact else None)
    for seed, count in batches:
        slots = _wild(seed, count)
        tables, events = pipeline.process(slots, OFFSET)
        kinds = slots["kind"]
        turns = int(((kinds <= Kind.OPEN) | (kinds == Kind.DATAGRAM)).sum())
        told_apart = is_life(kinds) | (kinds == Kind.SILENT)
        assert len(events) == count - turns - int(told_apart.sum())
        assert len(tables) == 0 or turns
        for batch in _batches(tables, events):
            _check(batch)
        assert all(len(table) for table in tables)


def _check(batch: Table | Events) -> None:
    assert {len(column) for _, column in _columns(batch)} == {len(batch)}
    assert (batch.endpoint >= 0).all()
    assert (batch.endpoint < len(batch.endpoints)).all()
    if isinstance(batch, Table):
        for column in (batch.request_text, batch.response_text, *batch.attributes.values()):
            if isinstance(column, Encoded):
                assert (column.codes >= ABSENT).all()
                assert (column.codes < len(column.values)).all()
                assert all(isinstance(value, str) for value in column.values)


@given(WILD)
def test_nothing_refers_to_the_slots_any_more(batches: list[tuple[int, int]]) -> None:
    """Sinks hold rows back: once the ring is released, the kernel writes over what a view would show."""
    pipeline = _real()
    for seed, count in batches:
        slots = _wild(seed, count)
        tables, events = pipeline.process(slots, OFFSET)
        for batch in _batches(tables, events):
            for name, column in _columns(batch):
                assert not np.shares_memory(column, slots), name


@given(WILD)
def test_same_batches_give_the_same_output(batches: list[tuple[int, int]]) -> None:
    """That is what makes a replay equal the live run, byte by byte."""
    first, second = _real(), _real()
    for seed, count in batches:
        slots = _wild(seed, count)
        assert _said(first.process(slots, OFFSET)) == _said(second.process(slots.copy(), OFFSET))


def _said(output: tuple[list[Table], Events]) -> list[object]:
    tables, events = output
    said: list[object] = []
    for batch in _batches(tables, events):
        said += [column.tolist() for _, column in _columns(batch)]
        said += [[(end.local, end.remote, end.role, end.service) for end in batch.endpoints]]
    for table in tables:
        said += [table.protocol, table.request_text.values, table.response_text.values]
        said += [column.values for column in table.attributes.values() if isinstance(column, Encoded)]
    return said


def test_slots_that_can_not_be_written_to_are_enough() -> None:
    """The ring is mapped for reading only."""
    slots = make_slots(
        turn(b"GET / HTTP/1.1\r\n\r\n"), turn(kind=Kind.CLOSE), turn(cookie=2, transport=Transport.UNIX)
    )
    slots.flags.writeable = False
    assert [table.protocol for table in _real().process(slots, OFFSET)[0]] == ["http", "tcp"]


NAME = b"www.example.org"
LOOKUP, FOUND = dns_wire.query(NAME), dns_wire.response(NAME, dns_wire.record(b"\xc0\0\2\1"))


def test_a_query_that_nobody_answers_is_an_error_of_its_own_end() -> None:
    """When the stamps of a later batch, whatever is in it, tell that its time is over; and once."""
    pipeline = _real()
    tables, _ = pipeline.process(make_slots(dns_wire.asked(LOOKUP, cookie=7, pid=70, comm=b"curl")), OFFSET)
    assert [(table.protocol, table.still_open.tolist()) for table in tables] == [("dns", [True])]
    later = turn(kind=Kind.SILENT, transport=Transport.UDP, request_first_ns=7 * 10**9)
    tables, events = pipeline.process(make_slots(later), OFFSET)
    assert not len(events)
    assert [(table.protocol, table.error.tolist()) for table in tables] == [("dns", [True])]
    end = tables[0].endpoints[tables[0].endpoint[0]]
    assert (end.pid, end.comm, end.remote) == (70, "curl", "127.0.0.1:53")
    assert tables[0].duration_ns.tolist() == [ABSENT]
    assert (tables[0].end_ns - tables[0].start_ns).tolist() == [5 * 10**9]
    assert tables[0].shown.tolist() == [True], "its request had a line when it was sent"
    later["request_first_ns"] = 20 * 10**9
    assert pipeline.process(make_slots(later), OFFSET)[0] == []


def test_peers_of_one_socket_are_ends_of_their_own() -> None:
    """A server's one UDP socket answers many clients; who asked it, it does not know."""
    pipeline = _real()
    end = dns_wire.serving(cookie=9)
    answers = [
        dns_wire.answered(dns_wire.response(NAME, number=number), **{**end, "remote_port": port})
        for number, port in ((1, 40001), (2, 40002))
    ]
    asked = [dns_wire.asked(dns_wire.query(NAME, number=number), **end) for number in (1, 2)]
    (table,), _ = pipeline.process(make_slots(*asked, *answers), OFFSET)
    ends = [table.endpoints[code] for code in table.endpoint.tolist()]
    assert [(end.client_port, end.role) for end in ends] == [(40001, "server"), (40002, "server")]


def test_datagrams_of_nobody_are_shown_as_they_ask() -> None:
    """What answers can't be paired; a socket with many of them is to have turns again."""
    pipeline = _real()
    pipeline.datagrams.take()
    slots = make_slots(*[dns_wire.asked(b"noise", cookie=5), dns_wire.answered(b"noise", cookie=5)] * 40)
    tables, _ = pipeline.process(slots, OFFSET)
    assert [(table.protocol, len(table)) for table in tables] == [("tcp", 40)]
    assert pipeline.datagrams.take() == ([], [5])


def test_a_port_on_which_an_id_pairs_is_followed() -> None:
    """The server's port of a UDP turn that is recognised, beside those known from the start."""
    pipeline = _real()
    assert pipeline.datagrams.take() == ([53], [])
    for role, side in ((Role.CLIENT, "remote_port"), (Role.SERVER, "local_port")):
        fields: dict[str, Any] = {"transport": Transport.UDP, "role": role, side: 5300 + role, "cookie": role}
        pipeline.process(make_slots(turn(LOOKUP, FOUND, **fields)), OFFSET)
    pipeline.process(
        make_slots(turn(b"\0\x1d" + LOOKUP, b"\0" + bytes([len(FOUND)]) + FOUND, cookie=8)), OFFSET
    )
    assert pipeline.datagrams.take() == ([5301, 5302], [])
