"""The messages in a batch of slots, as columns: datagrams at once, streams one by one."""

from __future__ import annotations

import functools
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple, cast

import numpy as np

from masdeepflow.protocols.dns.glances import ADDRESS, MESSAGE, Block, glance, joined, told
from masdeepflow.protocols.dns.message import HEADER_BYTES, Message, read_message
from masdeepflow.protocols.dns.names import READ, Names, as_objects
from masdeepflow.schema import Flag, Kind, Transport

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

__all__ = [
    "FEW",
    "LEAST_BYTES",
    "Batch",
    "Found",
    "Reader",
    "Unseen",
    "put_payload",
    "split_datagrams",
    "split_stream",
    "turn_messages",
]

_LENGTH_BYTES, _ID_BYTES = 2, 2
_WORD, _SIX = 8, 16
_CONTINUED, _FAILED = int(Flag.CONTINUED), int(Flag.FAILED)
_UNREAD, _WATCHED = int(Flag.UNREAD), int(Flag.WATCHED)
_LIMIT = 4096
_QUERIES, _ALL_QUERIES = 2048, 1 << 16  # of a turn, and of a batch, that were not captured
LEAST_BYTES = _LENGTH_BYTES + HEADER_BYTES
"""Of a message in a stream."""
FEW = 64
"""Datagrams at a time that are sooner read one by one than as columns."""
_NO_ADDRESSES = np.zeros(0, ADDRESS)


class Found(NamedTuple):
    """One message of a turn."""

    row: int
    data: bytes
    message: Message
    first_ns: int
    last_ns: int
    size: int
    asked: bool


class Unseen(NamedTuple):
    """What a turn of a stream, slot `row`, holds behind the messages that were captured.

    queries: as many as there is room for at the mean size of those before. bytes: of responses.
    """

    row: int
    queries: int
    bytes: int


class Batch(NamedTuple):
    """messages: (n,), of dtype `MESSAGE`, those that are datagrams by themselves first; all are valid.

    names, addresses: of their places. addresses: (a,), of dtype `ADDRESS`. streamed: the bytes of those that
    are no datagrams, whose places are the last ones. unseen: by row. remarks: texts of errors, by place.
    """

    messages: np.ndarray
    names: Names
    addresses: np.ndarray
    streamed: list[bytes]
    unseen: Sequence[Unseen] = ()
    remarks: Mapping[int, str] = MappingProxyType({})

    def data(self, place: int) -> bytes | None:
        """Return the bytes of the message of this place, None if it is a datagram by itself."""
        number = place - (len(self.names) - len(self.streamed))
        return self.streamed[number] if number >= 0 else None


def _payload_start(slots: np.ndarray) -> int:
    fields = cast("dict[str, tuple[np.dtype[np.generic], int]]", slots.dtype.fields)
    return fields["request"][1]


def _block_of(slots: np.ndarray) -> Block:
    """Return the payload of datagrams (n,): it starts in `request` and goes on in `response`."""
    start, size = _payload_start(slots), slots.dtype.itemsize
    lengths = slots["request_length"].astype(np.int64) + slots["response_length"]
    width = min(max(-(-int(lengths.max(initial=0)) // _WORD), 2) * _WORD, (size - start) // _WORD * _WORD)
    payload = slots.view(np.uint8).reshape(len(slots), size)[:, start : start + width]
    return Block(payload, np.minimum(lengths, width))


def put_payload(slots: np.ndarray, data: bytes) -> None:
    """Make `data` the payload of one datagram, slots (1,)."""
    start, room = _payload_start(slots), slots["request"].shape[1]
    data = data[: slots.dtype.itemsize - start]
    slots.view(np.uint8)[start : start + len(data)] = np.frombuffer(data, np.uint8)
    slots["request_length"], slots["response_length"] = min(len(data), room), max(len(data) - room, 0)


def split_stream(data: bytes) -> Iterator[tuple[bytes, int]]:
    """Yield the messages of a stream (RFC 1035 section 4.2.2), as far as captured, and their sizes."""
    at = 0
    while at + LEAST_BYTES <= len(data):
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
    """Reads messages, their ids not looked at: at a glance where that is enough, else each distinct one once.

    few: datagrams at a time that are sooner read one by one.
    """

    def __init__(self, few: int = FEW) -> None:
        """Start with nothing remembered."""
        self._few = few
        self._known = _Known()

    def read(self, slots: np.ndarray) -> Batch:
        """Return the messages of slots (n,) of which none is of kind OPEN; what is no message is left out."""
        single = slots["kind"] == Kind.DATAGRAM
        if single.all():
            return self.datagrams(slots)
        whole = self.datagrams(slots[single])
        whole.messages["row"] = np.flatnonzero(single)[whole.messages["row"]]
        found = turn_messages(slots, np.flatnonzero(~single))
        return _joined(whole, slots, found)._replace(unseen=_unseen(slots, found))

    def datagrams(self, slots: np.ndarray) -> Batch:
        """Return the messages of slots (n,) that are a datagram each."""
        messages, names, addresses, remarks = self.look(slots)
        messages["row"] = messages["place"] = np.arange(len(slots))
        messages["cookie"], messages["queue_ns"] = slots["cookie"], slots["queue_ns"]
        stamps = np.maximum(slots["request_first_ns"], slots["response_first_ns"])
        messages["first_ns"] = messages["last_ns"] = stamps
        messages["size"] = np.maximum(slots["request_bytes"], slots["response_bytes"])
        _tell_ends(messages, slots)
        valid = messages["valid"]
        kept = messages if valid.all() else messages.compress(valid)
        return Batch(kept, names, addresses, [], (), remarks)

    def look(self, slots: np.ndarray) -> tuple[np.ndarray, Names, np.ndarray, dict[int, str]]:
        """Return what datagrams (n,) show (n,), of dtype `MESSAGE`; names, addresses and remarks, by row."""
        block = _block_of(slots)
        messages = np.zeros(len(slots), MESSAGE)
        known = np.empty(len(slots), object)
        remarks: dict[int, str] = {}
        if len(slots) < self._few:
            addresses = self._read(block, np.arange(len(slots)), messages, known, remarks)
            texts, lengths = np.zeros((0, 0), np.uint8), np.zeros(0, np.int64)
        else:
            fits, texts, lengths, addresses = glance(block, messages)
            if not fits.all():
                others = np.flatnonzero(~fits)
                lengths[others] = READ
                more = self._read(block, others, messages, known, remarks)
                addresses = np.concatenate((addresses[fits[addresses["place"]]], more))
        messages["id"] = block.numbers(block.starts, _ID_BYTES)
        return messages, Names(texts, lengths, known), addresses, remarks

    def _read(
        self,
        block: Block,
        rows: NDArray[np.intp],
        messages: np.ndarray,
        known: NDArray[np.object_],
        remarks: dict[int, str],
    ) -> np.ndarray:
        """Read `rows` (k,) into `messages`, `known` and `remarks`, and return their addresses."""
        if not len(rows):
            return _NO_ADDRESSES
        places = self._known.places(_without_ids(block, rows))
        messages[rows] = self._known.messages.take(places)
        values = [self._known.values[place] for place in places]
        known[rows] = as_objects([None if value is None else value.name for value in values])
        remarks |= _remarks(rows, values)
        return _addresses(rows, values)


class _Known:
    """Messages that were read, their ids zero, by a hash of their bytes; bounded.

    values: (k,). messages: (k,), what they show.
    """

    def __init__(self, limit: int = _LIMIT) -> None:
        self._limit = limit
        self._clear()

    def _clear(self) -> None:
        self._places: dict[int, int] = {}
        self.values: list[Message | None] = []
        self.messages = np.zeros(0, MESSAGE)

    def places(self, data: list[bytes]) -> list[int]:
        """Return the places (m,) of messages (m,), valid until the next call."""
        keys = list(map(hash, data))
        fresh = {key: one for key, one in zip(keys, data, strict=True) if key not in self._places}
        if len(self.values) + len(fresh) > self._limit:
            self._clear()
            fresh = dict(zip(keys, data, strict=True))
        if fresh:
            self._places.update(
                zip(fresh, range(len(self.values), len(self.values) + len(fresh)), strict=True)
            )
            found = [read_message(one) for one in fresh.values()]
            self.values += found
            self.messages = joined(self.messages, told(found))
        return [self._places[key] for key in keys]


def _without_ids(block: Block, rows: NDArray[np.intp]) -> list[bytes]:
    payload = block.payload[rows]
    payload[:, :_ID_BYTES] = 0
    data, width = payload.tobytes(), payload.shape[1]
    lengths = block.lengths[rows].tolist()
    return [data[at * width : at * width + length] for at, length in enumerate(lengths)]


def _tell_ends(messages: np.ndarray, slots: np.ndarray) -> None:
    """Note of datagrams (n,) what the kernel side tells of how they ended."""
    flags = slots["flags"]
    messages["watched"] = flags & _WATCHED > 0
    rare = flags & (_UNREAD | _FAILED) > 0
    if rare.any():
        rows = np.flatnonzero(rare)
        messages["unread"][rows] = flags[rows] & _UNREAD > 0
        unsent = rows[(flags[rows] & _FAILED > 0) & ~messages["response"][rows]]
        messages["errno"][unsent] = slots["error"][unsent]


def _remarks(places: NDArray[np.integer], found: Sequence[Message | None]) -> dict[int, str]:
    return {
        place: message.remark
        for place, message in zip(places.tolist(), found, strict=True)
        if message is not None and message.remark
    }


def _addresses(places: NDArray[np.integer], found: Sequence[Message | None]) -> np.ndarray:
    """Return the addresses of messages at `places` (k,)."""
    telling = [
        (place, len(packed) == _SIX, ttl, np.frombuffer(packed.ljust(_SIX, b"\0"), np.uint8))
        for place, message in zip(places.tolist(), found, strict=True)
        if message is not None
        for packed, ttl in message.addresses
    ]
    return np.array(telling, ADDRESS) if telling else _NO_ADDRESSES


def _joined(whole: Batch, slots: np.ndarray, found: list[Found]) -> Batch:
    if not found:
        return whole
    rows, data, values, *stamps, _ = zip(*found, strict=True)
    messages = told(values)
    messages["place"] = len(whole.names) + np.arange(len(found))
    messages["row"], messages["id"] = rows, [int.from_bytes(one[:_ID_BYTES], "big") for one in data]
    for name, column in zip(("first_ns", "last_ns", "size"), stamps, strict=True):
        messages[name] = column
    messages["cookie"], messages["queue_ns"] = slots["cookie"][list(rows)], slots["queue_ns"][list(rows)]
    return Batch(
        joined(whole.messages, messages),
        whole.names.joined(as_objects([message.name for message in values])),
        np.concatenate((whole.addresses, _addresses(messages["place"], values))),
        list(data),
        (),
        {**whole.remarks, **_remarks(messages["place"], values)},
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
        if slot["flags"] & _CONTINUED:
            first = last  # that was another message's
        for number, (part, size) in enumerate(split):
            message = _read_without_id(part)
            if message is not None:
                yield Found(row, part, message, last if number else first, last, size, side == "request")


def _unseen(slots: np.ndarray, found: Sequence[Found]) -> list[Unseen]:
    """Return what turns (n,) of streams hold behind these messages, of those that hold more, by row."""
    streams = (slots["transport"] != Transport.UDP) & (slots["kind"] != Kind.DATAGRAM)
    cut = [streams & (slots[f"{side}_bytes"] > slots[f"{side}_length"]) for side in ("request", "response")]
    either = cut[0] | cut[1]
    if not either.any():
        return []
    seen: dict[int, list[Found]] = {}
    for one in found:
        seen.setdefault(one.row, []).append(one)
    left, unseen = _ALL_QUERIES, []
    for row in np.flatnonzero(either).tolist():
        asked = [one.size for one in seen.get(row, ()) if one.asked]
        told = sum(one.size for one in seen.get(row, ()) if not one.asked)
        rest = int(slots["request_bytes"][row]) - sum(asked)
        queries = 0
        if cut[0][row] and asked and rest >= LEAST_BYTES:
            queries = min(max(rest * len(asked) // sum(asked), 1), _QUERIES, left)
        left -= queries
        behind = max(int(slots["response_bytes"][row]) - told, 0) if cut[1][row] else 0
        if queries or behind:
            unseen.append(Unseen(row, queries, behind))
    return unseen
