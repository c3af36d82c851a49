"""Whole columns of Unix times and durations as the text that logs show."""

from __future__ import annotations

from itertools import repeat
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

__all__ = ["latencies", "micros", "nanos"]

_SECOND = 1_000_000_000
_MILLISECOND = 1_000_000
_HUNDREDTH = 10_000  # of a millisecond
_WHOLE_FROM = 1000  # hundredths: below, two decimals are shown
# Looked up instead of formatted: a third of the time.
_THREE = [f"{number:03d}" for number in range(1000)]
_SHORT = [f"{number // 100}.{number % 100:02d}ms" for number in range(_WHOLE_FROM)]


def micros(times_ns: NDArray[np.int64]) -> list[str]:
    """Return Unix times (n,) as RFC 3339 UTC with microseconds, cut off: `2026-01-02T03:04:05.678901Z`."""
    seconds, rest = _split(times_ns, _SECOND)
    milli, rest = _split(rest, _MILLISECOND)
    parts = zip(_prefixes(seconds), milli.tolist(), (rest // 1000).tolist(), strict=False)
    return [f"{prefix}{_THREE[a]}{_THREE[b]}Z" for prefix, a, b in parts]


def nanos(times_ns: NDArray[np.int64]) -> list[str]:
    """Return Unix times (n,) as RFC 3339 UTC with nanoseconds: `2026-01-02T03:04:05.678901234Z`."""
    seconds, rest = _split(times_ns, _SECOND)
    milli, rest = _split(rest, _MILLISECOND)
    micro, nano = _split(rest, 1000)
    parts = zip(_prefixes(seconds), milli.tolist(), micro.tolist(), nano.tolist(), strict=False)
    return [f"{prefix}{_THREE[a]}{_THREE[b]}{_THREE[c]}Z" for prefix, a, b, c in parts]


def latencies(durations_ns: NDArray[np.int64]) -> list[str]:
    """Return durations (n,) as whole milliseconds from 10 ms up, two decimals below; `unknown` if absent.

    Rounded half up, and the form is chosen after rounding: 9.995 ms is `10ms`, never `10.00ms`.
    """
    hundredths = (durations_ns + _HUNDREDTH // 2) // _HUNDREDTH
    whole = (durations_ns + _MILLISECOND // 2) // _MILLISECOND
    shown = [
        _SHORT[short] if short < _WHOLE_FROM else f"{long}ms"
        for short, long in zip(np.maximum(hundredths, 0).tolist(), whole.tolist(), strict=True)
    ]
    for row in np.flatnonzero(durations_ns < 0).tolist():
        shown[row] = "unknown"
    return shown


def _split(values: NDArray[np.int64], unit: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    # Multiplying back is quicker than a second division.
    quotient = values // unit
    return quotient, values - quotient * unit


def _prefixes(seconds: NDArray[np.int64]) -> Iterable[str]:
    """Return `2026-01-02T03:04:05.` for each of the seconds (n,); most batches lie within one."""
    if len(seconds) and (seconds == seconds[0]).all():
        return repeat(_prefix(seconds[:1])[0])
    distinct, rows = np.unique(seconds, return_inverse=True)
    return map(_prefix(distinct).__getitem__, rows.tolist())


def _prefix(seconds: NDArray[np.int64]) -> list[str]:
    return [f"{text}." for text in np.datetime_as_string(seconds.astype("M8[s]")).tolist()]
