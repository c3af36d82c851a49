"""Names and lists from strangers."""

from __future__ import annotations

import pytest

from masdeepflow.enrich.kubernetes.limits import TEXT, Limits, addresses
from masdeepflow.enrich.kubernetes.state import Counters


def test_long_texts_are_cut_and_counted() -> None:
    """A label value may be 10 KB, whatever Kubernetes says."""
    limits = Limits(counters := Counters())
    assert limits.text("x" * TEXT) == "x" * TEXT
    assert counters.cut == 0
    assert limits.text("x" * 10_000) == "x" * TEXT
    assert counters.cut == 1


def test_long_lists_are_cut_and_counted() -> None:
    """Once each."""
    limits = Limits(counters := Counters())
    assert list(limits.first(range(3), 3)) == [0, 1, 2]
    assert counters.cut == 0
    assert list(limits.first(range(1_000), 3)) == [0, 1, 2]
    assert counters.cut == 1


@pytest.mark.parametrize(
    ("text", "address"),
    [("10.0.0.1", "10.0.0.1"), ("FD00:0::1", "fd00::1"), ("None", ""), ("", ""), ("10.0.0.1/8", "")],
)
def test_addresses_have_one_form(text: str, address: str) -> None:
    """The one that the kernel's are written in; what is none is left out."""
    assert list(addresses([text])) == ([address] if address else [])
