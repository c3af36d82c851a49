"""PostgreSQL: the frontend/backend protocol, version 3, from the startup packet to the end of the connection.

Most turns are one statement and its answer: `common` reads those on columns. Connections that log in, prepare
statements, copy data or do several things at once are followed turn by turn in `connection`.

What can be known of an answer is in its first bytes (104 by default; `--payload-bytes` gives more). A result
with long rows or a long description hides the command's tag, and an error that came behind rows: such answers
are shown as far as they were seen (`Result set, 3 columns`) and marked as truncated. Byte counts tell some
more: what can be in so many hidden bytes behind a Bind, and that six of them are a ReadyForQuery.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from masdeepflow.protocols.postgresql.common import Common
from masdeepflow.protocols.postgresql.connection import Connections
from masdeepflow.protocols.postgresql.parsed import to_parsed
from masdeepflow.protocols.postgresql.recognition import recognise
from masdeepflow.recall import Repeated

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from masdeepflow.table import Parsed

__all__ = ["PROTOCOL", "PostgreSql"]


class PostgreSql:
    """Follows `masdeepflow.protocols.base.Protocol`."""

    name = "postgresql"

    def __init__(self) -> None:
        """Start with no connections."""
        self._cookies = Repeated()
        self._common = Common()
        self._connections = Connections()

    @property
    def evicted(self) -> int:
        """Connections, statements and unanswered questions that had to be forgotten before their time."""
        return self._connections.evicted

    def recognise(self, slots: np.ndarray) -> NDArray[np.uint8]:
        """Return a score (n,), uint8, for turns of connections not known yet: 0 is "not mine"."""
        return recognise(slots)

    def parse(self, slots: np.ndarray) -> Parsed:
        """Return the transactions of turns that are this protocol's."""
        self._connections.begin_batch()
        owner, cookies = self._cookies.encode(slots["cookie"])
        return to_parsed(slots, *self._common.read(slots, cookies, owner, self._connections))

    def waiting(self, cookies: Sequence[int]) -> list[int]:
        """Return those of these connections on which a command waits for its answer."""
        return self._connections.waiting(cookies)

    def forget(self, cookies: Sequence[int]) -> None:
        """Drop what is kept for these closed connections."""
        self._connections.forget(cookies)


PROTOCOL = PostgreSql
"""What the registry loads."""
