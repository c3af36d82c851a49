"""The command line: one command, one file."""

from __future__ import annotations

import importlib
import os
import sys

import click

__all__ = ["main"]

_STDOUT, _STDERR = 1, 2
_COMMANDS = ("run", "check", "record", "replay", "accelerate", "version")
_HELP = {
    "run": "Watch this host: live log, metrics, summary.",
    "check": "Tell what this host offers and whether `run` would work.",
    "record": "Like `run`, and write all that is seen to a file.",
    "replay": "Show a recording again; needs no root.",
    "accelerate": "Move bytes between processes of this host past TCP.",
    "version": "Print the version, commit and build.",
}


class _Commands(click.Group):
    """Imports a command when it is asked for, so that `version` and `--help` are instant."""

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002  # click's signature
        return list(_COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:  # noqa: ARG002  # click's signature
        if cmd_name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(f"masdeepflow.cli.{cmd_name}").command
        return command

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:  # noqa: ARG002  # click's signature
        with formatter.section("Commands"):
            formatter.write_dl([(name, _HELP[name]) for name in _COMMANDS])


@click.command(cls=_Commands, context_settings={"help_option_names": ["-h", "--help"]})
def _group() -> None:
    """See every request that processes on this host make and serve, with no change to any of them."""


def _open_standard_streams() -> None:
    """Give closed ones to /dev/null: no file or map that is opened later may become stdout or stderr."""
    while (fd := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        pass
    os.close(fd)
    # Python has None for them, and print() would take stdout for a stderr that is None.
    if sys.stdout is None:
        sys.stdout = open(_STDOUT, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  # for good
    if sys.stderr is None:
        sys.stderr = open(_STDERR, "w", encoding="utf-8", closefd=False)  # noqa: SIM115  # for good


def main() -> None:
    """Run the command line. Exit codes: 0 fine, 1 the host can't run it, 2 wrong usage."""
    _open_standard_streams()
    # NumPy's linear algebra is never used: its threads would only be there.
    os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")
    try:
        result = _group.main(prog_name="masdeepflow", standalone_mode=False)
    except click.exceptions.NoArgsIsHelpError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        # One sentence, without the usage block: what is wrong is not to be searched for.
        click.echo(f"masdeepflow: {error.format_message()}", err=True)
        sys.exit(error.exit_code)
    except click.Abort:
        sys.exit(130)
    except OSError as error:
        # Such as a full disk behind stdout; a reader that has gone is click's own business.
        click.echo(f"masdeepflow: {error}", err=True)
        sys.exit(1)
    sys.exit(result if isinstance(result, int) else 0)
