"""Internet addresses as columns: two words each, in one form for IPv4 and IPv6."""

from __future__ import annotations

import socket
import struct
from functools import lru_cache
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["are_loopback", "canonical", "text_of", "words_of"]

_FORM = struct.Struct("<2Q")
_IPV4_MAPPED = b"\0" * 10 + b"\xff\xff"  # RFC 4291, 2.5.5.2
_FOUR_BYTES = np.uint64(0xFFFFFFFF)
_MAPPED_MARK, _HALF = np.uint64(0xFFFF << 16), np.uint64(32)
_MAPPED_BYTES = np.uint64(0xFF_FFFF_FFFF)
_MAPPED_127 = np.uint64(127 << 32 | 0xFFFF << 16)
_IPV6_LOOPBACK = np.uint64(1 << 56)


def canonical(raw: NDArray[np.uint64], ipv6: NDArray[np.bool_]) -> NDArray[np.uint64]:
    """Return addresses (n, 2) as those of IPv6, an IPv4 address as the IPv6 address that it is mapped to.

    raw: (n, 2), as in a slot: IPv4 in the first four bytes. ipv6: (n,), whose family is AF_INET6.
    """
    mapped = (raw[:, 0] & _FOUR_BYTES) << _HALF | _MAPPED_MARK
    words = np.empty(raw.shape, np.uint64)
    words[:, 0] = np.where(ipv6, raw[:, 0], 0)
    words[:, 1] = np.where(ipv6, raw[:, 1], mapped)
    return words


def are_loopback(words: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """Return which canonical addresses (n, 2) are a network namespace's own: 127.0.0.0/8 and ::1."""
    low = words[:, 1]
    own: NDArray[np.bool_] = ((low & _MAPPED_BYTES) == _MAPPED_127) | (low == _IPV6_LOOPBACK)
    return own & np.equal(words[:, 0], 0)


@lru_cache(maxsize=16384)
def text_of(high: int, low: int) -> str:
    """Return a canonical address as it is written: one that is mapped as IPv4, others by RFC 5952."""
    raw = _FORM.pack(high, low)
    if raw.startswith(_IPV4_MAPPED):
        return socket.inet_ntop(socket.AF_INET, raw[len(_IPV4_MAPPED) :])
    return socket.inet_ntop(socket.AF_INET6, raw)


def words_of(text: str) -> tuple[int, int] | None:
    """Return the canonical address that is written so, None if it is none."""
    for family, before in ((socket.AF_INET, _IPV4_MAPPED), (socket.AF_INET6, b"")):
        try:
            high, low = _FORM.unpack(before + socket.inet_pton(family, text))
        except (OSError, ValueError):  # the latter for a NUL
            continue
        return high, low
    return None
