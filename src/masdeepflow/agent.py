"""The agent's loop: sweep, read the ring, run the pipeline, feed the sinks; and a replay of a recording."""

from __future__ import annotations

import os
import time
from typing import TYPE_CHECKING

import numpy as np

from masdeepflow.clock import WallClock
from masdeepflow.pace import Pace
from masdeepflow.protocols.registry import UNRECOGNISED
from masdeepflow.recording import End, Frame, LostTurns, Moved
from masdeepflow.schema import Role
from masdeepflow.sinks.metrics import Resource, Service
from masdeepflow.summary import Summary
from masdeepflow.table import Events, Output, never_behind

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from masdeepflow.endpoint import Endpoint
    from masdeepflow.enrich.lookups import Lookups
    from masdeepflow.kernel.probes import Probes, ServiceSignals
    from masdeepflow.pipeline import Pipeline
    from masdeepflow.recording import Recorder, Recording
    from masdeepflow.sinks.base import Sink
    from masdeepflow.sinks.metrics import Metrics

__all__ = ["Agent", "Ledger", "replay"]

_BATCH = 8192  # slots at a time: more would not stay in the cache, fewer pay for each batch as much
_IDLE_NS = 30_000_000  # IDLE_NS of bpf/turn.h
_SLACK_NS = 5_000_000  # a program may be preempted between its stamp and its slot
_ROLES = {Role.CLIENT: "client", Role.SERVER: "server"}
_SECOND_NS = 1_000_000_000
_LOOK_NS = 10 * _SECOND_NS  # between two looks at what every service moved: a system call each
_MANY_SERVICES = 256
_NO_SLOTS = np.zeros(0, np.uint8)
_NO_EVENTS = Events.none()


def _tick(
    watermark_ns: int, records: int, offset_ns: int, behind: Callable[[], bool] = never_behind
) -> Output:
    return Output([], _NO_EVENTS, watermark_ns, records, behind, offset_ns)


class Ledger:
    """What was lost, by reason, and what moved, by service: from the kernel's counters and golden signals."""

    def __init__(self, pipeline: Pipeline, metrics: Metrics) -> None:
        self.keep_fresh = False
        """Whether to remember what was lost and moved until it is taken, for recordings."""
        self.counters: dict[str, int] = {}
        self._pipeline = pipeline
        self._metrics = metrics
        self._lost: dict[int, int] = {}
        self._histograms: dict[int, np.ndarray] = {}
        self._fresh: list[LostTurns] = []
        self._looked: list[ServiceSignals] = []
        self._moved: dict[int, int] = {}
        self._fresh_moved: list[Moved] = []
        self._suspects: set[bytes] = set()
        self._unnamed = False

    def lost(self) -> dict[str, int]:
        """Return reason -> count."""
        return {
            "ring_full": self.counters.get("lost_ring_full", 0),
            "event_ring_full": self.counters.get("lost_event_ring_full", 0),
            "no_memory": self.counters.get("lost_no_memory", 0),
            "udp_flood": self.counters.get("unshown", 0),
        }

    def take_fresh(self) -> list[LostTurns]:
        """Return what was counted as lost since the last call; nothing unless `keep_fresh`."""
        fresh, self._fresh = self._fresh, []
        return fresh

    def take_moved(self) -> list[Moved]:
        """Return what was counted as moved since the last call; nothing unless `keep_fresh`."""
        fresh, self._fresh_moved = self._fresh_moved, []
        return fresh

    def look(self, probes: Probes) -> None:
        """Read what every service moved, for the next `update`.

        To be called before the ring is read: nothing has moved then that could not have been parsed.
        """
        self._looked = probes.services()

    def update(self, probes: Probes, *, final: bool = False) -> None:
        """Read the counters; when the ring has lost turns, count them under their services.

        final: also those of services of which no turn was ever read, under the process's name.
        """
        before = self._uncounted()
        self.counters = probes.counters()
        self._unnamed |= self._uncounted() != before
        if self._unnamed:
            self._unnamed = False
            for service in probes.services():
                self._add(service, final=final)
        for service in self._looked:
            self._cover(service)
        self._looked = []
        self._free_services(probes)

    def _cover(self, service: ServiceSignals) -> None:
        new = service.moved_bytes - self._moved.get(service.index, 0)
        if new <= 0:
            return
        self._moved[service.index] = service.moved_bytes
        seen = self._pipeline.seen(service.pid, service.port, service.role)
        moved = _moved(service, seen, new)
        if self.keep_fresh:
            self._fresh_moved.append(moved)
        _add_moved(self._metrics, self._pipeline, moved)

    def _uncounted(self) -> int:
        """Return how many turns only the kernel has counted."""
        return self.counters.get("lost_ring_full", 0) + self.counters.get("unshown", 0)

    def _add(self, service: ServiceSignals, *, final: bool) -> None:
        new = service.lost - self._lost.get(service.index, 0)
        if new <= 0:
            return
        names = self._pipeline.names(service.pid, service.port, service.role)
        if names is None and service.key and not final:  # the next turn that is read may tell the protocol
            self._unnamed = True
            return
        difference = service.lost_histogram - self._histograms.get(service.index, 0)
        self._lost[service.index], self._histograms[service.index] = service.lost, service.lost_histogram
        turns = _lost_turns(service, names, new, difference.tolist())
        if self.keep_fresh:
            self._fresh.append(turns)
        _add_lost(self._metrics, self._pipeline, turns)

    def _free_services(self, probes: Probes) -> None:
        """Give back the indices of processes that were gone at two looks in a row."""
        if probes.own_pid() != os.getpid():  # another PID namespace: nobody here can tell who is gone
            return
        keys = probes.service_keys()
        if len(keys) < _MANY_SERVICES:
            return
        gone = {key for key in keys if not _is_running(int.from_bytes(key[:4], "little"))}
        free, self._suspects = gone & self._suspects, gone - self._suspects
        if free:
            # Whoever gets the index next goes on with its counts: those until now are these services'.
            for service in probes.services():
                if service.key in free:
                    self._add(service, final=True)
                    self._cover(service)
        for key in free:
            probes.forget_service(key)


def _lost_turns(
    service: ServiceSignals, names: tuple[Endpoint, str] | None, turns: int, histogram: list[int]
) -> LostTurns:
    role = _ROLES.get(Role(service.role), "")
    if names is None:
        return LostTurns(
            service.comm, UNRECOGNISED, role, turns, histogram, service.pid, service.port, service.comm
        )
    end, protocol = names
    return LostTurns(
        end.service,
        protocol,
        role,
        turns,
        histogram,
        service.pid,
        service.port,
        end.comm,
        end.namespace,
        end.pod,
        end.container,
    )


def _moved(service: ServiceSignals, end: Endpoint | None, moved_bytes: int) -> Moved:
    counted = (service.index, moved_bytes, service.pid, service.port)
    if end is None:
        return Moved(service.comm, service.comm, *counted)
    return Moved(end.service, end.comm, *counted, end.namespace, end.pod, end.container)


def _is_running(pid: int) -> bool:
    return os.path.exists(f"/proc/{pid}")  # noqa: PTH110  # hundreds at a time: a Path costs more than the call


class Agent:
    """Reads the ring until `stop` is set. Everything here runs on one thread."""

    def __init__(
        self,
        probes: Probes,
        pipeline: Pipeline,
        sinks: Sequence[Sink],
        metrics: Metrics,
        lookups: Lookups | None = None,
    ) -> None:
        self.stop = False
        self.polled_s = time.monotonic()
        """Monotonic time of the last poll, for `/healthz`."""
        self.ledger = Ledger(pipeline, metrics)
        self.recorder: Recorder | None = None
        self._lookups = lookups
        self._probes = probes
        self._pipeline = pipeline
        self._sinks = sinks
        self._metrics = metrics
        self._clock = WallClock()
        self._settled_ns = 0  # the watermark by the clock of the stamps
        self._updated_ns = 0
        self._looked_ns = time.monotonic_ns()
        self._pace = Pace(probes.ring, min(sink.patience_s for sink in sinks))
        self._tell_kernel()

    def record(self, recorder: Recorder) -> None:
        """Write every batch to `recorder`, with what lookups found out for it."""
        self.recorder = recorder
        self.ledger.keep_fresh = True

    def run(self, duration_s: float | None = None, each_poll: Callable[[], None] = lambda: None) -> None:
        """Poll until `stop` is set or `duration_s` have passed. `each_poll` runs between two polls."""
        end = None if duration_s is None else time.monotonic() + duration_s
        while not self.stop and (end is None or time.monotonic() < end):
            self.poll()
            each_poll()
            self._pace.wait(lambda: self.stop)
        time.sleep((_IDLE_NS + _SLACK_NS) / 1e9)  # so that the last turns are idle for the last sweep
        self.poll()

    def poll(self) -> int:
        """Sweep, read and process all that is in the ring; return how many slots that was."""
        now = time.monotonic_ns()
        self.polled_s = now / 1e9
        self._learn()
        swept = self._probes.sweep()
        if now - self._looked_ns > _LOOK_NS:
            self._looked_ns = now
            self.ledger.look(self._probes)
        records = self._drain()
        settled = now - (_IDLE_NS + _SLACK_NS if swept else _SLACK_NS)
        self._settled_ns = max(self._settled_ns, settled)
        offset = self._clock.offset_ns()
        self._write(_tick(self._settled_ns + offset, self._pipeline.records, offset, self._is_behind))
        if now - self._updated_ns > _SECOND_NS:
            self._updated_ns = now
            self.ledger.update(self._probes)
        return records

    def _learn(self) -> None:
        if self._lookups is None:
            return
        facts = self._lookups.take()
        if facts:
            self._pipeline.learn(facts)
            if self.recorder is not None:
                offset = self._clock.offset_ns()
                self.recorder.write(Frame(_NO_SLOTS, offset, self._settled_ns + offset, facts))

    def _drain(self) -> int:
        total = 0
        ring = self._probes.ring
        # What comes meanwhile waits for the next poll: a busy ring must not starve the sweep.
        limit = ring.pending()
        while total < limit and (count := self._batch(min(_BATCH, limit - total))):
            total += count
        return total

    def _batch(self, limit: int) -> int:
        ring = self._probes.ring
        slots = ring.read(limit)
        count = len(slots)
        if not count:
            return 0
        offset = self._clock.offset_ns()
        watermark = self._settled_ns + offset
        tables, events = self._pipeline.process(slots, offset)
        if self._lookups is not None:
            self._lookups.ask(self._pipeline.take_wanted())
        if self.recorder is not None:
            found = self.ledger.take_fresh(), self.ledger.take_moved()
            self.recorder.write(Frame(slots, offset, watermark, [], *found))
        self._tell_kernel()
        del slots
        ring.release(count)
        self._write(Output(tables, events, watermark, self._pipeline.records, self._is_behind, offset))
        return count

    def _is_behind(self) -> bool:
        """Tell whether the ring is more than half full: what has been read is given back by now."""
        ring = self._probes.ring
        return ring.pending() > ring.capacity // 2

    def _tell_kernel(self) -> None:
        ports, cookies = self._pipeline.datagrams.take()
        for port in ports:
            self._probes.follow_datagrams(port)
        for cookie in cookies:
            self._probes.leave_datagrams(cookie)

    def _write(self, output: Output) -> None:
        for sink in self._sinks:
            sink.write(output)

    def summary(self, *, final: bool = False) -> Summary:
        """Read what is in the ring, and return what the run amounts to so far."""
        self.ledger.look(self._probes)
        self._drain()
        self.ledger.update(self._probes, final=final)
        return _summary(self._pipeline, self.lost(), self._metrics)

    def lost(self) -> dict[str, int]:
        """Return reason -> count: records that did not fit, and lines left out for others to fit."""
        return {**self.ledger.lost(), "log_behind": sum(sink.left_out for sink in self._sinks)}

    def close(self) -> Summary:
        """Flush and close the sinks and the recording; return the summary."""
        summary = self.summary(final=True)
        if self.recorder is not None:
            self.recorder.close(End(summary.lost, self.ledger.take_fresh(), self.ledger.take_moved()))
        for sink in self._sinks:
            sink.close(summary)
        return summary


def replay(
    recording: Recording,
    pipeline: Pipeline,
    sinks: Sequence[Sink],
    metrics: Metrics,
    each_frame: Callable[[], None] = lambda: None,
) -> Summary:
    """Run the pipeline and the sinks over a recording, in the steps of the live run; return its summary.

    each_frame: runs before each batch; what it raises ends the replay.
    """
    for frame in recording.frames():
        each_frame()
        pipeline.learn(frame.facts)
        _add_found(metrics, pipeline, frame)
        tables, events = pipeline.process(frame.slots, frame.offset_ns)
        for sink in sinks:
            sink.write(_tick(frame.watermark_ns, pipeline.records, frame.offset_ns))
            sink.write(
                Output(tables, events, frame.watermark_ns, pipeline.records, offset_ns=frame.offset_ns)
            )
    end = recording.end or End({})
    _add_found(metrics, pipeline, end)
    summary = _summary(pipeline, end.lost, metrics)
    for sink in sinks:
        sink.close(summary)
    return summary


def _add_lost(metrics: Metrics, pipeline: Pipeline, turns: LostTurns) -> None:
    """Count lost turns under their service, if those of it that were read are shown."""
    if _is_shown(pipeline, turns, turns.protocol):
        resource = Resource(turns.namespace, turns.pod, turns.container)
        service = Service(turns.service, turns.protocol, turns.role, resource)
        metrics.add_lost(service, turns.turns, np.array(turns.histogram))


def _add_moved(metrics: Metrics, pipeline: Pipeline, moved: Moved) -> None:
    """Count what a service moved, and what of it was parsed meanwhile, if it is shown."""
    parsed = pipeline.take_parsed_bytes(moved.index)
    if _is_shown(pipeline, moved, None):
        metrics.add_bytes(moved.service, parsed, moved.moved_bytes)


def _is_shown(pipeline: Pipeline, counted: LostTurns | Moved, protocol: str | None) -> bool:
    values = {
        "pid": str(counted.pid),
        "comm": counted.comm or counted.service,
        "port": str(counted.port or ""),
        "protocol": protocol,
        "pod": counted.pod,
        "namespace": counted.namespace,
        "container": counted.container,
    }
    return pipeline.shown.passes(values)


def _add_found(metrics: Metrics, pipeline: Pipeline, found: Frame | End) -> None:
    for turns in found.turns:
        _add_lost(metrics, pipeline, turns)
    for moved in found.moved:
        _add_moved(metrics, pipeline, moved)


def _summary(pipeline: Pipeline, lost: dict[str, int], metrics: Metrics) -> Summary:
    failures = dict(pipeline.registry.errors)
    forgotten = {**pipeline.evictions(), **pipeline.registry.evictions()}
    return Summary(
        pipeline.records,
        lost,
        metrics.services(),
        metrics.coverage(),
        failures,
        forgotten,
        metrics.failed_connects(),
        metrics.broken_connections(),
    )
