"""`masdeepflow replay`."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from masdeepflow.cli.options import Options, output_options

__all__ = ["command"]


@click.command("replay")
@click.argument("file", type=click.Path(path_type=Path))
@click.option(
    "--partial", is_flag=True, default=False, help="Replay what there is of a recording that was cut off."
)
@output_options
def command(file: Path, *, partial: bool, **arguments: Any) -> int:  # noqa: ANN401  # one per option
    """Print the lines of a recording again, with the same parsers and sinks; needs no root."""
    from masdeepflow import session  # noqa: PLC0415  # NumPy and all: not for --help

    return session.run_replay(file, Options(**arguments), partial=partial)
