"""`cluster`: what watching a Kubernetes cluster costs, at a double of its API server in another process.

5,000 pods with as much in them as real ones have (about 8 KB of JSON), 50 changes a second.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from bench.process import stop
from bench.report import Goal, Outcome, Row

if TYPE_CHECKING:
    from bench.plan import Plan
    from masdeepflow.enrich.kubernetes.cluster import Cluster
    from masdeepflow.enrich.kubernetes.index import Index

__all__ = ["measure"]

_PODS = 5000
_CHANGES_A_SECOND = 50
_SHARE = Goal(5, 2)
_MIB = Goal(30)
_PAUSE_S = 0.04  # as the agent polls
_LOOKUPS = 100_000
_PAGE = resource.getpagesize()


def measure(plan: Plan) -> Outcome:
    """Run the double and, in a third process, the watching side of the agent."""
    double = subprocess.Popen(
        [sys.executable, "-m", "tests.support.kubernetes_churn", str(_PODS), str(_CHANGES_A_SECOND)],
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert double.stdout is not None
        kubeconfig = double.stdout.readline().strip()
        command = [sys.executable, "-m", "bench.cluster", kubeconfig, str(plan.steady_seconds)]
        found = json.loads(subprocess.run(command, capture_output=True, text=True, check=True).stdout)
    finally:
        stop(double)
    remark = (
        f"{found['events']:,} events in {plan.steady_seconds} s; of it {found['taking']:.2f} in the reader"
    )
    what = f"{_PODS:,} pods, {_CHANGES_A_SECOND} changes/s"
    return Outcome(
        [
            Row("cluster", f"CPU: {what}", found["share"], "% of a core", _SHARE, remark=remark),
            Row("cluster", f"memory: {what}", found["known"], "MiB", _MIB, remark="beyond the libraries"),
            Row("cluster", "memory: libraries", found["libraries"], "MiB"),
            Row("cluster", f"CPU to learn {_PODS:,} pods", found["learning"], "s"),
            Row("cluster", "whose an address was", found["lookup"], "µs"),
        ]
    )


def _resident() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE / (1 << 20)


def _watch(kubeconfig: str, seconds: int) -> dict[str, float]:
    """Do what the agent does with a cluster, and nothing else."""
    from masdeepflow.enrich.kubernetes.index import Index  # noqa: PLC0415  # counts as the agent's

    index = Index()
    before = _resident()
    from masdeepflow.enrich.kubernetes.cluster import Cluster  # noqa: PLC0415  # what it takes is measured

    cluster = Cluster("n0", kubeconfig=kubeconfig)
    libraries = _resident() - before
    start = time.process_time()
    cluster.start()
    while not cluster.state().connected or len(index) < _PODS:
        _take(cluster, index)
    learning, known = time.process_time() - start, _resident() - before - libraries
    events, start, taking, end = cluster.state().events, time.process_time(), 0.0, time.monotonic() + seconds
    while time.monotonic() < end:
        taking += _take(cluster, index)
    share = 100 * (time.process_time() - start) / seconds
    state = cluster.state()
    assert state.connected, state.sentence
    assert state.events - events > seconds * _CHANGES_A_SECOND / 2
    known = max(known, _resident() - before - libraries)
    lookup = _lookup_us(index)
    cluster.close()
    return {
        "share": share,
        "taking": 100 * taking / seconds,
        "known": known,
        "libraries": libraries,
        "learning": learning,
        "events": state.events - events,
        "lookup": lookup,
    }


def _take(cluster: Cluster, index: Index) -> float:
    """Take facts as between two batches; return the CPU time it took, in s."""
    time.sleep(_PAUSE_S)
    start = time.thread_time()
    for fact in cluster.take():
        index.apply(fact)
    return time.thread_time() - start


def _lookup_us(index: Index) -> float:
    now = time.time_ns()
    addresses = [f"10.0.{number >> 8}.{number & 255}" for number in range(_PODS)]
    start = time.thread_time()
    for number in range(_LOOKUPS):
        index.pod_at(addresses[number % _PODS], now)
    return (time.thread_time() - start) / _LOOKUPS * 1e6


if __name__ == "__main__":
    print(json.dumps(_watch(sys.argv[1], int(sys.argv[2]))))
