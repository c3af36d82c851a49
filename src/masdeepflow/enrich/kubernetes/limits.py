"""How long and how many what strangers name may be: what is beyond is cut and counted."""

from __future__ import annotations

import ipaddress
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from masdeepflow.enrich.kubernetes.state import Counters

__all__ = ["TEXT", "Limits", "addresses"]

Item = TypeVar("Item")

TEXT = 256
"""Characters of a name or label value: Kubernetes allows 253 and 63."""


class Limits:
    """Cuts texts, and lists with too many items, and counts each time."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters

    def text(self, text: str) -> str:
        """Return at most `TEXT` characters."""
        if len(text) <= TEXT:
            return text
        self._counters.cut += 1
        return text[:TEXT]

    def first(self, items: Iterable[Item], most: int) -> Iterator[Item]:
        """Yield at most so many items."""
        left = iter(items)
        yield from islice(left, most)
        if next(left, None) is not None:
            self._counters.cut += 1

    def full(self, count: int, most: int) -> bool:
        """Return whether one more than `count` is too many; then it counts as dropped."""
        if count < most:
            return False
        self._counters.dropped += 1
        return True


def addresses(texts: Iterable[str]) -> Iterator[str]:
    """Yield the IP addresses among texts in their shortest form; others (`None` is one) are left out."""
    for text in texts:
        try:
            yield ipaddress.ip_address(text).compressed
        except ValueError:
            continue
