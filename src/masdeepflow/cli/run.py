"""`masdeepflow run`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click
from click.core import ParameterSource

from masdeepflow import config
from masdeepflow.cli.errors import UsageError
from masdeepflow.cli.options import LISTS, NAMES, Options, host_options, output_options

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["command", "reloader"]


def reloader(ctx: click.Context, arguments: dict[str, Any]) -> Callable[[], Options]:
    """Return a function that reads the configuration again, for SIGHUP.

    The command line and the environment still win. It raises UsageError for what `run` refuses at its start.
    """
    fixed = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)
    kept = {name: value for name, value in arguments.items() if ctx.get_parameter_source(name) in fixed}

    def reload() -> Options:
        path = arguments.get("config")
        if path is None:
            raise UsageError("there is no --config file")
        try:
            values = config.load(path, NAMES, LISTS)
            read = {
                parameter.name: parameter.type_cast_value(ctx, values[parameter.name])
                for parameter in ctx.command.params
                if parameter.name in values
            }
        except config.ConfigError as error:
            raise UsageError(str(error)) from error
        except click.UsageError as error:
            raise UsageError(error.format_message()) from error
        return Options(**{**read, **kept})

    return reload


@click.command("run")
@output_options
@host_options
@click.pass_context
def command(ctx: click.Context, /, **arguments: Any) -> int:  # noqa: ANN401  # one per option
    """Watch this host: live log on stdout, metrics over HTTP, a summary at the end."""
    from masdeepflow import session  # noqa: PLC0415  # NumPy and all: not for --help

    return session.run_live(Options(**arguments), reload=reloader(ctx, arguments))
