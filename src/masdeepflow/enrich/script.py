"""What a program is called: a host full of `python3` says nothing, and a link may have told a better name."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

__all__ = ["called", "script_of"]

_INTERPRETER = re.compile(
    r"(python|pypy|ruby|perl|php|node|nodejs|bun|deno|java|bash|dash|ash|sh)[\d.]*", re.ASCII
)
_TITLE = re.compile(r"[\s:]")  # `nginx: worker process`, `redis-server 127.0.0.1:6379`
_MULTICALL = "busybox"  # runs what it is called as, or told first
_SHELLS = frozenset(["sh", "ash"])
_RUNNERS = frozenset(["bun", "deno"])  # whose script may follow the word `run`
_NAMES_PROGRAM = frozenset(["-m", "-jar", "--module"])
_TAKES_VALUE = frozenset(
    ["-cp", "-classpath", "--class-path", "-p", "--module-path", "-W", "-X", "-r", "--require"]
)
_IS_PROGRAM = frozenset(["-c", "-e", "--eval", "--command", "-"])


def script_of(executable: str | None, arguments: Sequence[str]) -> str | None:
    """Return the base name of the script, module, archive or class that an interpreter was told to run.

    Of busybox, the applet, or what that runs if it is a shell.
    None for other executables, for programs given on the command line itself, and where nothing is given.
    arguments: argv, its first the interpreter's own name.
    """
    if executable == _MULTICALL:
        return _applet(arguments)
    if executable is None or not _INTERPRETER.fullmatch(executable):
        return None
    rest = iter(arguments[2:] if executable in _RUNNERS and arguments[1:2] == ["run"] else arguments[1:])
    program = next(_program(rest), None)
    return None if program is None else _base_name(program)


def called(comm: str, arguments: Sequence[str]) -> str | None:
    """Return the name by which a program was started; Debian's redis-server is a link to redis-check-rdb.

    None where comm and arguments, argv, do not agree on it: either can be set by the program.
    """
    name = _base_name(arguments[0]) if arguments else None
    if not name or not comm or not name.startswith(comm):
        return None
    return _TITLE.split(name, 1)[0] or None


def _applet(arguments: Sequence[str]) -> str | None:
    for place, argument in enumerate(arguments[:2]):
        name = (_base_name(argument) or "").removeprefix("-")
        if name in _SHELLS:
            return script_of(name, arguments[place:])
        if name != _MULTICALL:
            return name or None
    return None


def _base_name(path: str) -> str | None:
    return path.rstrip("/").rpartition("/")[2] or None


def _program(rest: Iterator[str]) -> Iterator[str]:
    for argument in rest:
        if argument in _IS_PROGRAM:
            return
        if argument in _NAMES_PROGRAM:
            yield from rest
        elif argument in _TAKES_VALUE:
            next(rest, None)
        elif not argument.startswith("-"):
            yield argument
