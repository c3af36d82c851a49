"""Latency histograms: the coarse one that Prometheus gets, the fine one for percentiles, and the kernel's."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

__all__ = [
    "BOUNDS_NS",
    "BOUNDS_S",
    "FINE_SIZE",
    "KERNEL_BUCKETS",
    "bucket_of",
    "fine_of",
    "kernel_sum_ns",
    "kernel_to_buckets",
    "kernel_to_fine",
    "percentiles_ms",
]

# OpenTelemetry's advice for http.server.request.duration, and finer below: most calls on one host end sooner.
_FINER = (0.0001, 0.00025, 0.0005, 0.001, 0.0025)
_ADVISED = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0)
BOUNDS_S = _FINER + _ADVISED
"""Upper bounds, inclusive, of the coarse buckets; one more bucket follows for the rest."""
BOUNDS_NS: NDArray[np.int64] = np.rint(np.array(BOUNDS_S) * 1e9).astype(np.int64)

KERNEL_BUCKETS = 208
"""HISTOGRAM_BUCKETS of bpf/wire.h."""
_KERNEL_UNIT_BITS = 10

# A fine bucket holds what shares exponent and five bits of mantissa as float64: at most 3.1 % wide, so its
# middle is within 1.6 % of all it holds. From 64 ns up to 19 hours.
_MANTISSA_BITS = 5
_DROPPED_BITS = 52 - _MANTISSA_BITS
_OCTAVES = range(6, 46)
FINE_SIZE = len(_OCTAVES) << _MANTISSA_BITS
"""Number of fine buckets."""
_FIRST = int(np.array([2.0**_OCTAVES.start]).view(np.int64)[0]) >> _DROPPED_BITS


def _fine_bounds() -> NDArray[np.float64]:
    return ((np.arange(FINE_SIZE + 1) + _FIRST) << _DROPPED_BITS).view(np.float64)


def _kernel_bounds() -> NDArray[np.float64]:
    # The inverse of the index that bpf/wire.h describes: eight buckets an octave, linear within it.
    index = np.arange(KERNEL_BUCKETS + 1)
    units = np.where(index < 8, index, (8 + index % 8) << np.maximum(index // 8 - 1, 0))  # noqa: PLR2004  # see above
    return (units << _KERNEL_UNIT_BITS).astype(np.float64)


def _middles(bounds: NDArray[np.float64]) -> NDArray[np.float64]:
    return (bounds[1:] + bounds[:-1]) / 2


_FINE_BOUNDS = _fine_bounds()
_KERNEL_BOUNDS = _kernel_bounds()


def bucket_of(durations_ns: NDArray[np.int64]) -> NDArray[np.intp]:
    """Return the coarse bucket (n,) of each duration (n,)."""
    return np.searchsorted(BOUNDS_NS, durations_ns, side="left")


def fine_of(durations_ns: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return the fine bucket (n,), in [0, FINE_SIZE), of each duration (n,)."""
    bits = np.maximum(durations_ns, 1).astype(np.float64).view(np.int64)
    fine: NDArray[np.int64] = np.minimum(np.maximum((bits >> _DROPPED_BITS) - _FIRST, 0), FINE_SIZE - 1)
    return fine


def kernel_to_buckets(histogram: NDArray[np.integer]) -> NDArray[np.int64]:
    """Spread kernel counts (KERNEL_BUCKETS,) over the coarse buckets (len(BOUNDS_NS) + 1,); the sum stays."""
    return _spread(histogram, BOUNDS_NS.astype(np.float64))


def kernel_to_fine(histogram: NDArray[np.integer]) -> NDArray[np.int64]:
    """Spread kernel counts (KERNEL_BUCKETS,) over the fine buckets (FINE_SIZE,); the sum stays."""
    return _spread(histogram, _FINE_BOUNDS[1:-1])


def kernel_sum_ns(histogram: NDArray[np.integer]) -> int:
    """Return the durations of kernel counts (KERNEL_BUCKETS,) added up, each taken as its bucket's middle."""
    return int(histogram @ _middles(_KERNEL_BOUNDS))


def percentiles_ms(fine: NDArray[np.int64], percents: tuple[int, ...]) -> list[list[float | None]]:
    """Return, for each fine histogram (s, FINE_SIZE), its percentiles in ms; None where it is empty.

    A percentile is the nearest-rank one: the smallest duration that at least so many percent do not exceed.
    """
    reached = fine.cumsum(axis=1)
    totals = reached[:, -1]
    middles = _middles(_FINE_BOUNDS) / 1e6
    columns = []
    for percent in percents:
        ranks = -(-totals * percent // 100)
        columns.append(middles[(reached >= ranks[:, None]).argmax(axis=1)].tolist())
    return [
        list(row) if total else [None] * len(percents)
        for row, total in zip(zip(*columns, strict=True), totals.tolist(), strict=True)
    ]


def _spread(histogram: NDArray[np.integer], inner_bounds: NDArray[np.float64]) -> NDArray[np.int64]:
    reached = np.concatenate([[0.0], histogram.cumsum(dtype=np.float64)])
    inner = np.rint(np.interp(inner_bounds, _KERNEL_BOUNDS, reached))
    return np.diff(np.concatenate([[0.0], inner, reached[-1:]])).astype(np.int64)
