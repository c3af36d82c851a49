"""`masdeepflow record`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from masdeepflow.cli.options import Options, host_options, output_options
from masdeepflow.cli.run import reloader

__all__ = ["command"]


@click.command("record")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Where the recording goes.",
)
@output_options
@host_options
@click.pass_context
def command(ctx: click.Context, /, output: Path, **arguments: Any) -> int:  # noqa: ANN401  # one per option
    """Like `run`, and write all that is seen to FILE, which `masdeepflow replay` prints again.

    FILE holds the first bytes of requests and responses as they are, under --redact too. Only whoever runs
    this, or called sudo to, may read it; `masdeepflow replay` needs nothing else.
    """
    from masdeepflow import session  # noqa: PLC0415  # NumPy and all: not for --help

    return session.run_live(Options(**arguments), record_to=output, reload=reloader(ctx, arguments))
