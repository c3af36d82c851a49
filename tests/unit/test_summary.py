"""Rules of the summary's table."""

from __future__ import annotations

from masdeepflow.summary import ServiceSummary, Summary, render

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


def test_summary_escapes_names() -> None:
    """A process may call itself anything: its name stays on its line and within its column."""
    evil = ServiceSummary("\x1b[2J\n" + "x" * 200, "http", "server", 1, 0, 1.0, 1.0, 1.0)
    lines = render(Summary(1, {}, [evil, NGINX])).splitlines()
    assert lines[4].startswith(r"\x1b[2J\x0axxx")
    assert all(line.isprintable() for line in lines)
    assert len({len(line) for line in lines[3:]}) == 1
    assert len(lines[4]) < 140
