"""`masdeepflow check`: the table, the JSON and the exit code."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from masdeepflow.kernel import host
from masdeepflow.kernel.host import Finding

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.conftest import Done

    Run = Callable[..., Done]

FINE = [Finding("kernel", "ok", "Linux 6.1"), Finding("TLS", "limited", "not decrypted")]
BAD = [*FINE, Finding("hook set", "missing", "refused", "use a newer kernel")]


def _findings(monkeypatch: pytest.MonkeyPatch, findings: list[Finding]) -> None:
    monkeypatch.setattr(host, "examine", lambda: findings)


def test_table_has_a_line_for_each_finding(masdeepflow: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Name, state and detail in columns; what is limited does not stop `run`."""
    _findings(monkeypatch, FINE)
    done = masdeepflow("check")
    assert done.code == 0
    assert done.out.splitlines() == [
        "kernel  ok       Linux 6.1",
        "TLS     limited  not decrypted",
        "run will work here",
    ]


def test_what_is_missing_comes_with_its_remedy(masdeepflow: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """And the exit code tells scripts that `run` would fail."""
    _findings(monkeypatch, BAD)
    done = masdeepflow("check")
    assert done.code == 1
    assert "hook set  missing  refused; use a newer kernel" in done.out
    assert done.out.endswith("run will not work here\n")


@pytest.mark.parametrize(("findings", "ready"), [(FINE, True), (BAD, False)])
def test_json_says_the_same_to_machines(
    masdeepflow: Run,
    monkeypatch: pytest.MonkeyPatch,
    findings: list[Finding],
    ready: bool,  # noqa: FBT001  # a case
) -> None:
    """One object, with the same exit code."""
    _findings(monkeypatch, findings)
    done = masdeepflow("check", "--json")
    told = json.loads(done.out)
    assert done.code == (0 if ready else 1)
    assert told["ready"] is ready
    assert [Finding(**finding) for finding in told["findings"]] == findings


def test_this_host_is_checked(masdeepflow: Run) -> None:
    """Whatever it can do: a table, no traceback, and a code that agrees with the last line."""
    done = masdeepflow("check")
    assert done.err == ""
    assert done.out.splitlines()[-1] == f"run will {'not ' if done.code else ''}work here"
