"""Which ends have a socket: nearly always one, of the process that made it."""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING

import numpy as np

from masdeepflow.schema import Transport

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["COOKIE_BITS", "Sockets"]

COOKIE_BITS = 42
"""What tells cookies apart: they count up from 1, a few down from 2^64 (include/linux/cookie.h)."""
_MASK = np.uint64((1 << COOKIE_BITS) - 1)
_UDP = int(Transport.UDP)


class Sockets:
    """The codes of ends by socket cookie.

    UDP sockets are left out where peers are known: such a socket has many, each an end, and never closes.
    """

    def __init__(self) -> None:
        self._single: dict[int, int] = {}
        self._shared: dict[int, list[int]] = {}  # sockets that several processes use, or did

    def __len__(self) -> int:
        return len(self._single) + len(self._shared)

    def add(self, codes: NDArray[np.int32], facts: np.ndarray) -> None:
        """Add ends (n,); facts: `end.FACTS` (n,)."""
        cookies, users = _users(codes, facts)
        single = self._single
        if not self._shared and single.keys().isdisjoint(cookies) and len(set(cookies)) == len(users):
            single.update(zip(cookies, users, strict=True))
            return
        for cookie, code in zip(cookies, users, strict=True):
            if cookie in self._shared:
                self._shared[cookie].append(code)
            elif cookie in single:
                self._shared[cookie] = [single.pop(cookie), code]
            else:
                single[cookie] = code

    def remove(self, codes: NDArray[np.int32], facts: np.ndarray) -> None:
        """Remove ends (n,); facts: `end.FACTS` (n,)."""
        for cookie, code in zip(*_users(codes, facts), strict=True):
            if cookie in self._shared:
                self._shared[cookie].remove(code)
                if not self._shared[cookie]:
                    del self._shared[cookie]
            else:
                del self._single[cookie]

    def take(self, cookies: list[int]) -> NDArray[np.int32]:
        """Remove all ends (n,) of sockets, and return them."""
        masked = _masked(np.array(cookies, np.uint64))
        found = [code for code in map(self._single.pop, masked, repeat(None)) if code is not None]
        if self._shared:
            found += (code for cookie in masked for code in self._shared.pop(cookie, ()))
        return np.array(found, np.int32)

    def users(self, cookie: int) -> list[int]:
        """Return the codes of all ends of a socket."""
        masked = cookie & int(_MASK)
        single = self._single.get(masked)
        return self._shared.get(masked, []) if single is None else [single]

    def shared(self, cookies: NDArray[np.uint64]) -> list[int]:
        """Return those of the cookies (n,) that several processes use."""
        if not self._shared:
            return []
        mine = [masked in self._shared for masked in _masked(cookies)]
        shared: list[int] = cookies[np.array(mine, bool)].tolist()
        return shared


def _users(codes: NDArray[np.int32], facts: np.ndarray) -> tuple[list[int], list[int]]:
    mine = (facts["transport"] != _UDP) | facts["nowhere"]
    return _masked(facts["cookie"][mine]), codes[mine].tolist()


def _masked(cookies: NDArray[np.uint64]) -> list[int]:
    masked: list[int] = (cookies & _MASK).tolist()
    return masked
