"""Waits between tries."""

from __future__ import annotations

from masdeepflow.enrich.kubernetes.backoff import Backoff


def test_waits_double_up_to_a_limit() -> None:
    """Each between half and all of its step."""
    backoff = Backoff(1, 10)
    for step in (1, 2, 4, 8, 10, 10, 10):
        assert step / 2 <= backoff.wait_s() <= step


def test_a_success_begins_again() -> None:
    """So that one failure a day is not waited for as the hundredth in a row."""
    backoff = Backoff(1, 1000)
    for _ in range(10):
        backoff.wait_s()
    backoff.reset()
    assert backoff.wait_s() <= 1


def test_agents_do_not_come_at_once() -> None:
    """Their waits differ."""
    assert len({Backoff(1, 10).wait_s() for _ in range(10)}) > 1


def test_what_a_server_asks_for_is_waited() -> None:
    """Within reason."""
    assert Backoff(1, 10).wait_s(15) == 15
    assert Backoff(1, 10).wait_s(1e9) == 20
