"""The configuration file: YAML, every option of `run` is a key there under its own name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

__all__ = ["ConfigError", "load"]

_OFF = ("log", "listen", "store")


class ConfigError(ValueError):
    """The file can't be read, is no YAML mapping, or has a key or a value that is none of an option."""


def load(path: Path, options: Collection[str], lists: Collection[str] = ()) -> dict[str, Any]:
    """Return option name (with underscores) -> value as YAML gives it; keys without a value are left out.

    options: the names there are. lists: those whose value is a list of strings; that of the others is a
    string, a number or a truth value. Raises ConfigError with one sentence that says what to change.
    """
    values = _read(path)
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise ConfigError(
            f"the configuration {path} is not a mapping of options: write lines such as `log: json`"
        )
    checked = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in options:
            known = ", ".join(sorted(map(_shown, options)))
            raise ConfigError(f"the configuration {path} has an unknown option {key!r}; there are {known}")
        if value is not None:
            checked[name] = _value(path, name, value, is_list=name in lists)
    return checked


def _read(path: Path) -> object:
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"the configuration {path} can't be read: {reason}") from error
    try:
        return yaml.safe_load(text)
    # PyYAML lets through what an impossible date, a wrong tag or a thousand brackets raise.
    except Exception as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"the configuration {path} is not YAML{where}") from error


def _value(path: Path, name: str, value: object, *, is_list: bool) -> object:
    if is_list:
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ConfigError(
                f"{_shown(name)} in the configuration {path} is a list: write `{_shown(name)}: [KEY=VALUE]`"
            )
        return value
    if not isinstance(value, str | int | float):
        raise ConfigError(
            f"{_shown(name)} in the configuration {path} is a single value, such as a word or a number"
        )
    # YAML 1.1 reads a bare `off` as false.
    return "off" if value is False and name in _OFF else value


def _shown(name: str) -> str:
    return name.replace("_", "-")
