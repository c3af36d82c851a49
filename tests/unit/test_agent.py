"""The agent's loop over a ring that the test fills, and its replay."""

from __future__ import annotations

import os
import re
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import pytest

from masdeepflow import agent as module
from masdeepflow import filters
from masdeepflow.agent import Agent, Ledger, replay
from masdeepflow.enrich.directory import Directory
from masdeepflow.enrich.facts import ProcessFact, UsersFact
from masdeepflow.kernel.layout import committed
from masdeepflow.kernel.probes import ServiceSignals
from masdeepflow.pipeline import Pipeline
from masdeepflow.protocols import registry
from masdeepflow.recording import Recorder, Recording
from masdeepflow.schema import Kind, Role, Transport
from masdeepflow.sinks.json_log import JsonLog
from masdeepflow.sinks.latency import KERNEL_BUCKETS
from masdeepflow.sinks.line_log import LineLog
from masdeepflow.sinks.metrics import Metrics
from masdeepflow.sinks.text import TextLog
from tests.support.probes import FakeProbes, FakeRing
from tests.support.slots import MILLISECOND, make_slots, turn

if TYPE_CHECKING:
    from pathlib import Path

    from masdeepflow.enrich.directory import Wanted
    from masdeepflow.enrich.facts import Fact
    from masdeepflow.enrich.lookups import Lookups
    from masdeepflow.kernel.probes import Probes
    from masdeepflow.sinks.line_writer import LineWriter
    from masdeepflow.summary import Summary
    from masdeepflow.table import Output

ALL = filters.parse([], [])
GET = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
GONE = 2**22 + 1  # beyond the largest PID


class Collecting:
    """A sink that keeps everything."""

    patience_s = 0.001
    left_out = 0

    def __init__(self) -> None:
        self.outputs: list[Output] = []
        self.closed: Summary | None = None

    def write(self, output: Output) -> None:
        """Keep it."""
        self.outputs.append(output)

    def close(self, summary: Summary) -> None:
        """Keep the summary."""
        self.closed = summary

    def texts(self) -> list[str | None]:
        """Return the requests of all tables, in the order in which they came."""
        return [text for out in self.outputs for table in out.tables for text in table.request_text.to_list()]


class FakeLookups:
    """Finds out what it is asked for at once."""

    def __init__(self) -> None:
        """Start with nothing asked."""
        self.facts: list[Fact] = []

    def take(self) -> list[Fact]:
        """Return what was found out."""
        facts, self.facts = self.facts, []
        return facts

    def ask(self, wanted: Wanted) -> None:
        """Name processes after their numbers."""
        self.facts += [ProcessFact(pid, "nginx", f"exe-{pid}", (f"/bin/{pid}",), 0) for pid in wanted.pids]


@dataclass
class Bench:
    """An agent with all that it stands on."""

    probes: FakeProbes = field(default_factory=FakeProbes)
    shown: filters.Filter = ALL

    def __post_init__(self) -> None:
        """Put it together."""
        self.lookups = FakeLookups()
        self.metrics = Metrics()
        self.sink = Collecting()
        self.pipeline = Pipeline(registry.load(), Directory(), self.shown)
        lookups = cast("Lookups", self.lookups)
        self.agent = Agent(self.kernel, self.pipeline, [self.metrics, self.sink], self.metrics, lookups)
        self.ledger = self.agent.ledger

    @property
    def kernel(self) -> Probes:
        """The probes as the agent knows them."""
        return cast("Probes", self.probes)

    def serve(self, **fields: object) -> None:
        """Let the agent read one turn of the service that `_signals` describes, so that it can be named."""
        server = {"role": Role.SERVER, "local_port": 80, "remote_port": 5000, "pid": 42, "comm": b"nginx"}
        self.pipeline.process(make_slots(turn(GET, OK, **{**server, **fields})), 0)

    def services(self) -> dict[tuple[str, str, str], int]:
        """Return how many requests the metrics have of each service."""
        return {(s.service, s.protocol, s.role): s.requests for s in self.metrics.services()}


@pytest.fixture
def bench() -> Bench:
    """Give an agent over an empty ring."""
    return Bench()


def _signals(lost: int, **fields: object) -> ServiceSignals:
    """Return the signals of nginx on port 80, index 1, that lost so many turns."""
    histogram = np.zeros(KERNEL_BUCKETS, np.int64)
    histogram[10] = lost
    values: dict[str, Any] = {
        "index": 1,
        "pid": 42,
        "port": 80,
        "role": int(Role.SERVER),
        "comm": "nginx",
        "turns": 2 * lost,
        **fields,
    }
    key = values["pid"].to_bytes(4, "little") + values["index"].to_bytes(4, "little")
    return ServiceSignals(**{"key": key, "lost": lost, "lost_histogram": histogram, **values})


# --- the loop ---


def test_a_poll_reads_all_that_waits(bench: Bench) -> None:
    """Every slot of the ring becomes a row, in order, and its room is given back."""
    bench.probes.ring.add(*(turn(b"GET /%d HTTP/1.1\r\n\r\n" % number, OK) for number in range(5)))
    assert bench.agent.poll() == 5
    assert bench.sink.texts() == [f"HTTP Request: GET /{number} HTTP/1.1" for number in range(5)]
    assert bench.probes.ring.pending() == 0
    assert bench.agent.poll() == 0


def test_a_batch_is_bounded(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A full ring is read in steps, so that the arrays of one stay small."""
    monkeypatch.setattr(module, "_BATCH", 3)
    bench.probes.ring.add(*[turn(GET, OK)] * 8)
    assert bench.agent.poll() == 8
    assert bench.probes.ring.reads == [3, 3, 2]


def test_what_comes_meanwhile_waits_for_the_next_poll(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """A ring that fills as fast as it is read must not starve the sweep."""
    monkeypatch.setattr(module, "_BATCH", 1)
    ring = bench.probes.ring
    process = bench.pipeline.process

    def slow(slots: np.ndarray, offset_ns: int) -> Any:  # noqa: ANN401
        ring.add(turn(GET, OK))
        return process(slots, offset_ns)

    monkeypatch.setattr(bench.pipeline, "process", slow)
    ring.add(turn(GET, OK), turn(GET, OK))
    assert bench.agent.poll() == 2
    assert ring.pending() == 2


def test_sinks_hear_of_time_without_traffic(bench: Bench) -> None:
    """Held lines come out although nothing new comes: each poll ends with a watermark."""
    bench.agent.poll()
    (tick,) = bench.sink.outputs
    assert tick.tables == []
    assert len(tick.events) == 0
    assert abs(tick.watermark_ns - time.time_ns()) < 1_000_000_000


@pytest.mark.parametrize(("swept", "least", "most"), [(False, 5, 30), (True, 35, 60)])
def test_watermark_leaves_room_for_what_may_still_come(swept: bool, least: int, most: int) -> None:  # noqa: FBT001
    """A turn may be written as late as it is found idle, or as its program is preempted, and no later."""
    bench = Bench(FakeProbes(swept=swept))
    bench.agent.poll()
    behind = (time.time_ns() - bench.sink.outputs[-1].watermark_ns) / MILLISECOND
    assert least <= behind <= most + 1000  # a slow machine makes it later, never earlier


def test_watermark_is_of_the_time_before_the_ring_was_read(bench: Bench) -> None:
    """What is written while the agent reads must not be older than what it has promised."""
    bench.probes.on_sweep = lambda: time.sleep(0.05)
    bench.agent.poll()
    assert time.time_ns() - bench.sink.outputs[-1].watermark_ns >= 55 * MILLISECOND


def test_watermark_never_goes_back(bench: Bench) -> None:
    """By the clock of the stamps: when there is something to sweep again, what was promised holds."""
    bench.agent.poll()
    bench.probes.swept = True
    bench.agent.poll()
    first, second = (out.watermark_ns - out.offset_ns for out in bench.sink.outputs)
    assert second == first


class _Lines:
    """A writer that keeps the lines."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def full(self) -> bool:
        """Never."""
        return False

    def offer(self, lines: list[str]) -> bool:
        """Keep them."""
        self.lines += lines
        return True


@pytest.mark.parametrize("log", [TextLog, JsonLog])
@pytest.mark.parametrize("hours", [-3, 3, -30_000])
def test_setting_the_clock_neither_holds_lines_nor_mixes_them(
    monkeypatch: pytest.MonkeyPatch, hours: int, log: type[TextLog | JsonLog]
) -> None:
    """Lines come within three polls and in the order of what happened, whatever the wall clock does."""
    now, offset = 10**12, 1_767_000_000 * 10**9
    monkeypatch.setattr(time, "monotonic_ns", lambda: now)
    monkeypatch.setattr(time, "time_ns", lambda: now + offset)
    monkeypatch.setattr("masdeepflow.clock._REFRESH_NS", 0)
    bench = Bench(FakeProbes(swept=True))
    lines = _Lines()
    bench.agent = Agent(bench.kernel, bench.pipeline, [log(cast("LineWriter", lines))], bench.metrics)
    for number in range(0, 400, 2):
        # The later of two is written first; the clock is set between them.
        for which, at in ((number + 1, now - 1000), (number, now - 2000)):
            stamps = {"request_first_ns": at, "request_last_ns": at}
            answered = {"response_first_ns": at + 1000, "response_last_ns": at + 1000}
            bench.probes.ring.add(turn(b"GET /%d HTTP/1.1\r\n\r\n" % which, OK, **stamps, **answered))
            bench.agent.poll()
            now += 10 * MILLISECOND
            if which == 201:
                offset += hours * 3600 * 10**9
    for _ in range(3):
        bench.agent.poll()
        now += 20 * MILLISECOND
    found = [int(match[1]) for line in lines.lines if (match := re.search(r"(?:GET |path\":\")/(\d+)", line))]
    assert found == sorted(found)
    assert len(found) == 400


def test_batches_carry_the_watermark_before_them(bench: Bench) -> None:
    """A batch may hold rows from before the watermark that is set once it is read."""
    bench.agent.poll()
    bench.probes.ring.add(turn(GET, OK))
    bench.agent.poll()
    first, batch, second = bench.sink.outputs
    assert batch.tables
    assert batch.watermark_ns == first.watermark_ns <= second.watermark_ns
    assert (first.records, batch.records, second.records) == (0, 1, 1)


def test_sinks_are_told_when_the_ring_fills_up() -> None:
    """While more than half of the ring waits they should save effort; what was read waits no more."""
    bench = Bench(FakeProbes(FakeRing(capacity=10)))
    bench.probes.ring.add(*[turn(GET, OK)] * 6)
    bench.agent.poll()
    batch = bench.sink.outputs[-2]
    assert batch.tables
    assert not batch.behind()
    bench.probes.ring.add(*[turn(GET, OK)] * 6)
    assert all(output.behind() for output in bench.sink.outputs)


def test_a_line_is_there_a_tenth_of_a_second_after_its_event() -> None:
    """A turn ends when nothing has come for a while; then it waits for a poll as long as a log allows."""
    assert (module._IDLE_NS + module._SLACK_NS) / 1e9 + LineLog.patience_s < 0.1


def test_run_ends_when_it_is_told_to(bench: Bench) -> None:
    """The hook between two polls may end it; the ring is read once more, for what has become idle by then."""
    polls: list[float] = []

    def stop() -> None:
        polls.append(time.monotonic())
        bench.probes.ring.add(turn(GET, OK))
        bench.agent.stop = True

    bench.agent.run(None, stop)
    assert len(polls) == 1
    assert time.monotonic() - polls[0] >= (module._IDLE_NS + module._SLACK_NS) / 1e9
    assert len(bench.sink.texts()) == 1


def test_run_ends_after_its_duration(bench: Bench) -> None:
    """It polls until then, and its health can be told from the time of the last poll."""
    start = time.monotonic()
    polled: list[float] = []
    bench.agent.run(0.1, lambda: polled.append(bench.agent.polled_s))
    assert time.monotonic() - start >= 0.1
    assert len(polled) >= 2
    assert polled == sorted(polled)
    assert start <= polled[0] <= bench.agent.polled_s <= time.monotonic()


def test_close_flushes_the_sinks_with_the_summary(bench: Bench) -> None:
    """It is true for the whole run: what was seen, what was lost by reason, and the services."""
    bench.probes.ring.add(turn(GET, OK))
    bench.agent.poll()
    bench.probes.lost = 3
    bench.sink.left_out = 4
    summary = bench.agent.close()
    assert bench.sink.closed is summary
    assert summary.records == 1
    lost = {"ring_full": 3, "event_ring_full": 2, "no_memory": 1, "udp_flood": 0, "log_behind": 4}
    assert summary.lost == lost
    assert [(service.service, service.requests) for service in summary.services] == [("client", 1)]


def test_losses_are_looked_up_once_a_second(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counters of all CPUs are too much work for every poll."""
    looks: list[int] = []
    counters = bench.probes.counters

    def count() -> dict[str, int]:
        looks.append(1)
        return counters()

    monkeypatch.setattr(bench.probes, "counters", count)
    for _ in range(5):
        bench.agent.poll()
    assert len(looks) == 1
    bench.agent._updated_ns -= 2_000_000_000
    bench.agent.poll()
    assert len(looks) == 2


# --- what was lost ---


def test_lost_turns_are_counted_under_their_service(bench: Bench) -> None:
    """By the name and protocol that were seen of it, with their durations, and each once only."""
    bench.serve()
    bench.probes.signals = [_signals(5)]
    bench.probes.lost = 5
    bench.ledger.update(bench.kernel)
    bench.ledger.update(bench.kernel)
    assert bench.services() == {("nginx", "http", "server"): 5}
    (service,) = bench.metrics.services()
    assert service.p50_ms == pytest.approx(0.0107, rel=0.1)
    bench.probes.signals = [_signals(7)]
    bench.probes.lost = 7
    bench.ledger.update(bench.kernel)
    assert bench.services() == {("nginx", "http", "server"): 7}


def test_services_are_not_looked_at_while_nothing_is_lost(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Reading the golden signals of every service costs a system call each."""
    monkeypatch.setattr(bench.probes, "services", lambda: pytest.fail("read"))
    bench.ledger.update(bench.kernel)
    assert bench.ledger.lost() == {"ring_full": 0, "event_ring_full": 2, "no_memory": 1, "udp_flood": 0}


def test_lost_turns_wait_for_the_protocol_to_be_known(bench: Bench) -> None:
    """A burst may lose the first turns of a service: the next that is read names them."""
    bench.probes.signals = [_signals(5)]
    bench.probes.lost = 5
    bench.ledger.update(bench.kernel)
    assert bench.services() == {}
    bench.serve()
    bench.ledger.update(bench.kernel)
    assert bench.services() == {("nginx", "http", "server"): 5}


def test_in_the_end_lost_turns_are_counted_whatever_they_were(bench: Bench) -> None:
    """A service of which nothing was ever read goes under its process's name."""
    bench.probes.signals = [_signals(5)]
    bench.probes.lost = 5
    assert [(s.service, s.requests) for s in bench.agent.close().services] == [("nginx", 5)]
    assert bench.services() == {("nginx", "tcp", "server"): 5}


def test_turns_beyond_the_limit_of_services_need_no_name(bench: Bench) -> None:
    """Nobody will ever tell more about them: they are counted at once, under a name that says so."""
    bench.probes.signals = [_signals(4, index=0, pid=0, key=b"", port=0, role=0, comm="(other)")]
    bench.probes.lost = 4
    bench.ledger.update(bench.kernel)
    assert bench.services() == {("(other)", "tcp", ""): 4}


def test_an_index_that_is_used_again_starts_where_it_ended(bench: Bench) -> None:
    """The kernel's counts of an index go on under its next owner, whose losses are only the new ones."""
    bench.serve()
    bench.serve(pid=43, comm=b"apache", cookie=2)
    bench.probes.signals, bench.probes.lost = [_signals(5, pid=42)], 5
    bench.ledger.update(bench.kernel)
    bench.probes.signals, bench.probes.lost = [_signals(8, pid=43, comm="apache")], 8
    bench.ledger.update(bench.kernel)
    assert bench.services() == {("nginx", "http", "server"): 5, ("apache", "http", "server"): 3}


@pytest.mark.parametrize(
    ("exclude", "counted"), [("port=80", False), ("protocol=http", False), ("port=81", True)]
)
def test_filters_hold_for_lost_turns_too(exclude: str, counted: bool) -> None:  # noqa: FBT001
    """What is not counted when it is read is not counted when it is lost."""
    bench = Bench(shown=filters.parse([], [exclude]))
    bench.serve()
    bench.probes.signals, bench.probes.lost = [_signals(5)], 5
    bench.ledger.update(bench.kernel)
    assert bool(bench.services()) is counted


def _crowd(monkeypatch: pytest.MonkeyPatch, bench: Bench) -> None:
    monkeypatch.setattr(module, "_MANY_SERVICES", 2)
    bench.probes.signals = [_signals(0, index=1, pid=GONE), _signals(0, index=2, pid=os.getpid())]


def test_indices_of_processes_that_are_gone_are_freed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Not at the first look, as turns of theirs may still be in the ring; never those of the living."""
    _crowd(monkeypatch, bench)
    gone = bench.probes.signals[0].key
    bench.ledger.update(bench.kernel)
    assert bench.probes.forgotten == []
    bench.ledger.update(bench.kernel)
    assert bench.probes.forgotten == [gone]


def test_what_a_freed_service_lost_is_counted_before(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its last losses, and those that nothing has named, would else go to the next owner of its index."""
    _crowd(monkeypatch, bench)
    bench.ledger.update(bench.kernel)
    bench.probes.signals[0] = _signals(6, index=1, pid=GONE, comm="curl", role=int(Role.CLIENT))
    bench.probes.lost = 6
    bench.ledger.update(bench.kernel)
    assert len(bench.probes.forgotten) == 1
    assert bench.services() == {("curl", "tcp", "client"): 6}


def test_few_services_are_left_alone(bench: Bench) -> None:
    """As long as there is room, an index costs nothing."""
    bench.probes.signals = [_signals(0, pid=GONE)]
    for _ in range(3):
        bench.ledger.update(bench.kernel)
    assert bench.probes.forgotten == []


def test_nothing_is_freed_from_within_another_pid_namespace(monkeypatch: pytest.MonkeyPatch) -> None:
    """There the kernel's PIDs are not those of /proc: everybody would seem to be gone."""
    bench = Bench(FakeProbes(pid=os.getpid() + 1))
    _crowd(monkeypatch, bench)
    for _ in range(3):
        bench.ledger.update(bench.kernel)
    assert bench.probes.forgotten == []


# --- what moved ---


def _moved(moved_bytes: int, **fields: object) -> ServiceSignals:
    return _signals(0, moved_bytes=moved_bytes, **fields)


def _coverage(bench: Bench) -> dict[str, tuple[int, int]]:
    """Return bytes parsed and moved by service."""
    return {found.service: (found.parsed_bytes, found.moved_bytes) for found in bench.metrics.coverage()}


def test_what_was_parsed_is_held_against_what_moved(bench: Bench) -> None:
    """Turns of a recognised protocol against all that the kernel counted, by the name of the service."""
    bench.serve(service=1)
    bench.serve(service=1, cookie=2)
    bench.probes.signals = [_moved(3 * (len(GET) + len(OK))), _moved(70, index=2, pid=7, comm="sshd")]
    summary = bench.agent.summary()
    half = 2 * (len(GET) + len(OK))
    assert _coverage(bench) == {"nginx": (half, half * 3 // 2), "sshd": (0, 70)}
    assert [found.service for found in summary.coverage] == ["nginx", "sshd"]
    assert bench.agent.summary().coverage == summary.coverage


def test_what_nobody_understands_goes_under_the_name_of_its_records(bench: Bench) -> None:
    """Not under the process's short name, if somebody gave it another."""
    server = {"role": Role.SERVER, "local_port": 80, "remote_port": 5000, "pid": 42, "comm": b"nginx"}
    bench.pipeline.learn([ProcessFact(42, "nginx", "nginx", service="shop")])
    bench.pipeline.process(make_slots(turn(b"\x16\x03", b"\x16\x03", **server)), 0)
    bench.probes.signals = [_moved(70)]
    bench.agent.summary()
    assert _coverage(bench) == {"shop": (0, 70)}


def test_what_moved_is_read_before_the_ring(bench: Bench) -> None:
    """Or what comes between the two reads would look as if it had not been understood."""
    server = {"role": Role.SERVER, "local_port": 80, "remote_port": 5000, "pid": 42, "comm": b"nginx"}
    bench.probes.signals = [_moved(len(GET) + len(OK))]
    bench.probes.ring.add(turn(GET, OK, service=1, **server))
    assert [found.ratio for found in bench.agent.summary().coverage] == [1.0]


def test_what_moved_is_looked_up_now_and_then(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """All services' signals are too much work for every poll, or every second."""
    looks: list[int] = []
    services = bench.probes.services

    def count() -> list[ServiceSignals]:
        looks.append(1)
        return services()

    monkeypatch.setattr(bench.probes, "services", count)
    for _ in range(5):
        bench.agent._updated_ns = 0
        bench.agent.poll()
    assert looks == []
    bench.agent._looked_ns -= module._LOOK_NS
    bench.agent._updated_ns = 0
    bench.agent.poll()
    assert looks == [1]


def test_bytes_of_an_index_that_is_used_again_are_each_owners_own(
    bench: Bench, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the one that is gone has moved is counted before its index is given back."""
    _crowd(monkeypatch, bench)
    bench.ledger.update(bench.kernel)
    bench.probes.signals[0] = _moved(5, index=1, pid=GONE, comm="curl")
    bench.ledger.update(bench.kernel)
    assert len(bench.probes.forgotten) == 1
    bench.probes.signals = [_moved(12, index=1, pid=9, comm="wget")]
    bench.agent.summary()
    assert _coverage(bench) == {"curl": (0, 5), "wget": (0, 7)}


def test_filters_hold_for_coverage(bench: Bench) -> None:
    """Whose requests are not shown, of him nothing is told."""
    bench.pipeline.shown = filters.parse([], ["port=80"])
    bench.serve(service=1)
    bench.probes.signals = [_moved(500), _moved(70, index=2, port=81, comm="sshd")]
    bench.agent.summary()
    bench.pipeline.shown = ALL
    assert _coverage(bench) == {"sshd": (0, 70)}


def test_losses_are_remembered_for_recordings_only(bench: Bench) -> None:
    """Days of overload must not fill the memory of an agent that records nothing."""
    bench.serve()
    for keep in (False, True):
        bench.ledger.keep_fresh = keep
        for _ in range(3):
            bench.probes.lost += 1
            bench.probes.signals = [_signals(bench.probes.lost)]
            bench.ledger.update(bench.kernel)
        fresh = bench.ledger.take_fresh()
        assert [(turns.turns, sum(turns.histogram)) for turns in fresh] == ([(1, 1)] * 3 if keep else [])
        assert bench.ledger.take_fresh() == []


# --- record and replay ---


def _said(sink: Collecting) -> list[object]:
    """Return what a sink was told, in order, ticks between two batches as one."""
    said: list[object] = []
    watermark = 0
    for out in sink.outputs:
        settled = out.watermark_ns - out.offset_ns
        if out.tables or len(out.events):
            said.append((watermark, settled, out.offset_ns))
            for table in out.tables:
                ends = [table.endpoints[code] for code in table.endpoint.tolist()]
                names = [(end.local, end.executable, end.command, end.service) for end in ends]
                said.append((table.protocol, table.start_ns.tolist(), table.request_text.to_list(), names))
            said.append((out.events.kind.tolist(), out.events.time_ns.tolist()))
        watermark = settled
    return said


def test_replay_tells_the_sinks_what_the_live_run_told_them(tmp_path: Path) -> None:
    """Same batches, same watermarks, same names, same losses, same summary."""
    live = Bench()
    live.lookups.facts = [UsersFact({0: "root"}), ProcessFact(42, "nginx", "nginx")]
    recorder = Recorder(tmp_path / "run.rec", committed())
    live.agent.record(recorder)
    server = {"role": Role.SERVER, "local_port": 80, "remote_port": 5000, "pid": 42, "comm": b"nginx"}
    for number in range(4):
        live.probes.ring.add(
            turn(kind=Kind.ACCEPT, cookie=number, **server),  # type: ignore[arg-type]
            turn(b"GET /%d HTTP/1.1\r\n\r\n" % number, OK, cookie=number, service=1, **server),
            turn(b"\x16\x03\x01", b"\x16\x03\x03", cookie=100 + number, pid=number),
        )
        live.agent.poll()
        live.probes.lost += 10 * number
        live.probes.signals = [_signals(live.probes.lost, moved_bytes=1000 * (number + 1))]
        live.agent._updated_ns = live.agent._looked_ns = 0
        live.agent.poll()
    summary = live.agent.close()

    recording = Recording(tmp_path / "run.rec")
    sink, metrics = Collecting(), Metrics()
    pipeline = Pipeline(registry.load(), Directory(), ALL)
    again = replay(recording, pipeline, [metrics, sink], metrics)
    assert _said(sink) == _said(live.sink)
    assert again == summary
    assert [0 < found.parsed_bytes < found.moved_bytes == 4000 for found in again.coverage] == [True]
    assert sink.closed is again


def test_replay_of_a_cut_recording_ends_where_it_was_cut(tmp_path: Path) -> None:
    """What there is gets its summary, in which nobody knows what was lost."""
    live = Bench()
    live.agent.record(Recorder(tmp_path / "run.rec", committed()))
    for _ in range(2):
        live.probes.ring.add(turn(GET, OK))
        live.agent.poll()
    live.agent.close()
    content = (tmp_path / "run.rec").read_bytes()
    (tmp_path / "cut.rec").write_bytes(content[: content.rindex(b'{"end"') - 20])
    sink, metrics = Collecting(), Metrics()
    recording = Recording(tmp_path / "cut.rec", partial=True)
    summary = replay(recording, Pipeline(registry.load(), Directory(), ALL), [sink], metrics)
    assert (summary.records, summary.lost) == (1, {})
    assert sink.closed is summary


def test_ledger_has_nothing_to_tell_at_first() -> None:
    """Before the counters are read, nothing is known to be lost."""
    bench = Bench()
    assert set(Ledger(bench.pipeline, bench.metrics).lost().values()) == {0}


def test_the_kernel_is_told_which_datagrams_to_follow(bench: Bench) -> None:
    """The ports known from the start at once, and what a batch teaches before the next is read."""
    assert bench.probes.followed == [53]
    noise = turn(b"noise", kind=Kind.DATAGRAM, transport=Transport.UDP, cookie=6)
    bench.probes.ring.add(*[noise] * 65)
    bench.agent.poll()
    assert (bench.probes.followed, bench.probes.left) == ([53], [6])
