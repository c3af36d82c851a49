"""Endpoints that are made when they are looked at, and what many have in common."""

from __future__ import annotations

import pytest

from masdeepflow.endpoint import Endpoint, Ends, Owner, likenesses_of, owners_of
from tests.support.tables import CLIENT, SERVER


class _Seen:
    """An end that tells how often it was made."""

    def __init__(self, endpoint: Endpoint) -> None:
        self.owner = Owner(endpoint.service, endpoint.role, endpoint.transport)
        self.made = 0
        self._endpoint = endpoint

    def likeness(self) -> int:
        """Return its process."""
        return self._endpoint.pid

    def endpoint(self) -> Endpoint:
        """Return it."""
        self.made += 1
        return self._endpoint


def test_endpoints_are_made_when_they_are_looked_at() -> None:
    """A sequence like any other, in which what nobody asks for costs nothing."""
    seen = [_Seen(CLIENT), _Seen(SERVER)]
    ends = Ends([*seen])
    assert len(ends) == 2
    assert [owner.service for owner in owners_of(ends)] == [CLIENT.service, SERVER.service]
    assert likenesses_of(ends) == [CLIENT.pid, SERVER.pid]
    assert [end.made for end in seen] == [0, 0]
    assert ends[1] is SERVER
    assert [end.made for end in seen] == [0, 1]
    assert list(ends) == [CLIENT, SERVER] == ends[:]
    assert SERVER in ends
    with pytest.raises(IndexError):
        ends[2]


def test_owners_of_ready_endpoints_are_told_from_them() -> None:
    """With the names that metrics go under."""
    (owner,) = owners_of([SERVER])
    assert (owner.service, owner.role, owner.transport) == (SERVER.service, "server", SERVER.transport)
    assert (owner.namespace, owner.pod, owner.container) == (SERVER.namespace, SERVER.pod, SERVER.container)


def test_ready_endpoints_are_each_their_own() -> None:
    """Nothing is told of how alike they are."""
    assert likenesses_of([SERVER, CLIENT]) == [SERVER, CLIENT]


def test_owners_are_quick_to_compare() -> None:
    """One object stands for all its endpoints, so its identity is enough."""
    assert Owner("a", "client", "tcp") != Owner("a", "client", "tcp")
