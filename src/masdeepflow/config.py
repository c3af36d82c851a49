"""The configuration file: YAML, every option of `run` is a key there under its own name."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import yaml

if TYPE_CHECKING:
    from collections.abc import Collection
    from pathlib import Path

__all__ = ["ConfigError", "load"]


class ConfigError(ValueError):
    """The file can't be read, is no YAML mapping, or has a key that is no option."""


def load(path: Path, options: Collection[str]) -> dict[str, Any]:
    """Return option name (with underscores) -> value as YAML gives it.

    options: the names there are. Raises ConfigError with one sentence that says what to change.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is not UTF-8 text"
        raise ConfigError(f"the configuration {path} can't be read: {reason}") from error
    try:
        values = yaml.safe_load(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        where = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise ConfigError(f"the configuration {path} is not YAML{where}") from error
    return _checked(values or {}, path, options)


def _checked(values: object, path: Path, options: Collection[str]) -> dict[str, Any]:
    if not isinstance(values, dict):
        raise ConfigError(f"the configuration {path} is not a mapping of options: write lines such as `log: json`")
    checked = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name not in options:
            known = ", ".join(sorted(option.replace("_", "-") for option in options))
            raise ConfigError(f"the configuration {path} has an unknown option {key!r}; there are {known}")
        # YAML 1.1 reads a bare `off` as false.
        checked[name] = "off" if value is False and name in ("log", "listen", "store") else value
    return checked
