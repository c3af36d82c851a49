"""The two kinds of error that users see."""

from __future__ import annotations

import pytest

from masdeepflow.cli.errors import HostError, UsageError


@pytest.mark.parametrize(("kind", "code"), [(HostError, 1), (UsageError, 2)])
def test_each_kind_has_its_documented_exit_code(kind: type[HostError | UsageError], code: int) -> None:
    """1 when this host can't do it, 2 when nothing could; the sentence is shown as it is."""
    error = kind("what, why, and what to try")
    assert error.exit_code == code
    assert error.format_message() == "what, why, and what to try"
