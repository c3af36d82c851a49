"""The double of an API server, and clusters that watch it."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest

from masdeepflow.enrich.kubernetes.cluster import Cluster
from masdeepflow.enrich.kubernetes.reflector import Pace
from tests.support.kubernetes import ApiServer
from tests.support.kubernetes_watcher import Watcher

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    WatchCluster = Callable[..., Watcher]

PACE = Pace(watch_s=60, silence_s=30, first_s=0.02, most_s=0.2)
"""Quick to try again."""


@pytest.fixture
def api() -> Iterator[ApiServer]:
    """Run a server without TLS and token."""
    with ApiServer() as server:
        yield server


@pytest.fixture
def watch_cluster(tmp_path: Path) -> Iterator[WatchCluster]:
    """Give a function that starts a cluster on a server, for node `n1`; all end with the test."""
    with contextlib.ExitStack() as stack:

        def watch(server: ApiServer, node: str = "n1", pace: Pace = PACE, **options: object) -> Watcher:
            path = str(server.kubeconfig(tmp_path))
            cluster = Cluster(node, kubeconfig=path, pace=pace, **options)  # type: ignore[arg-type]  # a test's
            return stack.enter_context(Watcher(cluster))

        yield watch
