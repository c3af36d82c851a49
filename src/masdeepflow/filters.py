"""`--include` and `--exclude`: which endpoints are shown and counted."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from masdeepflow.endpoint import Endpoint

__all__ = ["KEYS", "Filter", "FilterError", "parse", "values_of"]

KEYS = ("pid", "comm", "port", "protocol", "pod", "namespace", "container")
"""What a filter may ask for."""
_NUMBERS = ("pid", "port")
_PORT_MOST, _DIGITS_MOST = 65535, 6


class FilterError(ValueError):
    """A filter can't be understood."""


@dataclass(frozen=True, slots=True)
class Filter:
    """Values by key: a row passes if each included key has one of its values, and no excluded key has."""

    include: dict[str, frozenset[str]]
    exclude: dict[str, frozenset[str]]

    def __bool__(self) -> bool:
        return bool(self.include or self.exclude)

    def named(self, key: str) -> frozenset[str]:
        """Return the values of a key that are included or excluded."""
        return self.include.get(key, frozenset()) | self.exclude.get(key, frozenset())

    def passes(self, values: Mapping[str, str | None]) -> bool:
        """Return whether a row is shown that has these values by key; None passes whatever is included."""
        wanted = all(values[key] is None or values[key] in allowed for key, allowed in self.include.items())
        return wanted and not any(values[key] in denied for key, denied in self.exclude.items())


def values_of(endpoint: Endpoint, protocol: str | None) -> dict[str, str | None]:
    """Return what a filter may ask for; protocol None: of a connection event, which has none."""
    return {
        "pid": str(endpoint.pid),
        "comm": endpoint.comm,
        "port": "" if endpoint.server_port is None else str(endpoint.server_port),
        "protocol": protocol,
        "pod": endpoint.pod,
        "namespace": endpoint.namespace,
        "container": endpoint.container,
    }


def parse(include: Sequence[str], exclude: Sequence[str]) -> Filter:
    """Read `KEY=VALUE` items. Raises FilterError with the keys there are."""
    return Filter(_group(include), _group(exclude))


def _group(items: Sequence[str]) -> dict[str, frozenset[str]]:
    grouped: dict[str, set[str]] = {}
    for item in items:
        key, separator, value = item.partition("=")
        if not separator or key not in KEYS or not value:
            raise FilterError(f"a filter is KEY=VALUE with KEY one of {', '.join(KEYS)}, not {item!r}")
        grouped.setdefault(key, set()).add(_number(key, value) if key in _NUMBERS else value)
    return {key: frozenset(values) for key, values in grouped.items()}


def _number(key: str, value: str) -> str:
    if not (value.isascii() and value.isdecimal()):
        raise FilterError(f"{key} in a filter is a number, not {value!r}")
    number = value.lstrip("0") or "0"
    if key == "port" and not 0 < int(number[:_DIGITS_MOST]) <= _PORT_MOST:
        raise FilterError(f"port in a filter is between 1 and {_PORT_MOST}, not {value!r}")
    return number
