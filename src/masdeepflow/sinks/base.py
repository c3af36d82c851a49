"""What a sink is: one file in this package with `write` and `close`."""

from __future__ import annotations

import typing

if typing.TYPE_CHECKING:
    from masdeepflow.summary import Summary
    from masdeepflow.table import Output

__all__ = ["Sink"]


class Sink(typing.Protocol):
    """Where tables go. Called on the ring-reading thread: never blocks."""

    patience_s: float
    """How long a batch may be waited for. Fewer batches cost less: each has a millisecond of its own."""
    left_out: int
    """Lines that were not made, to save effort while the ring filled faster than it was read."""

    def write(self, output: Output) -> None:
        """Take one batch; also called with empty tables as time passes, so that held lines come out."""

    def close(self, summary: Summary) -> None:
        """Write what is held and the summary, and release what is open."""
