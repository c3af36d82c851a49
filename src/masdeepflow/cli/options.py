"""The options of `run`, shared with `record` and `replay`; each is a key of the configuration file too."""

from __future__ import annotations

import dataclasses
import functools
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from masdeepflow import config, filters
from masdeepflow.cli.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "DEFAULT_KUBELET",
    "DEFAULT_LISTEN",
    "LISTS",
    "NAMES",
    "Options",
    "host_options",
    "output_options",
    "shown",
]

DEFAULT_KUBELET = "https://127.0.0.1:10250"
"""Where a kubelet serves its pods to who shares its network namespace."""
DEFAULT_LISTEN = "127.0.0.1:9419"
"""Where `run` and `record` serve `/metrics` unless told otherwise."""
_RING_MIB = 8


@dataclasses.dataclass(frozen=True, slots=True)
class Options:
    """The values of all options; those that a command doesn't offer keep their defaults."""

    config: Path | None = None
    log: str = "text"
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    redact: bool = False
    plugins: Path | None = None
    duration: float | None = None
    listen: str = "off"
    listen_token: str | None = None
    insecure_listen: bool = False
    store: str = "off"
    hooks: str = "auto"
    payload_bytes: int = 208
    ring_mib: int = _RING_MIB
    queue_time: bool = True
    runtimes: bool = True
    runtime_socket: tuple[str, ...] = ()
    host_root: Path = Path("/")
    kubernetes: str = "auto"
    kubeconfig: str = ""
    kubelet_url: str = DEFAULT_KUBELET
    insecure_kubelet: bool = False
    node_name: str = ""
    pod_label: tuple[str, ...] = ()
    accelerate: str | None = None
    keep_awake: bool = False


NAMES = tuple(field.name for field in dataclasses.fields(Options) if field.name != "config")
"""Names that a configuration file may have."""
LISTS = ("include", "exclude", "runtime_socket", "pod_label")
"""Those whose value there is a list."""


def _option(*declarations: str, **attributes: Any) -> Callable[[Any], Any]:  # noqa: ANN401  # click's own looseness
    name = max(declarations, key=len).split("/")[0].lstrip("-").replace("-", "_").upper()
    return click.option(*declarations, envvar=f"MASDEEPFLOW_{name}", show_default=True, **attributes)


def _read_config(ctx: click.Context, _parameter: click.Parameter, value: Path | None) -> Path | None:
    if value is not None:
        try:
            ctx.default_map = {**(ctx.default_map or {}), **config.load(value, NAMES, LISTS)}
        except config.ConfigError as error:
            raise UsageError(str(error)) from error
    return value


def _directory(_ctx: click.Context, _parameter: click.Parameter, value: str | None) -> Path | None:
    # As of a variable that is not set: it would be the directory that this was started in.
    if value == "":
        raise click.BadParameter("the name of a directory is missing.")
    return None if value is None else Path(value)


def _number(_ctx: click.Context, _parameter: click.Parameter, value: float | None) -> float | None:
    # FloatRange lets it through: it compares as neither too small nor too large.
    if value is not None and math.isnan(value):
        raise click.BadParameter("nan is no duration.")
    return value


_OUTPUT = (
    _option(
        "--config",
        type=click.Path(path_type=Path),
        is_eager=True,
        callback=_read_config,
        help="YAML file with these options as keys; the environment wins over it, the command line over "
        "both.",
    ),
    _option(
        "--log", type=click.Choice(["text", "json", "off"]), default="text", help="What is printed on stdout."
    ),
    _option(
        "--include",
        multiple=True,
        metavar="KEY=VALUE",
        help=f"Only what matches; KEY is one of {', '.join(filters.KEYS)}. Given more than once, any value "
        "of a KEY will do, and every KEY has to match. Connections that open and close have no protocol, and "
        "match any.",
    ),
    _option("--exclude", multiple=True, metavar="KEY=VALUE", help="Nothing that matches any of these."),
    _option(
        "--redact/--no-redact",
        default=False,
        help="Replace literals in SQL and values in URL queries everywhere.",
    ),
    _option(
        "--plugins",
        type=str,
        callback=_directory,
        metavar="DIR",
        help="Directory with protocols of your own, each a .py file (docs/new-protocol.md).",
    ),
)
_HOST = (
    _option(
        "--duration",
        type=click.FloatRange(min=0, min_open=True),
        callback=_number,
        metavar="SECONDS",
        help="Stop after so long.",
    ),
    _option(
        "--listen",
        default=DEFAULT_LISTEN,
        metavar="HOST:PORT|off",
        help="Where /metrics and /healthz are served. Another address than localhost needs a token.",
    ),
    _option("--listen-token", metavar="TOKEN", help="Bearer token that clients of --listen must send."),
    _option("--insecure-listen", is_flag=True, default=False, help="Serve other addresses without a token."),
    _option("--store", type=click.Choice(["off"]), default="off", help="There is no embedded store yet."),
    _option(
        "--hooks", type=click.Choice(["auto", "socket"]), default="auto", help="How socket I/O is observed."
    ),
    _option(
        "--payload-bytes",
        type=click.IntRange(min=1, max=2864),
        default=208,
        metavar="N",
        help="How much of each request is looked at; responses get half of that.",
    ),
    _option(
        "--ring-mib",
        type=click.IntRange(min=1, max=1024),
        default=_RING_MIB,
        help="Size of the ring, a power of two.",
    ),
    _option(
        "--accelerate",
        metavar="PORTS",
        help="Move bytes between processes of this host past TCP, for new connections to these server ports.",
    ),
    _option(
        "--keep-awake",
        is_flag=True,
        default=False,
        help="Let no CPU halt while --accelerate moves bytes: the shortest round trips, for CPU time.",
    ),
    _option(
        "--queue-time/--no-queue-time",
        default=True,
        help="Measure how long requests wait to be read (queue_ns).",
    ),
    _option(
        "--runtimes/--no-runtimes",
        default=True,
        help="Ask Docker, Podman, containerd and CRI-O for the names of containers.",
    ),
    _option(
        "--runtime-socket",
        multiple=True,
        metavar="[RUNTIME=]PATH",
        help="A runtime's socket beside the usual ones; RUNTIME is docker, podman, containerd or cri-o.",
    ),
    _option(
        "--host-root",
        type=click.Path(path_type=Path),
        default="/",
        help="Where the host's root directory is, for an agent in a container.",
    ),
    _option(
        "--kubernetes",
        type=click.Choice(["auto", "api", "kubelet", "off"]),
        default="auto",
        help="Who is asked for pods and Services; auto asks the API server where a service account or "
        "--kubeconfig is.",
    ),
    _option(
        "--kubelet-url",
        default=DEFAULT_KUBELET,
        metavar="URL",
        help="The kubelet for --kubernetes kubelet; http://NODE:10255 is its read-only port.",
    ),
    _option(
        "--insecure-kubelet",
        is_flag=True,
        default=False,
        help="Take any certificate of the kubelet: most have one that nobody signed.",
    ),
    _option("--kubeconfig", default="", metavar="FILE", help="How to reach the API server from outside."),
    _option(
        "--node-name",
        default="",
        metavar="NAME",
        help="This host's node; taken from NODE_NAME if that is set.",
    ),
    _option("--pod-label", multiple=True, metavar="KEY", help="A pod label to show as k8s.pod.label.KEY."),
)


def _apply(command: Callable[..., Any], decorators: tuple[Callable[[Any], Any], ...]) -> Callable[..., Any]:
    return functools.reduce(lambda decorated, decorator: decorator(decorated), reversed(decorators), command)


def output_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that shape what comes out: for `run`, `record` and `replay`."""
    return _apply(command, _OUTPUT)


def host_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options that concern this host: for `run` and `record`."""
    return _apply(command, _HOST)


def shown(options: Options) -> filters.Filter:
    """Return the filter that the options describe. Raises UsageError."""
    try:
        return filters.parse(options.include, options.exclude)
    except filters.FilterError as error:
        raise UsageError(str(error)) from error
