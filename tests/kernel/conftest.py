"""The real probes, loaded once for each file; each test has a network namespace of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from masdeepflow.kernel.probes import Probes
from tests.support.stage import RING_BYTES, Stage

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(scope="module")
def probes() -> Iterator[Probes]:
    """Yield attached probes with a ring that what else runs on the host does not fill between two looks."""
    with Probes(ring_bytes=RING_BYTES) as attached:
        yield attached


@pytest.fixture
def counting() -> Iterator[Stage]:
    """Yield an empty stage with probes of its own: what ran before has taken none of their services."""
    with Probes(ring_bytes=RING_BYTES) as attached, Stage(attached) as empty:
        yield empty


@pytest.fixture
def stage(probes: Probes) -> Iterator[Stage]:
    """Yield an empty stage, watched by the probes."""
    Stage.empty(probes)  # of what came since the last test: the ring may have filled meanwhile
    with Stage(probes) as empty:
        yield empty
