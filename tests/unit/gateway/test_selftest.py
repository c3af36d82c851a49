"""What the self-test makes of its results."""

from __future__ import annotations

import platform

import pytest

from masdeepflow.gateway.selftest import Result, Verdict, refusal


@pytest.mark.parametrize("verdict", ["same", "excluded"])
def test_what_is_the_same_or_guarded_does_not_refuse(verdict: Verdict) -> None:
    """Calls that redirection can't serve are kept away from it, by a guard that was seen to work."""
    assert refusal([Result("FIONREAD", 1, 2, verdict)]) is None


@pytest.mark.parametrize("verdict", ["differs", "not redirected"])
def test_a_refusal_names_the_behaviour_and_the_kernel(verdict: Verdict) -> None:
    """A pair that was not redirected at all has proved nothing either."""
    told = refusal([Result("FIONREAD", 1, 1, "same"), Result("MSG_PEEK", b"a", b"b", verdict)])
    assert told is not None
    assert f"MSG_PEEK ({verdict})" in told
    assert platform.release() in told
    assert "FIONREAD" not in told


def test_a_kernel_that_redirects_nothing_is_told_by_that_alone() -> None:
    """Not by the names of all behaviours, which nothing was found out about."""
    told = refusal([Result(name, 1, 1, "not redirected") for name in ("FIONREAD", "MSG_PEEK")])
    assert told == f"no connection could be redirected on Linux {platform.release()}"
