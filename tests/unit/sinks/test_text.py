"""Rules of the text log: the interface's lines, character by character."""

from __future__ import annotations

import errno
import re
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from masdeepflow.schema import Kind
from masdeepflow.sinks.text import TextLog
from tests.support.tables import (
    CLIENT,
    MILLISECOND,
    SECOND,
    SERVER,
    START,
    endpoints,
    make_events,
    make_output,
    make_table,
)

if TYPE_CHECKING:
    from tests.unit.sinks.conftest import Logged

ANY_TEXT = st.text(st.characters(exclude_categories=()))
FIRST = "2026-01-02T03:04:05.678901Z [INFO] [TCP]"
LATER = "2026-01-02T03:04:05.731901Z [INFO] [TCP]"
MOVED = "HTTP Response: HTTP/1.1 301 Moved Permanently"
GIVEN_UP = "Connect failed: closed before it completed"
CLIENT_END = "PID: 4242, Comm: curl, 127.0.0.1:50000 -> 127.0.0.1:80"
SERVER_END = "PID: 80, Comm: nginx, 127.0.0.1:80 -> 127.0.0.1:50000"


def test_client_sends_its_request_and_receives_its_response(logged: Logged) -> None:
    """A client's transaction is TX at its start and RX at its end; pod and container may be empty."""
    row = {
        "request_text": "MySQL Query: SELECT 1;",
        "response_text": "MySQL Response: OK",
        "duration_ns": 53 * MILLISECOND,
    }
    assert logged(TextLog, make_output(make_table(row, protocol="mysql"))) == [
        f"{FIRST} Type: TX, {CLIENT_END}, MySQL Query: SELECT 1;, , ",
        f"{LATER} Type: RX, {CLIENT_END}, MySQL Response: OK, , Latency: 53ms",
    ]


def test_server_receives_the_request_and_sends_its_response(logged: Logged) -> None:
    """A server's transaction is the other way round; pod and container stand where they are known."""
    row = {
        "request_text": "HTTP Request: GET /path?query HTTP/1.1",
        "response_text": MOVED,
        "end": replace(SERVER, pod="web-0", container="nginx"),
    }
    assert logged(TextLog, make_output(make_table(row))) == [
        f"{FIRST} Type: RX, {SERVER_END}, HTTP Request: GET /path?query HTTP/1.1, web-0, nginx",
        f"2026-01-02T03:04:05.690901Z [INFO] [TCP] Type: TX, {SERVER_END}, {MOVED}, web-0, Latency: 12ms",
    ]


def test_connection_events_have_no_summary(logged: Logged) -> None:
    """CONNECT, ACCEPT and CLOSE end with the addresses; what failed or was broken tells why."""
    events = make_events(
        {"kind": Kind.CONNECT},
        {"kind": Kind.ACCEPT, "end": SERVER},
        {"kind": Kind.CONNECT_FAILED, "error": errno.ECONNREFUSED},
        {"kind": Kind.CONNECT_FAILED},
        {"kind": Kind.CONNECT_FAILED, "error": 9999},
        {"kind": Kind.CLOSE},
        {"kind": Kind.CLOSE, "error": errno.ECONNRESET},
    )
    assert logged(TextLog, make_output(events=events)) == [
        f"{FIRST} Type: CONNECT, {CLIENT_END}",
        f"2026-01-02T03:04:06.678901Z [INFO] [TCP] Type: ACCEPT, {SERVER_END}",
        f"2026-01-02T03:04:07.678901Z [INFO] [TCP] Type: CONNECT, {CLIENT_END}, Connect failed: ECONNREFUSED",
        f"2026-01-02T03:04:08.678901Z [INFO] [TCP] Type: CONNECT, {CLIENT_END}, {GIVEN_UP}",
        f"2026-01-02T03:04:09.678901Z [INFO] [TCP] Type: CONNECT, {CLIENT_END}, Connect failed: errno 9999",
        f"2026-01-02T03:04:10.678901Z [INFO] [TCP] Type: CLOSE, {CLIENT_END}",
        f"2026-01-02T03:04:11.678901Z [INFO] [TCP] Type: CLOSE, {CLIENT_END}, Connection broken: ECONNRESET",
    ]


def test_a_connect_that_failed_late_tells_how_long_it_waited(logged: Logged) -> None:
    """What was refused at once does not; of errnos that say little there are words."""
    rows = (
        (errno.ECONNREFUSED, 9_999_999),
        (errno.ETIMEDOUT, 1200 * MILLISECOND),
        (errno.ECANCELED, 10 * MILLISECOND),
        (errno.EADDRNOTAVAIL, 1000),
    )
    kind = {"kind": Kind.CONNECT_FAILED}
    events = make_events(*({**kind, "error": error, "duration_ns": duration} for error, duration in rows))
    assert [
        line.partition("Connect failed: ")[2] for line in logged(TextLog, make_output(events=events))
    ] == [
        "ECONNREFUSED",
        "ETIMEDOUT, Waited: 1200ms",
        "ECANCELED: given up before an answer came, Waited: 10ms",
        "EADDRNOTAVAIL: no local port was left",
    ]


def test_transport_is_shown(logged: Logged) -> None:
    """UDP and UNIX stand in TCP's place."""
    udp = replace(CLIENT, transport="udp")
    unix = replace(CLIENT, transport="unix", local="unix:1", remote="/run/db.sock")
    lines = logged(TextLog, make_output(make_table({"end": udp}, {"end": unix})))
    assert [re.findall(r"\[(TCP|UDP|UNIX)\]", line) for line in lines] == [["UDP"]] * 2 + [["UNIX"]] * 2
    assert "unix:1 -> /run/db.sock, HTTP" in lines[2]


def test_waiting_request_is_shown_once(logged: Logged) -> None:
    """A request that waits is shown when it is seen, its response when it comes, each once."""
    waiting = make_table({"still_open": True, "duration_ns": -1})
    still = make_table({"still_open": True, "shown": True, "duration_ns": -1})
    done = make_table({"shown": True})
    lines = logged(TextLog, make_output(waiting), make_output(still), make_output(done))
    assert ["Request" in line for line in lines] == [True, False]
    assert lines[1].endswith(", , Latency: 12ms")


def test_no_line_for_what_has_no_text(logged: Logged) -> None:
    """A side that was not there, or has nothing to show, gives no line; an unknown latency says so."""
    table = make_table(
        {"request_text": None, "duration_ns": -1, "response_text": "MySQL Response: Greeting"},
        {"response_text": None},
        {"request_text": None, "response_text": None},
    )
    lines = logged(TextLog, make_output(table))
    assert [line.partition("127.0.0.1:80, ")[2] for line in lines] == [
        "MySQL Response: Greeting, , Latency: unknown",
        "HTTP Request: GET / HTTP/1.1, , ",
    ]


def test_a_request_that_is_never_answered_has_a_line_that_says_why(logged: Logged) -> None:
    """In the response's place and direction, at its end, with how long it waited, if that is known."""
    lost = {
        "response_text": None,
        "response_bytes": 0,
        "error": True,
        "duration_ns": -1,
        "masdeepflow.waited_ns": 1501 * MILLISECOND,
    }
    lost |= {"end_ns": START + 1501 * MILLISECOND}
    table = make_table(
        {**lost, "error.type": "closed", "start_ns": START},
        {**lost, "error.type": "closed", "masdeepflow.closed_by": "client"},
        {**lost, "error.type": "reset", "masdeepflow.closed_by": "server"},
        {**lost, "error.type": "closed", "masdeepflow.waited_ns": None, "end": replace(SERVER, pod="web-0")},
        {**lost, "error.type": "timeout", "request_text": "DNS Query: A a.test"},
        {**lost, "error.type": "closed", "request_text": "MySQL Process Kill: 7"},
        {**lost, "error.type": "odd\n", "request_text": "Toy Command: x", "response_bytes": 1},
    )
    stamp = "2026-01-02T03:04:07.179901Z [INFO] [TCP] Type:"
    lines = logged(TextLog, make_output(table))
    assert [line for line in lines if "Response" in line] == [
        f"{stamp} RX, {CLIENT_END}, HTTP Response: none (connection closed), , Waited: 1501ms",
        f"{stamp} RX, {CLIENT_END}, HTTP Response: none (connection closed by client), , Waited: 1501ms",
        f"{stamp} RX, {CLIENT_END}, HTTP Response: none (connection reset by server), , Waited: 1501ms",
        f"{stamp} TX, {SERVER_END}, HTTP Response: none (connection closed), web-0, Waited: unknown",
        f"{stamp} RX, {CLIENT_END}, DNS Response: none (timed out), , Waited: 1501ms",
        f"{stamp} RX, {CLIENT_END}, MySQL Response: none (connection closed), , Waited: 1501ms",
        f"{stamp} RX, {CLIENT_END}, Toy Response: unfinished (odd\\x0a), , Waited: 1501ms",
    ]


def test_nothing_is_said_of_what_is_not_lost(logged: Logged) -> None:
    """Not of what waits, of what was answered, of a request that was not shown, nor without a reason."""
    lost = {
        "response_text": None,
        "error": True,
        "duration_ns": -1,
        "masdeepflow.waited_ns": 5,
        "error.type": "closed",
    }
    rows: list[dict[str, Any]] = [
        {**lost, "still_open": True},
        {**lost, "response_text": MOVED},
        {**lost, "request_text": None},
        {**lost, "error.type": None},
    ]
    lines = logged(TextLog, make_output(make_table(*rows), make_table(lost, protocol="tcp")))
    assert not any("Response: none" in line for line in lines)
    assert len(lines) == 4


def test_unrecognised_protocols_give_no_lines(logged: Logged) -> None:
    """Bytes of no known protocol are counted elsewhere, not shown."""
    assert logged(TextLog, make_output(make_table({}, protocol="tcp"))) == []


def test_lines_are_ordered_by_time(logged: Logged) -> None:
    """Requests, responses and events of all tables come by their own time."""
    slow = make_table({"request_text": "a", "response_text": "d", "duration_ns": 4 * SECOND})
    quick = make_table(
        {"request_text": "b", "response_text": "c", "start_ns": START + SECOND}, protocol="mysql"
    )
    close = make_events({"kind": Kind.CLOSE, "time_ns": START + 5 * SECOND}, {"time_ns": START - SECOND})
    lines = logged(TextLog, make_output(slow, quick, events=close))
    marks = [re.sub(r".*Type: (CLOSE|CONNECT).*|.*:80, (\w),.*", r"\1\2", line) for line in lines]
    assert marks == ["CONNECT", "a", "b", "c", "d", "CLOSE"]


def test_events_stand_around_the_requests_of_the_same_moment(logged: Logged) -> None:
    """At equal times a connection opens before its request and closes after its response."""
    table = make_table({"duration_ns": 0, "start_ns": START})
    events = make_events({"kind": Kind.CLOSE, "time_ns": START}, {"kind": Kind.CONNECT, "time_ns": START})
    lines = logged(TextLog, make_output(table, events=events))
    assert [re.findall(r"Type: (\w+)", line)[0] for line in lines] == ["CONNECT", "TX", "RX", "CLOSE"]


def test_lines_wait_for_the_watermark(logged: Logged) -> None:
    """A later batch may hold an earlier line, until the watermark says that it cannot."""
    first = make_output(make_table({"request_text": "late"}), watermark_ns=START - 1)
    second = make_output(
        make_table({"request_text": "early", "start_ns": START - SECOND}), watermark_ns=START
    )
    lines = [line for line in logged(TextLog, first, second) if "Response" not in line]
    assert ["early" in line for line in lines] == [True, False]


def test_each_row_has_its_own_endpoint_and_texts(logged: Logged) -> None:
    """Fragments are rendered once for many rows, and never mixed up."""
    ends = endpoints(40)
    rows = [
        {"end": ends[number % 40], "request_text": f"Q{number % 7}", "response_text": f"A{number % 3}"}
        for number in range(500)
    ]
    lines = logged(TextLog, make_output(make_table(*rows)))
    expected = []
    for number, row in enumerate(rows):
        end = ends[number % 40]
        request, response = ("RX", "TX") if end.role == "server" else ("TX", "RX")
        head = f"PID: {end.pid}, Comm: {end.comm}, {end.local} -> {end.remote}"
        expected.append(f"Type: {request}, {head}, {row['request_text']}, , ")
        expected.append(f"Type: {response}, {head}, {row['response_text']}, , Latency: 12ms")
    assert [line.partition("[TCP] ")[2] for line in lines] == expected


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=50, deadline=None)
@given(ANY_TEXT, ANY_TEXT, ANY_TEXT)
def test_no_control_character_survives(logged: Logged, text: str, comm: str, path: str) -> None:
    """Whatever is in a payload, a process's name or a path, an event is one printable line."""
    end = replace(CLIENT, comm=comm, remote=path, pod=comm, container=path)
    lines = logged(
        TextLog, make_output(make_table({"request_text": text, "response_text": text, "end": end}))
    )
    assert all(line.isprintable() for line in lines[-2:])
    assert len(lines) % 2 == 0


def test_line_is_bounded(logged: Logged) -> None:
    """A line stays below 16 KiB, whatever it is made of."""
    end = replace(CLIENT, comm="\u65e5" * 9999, remote="x" * 9999, pod="\n" * 9999, container="y" * 9999)
    row = {"request_text": "\x00" * 99_999, "response_text": "\u65e5" * 99_999, "end": end}
    lines = logged(TextLog, make_output(make_table(row)))
    assert [15 * 1024 < len(line.encode()) < 17 * 1024 for line in lines] == [True, True]
