"""How long to wait before the next try: doubling, with a random part, so that agents do not come at once."""

from __future__ import annotations

import random

__all__ = ["Backoff"]


class Backoff:
    """Waits of half to all of first_s, 2 first_s ... up to most_s, from the first again on `reset`."""

    def __init__(self, first_s: float = 1.0, most_s: float = 30.0) -> None:
        self._first_s = first_s
        self._most_s = most_s
        self._next_s = first_s

    def reset(self) -> None:
        """Begin again, because a try went well."""
        self._next_s = self._first_s

    def wait_s(self, asked_s: float = 0) -> float:
        """Return the next wait. asked_s: what the server asked for, kept to up to twice `most_s`."""
        wait = self._next_s * random.uniform(0.5, 1)  # noqa: S311  # not for secrets
        self._next_s = min(2 * self._next_s, self._most_s)
        return max(wait, min(asked_s, 2 * self._most_s))
