"""The configuration file: YAML, every option of `run` is a key there under its own name."""

from __future__ import annotations

from typing import TYPE_CHECKING

import yaml

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

__all__ = ["ConfigError", "load"]


class ConfigError(ValueError):
    """The file can't be read, is no YAML mapping, or has a key or a value that is none of an option."""


def load(path: Path, options: Collection[str], lists: Collection[str] = ()) -> dict[str, str | list[str]]:
    """Return option name (with underscores) -> value as text, as it would stand on the command line.

    options: the names there are. lists: those whose value is a list. Keys without a value are left out.
    Raises ConfigError with one sentence that says what to change.
    """
    values = _read(path)
    if values is None or values == "":
        return {}
    if not isinstance(values, dict):
        raise ConfigError(
            f"the configuration {path} is not a mapping of options: write lines such as `log: json`"
        )
    checked = {}
    for key, value in values.items():
        name = key.replace("-", "_")
        if name not in options:
            known = ", ".join(sorted(map(_shown, options)))
            raise ConfigError(f"the configuration {path} has an unknown option {key!r}; there are {known}")
        if value != "":
            checked[name] = _list(path, name, value) if name in lists else _text(path, name, value)
    return checked


def _read(path: Path) -> object:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"the configuration {path} can't be read: {reason}") from error
    try:
        # Text only: YAML would take `off` for false, 0123 for 83 and 1:20 for 80.
        return yaml.load(text, yaml.BaseLoader)  # noqa: S506  # this loader makes nothing but text
    # Beside its own errors PyYAML lets through what a thousand brackets raise.
    except Exception as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"the configuration {path} is not YAML{where}") from error


def _list(path: Path, name: str, value: object) -> list[str]:
    if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
        raise ConfigError(
            f"{_shown(name)} in the configuration {path} is a list: write `{_shown(name)}: [KEY=VALUE]`"
        )
    return value


def _text(path: Path, name: str, value: object) -> str:
    if not isinstance(value, str):
        raise ConfigError(
            f"{_shown(name)} in the configuration {path} is a single value, such as a word or a number"
        )
    return value


def _shown(name: str) -> str:
    return name.replace("_", "-")
