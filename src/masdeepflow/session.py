"""One run of the agent from options to exit code: what `run`, `record` and `replay` share."""

from __future__ import annotations

import contextlib
import dataclasses
import gc
import importlib
import logging
import os
import signal
import sys
import time
from typing import TYPE_CHECKING, NamedTuple

import click

from masdeepflow import discovery, summary
from masdeepflow.agent import Agent, replay
from masdeepflow.cli import options as cli_options
from masdeepflow.cli.accelerate import parse_ports
from masdeepflow.cli.errors import HostError, UsageError
from masdeepflow.enrich.directory import Directory
from masdeepflow.escape import escape
from masdeepflow.pipeline import Pipeline
from masdeepflow.protocols import registry
from masdeepflow.recording import Recorder, Recording, RecordingError
from masdeepflow.sinks.json_log import JsonLog
from masdeepflow.sinks.line_writer import LineWriter
from masdeepflow.sinks.metrics import Metrics
from masdeepflow.sinks.text import TextLog

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path

    from masdeepflow.cli.options import Options
    from masdeepflow.filters import Filter
    from masdeepflow.kernel.probes import Probes
    from masdeepflow.protocols.base import Protocol
    from masdeepflow.sinks.base import Sink
    from masdeepflow.sinks.listen import HttpServer
    from masdeepflow.summary import Summary
    from masdeepflow.table import Table

__all__ = ["run_live", "run_replay"]

_MIB = 1 << 20
_NICE = -10
_SWITCH_S = 0.0005  # whoever writes the log waits so long for the interpreter between two writes, not 5 ms
_IMPORTED_LATE = ("numpy.ma",)  # by np.unique when it is first used: 20 ms in which nobody reads the ring
_COLLECT_AT = 20_000  # new objects: thousands of connections a second make many, and none in a cycle


def _tell(text: str) -> None:
    # Nobody may be left to read it: no reason for the agent to end.
    with contextlib.suppress(OSError):
        click.echo(text, err=True)


def _render(final: Summary, log_lost: int) -> str:
    return summary.render(dataclasses.replace(final, lost={**final.lost, "log": log_lost}))


def _redaction(options: Options) -> Callable[[Table], None] | None:
    if not options.redact:
        return None
    from masdeepflow.redaction import redact_table  # noqa: PLC0415  # only when used

    return redact_table


class _Log(NamedTuple):
    """The sinks of `--log`, how many lines they lost, and why they can write no more, if so."""

    sinks: list[Sink]
    lost: Callable[[], int]
    error: Callable[[], OSError | None]


def _protocols(options: Options) -> list[Protocol]:
    """Return the protocols there are, the user's own behind ours; tell of those that can't be used."""
    protocols = registry.load()
    if options.plugins is None:
        return protocols
    from masdeepflow.protocols import plugins  # noqa: PLC0415  # only when used

    try:
        own, reasons = plugins.load(options.plugins, protocols)
    except plugins.PluginsError as error:
        raise UsageError(str(error)) from error
    for reason in reasons:
        _tell(f"masdeepflow: {reason}")
    return [*protocols, *own]


def _shown(options: Options, protocols: Sequence[Protocol]) -> Filter:
    """Return what is to be shown. Raises UsageError, also for a protocol that there is not.

    With plugins that is told only: what has the name may be broken, and takes nothing else down.
    """
    shown = cli_options.shown(options)
    names = sorted({protocol.name for protocol in protocols} | {registry.UNRECOGNISED})
    unknown = sorted(shown.named("protocol") - set(names))
    if unknown:
        text = f"there is no protocol {escape(unknown[0])}; there are {', '.join(names)}"
        if options.plugins is None:
            raise UsageError(text)
        _tell(f"masdeepflow: {text}")
    return shown


def _log_sink(kind: str, *, blocking: bool = False) -> _Log:
    if kind == "off":
        return _Log([], lambda: 0, lambda: None)
    writer = LineWriter(sys.stdout.fileno(), blocking=blocking)
    return _Log(
        [TextLog(writer) if kind == "text" else JsonLog(writer)], lambda: writer.lost, lambda: writer.error
    )


def _load_probes(options: Options) -> Probes:
    from masdeepflow.kernel import host, libbpf  # noqa: PLC0415  # a replay needs no libbpf
    from masdeepflow.kernel.probes import Probes, object_path, slot_bytes_for  # noqa: PLC0415  # likewise

    missing = host.missing_capabilities()
    if missing:
        raise HostError(f"{' and '.join(missing)} missing: {host.capability_remedy()}")
    slot_bytes = slot_bytes_for(options.payload_bytes)
    if not object_path(slot_bytes).exists():
        raise HostError(f"{object_path(slot_bytes)} is not there: compile it with ./run.sh or make -C bpf")
    if not host.has_btf():
        raise HostError(
            "/sys/kernel/btf/vmlinux is not there: use a kernel built with CONFIG_DEBUG_INFO_BTF=y"
        )
    try:
        return Probes(slot_bytes, options.ring_mib * _MIB, queue_time=options.queue_time)
    except libbpf.BpfError as error:
        raise HostError(host.why_not(error)) from error


class _Told(NamedTuple):
    """What the HTTP server tells beside the metrics: see `exposition.Exposition`."""

    lost: Callable[[], dict[str, int]]
    failures: Callable[[], dict[str, int]]
    evictions: Callable[[], dict[str, int]]
    forgotten: Callable[[], dict[str, int]]
    lookups: Callable[[], dict[str, str]]
    lookup_counts: Callable[[], Mapping[str, Mapping[str, int]]]


def _listen(options: Options, agent: Agent, metrics: Metrics, told: _Told) -> HttpServer | None:
    if options.listen == "off":
        return None
    from masdeepflow.sinks import exposition, listen  # noqa: PLC0415  # heavy

    shown = exposition.Exposition(metrics, *told)
    routes = {
        "/metrics": listen.metrics_app(exposition.registry(shown)),
        "/healthz": listen.health_app(lambda: time.monotonic() - agent.polled_s, told.lookups),
    }
    try:
        host, port = listen.parse_address(options.listen)
        return listen.HttpServer(
            host, port, routes, token=options.listen_token, insecure=options.insecure_listen
        )
    except ValueError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise HostError(str(error)) from error


def _recorder(path: Path, probes: Probes, pod_labels: Sequence[str]) -> Recorder:
    try:
        return Recorder(path, probes.layout, pod_labels)
    except OSError as error:
        raise UsageError(f"{path} can't be written: {error.strerror}") from error


class _Signals:
    """What signals ask for; handled between two polls, on the agent's own thread."""

    def __init__(self) -> None:
        self.summarise = self.reload = False

    def install(self, agent: Agent) -> None:
        def stop(_number: int, _frame: object) -> None:
            agent.stop = True

        def summarise(_number: int, _frame: object) -> None:
            self.summarise = True

        def reload(_number: int, _frame: object) -> None:
            self.reload = True

        signal.signal(signal.SIGINT, stop)
        signal.signal(signal.SIGTERM, stop)
        signal.signal(signal.SIGUSR1, summarise)
        signal.signal(signal.SIGHUP, reload)


def run_live(
    options: Options, record_to: Path | None = None, reload: Callable[[], Options] | None = None
) -> int:
    """Run the agent on this host until it is told to stop; return the exit code.

    reload: reads the options anew for SIGHUP. Raises HostError or UsageError before anything is printed.
    """
    _log_to_stderr()
    if options.ring_mib & (options.ring_mib - 1):
        raise UsageError(f"--ring-mib is a power of two, not {options.ring_mib}")
    protocols = _protocols(options)
    shown = _shown(options, protocols)
    # All that takes long comes before the probes: what happens until the first poll has to fit in the ring.
    for name in _IMPORTED_LATE:
        importlib.import_module(name)
    directory = Directory(options.pod_label)
    pipeline = Pipeline(protocols, directory, shown, _redaction(options))
    metrics = Metrics()
    if options.listen != "off":
        importlib.import_module("masdeepflow.sinks.exposition")
        importlib.import_module("masdeepflow.sinks.listen")
    # Its threads come first: they are in no hurry.
    lookups = discovery.lookups(options)
    lookups.start()
    _be_prompt()
    # Its thread is not to wait behind the load that it writes of.
    log, log_lost, _ = _log_sink(options.log)
    # What is there now stays: the collector need not walk it again and again.
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AT)
    sys.setswitchinterval(_SWITCH_S)
    with contextlib.closing(lookups), _acceleration(options), _load_probes(options) as probes:
        agent = Agent(probes, pipeline, [*log, metrics], metrics, lookups)
        with contextlib.ExitStack() as undo:
            if record_to is not None:
                recorder = _recorder(record_to, probes, options.pod_label)
                undo.callback(recorder.abandon)
                agent.record(recorder)
            told = _Told(
                lambda: {**agent.lost(), "log": log_lost()},
                pipeline.registry.failures,
                pipeline.registry.evictions,
                pipeline.evictions,
                lookups.problems,
                lookups.counters,
            )
            listener = _listen(options, agent, metrics, told)
            undo.pop_all()  # from here on the recording ends with the run
        try:
            return _watch(agent, pipeline, options, reload, log_lost)
        finally:
            if listener is not None:
                listener.close()


@contextlib.contextmanager
def _acceleration(options: Options) -> Iterator[None]:
    """Accelerate what `--accelerate` names while the run lasts; where that is refused, say so and go on."""
    if options.accelerate is None:
        yield
        return
    ports = parse_ports(options.accelerate)
    from masdeepflow.gateway.service import RefusedError, Service  # noqa: PLC0415  # only when used

    try:
        service = Service(ports, lambda text: _tell(f"masdeepflow: {text}"), keep_awake=options.keep_awake)
    except (RefusedError, OSError) as error:
        _tell(f"masdeepflow: nothing is accelerated: {error}")
        yield
        return
    try:
        yield
    finally:
        _tell("\n".join(service.close().lines()))


class _Printable(logging.Formatter):
    """Lines that hold nothing a terminal obeys: what a parser raises may quote what strangers sent."""

    def format(self, record: logging.LogRecord) -> str:
        return "\n".join(map(escape, super().format(record).split("\n")))


def _log_to_stderr() -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Printable("masdeepflow: %(message)s"))
    logging.basicConfig(level=logging.WARNING, handlers=[handler])


def _be_prompt() -> None:
    """Run before ordinary processes: the agent needs little, but a ring that is read late has lost turns.

    As a batch job it waits until whoever runs when it wakes up has used its slice: to interrupt a server in
    the middle of its work stalls all that wait for it, and the ring has room for longer than a slice.
    """
    with contextlib.suppress(OSError):  # without CAP_SYS_NICE it is one among others
        os.setpriority(os.PRIO_PROCESS, 0, _NICE)
    with contextlib.suppress(OSError):
        os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))


def _watch(
    agent: Agent,
    pipeline: Pipeline,
    options: Options,
    reload: Callable[[], Options] | None,
    log_lost: Callable[[], int],
) -> int:
    signals = _Signals()
    signals.install(agent)

    def each_poll() -> None:
        if signals.summarise:
            signals.summarise = False
            _tell(_render(agent.summary(), log_lost()))
        if signals.reload:
            signals.reload = False
            _reload(pipeline, reload)
        if agent.recorder is not None and agent.recorder.error is not None:
            agent.stop = True

    _tell("ready: hooks=socket")
    agent.run(options.duration, each_poll)
    final = agent.close()
    _tell(_render(final, log_lost()))
    if agent.recorder is not None and agent.recorder.error is not None:
        reason = agent.recorder.error.strerror
        raise HostError(f"the recording failed and was removed: {reason}: free some space and try again")
    return 0


def _reload(pipeline: Pipeline, reload: Callable[[], Options] | None) -> None:
    """Take over what can change while running: filters and redaction. A bad file changes nothing."""
    if reload is None:
        return
    try:
        options = reload()
        shown = _shown(options, pipeline.registry.protocols)
    except UsageError as error:
        _tell(f"masdeepflow: not reloaded: {error.message}")
        return
    pipeline.shown = shown
    pipeline.set_redact(_redaction(options))
    _tell("reloaded: include, exclude and redact; other options need a restart")


def run_replay(path: Path, options: Options, *, partial: bool = False) -> int:
    """Print a recording again; return the exit code.

    Raises UsageError for what is no whole recording, HostError if stdout takes no lines.
    """
    _log_to_stderr()
    protocols = _protocols(options)
    shown = _shown(options, protocols)
    try:
        recording = Recording(path, partial=partial)
    except RecordingError as error:
        raise UsageError(str(error)) from error
    except OSError as error:
        raise UsageError(f"{path} can't be read: {error.strerror}") from error
    pipeline = Pipeline(protocols, Directory(recording.pod_labels), shown, _redaction(options))
    metrics = Metrics()
    log, log_lost, log_error = _log_sink(options.log, blocking=True)

    def check() -> None:
        if (error := log_error()) is not None:
            reason = error.strerror or str(error)
            raise HostError(f"stdout can't be written: {reason}: free some space, or print somewhere else")

    final = replay(recording, pipeline, [*log, metrics], metrics, check)
    check()
    _tell(_render(final, log_lost()))
    return 0
