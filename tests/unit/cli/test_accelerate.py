"""`masdeepflow accelerate`: arguments, tables and exit codes."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING

import pytest

from masdeepflow.cli import accelerate
from masdeepflow.cli.errors import UsageError
from masdeepflow.gateway import kept, selftest
from masdeepflow.gateway.selftest import Result
from masdeepflow.kernel import host

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.unit.conftest import Done

    Run = Callable[..., Done]

FINE = [
    Result("FIONREAD", 1, 1, "same"),
    Result("MSG_WAITALL, bytes first", b"0123456789", b"01234", "excluded"),
]
BAD = [*FINE, Result("MSG_PEEK", b"a" * 200, "timeout", "differs")]


@pytest.fixture(autouse=True)
def _able(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(host, "missing_capabilities", list)
    monkeypatch.setattr(host, "has_btf", lambda: True)


@pytest.mark.parametrize(
    ("text", "ports"), [("8080", [8080]), ("8080,3306", [3306, 8080]), (" 1 , 65535,1", [1, 65535])]
)
def test_ports_are_a_list(text: str, ports: list[int]) -> None:
    """With commas, in any order, and once each."""
    assert accelerate.parse_ports(text) == ports


@pytest.mark.parametrize("text", ["", "0", "65536", "http", "1,,2", "-1", "1.5", "٣", "1 2"])
def test_what_is_no_port_is_named(text: str) -> None:
    """Before anything is attached."""
    with pytest.raises(UsageError, match="is no port"):
        accelerate.parse_ports(text)


def test_too_many_ports_are_refused() -> None:
    """The kernel's table of ports is bounded."""
    with pytest.raises(UsageError, match="1025 ports"):
        accelerate.parse_ports(",".join(str(port) for port in range(1, 1026)))


def test_wrong_ports_end_with_exit_code_2(masdeepflow: Run) -> None:
    """Wrong usage, as everywhere."""
    assert masdeepflow("accelerate", "run", "--ports", "x").code == 2
    assert masdeepflow("accelerate", "run").code == 2


def test_without_capabilities_it_says_what_is_missing(
    masdeepflow: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And what to do."""
    monkeypatch.setattr(host, "missing_capabilities", lambda: ["CAP_BPF"])
    done = masdeepflow("accelerate", "selftest")
    assert done.code == 1
    assert "CAP_BPF missing: run it as root" in done.err


def test_the_table_shows_what_was_seen_where_it_differs(
    masdeepflow: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What plain TCP did, what the redirected socket did, and what follows from it."""
    monkeypatch.setattr(selftest, "run", lambda _chosen: FINE)
    done = masdeepflow("accelerate", "selftest")
    assert done.code == 0
    assert "FIONREAD                  same\n" in done.out
    assert "plain: b'0123456789'\n    accelerated: b'01234'" in done.out
    assert "programs that are seen to do this are not accelerated any more" in done.out


def test_a_refusal_is_exit_code_1(masdeepflow: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """With the behaviour's name; long values are cut to a line."""
    monkeypatch.setattr(selftest, "run", lambda _chosen: BAD)
    done = masdeepflow("accelerate", "selftest")
    assert done.code == 1
    assert "MSG_PEEK (differs)" in done.out.splitlines()[-1]
    assert max(map(len, done.out.splitlines()[:-1])) < 120


@pytest.mark.parametrize("results", [FINE, BAD])
def test_json_says_the_same_to_machines(
    masdeepflow: Run, monkeypatch: pytest.MonkeyPatch, results: list[Result]
) -> None:
    """One object with every row."""
    monkeypatch.setattr(selftest, "run", lambda _chosen: results)
    done = masdeepflow("accelerate", "selftest", "--json")
    told = json.loads(done.out)
    assert told["usable"] == (results is FINE)
    assert [row["verdict"] for row in told["results"]] == [result.verdict for result in results]


def test_a_kernel_that_refuses_the_programs_is_no_traceback(
    masdeepflow: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The kernel's own reason in one sentence."""

    def refuse(_chosen: object) -> None:
        raise OSError(13, "Permission denied")

    monkeypatch.setattr(selftest, "run", refuse)
    done = masdeepflow("accelerate", "selftest")
    assert (done.code, "Permission denied" in done.err) == (1, True)


def test_status_without_a_gateway_is_exit_code_1(masdeepflow: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts can ask whether one runs."""
    monkeypatch.setattr(kept, "all_kept", lambda _layout: [])
    done = masdeepflow("accelerate", "status")
    assert (done.code, done.out) == (1, "no gateway runs on this host\n")
    assert json.loads(masdeepflow("accelerate", "status", "--json").out) == {"gateways": []}
