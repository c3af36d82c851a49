"""Who held an address, and when: Kubernetes gives addresses away again within seconds."""

from __future__ import annotations

from typing import TYPE_CHECKING, Generic, TypeVar

import msgspec

from masdeepflow.enrich.facts import PodFact, ServiceFact

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["SKEW_NS", "History"]

Holder = TypeVar("Holder", PodFact, ServiceFact)

SKEW_NS = 5_000_000_000
"""How far a holder's period is stretched at both ends where nobody else holds the address.

Begin and end are stamped by other hosts' clocks, in whole seconds, and records by this host's.
"""

_HOLDERS = 16  # of one address
_FORMER = 16  # of one object
_FOREVER = 1 << 63


class History(Generic[Holder]):
    """The holders of each address, each for its own period.

    Bounded by `_HOLDERS` an address, and by `_FORMER` addresses that an object had before its present ones.
    """

    def __init__(self) -> None:
        self._holders: dict[str, list[Holder]] = {}  # of each address, by the beginning of their period
        self._former: dict[str, tuple[str, ...]] = {}  # uid -> addresses it has no more, the oldest first

    def __len__(self) -> int:
        """Number of addresses with holders."""
        return len(self._holders)

    def keep(self, fact: Holder, before: tuple[str, ...]) -> None:
        """Let `fact` hold its addresses for its period; those of `before` it has no more since then."""
        for address in fact.addresses:
            self._put(address, fact)
        left = [address for address in before if address not in fact.addresses]
        if left:
            self._leave(left, fact)

    def drop(self, fact: Holder) -> None:
        """Forget all that is known of an object."""
        for address in (*fact.addresses, *self._former.pop(fact.uid, ())):
            self._forget(address, fact.uid)

    def _put(self, address: str, fact: Holder) -> None:
        holders = [holder for holder in self._holders.get(address, ()) if holder.uid != fact.uid]
        holders.append(fact)
        holders.sort(key=_begin)
        if len(holders) > _HOLDERS:
            holders.remove(min(holders, key=_end))
        self._holders[address] = holders

    def _leave(self, addresses: list[str], fact: Holder) -> None:
        for address in addresses:
            self._end(address, fact)
        had = self._former.get(fact.uid, ())
        former = [each for each in had if each not in (*addresses, *fact.addresses)] + addresses
        for forgotten in former[:-_FORMER]:
            self._forget(forgotten, fact.uid)
        self._former[fact.uid] = tuple(former[-_FORMER:])

    def _end(self, address: str, fact: Holder) -> None:
        """Let the object hold an address no longer than until the period of `fact` begins."""
        for place, holder in enumerate(self._holders.get(address, ())):
            if holder.uid == fact.uid and _end(holder) > fact.from_ns:
                gone_ns = max(fact.from_ns, holder.from_ns, 1)
                self._holders[address][place] = msgspec.structs.replace(holder, gone_ns=gone_ns)

    def _forget(self, address: str, uid: str) -> None:
        left = [holder for holder in self._holders.get(address, ()) if holder.uid != uid]
        if left:
            self._holders[address] = left
        else:
            self._holders.pop(address, None)

    def at(self, address: str, time_ns: int) -> Iterator[Holder]:
        """Give the holders of an address at a time, the one that got it last first.

        Where nobody held it then, the one whose period is nearest, if it is no further than `SKEW_NS`.
        """
        holders = self._holders.get(address)
        if not holders:
            return
        found = False
        for holder in reversed(holders):
            if holder.from_ns <= time_ns < _end(holder):
                found = True
                yield holder
        if not found:
            nearest = min(holders, key=lambda holder: _distance(holder, time_ns))
            if _distance(nearest, time_ns) <= SKEW_NS:
                yield nearest


def _begin(holder: Holder) -> int:
    return holder.from_ns


def _end(holder: Holder) -> int:
    return holder.gone_ns or _FOREVER


def _distance(holder: Holder, time_ns: int) -> int:
    """Return how far a time is from the holder's period, which it is not in."""
    if time_ns < holder.from_ns:
        return holder.from_ns - time_ns
    return time_ns - holder.gone_ns
