"""Whether slots of connections not known yet are this protocol's.

A header of twelve bytes without a magic number fits a lot: names, types and classes have to be those that
are in use, every record has to be well-formed, and the last one has to end where the message does. On the
protocol's own port types may be unknown, names may have any bytes, and there are updates (RFC 2136).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from masdeepflow.columns import prefix
from masdeepflow.protocols.base import LIKELY, POSSIBLE
from masdeepflow.protocols.dns.message import (
    ANYWHERE,
    HEADER_BYTES,
    ON_ITS_PORT,
    RECOGNISED,
    Message,
    read_message,
)
from masdeepflow.protocols.dns.reading import split_stream
from masdeepflow.schema import Kind, Transport

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from masdeepflow.protocols.dns.reading import Reader

__all__ = ["Recognition"]

_NOT_MINE = 0
_OTHERS = np.array([137, 5353, 5355], np.uint16)
"""Ports of NetBIOS names, mDNS and LLMNR, which look the same and mean something else."""
_LENGTH_BYTES = 2
_ONE = 0x0100  # as read from the wire by a little-endian machine
_WORD, _OPCODE = np.uint64(0xFFFF), np.uint64(0x78)
_OPCODES = np.array([opcode << 3 for opcode in RECOGNISED], np.uint64)


class Recognition:
    """reader: that of the protocol, so that no message is read twice. ports: its own."""

    def __init__(self, reader: Reader, ports: frozenset[int]) -> None:
        self._reader = reader
        self._ports = np.array(sorted(ports), np.uint16)

    def scores(self, slots: np.ndarray) -> NDArray[np.uint8]:
        """Return a score (n,), uint8: 0 is "not mine"."""
        scores = np.zeros(len(slots), np.uint8)
        own = np.isin(slots["local_port"], self._ports) | np.isin(slots["remote_port"], self._ports)
        least = np.where(own, ON_ITS_PORT, ANYWHERE)
        single = slots["kind"] == Kind.DATAGRAM
        rows = np.flatnonzero(single & _may_be(slots, 0))
        if len(rows):
            scores[rows[self._fits(slots[rows], least[rows])]] = LIKELY
        udp = slots["transport"] == Transport.UDP
        may_be = np.where(udp, _may_be(slots, 0), _may_be(slots, _LENGTH_BYTES))
        for row in np.flatnonzero(~single & may_be).tolist():
            scores[row] = _score(slots[row], int(least[row]), stream=not udp[row])
        others = np.isin(slots["local_port"], _OTHERS) | np.isin(slots["remote_port"], _OTHERS)
        scores[others] = _NOT_MINE
        return scores

    def _fits(self, slots: np.ndarray, least: NDArray[np.int64]) -> NDArray[np.intp]:
        """Return which datagrams (n,) are messages to their last byte, and fit `least` (n,)."""
        messages, *_ = self._reader.look(slots)
        end = np.where(messages["valid"] & (messages["fits"] >= least), messages["end"], 0)
        captured = slots["request_length"].astype(np.int64) + slots["response_length"]
        total = np.maximum(slots["request_bytes"], slots["response_bytes"]).astype(np.int64)
        whole = np.where(captured < total, end < 0, end == total)
        return np.flatnonzero(whole & (total >= HEADER_BYTES))


def _may_be(slots: np.ndarray, start: int) -> NDArray[np.bool_]:
    """Return which requests (n,), or datagrams, have a plausible header at byte `start`."""
    header = prefix(np.ascontiguousarray(slots["request"][:, start : start + 8]), 8)
    long_enough = slots["request_length"] >= start + HEADER_BYTES
    opcode = np.isin((header >> np.uint64(16)) & _OPCODE, _OPCODES)
    one_question = (header >> np.uint64(32)) & _WORD == _ONE
    may_be: NDArray[np.bool_] = long_enough & one_question & opcode
    return may_be


def _score(slot: np.void, least: int, *, stream: bool) -> int:
    sides = []
    for side in "request", "response":
        data = slot[side][: slot[f"{side}_length"]].tobytes()
        sides.append(_first(data, int(slot[f"{side}_bytes"]), least, stream=stream))
    (query, query_id), (response, response_id) = sides
    if query is None or query.response:
        return _NOT_MINE
    if not slot["response_bytes"]:
        return POSSIBLE if stream else LIKELY
    if response is None or not response.response:
        return _NOT_MINE
    if response_id == query_id and response.question == query.question:
        return LIKELY
    # Another query's response may come first, of a pipeline or to the one before.
    return LIKELY if stream and _is_asked(slot, response, response_id) else POSSIBLE


def _is_asked(slot: np.void, response: Message, number: bytes) -> bool:
    """Return whether one of the queries of a stream's turn has this response's id and question."""
    data = slot["request"][: slot["request_length"]].tobytes()
    for one, _ in split_stream(data):
        if one.startswith(number):
            message = read_message(one)
            if message is not None and not message.response and message.question == response.question:
                return True
    return False


def _first(data: bytes, total: int, least: int, *, stream: bool) -> tuple[Message | None, bytes]:
    """Return the first message of a side and its id; None unless it fits to its end."""
    if stream:
        length = int.from_bytes(data[:_LENGTH_BYTES], "big")
        if length + _LENGTH_BYTES > total:
            return None, b""
        data, total = data[_LENGTH_BYTES : _LENGTH_BYTES + length], length
    message = read_message(data)
    if message is None or message.fits < least:
        return None, b""
    fits = message.end == total or (message.end < 0 and len(data) < total)
    if not fits and not stream and message.response and message.end > 0:
        # Two datagrams that a turn has put together.
        fits = _first(data[message.end :], total - message.end, least, stream=False)[0] is not None
    return (message if fits else None), data[:2]
