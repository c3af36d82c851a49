"""Rules of the summary's table."""

from __future__ import annotations

import pytest

from masdeepflow.summary import Coverage, ServiceSummary, Summary, render

NGINX = ServiceSummary("nginx", "http", "server", 123456, 7, 0.534, 9.9951, 1234.4)
CURL = ServiceSummary("curl", "tcp", "", 2, 0, None, None, None)


def test_summary_shows_what_was_seen_lost_and_served() -> None:
    """Records, losses by reason, and a table whose figures stand right-aligned under their headings."""
    shown = render(Summary(246913, {"ring_full": 12, "no_memory": 0, "log": 3}, [NGINX, CURL]))
    assert shown.splitlines() == [
        "seen  246913 records",
        "lost  15 (ring_full 12, log 3)",
        "",
        "service  protocol  role    requests  errors     p50   p95     p99",
        "nginx    http      server    123456       7  0.53ms  10ms  1234ms",
        "curl     tcp       -              2       0       -     -       -",
    ]


def test_summary_of_a_run_without_losses_and_services() -> None:
    """Nothing lost is a plain 0; without services there is no table."""
    assert render(Summary(0, {"ring_full": 0})) == "seen  0 records\nlost  0\n"


def test_summary_tells_what_was_forgotten() -> None:
    """What had to go before its time, by table and protocol, and what that means; else no line."""
    shown = render(Summary(9, {}, forgotten={"connections": 7, "names": 0, "mysql": 2}))
    assert shown.splitlines()[2] == (
        "forgot 9 (connections 7, mysql 2): later records may lack a name, a statement or an end"
    )
    assert render(Summary(9, {}, forgotten={"names": 0})) == "seen  9 records\nlost  0\n"


def test_summary_tells_whose_connections_failed_and_why() -> None:
    """A service that reaches nobody has no request to stand in the table with; else there is no line."""
    failed = {("api", "ECONNREFUSED"): 2, ("e\nvil", "EHOSTUNREACH"): 7}
    broken = {(f"s{number}", "ECONNRESET"): 1 for number in range(7)}
    lines = render(Summary(9, {}, failed_connects=failed, broken_connections=broken)).splitlines()
    assert lines[2:] == [
        r"failed  9 connects (e\x0avil EHOSTUNREACH 7, api ECONNREFUSED 2)",
        f"broken  7 connections ({', '.join(f's{number} ECONNRESET 1' for number in range(5))}, 2 more)",
    ]
    one = Summary(9, {}, failed_connects={("api", "closed"): 1})
    assert render(one).splitlines()[2] == "failed  1 connect (api closed 1)"


def test_summary_escapes_names() -> None:
    """A process may call itself anything: its name stays on its line and within its column."""
    evil = ServiceSummary("\x1b[2J\n" + "x" * 200, "http", "server", 1, 0, 1.0, 1.0, 1.0)
    lines = render(Summary(1, {}, [evil, NGINX])).splitlines()
    assert lines[4].startswith(r"\x1b[2J\x0axxx")
    assert all(line.isprintable() for line in lines)
    assert len({len(line) for line in lines[3:]}) == 1
    assert len(lines[4]) < 140


@pytest.mark.parametrize(
    ("parsed", "moved", "ratio"), [(992, 1000, 0.992), (0, 5, 0), (5, 5, 1), (6, 5, 1), (0, 0, 1), (1, 0, 1)]
)
def test_coverage_is_a_ratio(parsed: int, moved: int, ratio: float) -> None:
    """From 0 to 1, whatever was read between the two counts."""
    assert Coverage("x", parsed, moved).ratio == ratio


def test_summary_names_who_was_not_understood() -> None:
    """What of the bytes was read as requests, and where most of the rest is; 100% is all, not nearly all."""
    coverage = [
        Coverage("nginx", 99_999_999, 100_000_000),
        Coverage("curl", 5, 5),
        Coverage("s\nshd", 0, 100),
    ]
    assert render(Summary(1, {}, [], coverage)).splitlines()[2] == (
        r"read  99.9% of the bytes moved (s\x0ashd 0.0%, nginx 99.9%)"
    )
    assert render(Summary(1, {}, [], coverage[1:2])).splitlines()[2] == "read  100% of the bytes moved"
    many = [Coverage(f"s{number}", 0, number) for number in range(1, 9)]
    assert render(Summary(1, {}, [], many)).splitlines()[2] == (
        "read  0.0% of the bytes moved (s8 0.0%, s7 0.0%, s6 0.0%, s5 0.0%, s4 0.0%, 3 more)"
    )


def test_summary_tells_of_parsers_that_failed() -> None:
    """A defect that somebody should hear of."""
    lines = render(Summary(1, failures={"redis": 2, "x\x1b[m": 1})).splitlines()
    assert lines[2] == r"parsers failed at 3 batches (redis 2, x\x1b[m 1)"
    assert render(Summary(1, failures={"redis": 1})).splitlines()[2] == "parsers failed at 1 batch (redis 1)"
