"""`stages`: CPU time of each stage of the pipeline for each record, over records made here.

Before each batch other memory is touched, so that it finds the caches as in a live run, where 40 ms of other
work lie between two batches: with warm caches the figures are a third lower, and untrue. CPU time is the
process's, the line writer's thread included.
"""

from __future__ import annotations

import os
import time
from functools import partial
from statistics import median
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bench.report import Detail, Goal, Outcome, Row
from masdeepflow import filters
from masdeepflow.enrich.directory import Directory
from masdeepflow.pipeline import Pipeline
from masdeepflow.protocols import registry
from masdeepflow.schema import Role
from masdeepflow.sinks.json_log import JsonLog
from masdeepflow.sinks.line_writer import LineWriter
from masdeepflow.sinks.metrics import Metrics
from masdeepflow.sinks.text import TextLog
from masdeepflow.summary import Summary
from masdeepflow.table import Output
from tests.support.slots import make_slots, turn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bench.plan import Plan
    from masdeepflow.sinks.base import Sink

__all__ = ["cpu_ns", "cut", "measure", "new_pipeline", "protocol_costs", "sink_ns", "stamp"]

_RECORDS = 32768  # 16 MiB of slots
_CONNECTIONS = 16
_HASHES = 1 << 64
_CACHE_LINE = 64
_ELSE = np.zeros(64 << 20, np.uint8)
_BATCHES = (2000, 8000)
_WORKLOADS = {"same URL": 1, "200 URLs": 200, "all URLs distinct": _RECORDS}
_STAGES = (
    "endpoints",
    "recognise (new connections)",
    "parse http",
    "table",
    "pipeline",
    "metrics",
    "json",
    "text",
)
_RESPONSE = (
    b"HTTP/1.1 200 OK\r\nServer: nginx/1.22.1\r\nDate: Thu, 01 Jan 2026 00:00:00 GMT\r\n"
    b"Content-Type: application/octet-stream\r\nContent-Length: 3\r\nConnection: keep-alive\r\n\r\nok\n"
)
_HOST = b"127.0.0.1:8080"
_FUTURE = np.iinfo(np.int64).max
_REALTIME_OFFSET = 1_767_225_600_000_000_000


class _Batch(NamedTuple):
    """slots: (n,). output: what the pipeline makes of them."""

    slots: np.ndarray
    output: Output


def _turn(number: int, urls: int) -> dict[str, object]:
    """Return one end of a request: a client's and a server's turn alternate, as on the ring."""
    pair, server = divmod(number, 2)
    connection = pair % _CONNECTIONS
    path = b"/" if urls == 1 else b"/items/%d" % (pair % urls)
    ports = (8080, 40000 + connection) if server else (40000 + connection, 8080)
    request = b"GET %s HTTP/1.1\r\nHost: %s\r\n\r\n" % (path, _HOST)
    return turn(
        request,
        _RESPONSE,
        request_hash=hash(request) % _HASHES,
        response_hash=hash(_RESPONSE) % _HASHES,
        cookie=1 + 2 * connection + server,
        pid=200 if server else 100,
        comm=b"nginx" if server else b"wrk",
        role=Role.SERVER if server else Role.CLIENT,
        local_port=ports[0],
        remote_port=ports[1],
        service=1 + server,
        queue_ns=12_345 if server else 0,
        turn=1 + pair // _CONNECTIONS,
    )


def stamp(slots: np.ndarray) -> np.ndarray:
    """Put the turns 10 us apart, each 100 to 300 us long, as under wrk."""
    generator = np.random.default_rng(1)
    start = 1_000_000_000 + 10_000 * np.arange(len(slots), dtype=np.uint64)
    slots["request_first_ns"] = slots["request_last_ns"] = start
    slots["response_first_ns"] = slots["response_last_ns"] = start + generator.integers(
        100_000, 300_000, len(slots), np.uint64
    )
    return slots


def _slots(urls: int) -> np.ndarray:
    distinct = make_slots(
        *(_turn(number, urls) for number in range(_RECORDS if urls > 1 else 2 * _CONNECTIONS))
    )
    return stamp(np.resize(distinct, _RECORDS))


def new_pipeline() -> Pipeline:
    """Return a pipeline of all protocols that shows everything."""
    return Pipeline(registry.load(), Directory(), filters.parse((), ()))


def cut(pipeline: Pipeline, slots: np.ndarray, size: int, each: int = 1) -> list[_Batch]:
    """Cut the records into batches of `size`; the pipeline knows all connections afterwards.

    each: records that make a transaction, where it takes more than one.
    """
    batches = []
    for start in range(0, len(slots) - size + 1, size):
        some = slots[start : start + size]
        tables, events = pipeline.process(some, _REALTIME_OFFSET)
        assert sum(map(len, tables)) >= size // each
        batches.append(_Batch(some, Output(tables, events, _FUTURE, pipeline.records)))
    return batches


def cpu_ns(work: Callable[[_Batch], object], batches: list[_Batch], rounds: int) -> float:
    """Return the median over rounds of the CPU time in ns for each record."""
    records = sum(len(batch.slots) for batch in batches)
    return median(sum(_cold(work, batch) for batch in batches) / records for _ in range(rounds))


def _cold(work: Callable[[_Batch], object], batch: _Batch) -> int:
    """Return the CPU time in ns, with nothing of the batch or the work in the caches."""
    _ELSE[::_CACHE_LINE] += 1
    start = time.process_time_ns()
    work(batch)
    return time.process_time_ns() - start


def sink_ns(sink: Sink, batches: list[_Batch], rounds: int) -> float:
    """Return the same for what a sink does with the batches."""
    cost = cpu_ns(lambda batch: sink.write(batch.output), batches, rounds)
    sink.close(Summary(0))
    return cost


def protocol_costs(protocol: str, slots: np.ndarray, size: int, rounds: int) -> list[float]:
    """Return the cost in ns a record of recognising, parsing, the whole pipeline, and metrics.

    slots: (n,), records of `protocol`, cut into batches of `size`.
    """
    whole = new_pipeline()
    batches = cut(whole, stamp(slots), size)
    number = next(place for place, known in enumerate(whole.registry.protocols) if known.name == protocol)
    return [
        cpu_ns(lambda batch: whole.registry.choose(batch.slots), batches, rounds),
        cpu_ns(lambda batch: whole.registry.parse(number, batch.slots), batches, rounds),
        cpu_ns(lambda batch: whole.process(batch.slots, 0), batches, rounds),
        sink_ns(Metrics(), batches, rounds),
    ]


def _log_cost(log: type[JsonLog | TextLog], batches: list[_Batch], rounds: int) -> float:
    null = os.open(os.devnull, os.O_WRONLY)
    writer = LineWriter(null, blocking=True)
    cost = sink_ns(log(writer), batches, rounds)
    os.close(null)
    assert writer.lost == 0
    return cost


def _costs(urls: int, size: int, rounds: int) -> Iterator[float]:
    """Yield the cost of each of `_STAGES`."""
    pipeline = new_pipeline()
    batches = cut(pipeline, _slots(urls), size)
    http = next(number for number, known in enumerate(pipeline.registry.protocols) if known.name == "http")
    endpoints = cpu_ns(lambda batch: pipeline.endpoints.codes(batch.slots), batches, rounds)
    recognise = cpu_ns(lambda batch: pipeline.registry.choose(batch.slots), batches, rounds)
    parse = cpu_ns(lambda batch: pipeline.registry.parse(http, batch.slots), batches, rounds)
    whole = cpu_ns(lambda batch: pipeline.process(batch.slots, _REALTIME_OFFSET), batches, rounds)
    yield from (endpoints, recognise, parse, whole - endpoints - parse, whole)
    yield sink_ns(Metrics(), batches, rounds)
    yield from map(partial(_log_cost, batches=batches, rounds=rounds), (JsonLog, TextLog))


def measure(plan: Plan) -> Outcome:
    """Measure all stages over all workloads."""
    cases = [(f"{name}, {size:,}", urls, size) for name, urls in _WORKLOADS.items() for size in _BATCHES]
    costs = {name: list(_costs(urls, size, plan.rounds)) for name, urls, size in cases}
    detail = Detail(
        "stages: CPU time in ns a record; `table` is what `pipeline` takes beyond endpoints and parse http",
        list(costs),
        [(stage, [costs[name][place] for name in costs]) for place, stage in enumerate(_STAGES)],
    )
    return Outcome([row for name in costs for row in _rows(name, costs[name])], [detail])


def _rows(name: str, costs: list[float]) -> list[Row]:
    pipeline, metrics, json, _ = costs[4:]
    off, logged = (pipeline + metrics) / 1e3, (pipeline + metrics + json) / 1e3
    return [
        Row("stages", f"pipeline and metrics: {name}", off, "µs/record", Goal(2, 0.8)),
        Row("stages", f"with the JSON log: {name}", logged, "µs/record", Goal(6)),
    ]
