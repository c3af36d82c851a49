"""COM_QUERY on columns: what each does is known by its outline, its text is made when it is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from masdeepflow.coded import Coded
from masdeepflow.protocols.mysql.commands import HEADER_BYTES, Code, Command, query_command, shown_text
from masdeepflow.statements import Statements, Texts

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from masdeepflow.protocols.mysql.requests import Requests

__all__ = ["Queries", "Read", "are_plain_queries"]

_START = HEADER_BYTES + 1
_WORD = 8


class Read(NamedTuple):
    """What k queries show. commands: without their texts. texts: of each."""

    commands: Coded[Command]
    texts: Texts


def are_plain_queries(requests: Requests, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return which of `rows` (m,), commands, are a statement with no attributes in front of it."""
    payload = requests.payload
    attributes = (payload[rows, _START + 1] == 1) & (requests.lengths[rows] > _START + 1)
    plain: NDArray[np.bool_] = (payload[rows, HEADER_BYTES] == Code.QUERY) & ~attributes
    return plain


class Queries:
    """Reads queries; bounded."""

    def __init__(self) -> None:
        """Start with nothing remembered."""
        self._statements = Statements(_START, shown_text)

    def read(self, requests: Requests, rows: NDArray[np.intp]) -> Read:
        """Return what `rows` (k,) show, for which `are_plain_queries` holds."""
        payload, lengths = requests.payload, requests.lengths[rows]
        cut = lengths < requests.sizes[rows]
        width = -(-int(lengths.max(initial=0)) // _WORD) * _WORD
        payload = np.ascontiguousarray(payload[:, :width][rows])
        codes, found = self._statements.read(payload, lengths, cut)
        commands = [query_command(None, one.operation, one.summary, cut=False) for one in found]
        if cut.any():
            codes = codes + len(commands) * cut.astype(np.int32)
            commands += [query_command(None, one.operation, one.summary, cut=True) for one in found]
        return Read(Coded(codes, commands), Texts(payload, lengths, cut, _START, shown_text))
