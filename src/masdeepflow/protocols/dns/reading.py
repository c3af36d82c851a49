"""The messages in a batch of slots, as columns: datagrams at once, streams one by one."""

from __future__ import annotations

import functools
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from masdeepflow.columns import Memo
from masdeepflow.protocols.dns.message import HEADER_BYTES, Message, read_message
from masdeepflow.schema import Kind, Transport

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

__all__ = [
    "Found",
    "Messages",
    "Reader",
    "payload_of",
    "put_payload",
    "split_datagrams",
    "split_stream",
    "turn_messages",
]

_LENGTH_BYTES, _ID_BYTES = 2, 2
_WORD = 8


class Messages(NamedTuple):
    """n messages, those that are datagrams by themselves first.

    rows: intp (n,), the slot of each. ids: uint64 (n,). codes: int64 (n,), index into `values`. first_ns,
    last_ns, size: int64 (n,), stamps and length. streamed: the bytes of those that are no datagrams.
    """

    rows: NDArray[np.intp]
    ids: NDArray[np.uint64]
    codes: NDArray[np.int64]
    first_ns: NDArray[np.int64]
    last_ns: NDArray[np.int64]
    size: NDArray[np.int64]
    values: list[Message]
    streamed: list[bytes]


class Found(NamedTuple):
    """One message of a turn."""

    row: int
    data: bytes
    message: Message
    first_ns: int
    last_ns: int
    size: int


def _payload_start(slots: np.ndarray) -> int:
    fields = cast("dict[str, tuple[np.dtype[np.generic], int]]", slots.dtype.fields)
    return fields["request"][1]


def payload_of(slots: np.ndarray) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Return a copy of the payload (n, w) of datagrams (n,), w a multiple of 8, and its lengths (n,).

    It starts in `request` and goes on in `response`.
    """
    start, size = _payload_start(slots), slots.dtype.itemsize
    lengths = slots["request_length"].astype(np.int64) + slots["response_length"]
    width = min(max(-(-int(lengths.max(initial=0)) // _WORD), 2) * _WORD, (size - start) // _WORD * _WORD)
    payload = slots.view(np.uint8).reshape(len(slots), size)[:, start : start + width].copy()
    return payload, np.minimum(lengths, width)


def put_payload(slots: np.ndarray, data: bytes) -> None:
    """Make `data` the payload of one datagram, slots (1,)."""
    start, room = _payload_start(slots), slots["request"].shape[1]
    data = data[: slots.dtype.itemsize - start]
    slots.view(np.uint8)[start : start + len(data)] = np.frombuffer(data, np.uint8)
    slots["request_length"], slots["response_length"] = min(len(data), room), max(len(data) - room, 0)


def split_stream(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield the messages of a stream (RFC 1035 section 4.2.2), as far as captured, and their sizes."""
    at = 0
    while at + _LENGTH_BYTES + HEADER_BYTES <= len(data):
        start = at + _LENGTH_BYTES
        length = int.from_bytes(data[at:start], "big")
        yield data[start : start + length], length + _LENGTH_BYTES
        at = start + length


def split_datagrams(data: bytes, total: int) -> Iterator[tuple[bytes, int]]:
    """Yield the datagrams that a turn of `total` bytes is made of, as far as captured, and their sizes."""
    while len(data) >= HEADER_BYTES:
        message = _read_without_id(data)
        end = message.end if message is not None and 0 < message.end < len(data) else total
        yield data[:end], end
        data, total = data[end:], total - end


@functools.lru_cache(maxsize=4096)
def _read(data: bytes) -> Message | None:
    return read_message(data)


def _read_without_id(data: bytes) -> Message | None:
    return _read(bytes(_ID_BYTES) + data[_ID_BYTES:])


class Reader:
    """Reads each distinct message once, its id not looked at."""

    def __init__(self) -> None:
        """Start with nothing remembered."""
        self._memo = Memo(read_message)

    def read(self, slots: np.ndarray) -> Messages:
        """Return the messages of slots (n,) of which none is of kind OPEN; what is no message is left out."""
        single = slots["kind"] == Kind.DATAGRAM
        rows = np.flatnonzero(single)
        whole = self._read_datagrams(slots if len(rows) == len(slots) else slots[rows], rows)
        if len(rows) == len(slots):
            return whole
        return _joined(whole, turn_messages(slots, np.flatnonzero(~single)))

    def encode(self, slots: np.ndarray) -> tuple[NDArray[np.uint64], NDArray[np.int64], list[Message | None]]:
        """Return ids (n,), codes (n,) and the messages that these index, of datagrams (n,)."""
        payload, lengths = payload_of(slots)
        ids = payload[:, :_ID_BYTES].copy().view(">u2")[:, 0].astype(np.uint64)
        payload[:, :_ID_BYTES] = 0
        codes, values = self._memo.encode(payload, lengths)
        return ids, codes.astype(np.int64), values

    def _read_datagrams(self, slots: np.ndarray, rows: NDArray[np.intp]) -> Messages:
        ids, codes, values = self.encode(slots)
        stamps = np.maximum(slots["request_first_ns"], slots["response_first_ns"]).astype(np.int64)
        size = np.maximum(slots["request_bytes"], slots["response_bytes"]).astype(np.int64)
        known = [value for value in values if value is not None]
        if len(known) == len(values):
            return Messages(rows, ids, codes, stamps, stamps, size, known, [])
        places = np.cumsum([value is not None for value in values]) - 1
        kept = np.array([value is not None for value in values], bool)[codes]
        return Messages(
            rows[kept], ids[kept], places[codes[kept]], stamps[kept], stamps[kept], size[kept], known, []
        )


def _joined(whole: Messages, found: list[Found]) -> Messages:
    if not found:
        return whole
    rows, data, messages, first_ns, last_ns, size = zip(*found, strict=True)
    codes = np.arange(len(found)) + len(whole.values)
    ids = [int.from_bytes(message[:_ID_BYTES], "big") for message in data]
    return Messages(
        np.concatenate((whole.rows, np.array(rows, np.intp))),
        np.concatenate((whole.ids, np.array(ids, np.uint64))),
        np.concatenate((whole.codes, codes)),
        np.concatenate((whole.first_ns, np.array(first_ns, np.int64))),
        np.concatenate((whole.last_ns, np.array(last_ns, np.int64))),
        np.concatenate((whole.size, np.array(size, np.int64))),
        [*whole.values, *messages],
        list(data),
    )


def turn_messages(slots: np.ndarray, rows: NDArray[np.intp]) -> list[Found]:
    """Return the messages of turns `rows` (m,) of slots (n,)."""
    return [found for row in rows.tolist() for found in _of_turn(slots[row], row)]


def _of_turn(slot: np.void, row: int) -> Iterator[Found]:
    for side in "request", "response":
        data = slot[side][: slot[f"{side}_length"]].tobytes()
        if not data:
            continue
        datagrams = slot["transport"] == Transport.UDP
        split = split_datagrams(data, int(slot[f"{side}_bytes"])) if datagrams else split_stream(data)
        first, last = int(slot[f"{side}_first_ns"]), int(slot[f"{side}_last_ns"])
        for number, (part, size) in enumerate(split):
            message = _read_without_id(part)
            if message is not None:
                yield Found(row, part, message, last if number else first, last, size)
