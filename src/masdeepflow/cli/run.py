"""`masdeepflow run`."""

from __future__ import annotations

from typing import Any

import click

from masdeepflow.cli.options import Options, host_options, output_options

__all__ = ["command", "reloader"]


def reloader(ctx: click.Context, arguments: dict[str, Any]) -> Any:  # noqa: ANN401  # a closure for SIGHUP
    """Return a function that reads the configuration again; the command line and the environment still win."""
    from click.core import ParameterSource  # noqa: PLC0415

    from masdeepflow import config  # noqa: PLC0415
    from masdeepflow.cli.errors import UsageError  # noqa: PLC0415
    from masdeepflow.cli.options import NAMES  # noqa: PLC0415

    def reload() -> Options:
        path = arguments.get("config")
        if path is None:
            raise UsageError("there is no --config file")
        try:
            values = config.load(path, NAMES)
        except config.ConfigError as error:
            raise UsageError(str(error)) from error
        fixed = (ParameterSource.COMMANDLINE, ParameterSource.ENVIRONMENT)
        kept = {name: value for name, value in arguments.items() if ctx.get_parameter_source(name) in fixed}
        read = {name: tuple(value) if isinstance(value, list) else value for name, value in values.items()}
        return Options(**{**read, **kept})

    return reload


@click.command("run")
@output_options
@host_options
@click.pass_context
def command(ctx: click.Context, **arguments: Any) -> int:  # noqa: ANN401  # one per option
    """Watch this host: live log on stdout, metrics over HTTP, a summary at the end."""
    from masdeepflow import session  # noqa: PLC0415  # NumPy and all: not for --help

    return session.run_live(Options(**arguments), reload=reloader(ctx, arguments))
