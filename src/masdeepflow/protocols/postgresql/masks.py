"""Which bytes of a request or a response decide what it is read as: all but values and rows.

See `masdeepflow.templates`. Source: as in `requests` and `replies`, with whose readers this has to agree.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from masdeepflow.protocols.postgresql.requests import HEADER_BYTES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["request_mask", "response_mask"]

_MOST = 64
"""Messages of a payload; with more it is seldom built like another."""
_DECIDES = b"\xff"


def request_mask(data: bytes, total: int) -> bytes | None:
    """Return which bytes count of a request of `total` bytes, as far as captured; None if that is unknown."""
    return _mask(data, total, _REQUESTS)


def response_mask(data: bytes, total: int) -> bytes | None:
    """Return the same of a response."""
    return _mask(data, total, _RESPONSES)


def _mask(data: bytes, total: int, kinds: Mapping[int, Callable[[bytes, int, int], int]]) -> bytes | None:
    mask = bytearray(len(data))
    at = 0
    for _ in range(_MOST):
        if at + HEADER_BYTES > len(data):
            # The first byte behind all that is whole tells whether it is the last message.
            mask[at : at + 1] = _DECIDES * len(mask[at : at + 1])
            return bytes(mask)
        end = at + 1 + int.from_bytes(data[at + 1 : at + HEADER_BYTES], "big")
        if data[at] not in kinds or not at + HEADER_BYTES <= end <= total:
            return None
        captured = min(end, len(data))
        upto = min(kinds[data[at]](data, at + HEADER_BYTES, captured), captured)
        mask[at:upto] = _DECIDES * (upto - at)
        at = end
    return None


def _nothing(_data: bytes, start: int, _end: int) -> int:
    return start


def _count(_data: bytes, start: int, _end: int) -> int:
    return start + 2


def _everything(_data: bytes, _start: int, end: int) -> int:
    return end


def _names(data: bytes, start: int, end: int) -> int:
    """Up to the end of the portal's and the statement's names."""
    portal = data.find(0, start, end)
    name = data.find(0, portal + 1, end) if portal >= 0 else -1
    return name + 1 if name >= 0 else end


_REQUESTS = {
    ord(kind): upto
    for kinds, upto in (("PDCE", _everything), ("B", _names), ("SH", _nothing))
    for kind in kinds
}
_RESPONSES = {
    ord(kind): upto
    for kinds, upto in (("CENA", _everything), ("T", _count), ("DZ123ntIs", _nothing))
    for kind in kinds
}
"""Type of a message -> from its body, and where that ends, to where what decides ends."""
