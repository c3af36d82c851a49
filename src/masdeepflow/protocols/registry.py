"""The protocols there are: every module of this package that binds `PROTOCOL`, and the choice among them."""

from __future__ import annotations

import importlib
import logging
import pkgutil
from collections import Counter
from typing import TYPE_CHECKING, cast

import numpy as np

from masdeepflow import protocols as package
from masdeepflow import schema
from masdeepflow.protocols.base import LIKELY, Bounded, Naming, Patient
from masdeepflow.schema import Kind
from masdeepflow.table import Parsed

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from numpy.typing import NDArray

    from masdeepflow.protocols.base import Protocol, Waiting

__all__ = ["UNRECOGNISED", "Registry", "load", "scores_of"]

UNRECOGNISED = "tcp"
"""Name of the protocol of bytes that no parser knows."""

_ANYTHING = (Exception, SystemExit)
"""What a parser may raise without an end of the others."""

_log = logging.getLogger(__name__)


def load() -> list[Protocol]:
    """Return one instance of every protocol in this package, by module name."""
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    modules = [importlib.import_module(f"{package.__name__}.{name}") for name in names]
    for module in modules:
        schema.extend(getattr(module, "ATTRIBUTES", []))
    return [module.PROTOCOL() for module in modules if hasattr(module, "PROTOCOL")]


class Registry:
    """Numbers the protocols and chooses among them; one that raises is counted and its turns are nobody's."""

    def __init__(self, protocols: Sequence[Protocol]) -> None:
        self.protocols = list(protocols)
        self.waiting: dict[int, Waiting] = {
            number: cast("Waiting", protocol)
            for number, protocol in enumerate(self.protocols)
            if hasattr(protocol, "datagram_ports")
        }
        """Those that pair datagrams by an id, by number."""
        self.unrecognised = len(self.protocols)
        """Number that stands for "no protocol"."""
        self._naming = {
            number: protocol for number, protocol in enumerate(self.protocols) if isinstance(protocol, Naming)
        }
        self._patient = {
            number: protocol
            for number, protocol in enumerate(self.protocols)
            if isinstance(protocol, Patient)
        }
        self._strange = frozenset(protocol.name for protocol in self.protocols if _is_strange(protocol))
        self.errors: Counter[str] = Counter()
        """How often each protocol's parser raised or returned what is none: always a defect."""

    def failures(self) -> dict[str, int]:
        """Return the errors of every protocol, 0 of those that had none."""
        return {protocol.name: self.errors[protocol.name] for protocol in self.protocols}

    def evictions(self) -> dict[str, int]:
        """Return how much each protocol that keeps something up to a bound had to forget before its time."""
        counts = {}
        for protocol in self.protocols:
            try:
                if isinstance(protocol, Bounded):
                    counts[protocol.name] = int(protocol.evicted)
            except _ANYTHING:
                self._broken(protocol)
        return counts

    def names_addresses(self, number: int) -> bool:
        """Return whether a protocol's answers name addresses."""
        return number in self._naming

    def take_names(self, number: int) -> list[tuple[str, str, int]]:
        """Return what `Naming.take_names` of protocol `number` gives; nothing if it fails or has none."""
        protocol = self._naming.get(number)
        if protocol is None:
            return []
        try:
            return [(str(address), str(name), int(until)) for address, name, until in protocol.take_names()]
        except _ANYTHING:
            self._broken(self.protocols[number])
            return []

    def name(self, number: int) -> str:
        """Return a protocol's name."""
        return UNRECOGNISED if number == self.unrecognised else self.protocols[number].name

    def choose(self, slots: np.ndarray) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
        """Return each turn's best protocol (n,), by number, and whether (n,) that decides its connection."""
        best = np.zeros(len(slots), np.uint8)
        number = np.full(len(slots), self.unrecognised, np.int16)
        datagrams = slots["kind"] == Kind.DATAGRAM
        mixed = bool(datagrams.any())
        for candidate, protocol in enumerate(self.protocols):
            if mixed and candidate not in self.waiting:
                score = np.zeros(len(slots), np.uint8)
                score[~datagrams] = self._score(protocol, slots[~datagrams])
            else:
                score = self._score(protocol, slots)
            better = score > best
            number[better], best[better] = candidate, score[better]
        return number, best >= LIKELY

    def _score(self, protocol: Protocol, slots: np.ndarray) -> NDArray[np.uint8]:
        try:
            return scores_of(protocol, slots)
        except _ANYTHING:
            self._broken(protocol)
            return np.zeros(len(slots), np.uint8)

    def parse(self, number: int, slots: np.ndarray) -> Parsed | None:
        """Return the transactions of turns of protocol `number`, None if its parser fails at them."""
        protocol = self.protocols[number]
        try:
            return _parsed(protocol, slots) if protocol.name in self._strange else protocol.parse(slots)
        except _ANYTHING:
            self._broken(protocol)
            return None

    def overdue(self, number: int, now_ns: int) -> np.ndarray | None:
        """Return what protocol `number` waited for in vain until `now_ns`, None if there is nothing."""
        try:
            due = self.waiting[number].overdue(now_ns)
        except _ANYTHING:
            self._broken(self.protocols[number])
            return None
        return due if len(due) else None

    def left_waiting(self, cookies: list[int]) -> Iterator[tuple[int, list[int]]]:
        """Yield the numbers of protocols with those of closed connections on which their requests wait."""
        for number, protocol in self._patient.items():
            try:
                left = list(protocol.waiting(cookies))
            except _ANYTHING:
                self._broken(self.protocols[number])
                continue
            if left:
                yield number, left

    def forget(self, cookies: list[int]) -> None:
        """Tell every protocol that connections are closed."""
        for protocol in self.protocols:
            try:
                protocol.forget(cookies)
            except _ANYTHING:
                self._broken(protocol)

    def _broken(self, protocol: Protocol) -> None:
        self.errors[protocol.name] += 1
        if self.errors[protocol.name] == 1:
            _log.exception("the parser of %s failed; its turns are shown as %s", protocol.name, UNRECOGNISED)


def scores_of(protocol: Protocol, slots: np.ndarray) -> NDArray[np.uint8]:
    """Return what `recognise` says of slots (n,), uint8 (n,). Raises what it raises, and for other types."""
    score = np.broadcast_to(protocol.recognise(slots), len(slots))
    if score.dtype != np.uint8:
        raise TypeError(f"recognise returns {score.dtype}, not uint8")
    return score


def _is_strange(protocol: Protocol) -> bool:
    """Return whether a protocol is none of this package's: tests hold those to what they may return."""
    return not type(protocol).__module__.startswith(f"{package.__name__}.")


def _parsed(protocol: Protocol, slots: np.ndarray) -> Parsed:
    parsed = protocol.parse(slots)
    if not isinstance(parsed, Parsed):
        raise TypeError(f"parse returns {type(parsed).__name__}, not Parsed")
    parsed.check(len(slots))
    return parsed
