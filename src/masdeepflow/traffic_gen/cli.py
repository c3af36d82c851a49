"""Command line of ``traffic_gen``."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from masdeepflow.traffic_gen import benchmark, http, mysql_client, mysql_server, net

if TYPE_CHECKING:
    from collections.abc import Callable

    Decorator = Callable[[Callable[..., None]], Callable[..., None]]

__all__ = ["main"]

_LOOPBACK = "127.0.0.1"
# The fastest of 64 KiB to 4 MiB over loopback.
_FLOOD_SIZE = 1024 * 1024
_PING_SIZE = 64
_PORT = click.IntRange(1, 65535)
_PORT_OR_ANY = click.IntRange(0, 65535)
_DELAY_MS = click.IntRange(0, 3_600_000)
_DURATION_S = click.FloatRange(0, 31_536_000, min_open=True)


class _Group(click.Group):
    def invoke(self, ctx: click.Context) -> Any:  # noqa: ANN401 - the parent's signature
        try:
            return super().invoke(ctx)
        except net.TrafficError as error:
            raise click.ClickException(str(error)) from error


def _absolute(_ctx: click.Context, _param: click.Parameter, path: str) -> str:
    return path if path.startswith("/") else f"/{path}"


def _not_nan(_ctx: click.Context, _param: click.Parameter, value: float) -> float:
    # FloatRange lets it through: it compares as neither too small nor too large.
    if math.isnan(value):
        message = "nan is no duration."
        raise click.BadParameter(message)
    return value


_PATH = click.option("--path", default="/", callback=_absolute, help="Path and query.")


def _delay_ms(default: int) -> Decorator:
    return click.option("--delay-ms", type=_DELAY_MS, default=default, help="Wait before each answer.")


def _connects_to(port: int) -> Decorator:
    """Add --host and --port of a client."""
    return _both(
        click.option("--host", default=_LOOPBACK, help="Host to connect to."),
        click.option("--port", type=_PORT, default=port, help="Port to connect to."),
    )


def _listens_on(port: int) -> Decorator:
    """Add --host and --port of a server."""
    return _both(
        click.option("--host", default=_LOOPBACK, help="Address to listen on."),
        click.option("--port", type=_PORT_OR_ANY, default=port, help="Port to listen on, 0 for a free one."),
    )


def _both(first: Decorator, second: Decorator) -> Decorator:
    return lambda command: first(second(command))


@click.group(
    cls=_Group,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "show_default": True},
)
@click.option("--host", default="1.1.1.1", help="Host to connect to.")
@click.option("--port", type=_PORT, default=80, help="Port to connect to.")
@_PATH
@click.pass_context
def main(ctx: click.Context, host: str, port: int, path: str) -> None:
    """Make traffic for the agent to watch: without a command, one HTTP GET."""
    if ctx.invoked_subcommand is None:
        http.run_client(http.Client(host, port, path), 1)
        return
    given = [name for name in ctx.params if ctx.get_parameter_source(name) is ParameterSource.COMMANDLINE]
    if given:
        message = f"put --{given[0]} after {ctx.invoked_subcommand!r}; before it, it has no effect."
        raise click.UsageError(message)


@main.command("http-server")
@_listens_on(8000)
@_delay_ms(0)
def http_server(host: str, port: int, delay_ms: int) -> None:
    """Answer every HTTP request with 200 and a line of text."""
    http.run_server(host, port, delay_ms / 1000)


@main.command("http-client")
@_connects_to(8000)
@_PATH
@click.option("--count", type=click.IntRange(min=1), default=1, help="Requests to send.")
@click.option("--keepalive", is_flag=True, help="Send them all over one connection.")
def http_client(host: str, port: int, path: str, count: int, *, keepalive: bool) -> None:
    """Send HTTP GET requests and print their status lines."""
    net.stop_on_signals()
    http.run_client(http.Client(host, port, path, keepalive=keepalive), count)


@main.command("mysql-server")
@_listens_on(3306)
@_delay_ms(50)
def mysql_server_command(host: str, port: int, delay_ms: int) -> None:
    """Mock a MySQL server: any login passes, any statement gets OK."""
    mysql_server.run_server(host, port, delay_ms / 1000)


@main.command("mysql-client")
@_connects_to(3306)
@click.option("--query", default="SELECT 1;", help="Statement to send.")
@click.option("--user", default="root", help="User, of method mysql_native_password.")
@click.option("--password", default="", help="Password.")
def mysql_client_command(host: str, port: int, query: str, user: str, password: str) -> None:
    """Send one statement to a MySQL server and print the answer."""
    mysql_client.run_client(host, port, query, user, password)


@main.command("benchmark-server")
@_listens_on(8080)
def benchmark_server(host: str, port: int) -> None:
    """Discard what clients send as fast as possible, or echo it for --rtt."""
    benchmark.run_server(host, port)


@main.command("benchmark-client")
@_connects_to(8080)
@click.option(
    "--size",
    type=click.IntRange(1, benchmark.MAX_SIZE),
    show_default=f"{_FLOOD_SIZE}, with --rtt {_PING_SIZE}",
    help="Bytes of a write.",
)
@click.option("--duration", type=_DURATION_S, default=30, callback=_not_nan, help="Seconds to run.")
@click.option("--rtt", is_flag=True, help="Measure round trips of one message instead of throughput.")
def benchmark_client(host: str, port: int, size: int | None, duration: float, *, rtt: bool) -> None:
    """Send as fast as possible and print the speed."""
    net.stop_on_signals()
    if rtt:
        benchmark.run_ping_pong(host, port, size or _PING_SIZE, duration)
    else:
        benchmark.run_flood(host, port, size or _FLOOD_SIZE, duration)
