"""Rules of the memory for what is made of endpoints."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from masdeepflow.sinks.per_endpoint import PerEndpoint
from tests.support.tables import endpoints

if TYPE_CHECKING:
    from masdeepflow.endpoint import Endpoint


def test_an_endpoint_is_rendered_once() -> None:
    """What was made of an endpoint is used again, in later batches and at other places of their lists."""
    made: list[str] = []

    def make(endpoint: Endpoint) -> str:
        made.append(endpoint.local)
        return endpoint.local

    memory = PerEndpoint(make)
    first, second, third = endpoints(3)
    memory.of(np.array([0, 1, 0]), [first, second])
    assert memory.of(np.array([2, 1]), [third, second, first]) == {1: second.local, 2: first.local}
    memory.of(np.array([0]), [third])
    assert made == [first.local, second.local, third.local]


def test_only_endpoints_of_rows_are_rendered() -> None:
    """A list may hold endpoints that no row of the batch has."""
    ends = endpoints(3)
    assert PerEndpoint(lambda endpoint: endpoint.local).of(np.array([2]), ends) == {2: ends[2].local}


def test_memory_is_bounded() -> None:
    """Connections come and go: beyond the limit all is forgotten, and made anew."""
    memory = PerEndpoint(lambda endpoint: endpoint.cookie, limit=10)
    for number in range(100):
        memory.of(np.array([0]), endpoints(1 + number)[-1:])
        assert len(memory._made) <= 11
