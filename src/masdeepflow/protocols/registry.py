"""The protocols there are: every module of this package that binds `PROTOCOL`, and the choice among them."""

from __future__ import annotations

import importlib
import logging
import pkgutil
from typing import TYPE_CHECKING

import numpy as np

from masdeepflow import protocols as package
from masdeepflow.protocols.base import LIKELY

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from masdeepflow.protocols.base import Protocol
    from masdeepflow.table import Parsed

__all__ = ["UNRECOGNISED", "Registry", "load"]

UNRECOGNISED = "tcp"
"""Name of the protocol of bytes that no parser knows."""

_log = logging.getLogger(__name__)


def load() -> list[Protocol]:
    """Return one instance of every protocol in this package, by module name."""
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    modules = (importlib.import_module(f"{package.__name__}.{name}") for name in names)
    return [module.PROTOCOL() for module in modules if hasattr(module, "PROTOCOL")]


class Registry:
    """Numbers the protocols and chooses among them; one that raises is counted and its turns are nobody's."""

    def __init__(self, protocols: Sequence[Protocol]) -> None:
        self.protocols = list(protocols)
        self.unrecognised = len(self.protocols)
        """Number that stands for "no protocol"."""
        self.errors = 0
        """How often a parser raised: always a defect."""

    def name(self, number: int) -> str:
        """Return a protocol's name."""
        return UNRECOGNISED if number == self.unrecognised else self.protocols[number].name

    def choose(self, slots: np.ndarray) -> tuple[NDArray[np.int16], NDArray[np.bool_]]:
        """Return each turn's best protocol (n,), by number, and whether (n,) that decides its connection."""
        best = np.zeros(len(slots), np.uint8)
        number = np.full(len(slots), self.unrecognised, np.int16)
        for candidate, protocol in enumerate(self.protocols):
            score = self._score(protocol, slots)
            better = score > best
            number[better], best[better] = candidate, score[better]
        return number, best >= LIKELY

    def _score(self, protocol: Protocol, slots: np.ndarray) -> NDArray[np.uint8]:
        try:
            return np.broadcast_to(protocol.recognise(slots), len(slots))
        except Exception:  # noqa: BLE001  # whatever it is, the other protocols go on
            self._broken(protocol)
            return np.zeros(len(slots), np.uint8)

    def parse(self, number: int, slots: np.ndarray) -> Parsed | None:
        """Return the transactions of turns of protocol `number`, None if its parser raised."""
        try:
            return self.protocols[number].parse(slots)
        except Exception:  # noqa: BLE001  # whatever it is, the other protocols go on
            self._broken(self.protocols[number])
            return None

    def forget(self, cookies: list[int]) -> None:
        """Tell every protocol that connections are closed."""
        for protocol in self.protocols:
            try:
                protocol.forget(cookies)
            except Exception:  # noqa: BLE001  # whatever it is, the other protocols go on
                self._broken(protocol)

    def _broken(self, protocol: Protocol) -> None:
        self.errors += 1
        if self.errors == 1:
            _log.exception("the parser of %s failed; its turns are shown as %s", protocol.name, UNRECOGNISED)
