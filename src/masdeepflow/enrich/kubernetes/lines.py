"""Lines of a watch, out of the chunks that they come in."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from masdeepflow.enrich.kubernetes.state import Counters

__all__ = ["LINE_BYTES", "lines"]

LINE_BYTES = 8 * 1024 * 1024
"""Longest line that is read: an object of etcd's default limit (1.5 MiB) as JSON has room in it."""


async def lines(chunks: AsyncIterator[bytes], counters: Counters) -> AsyncIterator[bytes]:
    """Yield lines without their break (LF only), none empty. Longer ones than `LINE_BYTES` are dropped."""
    parts: list[bytes] = []  # of the line that is not at its end
    size = 0  # of that line, its dropped parts included
    async for chunk in chunks:
        *whole, rest = chunk.split(b"\n")
        for end in whole:
            size += len(end)
            if size > LINE_BYTES:
                counters.dropped += 1
            elif line := b"".join((*parts, end)).strip():
                yield line
            parts, size = [], 0
        size += len(rest)
        parts.append(rest)
        if size > LINE_BYTES:
            parts.clear()
