"""`masdeepflow accelerate`."""

from __future__ import annotations

import json
import signal
import threading
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from masdeepflow.cli.errors import HostError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable

    from masdeepflow.gateway.kept import Kept
    from masdeepflow.gateway.selftest import Result

__all__ = ["command", "parse_ports"]

_MOST_PORTS = 1024
_HIGHEST = 65535
_SHOWN_PAIRS = 100


def parse_ports(text: str) -> list[int]:
    """Return the ports of a list such as `8080,3306`. Raises UsageError."""
    ports = set()
    for word in text.split(","):
        number = word.strip()
        if not (number.isascii() and number.isdigit() and 1 <= int(number) <= _HIGHEST):
            raise UsageError(
                f"{word!r} is no port: ports are numbers from 1 to {_HIGHEST}, with commas between them"
            )
        ports.add(int(number))
    if len(ports) > _MOST_PORTS:
        raise UsageError(f"{len(ports)} ports are more than the {_MOST_PORTS} that can be accelerated")
    return sorted(ports)


def _tell(text: str) -> None:
    click.echo(f"masdeepflow: {text}", err=True)


def _check_host() -> None:
    from masdeepflow.gateway.kernel import object_path  # noqa: PLC0415  # NumPy and all: not for --help
    from masdeepflow.kernel import host  # noqa: PLC0415  # likewise

    if missing := host.missing_capabilities():
        raise HostError(f"{' and '.join(missing)} missing: run it as root, for example with sudo")
    if not object_path().exists():
        raise HostError(f"{object_path()} is not there: compile it with ./run.sh or make -C bpf")
    if not host.has_btf():
        raise HostError(
            "/sys/kernel/btf/vmlinux is not there: use a kernel built with CONFIG_DEBUG_INFO_BTF=y"
        )


@click.group("accelerate")
def command() -> None:
    """Move bytes between two processes of this host past TCP, where that changes nothing else."""


@command.command("selftest")
@click.option("--all", "everything", is_flag=True, default=False, help="The harmless behaviours too.")
@click.option("--json", "as_json", is_flag=True, default=False, help="For machines.")
def _selftest(*, everything: bool, as_json: bool) -> int:
    """Compare redirected sockets with plain ones on this kernel; exit 0 if they may be used, 1 if not."""
    _check_host()
    from masdeepflow.gateway import selftest  # noqa: PLC0415  # NumPy and all: not for --help
    from masdeepflow.gateway.conformance import BEHAVIOURS  # noqa: PLC0415  # likewise

    try:
        results = selftest.run(BEHAVIOURS if everything else None)
    except OSError as error:
        raise HostError(f"the self-test can't run: {error.strerror or error}") from error
    why_not = selftest.refusal(results)
    if as_json:
        click.echo(
            json.dumps(
                {
                    "usable": why_not is None,
                    "reason": why_not,
                    "results": [
                        {
                            "name": r.name,
                            "verdict": r.verdict,
                            "plain": repr(r.plain),
                            "accelerated": repr(r.accelerated),
                        }
                        for r in results
                    ],
                }
            )
        )
    else:
        click.echo(_table(results))
        click.echo(why_not or "connections of this host can be accelerated")
    return 0 if why_not is None else 1


def _table(results: Iterable[Result]) -> str:
    rows = list(results)
    width = max(len(row.name) for row in rows)
    lines = []
    for row in rows:
        lines.append(f"{row.name:<{width}}  {row.verdict}")
        if row.verdict != "same":
            lines += [f"    plain: {_brief(row.plain)}", f"    accelerated: {_brief(row.accelerated)}"]
        if row.verdict == "excluded":
            lines.append("    programs that are seen to do this are not accelerated any more")
    return "\n".join(lines)


def _brief(seen: object) -> str:
    text = repr(seen)
    return text if len(text) <= 100 else f"{text[:97]}..."  # noqa: PLR2004  # a line


@command.command("run")
@click.option("--ports", required=True, metavar="PORTS", help="Server ports, with commas between them.")
@click.option(
    "--cgroup",
    type=click.Path(exists=True, file_okay=False, path_type=Path),
    help="Only sockets of processes below this cgroup v2 directory.",
)
@click.option(
    "--keep-awake",
    is_flag=True,
    default=False,
    help="Let no CPU halt while bytes are redirected: the shortest round trips, for CPU time.",
)
@click.option(
    "--duration", type=click.FloatRange(min=0, min_open=True), metavar="SECONDS", help="Stop after so long."
)
def _run(*, ports: str, cgroup: Path | None, keep_awake: bool, duration: float | None) -> int:
    """Accelerate new connections to these ports until a signal; those that there are go on as they are."""
    numbers = parse_ports(ports)
    _check_host()
    from masdeepflow.gateway import service  # noqa: PLC0415  # NumPy and all: not for --help

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    try:
        running = service.Service(numbers, _tell, cgroup, keep_awake=keep_awake)
    except service.RefusedError as error:
        raise HostError(str(error)) from error
    except OSError as error:
        raise HostError(
            f"acceleration can't start: {error.strerror or error}; see `masdeepflow check`"
        ) from error
    click.echo(f"ready: accelerating new connections to {', '.join(map(str, numbers))}", err=True)
    try:
        stop.wait(duration)
    finally:
        totals = running.close()
    click.echo("\n".join(totals.lines()), err=True)
    return 0


@command.command("status")
@click.option("--json", "as_json", is_flag=True, default=False, help="For machines.")
def _status(*, as_json: bool) -> int:
    """Show what is accelerated, and what was; exit 0 if a gateway runs, 1 if not."""
    _check_host()
    from masdeepflow.gateway import kept  # noqa: PLC0415  # NumPy and all: not for --help
    from masdeepflow.gateway.kernel import object_path  # noqa: PLC0415  # likewise
    from masdeepflow.gateway.pairs import layout_of  # noqa: PLC0415  # likewise

    found = kept.all_kept(layout_of(object_path()))
    reports = []
    for gateway in found:
        with gateway:
            reports.append(_report(gateway))
    if as_json:
        click.echo(json.dumps({"gateways": reports}))
    elif not reports:
        click.echo("no gateway runs on this host")
    else:
        for report in reports:
            click.echo(_text(report))
    return 0 if any(report["running"] for report in reports) else 1


def _report(gateway: Kept) -> dict[str, Any]:
    totals = gateway.totals()
    return {
        "running": gateway.alive,
        "accepting": gateway.accepting,
        "totals": {name: value for name, value in totals._asdict().items() if name != "awake"},
        "awake": None if totals.awake is None else totals.awake._asdict(),
        "open": gateway.pairs.describe(_SHOWN_PAIRS),
    }


def _text(report: dict[str, Any]) -> str:
    from masdeepflow.gateway.pairs import Awake, Totals  # noqa: PLC0415  # NumPy and all: not for --help

    stopped = "running, makes no new pairs" if report["running"] else "killed; its connections go on"
    state = "running" if report["accepting"] else stopped
    awake = None if report["awake"] is None else Awake(**report["awake"])
    lines = Totals(**report["totals"], awake=awake).lines()
    return "\n".join([f"gateway: {state}", *lines, *map(_pair_line, report["open"])])


def _pair_line(pair: dict[str, Any]) -> str:
    reason = "" if pair["reason"] == "none" else f" ({pair['reason']})"
    return (
        f"{pair['client']} -> {pair['server']}  {pair['state']}{reason}"
        f"  redirected {pair['redirected_bytes']}, by TCP {pair['tcp_bytes']}, queued {pair['queued_bytes']}"
    )
