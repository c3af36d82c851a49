"""What applications can observe of a TCP connection; each behaviour is a function of a pair.

A behaviour returns what it saw. It conforms if that is the same on an accelerated pair as on a plain one.
None has a time in what it returns, and all are bounded: what would hang is seen as `TIMEOUT`.
"""

from __future__ import annotations

from masdeepflow.gateway.conformance import calls, pressure, stream, table, waiting

__all__ = ["BEHAVIOURS"]

_THEMES = (stream, waiting, pressure, calls)
BEHAVIOURS = tuple(
    row for theme in _THEMES for row in table.BEHAVIOURS if row.see.__module__ == theme.__name__
)
"""The whole table, in the order in which it is shown."""
