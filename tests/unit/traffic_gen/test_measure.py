"""Percentiles and progress."""

from __future__ import annotations

import pytest

from masdeepflow.traffic_gen.measure import EverySecond, Latencies, repeat_for


def test_percentiles_are_nearest_rank() -> None:
    """The p-th percentile is the smallest latency that p percent of all do not exceed."""
    latencies = Latencies()
    for microseconds in range(1, 101):
        latencies.add(microseconds * 1000)
    assert [latencies.percentile_us(percent) for percent in (1, 50, 90, 99, 100)] == [1, 50, 90, 99, 100]
    assert latencies.max_us() == 100
    assert len(latencies) == 100


def test_many_latencies_at_once_count_as_one_by_one() -> None:
    """A loop that measures can put off the counting."""
    latencies = Latencies()
    latencies.add(1000)
    latencies.add_all(iter([3000, 2000]))
    assert [latencies.percentile_us(percent) for percent in (33, 66, 100)] == [1, 2, 3]


def test_no_latencies_give_zero() -> None:
    """A run that was stopped at once can still be summed up."""
    assert Latencies().percentile_us(99) == 0
    assert Latencies().max_us() == 0


def test_resolution_is_a_tenth_of_a_microsecond() -> None:
    """Latencies are cut to 0.1 us, so that memory does not grow with their number."""
    latencies = Latencies()
    latencies.add(1_234_567)
    assert latencies.percentile_us(50) == pytest.approx(1234.5)


def test_every_second_speaks_once_a_second() -> None:
    """Each second is told once, and seconds that passed in between are skipped, not told late."""
    clock = EverySecond(100.0)
    times = (100.5, 101.0, 101.5, 104.2, 104.9, 105.0)
    assert [clock.due(now) for now in times] == [0, 1, 0, 4, 0, 5]


def test_repeat_for_runs_at_least_that_long() -> None:
    """Steps go on until the duration is over, and progress comes once a second."""
    seconds: list[int] = []
    assert repeat_for(1.05, lambda: None, seconds.append) >= 1.05
    assert seconds == [1]


def test_repeat_for_ends_on_interrupt() -> None:
    """SIGINT ends the run, and the time so far is still returned."""

    def step() -> None:
        raise KeyboardInterrupt

    assert repeat_for(3600, step, lambda _: None) < 3600
