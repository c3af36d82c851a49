"""Simple queries on columns: what each does is known by its outline, its text is made when it is shown."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from masdeepflow.coded import Coded
from masdeepflow.columns import prefix
from masdeepflow.protocols.postgresql.requests import HEADER_BYTES, Command, statement_text
from masdeepflow.statements import Statements, Texts

if TYPE_CHECKING:
    from numpy.typing import NDArray


__all__ = ["Queries", "Read", "are_queries"]

_QUERY = np.uint64(ord("Q") << 32)
_WORD = 8


class Read(NamedTuple):
    """What k queries show. commands: without their texts. texts: of each."""

    commands: Coded[Command]
    texts: Texts


def are_queries(slots: np.ndarray, rows: NDArray[np.intp]) -> NDArray[np.bool_]:
    """Return which requests of `rows` (k,) are one simple query: all of it, or all that was captured."""
    payload, total = slots["request"], slots["request_bytes"][rows]
    lengths = np.minimum(slots["request_length"][rows], payload.shape[1])
    # Type and length are the first five bytes, and nothing else is so long that the length fits the turn's.
    begin = prefix(payload, _WORD)[rows].byteswap() >> np.uint64(24)
    queries: NDArray[np.bool_] = (begin == ((total - np.uint64(1)) ^ _QUERY)) & (lengths > HEADER_BYTES)
    framed = np.flatnonzero(queries)
    if not len(framed):
        return queries
    rows, lengths, total = rows[framed], lengths[framed], total[framed]
    whole = lengths == total
    fits = payload[rows, lengths - 1] == 0
    if not whole.all():
        cut = np.flatnonzero(~whole)
        fits[cut] = ~_have_zeros(payload[rows[cut]], lengths[cut])
    queries[framed] = fits
    return queries


def _have_zeros(payload: NDArray[np.uint8], lengths: NDArray[np.integer]) -> NDArray[np.bool_]:
    """Return which statements (k,) of payloads (k, w), captured up to lengths (k,), end before that."""
    places = np.arange(payload.shape[1])
    inside = (places >= HEADER_BYTES) & (places < lengths[:, None])
    found: NDArray[np.bool_] = ((payload == 0) & inside).any(axis=1)
    return found


class Queries:
    """Reads simple queries; bounded."""

    def __init__(self) -> None:
        """Start with nothing remembered."""
        self._statements = Statements(HEADER_BYTES, statement_text)

    def read(self, slots: np.ndarray, rows: NDArray[np.intp]) -> Read:
        """Return what the requests of `rows` (k,) show, for which `are_queries` holds."""
        payload, total = slots["request"], slots["request_bytes"][rows]
        lengths = np.minimum(slots["request_length"][rows], payload.shape[1]).astype(np.int64)
        width = -(-int(lengths.max(initial=0)) // _WORD) * _WORD
        payload = np.ascontiguousarray(payload[:, :width][rows])
        cut = lengths < total
        # A statement ends with a zero, which is not its own.
        lengths -= ~cut
        codes, found = self._statements.read(payload, lengths, cut)
        commands = [Command(None, None, one.operation, one.summary) for one in found]
        if cut.any():
            codes = codes + len(commands) * cut.astype(np.int32)
            commands += [command._replace(truncated=True) for command in commands]
        texts = Texts(payload, lengths, cut, HEADER_BYTES, statement_text)
        return Read(Coded(codes, commands), texts)
