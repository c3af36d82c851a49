"""What a sink makes of an endpoint, made once for as long as the endpoint lives on."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

from masdeepflow.endpoint import Ends
from masdeepflow.sinks.grouping import used

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    import numpy as np
    from numpy.typing import NDArray

    from masdeepflow.endpoint import Endpoint

__all__ = ["PerEndpoint"]

T = TypeVar("T")

_LIMIT = 4096


class PerEndpoint(Generic[T]):
    """Remembers `make(endpoint)` by the endpoint's identity; forgets all beyond `limit` endpoints."""

    def __init__(self, make: Callable[[Endpoint], T], limit: int = _LIMIT) -> None:
        self._make = make
        self._limit = limit
        self._made: dict[Endpoint, T] = {}

    def of(self, indices: NDArray[np.integer], endpoints: Sequence[Endpoint]) -> dict[int, T]:
        """Return what is made of each endpoint that `indices` (n,) name, by its index."""
        if len(self._made) > self._limit:
            self._made.clear()
        # An index in use needs no check; there are as many as connections, in each batch.
        look = endpoints.endpoint if isinstance(endpoints, Ends) else endpoints.__getitem__
        return {index: self._one(look(index)) for index in used(indices, len(endpoints))}

    def _one(self, endpoint: Endpoint) -> T:
        made = self._made.get(endpoint)
        if made is None:
            made = self._made[endpoint] = self._make(endpoint)
        return made
