"""`dns`: CPU time of the pipeline for each record of lookups of A and AAAA at once, both ends watched.

Names are as in a cluster, and repeat; `all names new` is a resolver that never hears one twice. A record is a
datagram at one end. For the rest see `stages`.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from bench.report import Detail, Goal, Outcome, Row
from bench.stages import cpu_ns, cut, new_pipeline, sink_ns
from masdeepflow.sinks.metrics import Metrics
from tests.support import dns_wire
from tests.support.dns_wire import answered, asked, query, record, response
from tests.support.slots import make_slots

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bench.plan import Plan

__all__ = ["measure"]

_RECORDS, _BATCH, _SOCKETS = 32768, 8000, 64
_WORKLOADS = {"same name": 1, "200 names": 200, "all names new": _RECORDS}
_STAGES = ("recognise (new sockets)", "parse dns", "pipeline", "metrics")
_GAP_NS, _LATENCY_NS = 20_000, 100_000
_ADDRESS = record(bytes((10, 0, 0, 1)))


def _slots(names: int) -> Iterator[dict[str, object]]:
    """Yield what both ends write of lookups: two queries, then two responses."""
    chosen = random.Random(names)  # noqa: S311  # not for secrets
    for lookup in range(_RECORDS // 8):
        name = b"svc%d.default.svc.cluster.local" % (lookup if names == _RECORDS else chosen.randrange(names))
        at, port = 10**9 + lookup * _GAP_NS, 40000 + lookup % _SOCKETS
        ends = (
            {"cookie": 2 + lookup % _SOCKETS, "local_port": port, "pid": 100, "comm": b"app"},
            dns_wire.serving(cookie=1, pid=200, comm=b"unbound"),
        )
        kinds = ((dns_wire.A, chosen.randrange(1 << 16)), (dns_wire.AAAA, chosen.randrange(1 << 16)))
        for number, (kind, id_) in enumerate(kinds):
            for end in ends:
                yield asked(query(name, kind, id_), at + number, **end)
        for number, (kind, id_) in enumerate(kinds):
            records = [_ADDRESS] if kind == dns_wire.A else []
            data = response(name, *records, kind=kind, number=id_)
            yield answered(data, at + _LATENCY_NS + number, **ends[0])
            yield answered(data, at + _LATENCY_NS // 2 + number, **{**ends[1], "remote_port": port})


def _costs(names: int, rounds: int) -> list[float]:
    """Return the cost of each of `_STAGES`."""
    whole = new_pipeline()
    slots = make_slots(*_slots(names))
    batches = cut(whole, slots, _BATCH, each=2)
    number = next(place for place, known in enumerate(whole.registry.protocols) if known.name == "dns")
    return [
        cpu_ns(lambda batch: whole.registry.choose(batch.slots), batches, rounds),
        cpu_ns(lambda batch: whole.registry.parse(number, batch.slots), batches, rounds),
        cpu_ns(lambda batch: whole.process(batch.slots, 0), batches, rounds),
        sink_ns(Metrics(), batches, rounds),
    ]


def measure(plan: Plan) -> Outcome:
    """Measure all workloads."""
    costs = {name: _costs(names, plan.rounds) for name, names in _WORKLOADS.items()}
    detail = Detail(
        "dns: CPU time in ns a record",
        list(costs),
        [(stage, [costs[name][place] for name in costs]) for place, stage in enumerate(_STAGES)],
    )
    rows = [
        Row(
            "dns",
            f"pipeline and metrics: {name}",
            sum(found[2:]) / 1e3,
            "µs/record",
            Goal(2),
        )
        for name, found in costs.items()
    ]
    return Outcome(rows, [detail])
