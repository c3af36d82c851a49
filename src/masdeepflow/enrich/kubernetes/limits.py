"""How long and how many what strangers name may be: what is beyond is cut and counted."""

from __future__ import annotations

import ipaddress
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ["TEXT", "Limits", "addresses"]

Item = TypeVar("Item")

TEXT = 256
"""Characters of a name or label value: Kubernetes allows 253 and 63."""


class Limits:
    """Cuts, and counts in `cut` what it cut: texts, and lists with too many items."""

    def __init__(self) -> None:
        self.cut = 0

    def text(self, text: str) -> str:
        """Return at most `TEXT` characters."""
        if len(text) <= TEXT:
            return text
        self.cut += 1
        return text[:TEXT]

    def first(self, items: Iterable[Item], most: int) -> Iterator[Item]:
        """Yield at most so many items."""
        left = iter(items)
        yield from islice(left, most)
        if next(left, None) is not None:
            self.cut += 1


def addresses(texts: Iterable[str]) -> Iterator[str]:
    """Yield the IP addresses among texts in their shortest form; others (`None` is one) are left out."""
    for text in texts:
        try:
            yield ipaddress.ip_address(text).compressed
        except ValueError:
            continue
