"""MySQL and MariaDB: the client/server protocol, from the greeting to the end of the connection.

Most turns are one command and its reply: `common` reads those on columns. Connections that log in, prepare
statements, change their database or send several commands at once are followed turn by turn in `connection`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from masdeepflow.protocols.mysql.common import Common
from masdeepflow.protocols.mysql.connection import Connections
from masdeepflow.protocols.mysql.parsed import to_parsed
from masdeepflow.protocols.mysql.recognition import recognise
from masdeepflow.recall import Repeated

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy as np
    from numpy.typing import NDArray

    from masdeepflow.table import Parsed

__all__ = ["PROTOCOL", "MySql"]


class MySql:
    """Follows `masdeepflow.protocols.base.Protocol`."""

    name = "mysql"

    def __init__(self) -> None:
        """Start with no connections."""
        self._cookies = Repeated()
        self._common = Common()
        self._connections = Connections()

    @property
    def evicted(self) -> int:
        """Connections and prepared statements that had to be forgotten before their time."""
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
        """Return those of these connections on which a command goes on."""
        return self._connections.waiting(cookies)

    def forget(self, cookies: Sequence[int]) -> None:
        """Drop what is kept for these closed connections."""
        self._connections.forget(cookies)


PROTOCOL = MySql
"""What the registry loads."""
