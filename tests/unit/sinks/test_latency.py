"""Rules of latency histograms."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masdeepflow.sinks.latency import (
    BOUNDS_NS,
    BOUNDS_S,
    FINE_SIZE,
    KERNEL_BUCKETS,
    bucket_of,
    fine_of,
    kernel_sum_ns,
    kernel_to_buckets,
    kernel_to_fine,
    percentiles_ms,
)

DURATIONS = st.lists(st.integers(100, 10**14), min_size=1)
HISTOGRAMS = st.lists(st.integers(0, 1000), min_size=KERNEL_BUCKETS, max_size=KERNEL_BUCKETS)


def kernel_index(duration_ns: int) -> int:
    """Return the bucket as bpf/wire.h and the kernel side compute it."""
    units = duration_ns >> 10
    if units < 8:
        return units
    octave = units.bit_length() - 1
    return min(8 * (octave - 2) + ((units >> (octave - 3)) & 7), KERNEL_BUCKETS - 1)


def _fine(durations: list[int]) -> np.ndarray:
    return np.bincount(fine_of(np.array(durations)), minlength=FINE_SIZE)[None]


def _kernel(durations: list[int]) -> np.ndarray:
    return np.bincount([kernel_index(duration) for duration in durations], minlength=KERNEL_BUCKETS)


@pytest.mark.parametrize(
    ("duration_ns", "bound"), [(0, 0.0001), (100_000, 0.0001), (100_001, 0.00025), (10 * 10**9, 10.0)]
)
def test_coarse_bounds_are_inclusive(duration_ns: int, bound: float) -> None:
    """A duration is in the first bucket whose upper bound it does not exceed, as Prometheus wants it."""
    assert BOUNDS_S[bucket_of(np.array([duration_ns]))[0]] == bound


def test_durations_beyond_the_last_bound_have_a_bucket() -> None:
    """One more bucket follows for the rest."""
    assert bucket_of(np.array([10 * 10**9 + 1])).tolist() == [len(BOUNDS_NS)]


@settings(deadline=None)
@given(DURATIONS, st.sampled_from([50, 95, 99]))
def test_percentiles_are_within_two_percent(durations: list[int], percent: int) -> None:
    """A percentile is that of the durations themselves (nearest rank), at most 2 % off."""
    rank = -(-len(durations) * percent // 100)
    exact = sorted(durations)[rank - 1]
    ((estimate,),) = percentiles_ms(_fine([min(duration, 7 * 10**13) for duration in durations]), (percent,))
    assert estimate == pytest.approx(min(exact, 7 * 10**13) / 1e6, rel=0.02)


def test_percentiles_of_nothing_are_none() -> None:
    """A service without answers has no latency; others beside it do."""
    fine = np.concatenate([np.zeros((1, FINE_SIZE), np.int64), _fine([10**6])])
    (none, some) = percentiles_ms(fine, (50, 99))
    assert none == [None, None]
    assert some == pytest.approx([1.0, 1.0], rel=0.02)


def test_any_duration_has_a_fine_bucket() -> None:
    """What is shorter or longer than all buckets counts in the first or last."""
    assert fine_of(np.array([0, 1, 2**62])).tolist() == [0, 0, FINE_SIZE - 1]


@settings(deadline=None)
@given(HISTOGRAMS)
def test_spreading_kernel_counts_keeps_their_sum(histogram: list[int]) -> None:
    """No count appears or disappears, and none is negative."""
    counts = np.array(histogram, np.uint32)
    for spread in (kernel_to_buckets(counts), kernel_to_fine(counts)):
        assert spread.sum() == counts.sum()
        assert spread.min() >= 0


@settings(deadline=None)
@given(st.lists(st.integers(2**13, 2**38 - 1), min_size=1))
def test_kernel_counts_give_percentiles_as_exact_as_its_buckets(durations: list[int]) -> None:
    """From 8 us up kernel buckets are 12.5 % wide: a median from them is within that of the exact one."""
    exact = sorted(durations)[-(-len(durations) // 2) - 1]
    ((estimate,),) = percentiles_ms(kernel_to_fine(_kernel(durations))[None], (50,))
    assert estimate == pytest.approx(exact / 1e6, rel=0.15)


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**38 - 1)))
def test_kernel_counts_give_the_sum(durations: list[int]) -> None:
    """The sum of durations is estimated within half a bucket for each."""
    estimate = kernel_sum_ns(_kernel(durations)) if durations else 0
    assert abs(estimate - sum(durations)) <= sum(512 + duration / 16 + 1 for duration in durations)


@settings(deadline=None)
@given(st.lists(st.integers(0, 2**38 - 1), min_size=1))
def test_kernel_counts_land_in_the_buckets_of_their_durations(durations: list[int]) -> None:
    """Spread over coarse buckets, a duration moves no further than its kernel bucket reaches."""
    spread = kernel_to_buckets(_kernel(durations)).cumsum()
    for place, bound in enumerate(BOUNDS_NS.tolist()):
        low = sum(kernel_index(duration) < kernel_index(bound) for duration in durations)
        high = sum(kernel_index(duration) <= kernel_index(bound) for duration in durations)
        assert low <= spread[place] <= high
