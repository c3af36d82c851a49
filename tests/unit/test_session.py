"""A run from options to exit code, over a kernel side that the test makes up; and its replay."""

from __future__ import annotations

import errno
import json
import logging
import os
import signal
import socket
import sys
import threading
import urllib.request
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from masdeepflow import session
from masdeepflow.cli.errors import HostError, UsageError
from masdeepflow.cli.options import Options
from masdeepflow.enrich.facts import PodFact, ProcessFact
from masdeepflow.enrich.lookups import Lookups
from masdeepflow.gateway import service
from masdeepflow.gateway.pairs import Totals
from masdeepflow.gateway.service import RefusedError
from masdeepflow.recording import Recorder
from masdeepflow.redaction import redact_table
from tests.support.probes import FakeProbes
from tests.support.programs import run
from tests.support.slots import turn

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from masdeepflow.enrich.facts import Fact

GET = b"GET /%d?name=bob HTTP/1.1\r\nHost: x\r\n\r\n"
OK = b"HTTP/1.1 200 OK\r\n\r\n"
SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGUSR1, signal.SIGHUP)
QUIET = Options(log="off")


@pytest.fixture
def probes(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeProbes]:
    """Take the place of the kernel side; what a session changes for good is put back."""
    probes = FakeProbes()
    monkeypatch.setattr(session, "_load_probes", lambda _options: probes)
    monkeypatch.setattr("os.setpriority", lambda *_: None)
    monkeypatch.setattr("os.sched_setscheduler", lambda *_: None)
    monkeypatch.setattr("gc.freeze", lambda: None)
    before = [signal.getsignal(number) for number in SIGNALS]
    yield probes
    for number, handler in zip(SIGNALS, before, strict=True):
        signal.signal(number, handler)


def _at_poll(probes: FakeProbes, *steps: Callable[[], object]) -> None:
    """Do one step at each poll; the run is over after the last."""
    todo = [*steps, _kill(signal.SIGTERM)]

    def sweep() -> None:
        if todo:
            todo.pop(0)()

    probes.on_sweep = sweep


def _send(probes: FakeProbes, count: int = 1, first: int = 0) -> Callable[[], None]:
    """Return a step: this process makes so many requests."""
    return lambda: probes.ring.add(
        *(turn(GET % number, OK, pid=os.getpid()) for number in range(first, first + count))
    )


def _kill(number: int) -> Callable[[], None]:
    return lambda: os.kill(os.getpid(), number)


# --- run ---


def test_run_shows_lines_and_a_summary(probes: FakeProbes, capfd: pytest.CaptureFixture[str]) -> None:
    """Ready on stderr, lines on stdout, in the end the summary on stderr; exit code 0."""
    _at_poll(probes, _send(probes, 2))
    assert session.run_live(Options(log="text")) == 0
    out, err = capfd.readouterr()
    assert [line.partition("[TCP] ")[2].partition(",")[0] for line in out.splitlines()] == [
        "Type: TX",
        "Type: RX",
    ] * 2
    assert err.startswith("ready: hooks=socket\nseen  2 records\nlost  3 (event_ring_full 2, no_memory 1)\n")
    assert "client   http      client         2       0" in err
    assert probes.closed


def test_run_speaks_json(probes: FakeProbes, capfd: pytest.CaptureFixture[str]) -> None:
    """Every line an object, the last the summary."""
    _at_poll(probes, _send(probes))
    session.run_live(Options(log="json"))
    transaction, final = map(json.loads, capfd.readouterr().out.splitlines())
    assert transaction["url.path"] == "/0"
    assert (final["event"], final["records"], final["lost"]["log"]) == ("summary", 1, 0)


def test_log_off_silences_lines_only(probes: FakeProbes, capfd: pytest.CaptureFixture[str]) -> None:
    """Requests are parsed and counted all the same."""
    _at_poll(probes, _send(probes, 3))
    session.run_live(QUIET)
    out, err = capfd.readouterr()
    assert out == ""
    assert "http      client         3" in err


def test_run_ends_after_its_duration(probes: FakeProbes, capfd: pytest.CaptureFixture[str]) -> None:
    """Without any signal."""
    assert session.run_live(replace(QUIET, duration=0.05)) == 0
    assert "seen  0 records" in capfd.readouterr().err
    assert probes.closed


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_both_signals_end_the_run_in_order(
    probes: FakeProbes, capfd: pytest.CaptureFixture[str], number: int
) -> None:
    """What is in the ring is still shown, and the exit code is 0."""
    _at_poll(probes, _send(probes), _kill(number), _send(probes, first=1))
    assert session.run_live(QUIET) == 0
    assert "seen  2 records" in capfd.readouterr().err


def test_a_signal_asks_for_the_summary(probes: FakeProbes, capfd: pytest.CaptureFixture[str]) -> None:
    """SIGUSR1 prints it at once and the run goes on."""
    _at_poll(probes, _send(probes), _kill(signal.SIGUSR1), _send(probes, first=1))
    session.run_live(QUIET)
    err = capfd.readouterr().err
    assert err.index("seen  1 records") < err.index("seen  2 records")
    assert err.count("seen ") == 2


def test_a_signal_reloads_filters_and_redaction(
    probes: FakeProbes, capfd: pytest.CaptureFixture[str]
) -> None:
    """SIGHUP takes them over for what comes next, and says what it can't change."""
    options = iter([Options(redact=True), Options(exclude=("port=80",))])
    steps = [
        _send(probes),
        _kill(signal.SIGHUP),
        _send(probes, first=1),
        _kill(signal.SIGHUP),
        _send(probes, first=2),
    ]
    _at_poll(probes, *steps)
    session.run_live(Options(log="text"), reload=lambda: next(options))
    out, err = capfd.readouterr()
    first, second = [line for line in out.splitlines() if "GET" in line]
    assert "/0?name=bob" in first
    assert "/1?name=REDACTED" in second
    assert err.count("reloaded: include, exclude and redact; other options need a restart") == 2


@pytest.mark.parametrize("options", [UsageError("the file is bad"), Options(include=("nginx",))])
def test_a_bad_reload_changes_nothing(
    probes: FakeProbes, capfd: pytest.CaptureFixture[str], options: UsageError | Options
) -> None:
    """The agent goes on as it was, and one line says why."""

    def reload() -> Options:
        if isinstance(options, UsageError):
            raise options
        return options

    _at_poll(probes, _kill(signal.SIGHUP), _send(probes))
    assert session.run_live(Options(log="text", redact=True), reload=reload) == 0
    out, err = capfd.readouterr()
    assert "/0?name=REDACTED" in out
    (line,) = [line for line in err.splitlines() if "reloaded" in line]
    assert line.startswith("masdeepflow: not reloaded: ")


def test_a_reload_without_a_way_to_reload_is_ignored(
    probes: FakeProbes, capfd: pytest.CaptureFixture[str]
) -> None:
    """SIGHUP, which a closed terminal sends, never ends the agent."""
    _at_poll(probes, _kill(signal.SIGHUP), _send(probes))
    assert session.run_live(QUIET) == 0
    assert "seen  1 records" in capfd.readouterr().err


def test_a_parser_that_fails_is_told_in_the_end(
    probes: FakeProbes, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its turns are shown as tcp, and the agent goes on to the end."""

    def fail(_self: object, slots: object) -> None:
        raise ValueError(slots)

    monkeypatch.setattr("masdeepflow.protocols.http.Http.parse", fail)
    _at_poll(probes, _send(probes), _send(probes))
    assert session.run_live(Options(log="json")) == 0
    out, err = capfd.readouterr()
    assert [found.get("protocol") for found in map(json.loads, out.splitlines())] == ["tcp", "tcp", None]
    assert "parsers failed at 2 batches (http 2)" in err


def test_what_a_parser_raises_can_not_reach_the_terminal_raw(capfd: pytest.CaptureFixture[str]) -> None:
    """It may quote what strangers sent: line by line, escaped."""
    root = logging.getLogger()
    before, root.handlers = root.handlers, []
    try:
        session._log_to_stderr()
        root.error("broken:\n%s \x1b[31m\u202e", "caf\u00e9")
    finally:
        root.handlers = before
    assert capfd.readouterr().err == "masdeepflow: broken:\ncaf\u00e9 \\x1b[31m\\u202e\n"


def test_metrics_are_served_while_it_runs(probes: FakeProbes) -> None:
    """And the port is free again when the run is over."""
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{sock.getsockname()[1]}"
    bodies: list[str] = []

    def fetch() -> None:
        for path in ("metrics", "healthz"):
            with urllib.request.urlopen(f"http://{address}/{path}", timeout=5) as answer:  # our own
                bodies.append(answer.read().decode())

    fetching = threading.Thread(target=fetch)
    _at_poll(probes, _send(probes), fetching.start, fetching.join)
    session.run_live(replace(QUIET, listen=address))
    assert "http_client_request_duration_seconds_count{" in bodies[0]
    assert 'masdeepflow_parser_errors_total{protocol="http"} 0.0' in bodies[0]
    assert 'masdeepflow_parser_evictions_total{protocol="mysql"} 0.0' in bodies[0]
    assert 'masdeepflow_evictions_total{table="connections"} 0.0' in bodies[0]
    for reason, count in (("no_memory", 1.0), ("log", 0.0)):
        assert f'masdeepflow_lost_events_total{{reason="{reason}"}} {count}' in bodies[0]
    with socket.create_server(tuple(_split(address))):
        pass


def _split(address: str) -> tuple[str, int]:
    host, _, port = address.partition(":")
    return host, int(port)


@pytest.fixture
def busy() -> Iterator[str]:
    """Give an address on which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield f"127.0.0.1:{server.getsockname()[1]}"


def _refused(kind: type[Exception], listen: str, path: Path) -> str:
    with pytest.raises(kind) as caught:
        session.run_live(replace(QUIET, listen=listen), path)
    return str(caught.value)


def test_a_listener_that_can_not_be_leaves_nothing_behind(
    probes: FakeProbes, busy: str, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """One sentence, nothing printed, no recording begun, the probes detached."""
    path = tmp_path / "x.rec"
    assert "nonsense" in _refused(UsageError, "nonsense", path)
    assert "token" in _refused(UsageError, "0.0.0.0:0", path)
    assert "in use" in _refused(HostError, busy, path)
    assert capfd.readouterr() == ("", "")
    assert list(tmp_path.iterdir()) == []
    assert probes.closed


@pytest.mark.parametrize("ring_mib", [3, 12, 1000])
def test_ring_that_is_no_power_of_two_is_refused(ring_mib: int) -> None:
    """Before anything is loaded: the kernel would say only that it is invalid."""
    with pytest.raises(UsageError, match=f"power of two, not {ring_mib}"):
        session.run_live(replace(QUIET, ring_mib=ring_mib))


def test_bad_filter_is_refused_first(tmp_path: Path) -> None:
    """Before anything is loaded, in a replay too."""
    options = Options(include=("nginx",))
    with pytest.raises(UsageError, match="KEY=VALUE"):
        session.run_live(options)
    with pytest.raises(UsageError, match="KEY=VALUE"):
        session.run_replay(tmp_path, options)


# --- what the host lacks ---


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Make up a host that has everything; the BPF object is the file returned."""
    path = tmp_path / "agent.o"
    path.touch()
    monkeypatch.setattr("masdeepflow.kernel.host.missing_capabilities", list)
    monkeypatch.setattr("masdeepflow.kernel.host.has_btf", lambda: True)
    monkeypatch.setattr("masdeepflow.kernel.probes.object_path", lambda _size: path)
    return path


@pytest.mark.usefixtures("able")
def test_probes_are_made_as_the_options_say(monkeypatch: pytest.MonkeyPatch) -> None:
    """Slots as large as the payload needs, a ring of so many MiB, with or without the socket wait."""
    made: list[tuple[object, ...]] = []

    def make(slot_bytes: int, ring_bytes: int, *, queue_time: bool) -> None:
        made.append((slot_bytes, ring_bytes, queue_time))

    monkeypatch.setattr("masdeepflow.kernel.probes.Probes", make)
    session._load_probes(Options(payload_bytes=209, ring_mib=4, queue_time=False))
    assert made == [(1024, 4 << 20, False)]


def test_each_thing_that_is_missing_is_told_with_its_remedy(
    able: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """First what has to be mended first."""
    able.unlink()
    with pytest.raises(HostError, match=r"agent\.o is not there: compile it with \./run\.sh"):
        session._load_probes(QUIET)
    monkeypatch.setattr("masdeepflow.kernel.host.missing_capabilities", lambda: ["CAP_BPF", "CAP_PERFMON"])
    monkeypatch.setattr("masdeepflow.kernel.host.capability_remedy", lambda: "do this")
    with pytest.raises(HostError, match=r"^CAP_BPF and CAP_PERFMON missing: do this"):
        session._load_probes(QUIET)
    monkeypatch.setattr("masdeepflow.kernel.host.missing_capabilities", list)
    able.touch()
    monkeypatch.setattr("masdeepflow.kernel.host.has_btf", lambda: False)
    with pytest.raises(HostError, match="CONFIG_DEBUG_INFO_BTF=y"):
        session._load_probes(QUIET)


# --- record and replay ---


def _recorded(probes: FakeProbes, path: Path, options: Options, count: int = 5) -> None:
    _at_poll(probes, *(_send(probes, 2, first=2 * number) for number in range(count)))
    session.run_live(options, path)


@pytest.mark.parametrize("log", ["text", "json"])
def test_replay_prints_what_the_live_run_printed(
    probes: FakeProbes, capfd: pytest.CaptureFixture[str], tmp_path: Path, log: str
) -> None:
    """Byte by byte, the summary on stderr included."""
    _recorded(probes, tmp_path / "x.rec", Options(log=log))
    live = capfd.readouterr()
    assert session.run_replay(tmp_path / "x.rec", Options(log=log)) == 0
    again = capfd.readouterr()
    assert again.out == live.out
    assert log == "text" or "process.executable.name" in live.out
    assert again.err == live.err.removeprefix("ready: hooks=socket\n")
    assert len(live.out.splitlines()) >= 10


class _PodOfThisProcess(Lookups):
    """Lookups that know where this process runs."""

    def __init__(self) -> None:
        super().__init__()
        identifier = "0123456789abcdef" * 4
        process = ProcessFact(os.getpid(), "x", "x", cgroup=f"0::/docker/{identifier}\n")
        labels = {"tier": "front", "team": "shop"}
        pod = PodFact("u", "web-0", "shop", labels=labels, containers={identifier: "web"})
        self.facts: list[Fact] = [process, pod]

    def take(self) -> list[Fact]:
        facts, self.facts = self.facts, []
        return facts

    def start(self) -> None:
        """It knows already."""


def test_replay_shows_the_pod_labels_that_the_run_did(
    probes: FakeProbes, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In the same order; which they were stands in the recording."""
    monkeypatch.setattr("masdeepflow.discovery.lookups", lambda _options: _PodOfThisProcess())
    _recorded(probes, tmp_path / "x.rec", Options(log="json", pod_label=("tier", "team")))
    live = capfd.readouterr().out
    assert '"k8s.pod.label.tier":"front","k8s.pod.label.team":"shop"' in live
    assert session.run_replay(tmp_path / "x.rec", Options(log="json")) == 0
    assert capfd.readouterr().out == live


def test_replay_has_filters_and_redaction_of_its_own(
    probes: FakeProbes, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """A recording holds all that was seen; what of it is shown is decided when it is replayed."""
    _recorded(probes, tmp_path / "x.rec", QUIET)
    session.run_replay(tmp_path / "x.rec", Options(log="text", redact=True))
    assert "bob" not in capfd.readouterr().out
    session.run_replay(tmp_path / "x.rec", Options(log="text", exclude=(f"pid={os.getpid()}",)))
    assert capfd.readouterr().out == ""


def test_partial_replay_of_a_run_that_was_killed(
    probes: FakeProbes, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """What a killed agent leaves is refused, unless it is asked for."""
    _recorded(probes, tmp_path / "x.rec", QUIET)
    capfd.readouterr()
    left = tmp_path / "x.rec.partial"
    left.write_bytes((tmp_path / "x.rec").read_bytes()[:-30])
    with pytest.raises(UsageError, match="`--partial`"):
        session.run_replay(left, QUIET)
    assert session.run_replay(left, QUIET, partial=True) == 0
    assert "seen  10 records" in capfd.readouterr().err


def test_recording_that_can_not_be_written_is_refused_at_once(
    probes: FakeProbes, capfd: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    """Not after an hour of recording."""
    with pytest.raises(UsageError, match=r"gone/x\.rec can't be written: No such file or directory"):
        session.run_live(QUIET, tmp_path / "gone" / "x.rec")
    with pytest.raises(UsageError, match=r"can't be written: it is not a regular file$"):
        session.run_live(QUIET, tmp_path)
    assert capfd.readouterr() == ("", "")
    assert probes.closed


def test_full_disk_ends_the_run_with_a_sentence(
    probes: FakeProbes, capfd: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At once, as host's fault, after the summary; nothing half-written is left."""

    def full(recorder: Recorder, *_item: object) -> None:
        recorder.error = OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Recorder, "_write_frame", full)
    polls: list[int] = []

    def sweep() -> None:
        polls.append(1)
        _send(probes)()

    probes.on_sweep = sweep
    with pytest.raises(HostError, match=r"failed and was removed: No space left on device: free some space"):
        session.run_live(replace(QUIET, duration=30), tmp_path / "x.rec")
    assert len(polls) < 10
    assert "seen " in capfd.readouterr().err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("log", ["text", "json"])
def test_replay_to_a_full_disk_ends_with_a_sentence(
    probes: FakeProbes,
    capfd: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    log: str,
) -> None:
    """It neither waits for room nor pretends to be complete."""
    _recorded(probes, tmp_path / "x.rec", QUIET)
    capfd.readouterr()
    with Path("/dev/full").open("w", encoding="utf-8") as full:
        monkeypatch.setattr("sys.stdout", full)
        with pytest.raises(HostError, match="stdout can't be written: No space left on device: free some"):
            session.run_replay(tmp_path / "x.rec", Options(log=log))
    assert capfd.readouterr() == ("", "")


# --- the parts ---


def test_only_a_replay_waits_for_its_reader(
    probes: FakeProbes, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A live run loses lines rather than ring records; a file has time."""
    waits: list[bool] = []
    log_sink = session._log_sink

    def note(kind: str, *, blocking: bool = False) -> object:
        waits.append(blocking)
        return log_sink(kind, blocking=blocking)

    monkeypatch.setattr(session, "_log_sink", note)
    _recorded(probes, tmp_path / "x.rec", QUIET)
    session.run_replay(tmp_path / "x.rec", QUIET)
    assert waits == [False, True]


def test_redaction_is_loaded_only_when_it_is_asked_for() -> None:
    """Otherwise the pipeline has nothing to call."""
    assert session._redaction(Options()) is None
    assert session._redaction(Options(redact=True)) is redact_table


def test_filter_of_the_options_goes_to_the_pipeline(
    probes: FakeProbes, capfd: pytest.CaptureFixture[str]
) -> None:
    """What is left out is neither shown nor counted, though it was seen."""
    _at_poll(probes, _send(probes, 3))
    session.run_live(Options(log="text", include=("port=81",)))
    out, err = capfd.readouterr()
    assert out == ""
    assert "seen  3 records" in err
    assert "client" not in err


def test_a_lost_stderr_is_no_reason_to_end(probes: FakeProbes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever read it may have gone."""

    def gone(*_arguments: object, **_more: object) -> None:
        raise BrokenPipeError

    monkeypatch.setattr("click.echo", gone)
    _at_poll(probes, _kill(signal.SIGUSR1), _send(probes))
    assert session.run_live(QUIET) == 0


def test_a_refused_acceleration_is_told_and_the_run_goes_on(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Connections stay plain TCP; what was asked for besides is done."""

    def refuse(_ports: list[int], _tell: object, *, keep_awake: bool) -> None:
        assert not keep_awake
        raise RefusedError("FIONREAD (differs)")

    monkeypatch.setattr(service, "Service", refuse)
    with session._acceleration(Options(accelerate="8080")):
        pass
    assert capsys.readouterr().err == "masdeepflow: nothing is accelerated: FIONREAD (differs)\n"


def test_acceleration_ends_with_the_run(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """All connections are back at TCP when the summary is told."""
    calls: list[object] = []

    class Accelerating:
        def __init__(self, ports: list[int], _tell: object, *, keep_awake: bool) -> None:
            calls.append((ports, keep_awake))

        def close(self) -> Totals:
            calls.append("closed")
            return Totals(1, 2, 3, 0, 0, 0, {})

    monkeypatch.setattr(service, "Service", Accelerating)
    with session._acceleration(Options(accelerate="80,8080", keep_awake=True)):
        assert calls == [([80, 8080], True)]
    assert calls[1:] == ["closed"]
    assert "bytes redirected: 2" in capsys.readouterr().err


def test_ports_that_are_none_are_wrong_usage() -> None:
    """Before anything is loaded."""
    with pytest.raises(UsageError, match="is no port"), session._acceleration(Options(accelerate="http")):
        pass


_IMPORTS = """
import os, signal, sys
from masdeepflow import session
from masdeepflow.cli.options import Options
from tests.support.noise import real_turns
from tests.support.probes import FakeProbes

def fill(at):
    probes.ring.slots = turns[at::9].copy()

turns, before, probes = real_turns().slots, set(), FakeProbes()
todo = [lambda: before.update(sys.modules), *(lambda at=at: fill(at) for at in range(9))]
probes.on_sweep = lambda: todo.pop(0)() if todo else os.kill(os.getpid(), signal.SIGTERM)
session._load_probes = lambda _options: probes
session._be_prompt = lambda: None
session.run_live(Options(log="json", listen="off"))
print(*sorted(set(sys.modules) - before), file=sys.stderr)
"""


def test_nothing_is_imported_once_the_ring_fills() -> None:
    """Whatever the protocol: it takes tens of milliseconds, and the ring may have room for ninety."""
    done = run(sys.executable, "-c", _IMPORTS, cwd=Path(__file__).parents[2])
    assert done.code == 0, done.stderr
    *summary, imported = done.stderr.split("\n")[:-1]
    assert "postgresql" in "".join(summary)
    assert not imported
