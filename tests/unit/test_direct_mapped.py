"""Keys are found where their low bits put them, and never taken for one another."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from masdeepflow.direct_mapped import DirectMapped

KEYS = st.lists(st.integers(0, 20_000) | st.integers(0, 2**64 - 1), max_size=30)


def _keys(*keys: int) -> np.ndarray:
    return np.array(keys, np.uint64)


def test_what_was_kept_is_found() -> None:
    """Codes come in the order of the keys, each as often as it is asked for."""
    known = DirectMapped()
    known.keep(_keys(7, 2**63), np.array([1, 2], np.int32))
    codes, missing = known.find(_keys(2**63, 7, 7))
    assert codes.tolist() == [2, 1, 1]
    assert codes.dtype == np.int32
    assert missing is None


def test_unknown_keys_are_told() -> None:
    """Also those whose place is taken by another key, and 0 where nothing was kept."""
    known = DirectMapped()
    known.keep(_keys(7), np.array([1], np.int32))
    codes, missing = known.find(_keys(7, 7 + 4096, 0))
    assert missing is not None
    assert missing.tolist() == [False, True, True]
    assert codes[0] == 1


def test_cleared_it_knows_nothing() -> None:
    """Whatever it was, the keys 0 and 2^64 - 1 included."""
    known = DirectMapped()
    keys = _keys(0, 2**64 - 1, 5)
    known.keep(keys, np.arange(3, dtype=np.int32))
    known.clear()
    _, missing = known.find(keys)
    assert missing is not None
    assert missing.all()


@given(st.lists(KEYS, max_size=6), KEYS)
def test_found_codes_are_right(kept: list[list[int]], asked: list[int]) -> None:
    """Whatever pushes out what: a key that is found has the code it was kept with last."""
    known = DirectMapped()
    codes: dict[int, int] = {}
    for number, keys in enumerate(kept):
        some = np.arange(len(keys), dtype=np.int32) + 100 * number
        # Of equal keys in one call the last counts: they mean the same.
        codes.update(zip(keys, some.tolist(), strict=True))
        known.keep(_keys(*keys), some)
    found, missing = known.find(_keys(*asked))
    unknown = [False] * len(asked) if missing is None else missing.tolist()
    for key, code, is_missing in zip(asked, found.tolist(), unknown, strict=True):
        assert is_missing or codes[key] == code
