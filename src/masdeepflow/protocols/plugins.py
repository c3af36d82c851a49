"""Protocols from the user's own files: read, checked, and left out with a reason where they do not fit."""

from __future__ import annotations

import contextlib
import inspect
import os
import re
import stat
import sys
import traceback
from types import ModuleType
from typing import TYPE_CHECKING

import numpy as np

from masdeepflow import schema
from masdeepflow.escape import escape
from masdeepflow.kernel.layout import committed, slot_dtype
from masdeepflow.protocols.registry import UNRECOGNISED, scores_of

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from masdeepflow.protocols.base import Protocol

__all__ = ["PluginsError", "load"]

_SOURCE_LIMIT = 1 << 22  # bytes of a file
_REASON_LIMIT = 400  # bytes of what an exception tells
_NAME = re.compile(r"[a-z][a-z0-9_.-]{0,63}")
_OPEN = os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC


class PluginsError(ValueError):
    """The directory can't be read, or others than its owner could put files there."""


class _RefusedError(ValueError):
    """Why a plugin is not used."""


def load(directory: Path, others: Sequence[Protocol]) -> tuple[list[Protocol], list[str]]:
    """Return an instance of each file's protocol, by file name, and why those of other files are not used.

    Files end in `.py` and do not start with a dot or an underscore; that there are none is a reason, too.
    others: protocols whose names are taken. Each reason is one sentence, safe to print.

    Raises PluginsError with one if the directory is none, or not safe: whoever can write to what root runs is
    root, so it and the files belong to root or to the user who runs this, and nobody else may write to them.
    """
    found: list[Protocol] = []
    reasons = []
    with _opened(directory) as fd:
        files = sorted(os.listdir(fd))  # noqa: PTH208  # a descriptor
        names = [name for name in files if name.endswith(".py") and name[0] not in "._"]
        if not names:
            shown = escape(str(directory))
            reasons.append(f"there is no plugin in {shown}: names end in .py and start with neither . nor _")
        for name in names:
            try:
                found.append(_plugin(directory / name, _read(fd, name), [*others, *found]))
            except _RefusedError as error:
                reasons.append(f"the plugin {escape(str(directory / name))} is not used: {error}")
    return found, reasons


@contextlib.contextmanager
def _opened(directory: Path) -> Iterator[int]:
    shown = escape(str(directory))
    try:
        fd = os.open(directory, _OPEN | os.O_DIRECTORY)
    except OSError as error:
        raise PluginsError(f"the directory of plugins {shown} can't be read: {error.strerror}") from error
    try:
        unsafe = _why_unsafe(fd)
        if unsafe:
            raise PluginsError(f"the directory of plugins {shown} is not safe: {unsafe}")
        yield fd
    finally:
        os.close(fd)


def _why_unsafe(fd: int) -> str:
    """Return who else could change what is run, with the remedy; nothing if nobody could."""
    status = os.fstat(fd)
    if status.st_uid not in (0, os.geteuid()):
        return f"it belongs to user {status.st_uid}, who could change it (chown root)"
    # Nobody writes to a read-only mount, such as that of a ConfigMap, whatever the mode says.
    if os.fstatvfs(fd).f_flag & os.ST_RDONLY:
        return ""
    if status.st_mode & stat.S_IWOTH:
        return "everybody may write to it (chmod go-w)"
    if status.st_mode & stat.S_IWGRP and status.st_gid not in (0, os.getegid()):
        return f"group {status.st_gid} may write to it (chmod g-w)"
    return ""


def _read(directory: int, name: str) -> bytes:
    """Return a file's content: of the very file that was looked at, whoever replaces it meanwhile."""
    try:
        fd = os.open(name, _OPEN, dir_fd=directory)
    except OSError as error:
        raise _RefusedError(f"it can't be read: {error.strerror}") from error
    try:
        return _source(fd)
    finally:
        os.close(fd)


def _source(fd: int) -> bytes:
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        raise _RefusedError("it is no regular file")
    unsafe = _why_unsafe(fd)
    if unsafe:
        raise _RefusedError(unsafe)
    with open(fd, "rb", closefd=False) as file:  # a descriptor
        source = file.read(_SOURCE_LIMIT + 1)
    if len(source) > _SOURCE_LIMIT:
        raise _RefusedError(f"it has more than {_SOURCE_LIMIT} bytes")
    return source


def _plugin(path: Path, source: bytes, others: Sequence[Protocol]) -> Protocol:
    module = ModuleType(f"masdeepflow_plugins.{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # where dataclasses and others look for it
    try:
        with _guarding(path):
            # What is compiled is what was checked: no bytecode that lies beside it is used.
            exec(compile(source, str(path), "exec", dont_inherit=True), module.__dict__)  # noqa: S102  # that is what a plugin is
            protocol = _made(module)
            _check(protocol, others)
            _extend(module)
    except BaseException:
        del sys.modules[module.__name__]
        raise
    return protocol


@contextlib.contextmanager
def _guarding(path: Path) -> Iterator[None]:
    """Raise _RefusedError for whatever the plugin's own code raises."""
    try:
        yield
    except (KeyboardInterrupt, _RefusedError):
        raise
    except BaseException as error:
        raise _RefusedError(_told(path, error)) from error


def _told(path: Path, error: BaseException) -> str:
    """Return the line of the plugin and what happened there."""
    if isinstance(error, SyntaxError) and error.lineno is not None:
        return escape(f"line {error.lineno}: {error.msg}", _REASON_LIMIT)
    lines = [at.lineno for at in traceback.extract_tb(error.__traceback__) if at.filename == str(path)]
    where = f"line {lines[-1]}: " if lines else ""
    return escape(f"{where}{type(error).__name__}: {error}", _REASON_LIMIT)


def _made(module: ModuleType) -> Protocol:
    if not hasattr(module, "PROTOCOL"):
        raise _RefusedError("it binds no PROTOCOL")
    if not callable(module.PROTOCOL):
        raise _RefusedError("its PROTOCOL is no class")
    protocol: Protocol = module.PROTOCOL()
    return protocol


def _check(protocol: Protocol, others: Sequence[Protocol]) -> None:
    name: object = getattr(protocol, "name", None)
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name == UNRECOGNISED:
        shown = escape(repr(name), _REASON_LIMIT)
        raise _RefusedError(f"the name of its protocol is {shown}: lower case letters and digits are due")
    if name in {other.name for other in others}:
        raise _RefusedError(f"there is a protocol {name} already")
    for method in ("recognise", "parse", "forget"):
        _check_method(protocol, method)
    scores_of(protocol, np.zeros(2, slot_dtype(committed())))


def _check_method(protocol: Protocol, name: str) -> None:
    method: object = getattr(protocol, name, None)
    if not callable(method):
        raise _RefusedError(f"its protocol has no method {name}")
    try:
        inspect.signature(method).bind(None)
    except TypeError:
        raise _RefusedError(f"its {name} does not take one argument") from None


def _extend(module: ModuleType) -> None:
    try:
        schema.extend(getattr(module, "ATTRIBUTES", []))
    except (TypeError, ValueError) as error:
        raise _RefusedError(f"its ATTRIBUTES can't be used: {escape(str(error), _REASON_LIMIT)}") from error
