"""Rules of times as text."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from masdeepflow.sinks.stamps import latencies, micros, nanos
from masdeepflow.table import ABSENT
from tests.support.tables import SECOND, START

UNIX_NS = st.integers(0, 2**62)


@settings(deadline=None)
@given(st.lists(UNIX_NS))
def test_stamps_are_those_of_datetime(times: list[int]) -> None:
    """A time is shown in UTC and cut off, not rounded, after the last digit."""
    whole = [f"{datetime.fromtimestamp(time // SECOND, UTC):%Y-%m-%dT%H:%M:%S}" for time in times]
    column = np.array(times, np.int64)
    assert nanos(column) == [f"{text}.{time % SECOND:09d}Z" for text, time in zip(whole, times, strict=True)]
    micro = [f"{text}.{time % SECOND // 1000:06d}Z" for text, time in zip(whole, times, strict=True)]
    assert micros(column) == micro


def test_stamps_of_one_second() -> None:
    """Times within one second, which is what most batches hold, are told apart."""
    assert nanos(START + np.arange(2)) == ["2026-01-02T03:04:05.678901234Z", "2026-01-02T03:04:05.678901235Z"]
    assert micros(START + np.array([0, 1000])) == [
        "2026-01-02T03:04:05.678901Z",
        "2026-01-02T03:04:05.678902Z",
    ]


@pytest.mark.parametrize(
    ("duration_ns", "shown"),
    [
        (0, "0.00ms"),
        (4_999, "0.00ms"),
        (5_000, "0.01ms"),
        (530_000, "0.53ms"),
        (9_994_999, "9.99ms"),
        (9_995_000, "10ms"),
        (10_000_000, "10ms"),
        (10_499_999, "10ms"),
        (10_500_000, "11ms"),
        (53_000_000, "53ms"),
        (3_600_000_000_000, "3600000ms"),
        (ABSENT, "unknown"),
    ],
)
def test_latency_is_whole_milliseconds_from_ten_up(duration_ns: int, shown: str) -> None:
    """Two decimals below 10 ms, none from there, decided after rounding half up."""
    assert latencies(np.array([duration_ns])) == [shown]
