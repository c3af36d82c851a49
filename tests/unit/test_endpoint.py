"""Endpoints that are made when they are looked at, and what many have in common."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from masdeepflow.endpoint import Endpoint, Ends, Owner, likenesses_of, owners_of
from tests.support.tables import CLIENT, SERVER

if TYPE_CHECKING:
    from numpy.typing import NDArray


class _Counted(Ends):
    """Endpoints that tell how often each was made."""

    def __init__(self, *endpoints: Endpoint) -> None:
        self.made = [0] * len(endpoints)
        self._endpoints = endpoints

    def __len__(self) -> int:
        return len(self._endpoints)

    def endpoint(self, index: int) -> Endpoint:
        """Return one."""
        self.made[index] += 1
        return self._endpoints[index]

    def owners(self) -> tuple[list[Owner], NDArray[np.intp]]:
        """Return one for all."""
        return [Owner("a", "client", "tcp")], np.zeros(len(self), np.intp)

    def likenesses(self) -> tuple[NDArray[np.intp], NDArray[np.intp]]:
        """Tell that all are alike."""
        return np.zeros(1, np.intp), np.zeros(len(self), np.intp)


def test_endpoints_are_made_when_they_are_looked_at() -> None:
    """A sequence like any other, in which what nobody asks for costs nothing."""
    ends = _Counted(CLIENT, SERVER)
    assert len(ends) == 2
    owners, numbers = owners_of(ends)
    assert [owners[number].service for number in numbers] == ["a", "a"]
    assert [each.tolist() for each in likenesses_of(ends)] == [[0], [0, 0]]
    assert ends.made == [0, 0]
    assert ends[1] is ends[-1] is SERVER
    assert ends.made == [0, 2]
    assert list(ends) == [CLIENT, SERVER] == ends[:]
    assert SERVER in ends
    for beyond in (2, -3):
        with pytest.raises(IndexError):
            ends[beyond]


def test_owners_of_ready_endpoints_are_told_from_them() -> None:
    """With the names that metrics go under."""
    (owner,), numbers = owners_of([SERVER])
    assert numbers.tolist() == [0]
    assert (owner.service, owner.role, owner.transport) == (SERVER.service, "server", SERVER.transport)
    assert (owner.namespace, owner.pod, owner.container) == (SERVER.namespace, SERVER.pod, SERVER.container)


def test_ready_endpoints_are_each_their_own() -> None:
    """Nothing is told of how alike they are."""
    assert [each.tolist() for each in likenesses_of([SERVER, CLIENT])] == [[0, 1], [0, 1]]


def test_owners_are_quick_to_compare() -> None:
    """One object stands for all its endpoints, so its identity is enough."""
    assert Owner("a", "client", "tcp") != Owner("a", "client", "tcp")
