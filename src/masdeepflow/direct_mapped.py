"""A direct-mapped cache of codes by 64-bit key, for whole columns: three passes, whatever is in it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = ["DirectMapped"]

_PLACES = 4096
_MASK = np.uint64(_PLACES - 1)


class DirectMapped:
    """Key -> code, where each key has one place, by its low bits, and the last that came there has it.

    Keys whose low bits differ, as counters' and hashes' do, seldom push each other out. Whoever owns it keeps
    the whole table elsewhere, and clears this one when codes change their meaning.
    """

    def __init__(self) -> None:
        self._keys = np.empty(_PLACES, np.uint64)
        self._codes = np.zeros(_PLACES, np.int32)
        self.clear()

    def clear(self) -> None:
        """Forget everything."""
        # No key with other low bits is ever looked for at a place: so all are free.
        self._keys[:] = ~np.arange(_PLACES, dtype=np.uint64)

    def find(self, keys: NDArray[np.uint64]) -> tuple[NDArray[np.int32], NDArray[np.bool_] | None]:
        """Return the codes (n,), int32, of keys (n,), and which (n,) are not known; None if all are.

        The code of an unknown key means nothing.
        """
        places = (keys & _MASK).view(np.int64)
        missing = self._keys[places] != keys
        return self._codes[places], missing if missing.any() else None

    def keep(self, keys: NDArray[np.uint64], codes: NDArray[np.integer]) -> None:
        """Remember the codes (n,) of keys (n,)."""
        places = (keys & _MASK).view(np.int64)
        self._keys[places] = keys
        # Of several keys for one place the last is kept, here and there.
        self._codes[places] = codes
