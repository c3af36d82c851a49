"""Requests shown while they waited for their response, so that none is shown twice, and none never."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from masdeepflow.schema import Kind, Transport

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from masdeepflow.table import Parsed

__all__ = ["Announced"]

_OPEN = int(Kind.OPEN)
_LIMIT = 8192
_TEXTS = 64  # of one connection: as many requests as may wait on it


class Announced:
    """What was announced by turns in flight, by connection, until their requests come again as ended ones.

    `Flag.OPENED` alone does not tell: the turn may have shown no request then, or fewer than it ends with.
    limit, texts: connections remembered, and requests of each; beyond either the oldest is forgotten, and
    shown again when it ends. Only a hash is kept of each, so the memory is bounded whatever a peer sends.
    """

    def __init__(self, limit: int = _LIMIT, texts: int = _TEXTS) -> None:
        self._limit = limit
        self._texts_limit = texts
        self._texts: dict[int, list[int]] = {}
        self.evicted = 0
        """Requests that were forgotten before they ended: a log shows them twice."""

    def mark(self, slots: np.ndarray, parsed: Parsed) -> NDArray[np.bool_]:
        """Return which transactions (m,) of slots (n,) need not be shown: they were, or are not whole yet."""
        rows, shown = parsed.rows, np.zeros(len(parsed.rows), bool)
        in_flight = parsed.still_open
        if in_flight is None:
            in_flight = slots["kind"][rows] == _OPEN
        if not self._texts and not in_flight.any():
            return shown
        cookies = slots["cookie"][rows]
        concerned = np.array([*self._texts, *cookies[in_flight].tolist()], np.uint64)
        if not len(concerned):
            return shown
        # Cut, though there was room for more: the rest of it is still on its way.
        growing = parsed.truncated & (slots["request_bytes"] <= slots["request_length"])[rows]
        places = np.flatnonzero(np.isin(cookies, concerned))
        lines, peers = parsed.request_text.some(places), _peers(slots, rows[places])
        for place, line, peer in zip(places.tolist(), lines, peers, strict=True):
            if line is None:
                continue
            cookie, text = int(cookies[place]), hash((line, peer))
            if not in_flight[place]:
                shown[place] = self._take(cookie, text)
            else:
                shown[place] = growing[place] or self._was_announced(cookie, text)
        return shown

    def forget(self, cookies: Iterable[int]) -> None:
        """Drop what is kept of closed connections."""
        for cookie in self._texts.keys() & cookies:
            del self._texts[cookie]

    def _was_announced(self, cookie: int, text: int) -> bool:
        texts = self._texts.setdefault(cookie, [])
        if text in texts:
            return True
        texts.append(text)
        self.evicted += max(len(texts) - self._texts_limit, 0)
        del texts[: -self._texts_limit]
        if len(self._texts) > self._limit:
            self.evicted += len(self._texts.pop(next(iter(self._texts))))
        return False

    def _take(self, cookie: int, text: int) -> bool:
        texts = self._texts.get(cookie, [])
        if text not in texts:
            return False
        texts.remove(text)
        if not texts:
            del self._texts[cookie]
        return True


def _peers(slots: np.ndarray, rows: NDArray[np.intp]) -> list[int]:
    """Return a number for the other end of each of `rows` (m,): a UDP socket may ask several the same."""
    peers = [0] * len(rows)
    places = np.flatnonzero(slots["transport"][rows] == Transport.UDP)
    addresses, ports = slots["remote_address"][rows[places]], slots["remote_port"][rows[places]]
    data, size = addresses.tobytes(), addresses.shape[1]
    for number, (place, port) in enumerate(zip(places.tolist(), ports.tolist(), strict=True)):
        peers[place] = hash((data[number * size : (number + 1) * size], port))
    return peers
