"""What applications can observe of a TCP connection; each behaviour is a function of a pair.

A behaviour returns what it saw. It conforms if that is the same on an accelerated pair as on a plain one.
None has a time in what it returns, and all are bounded: what would hang is seen as `TIMEOUT`.
"""

from __future__ import annotations

from masdeepflow.gateway.conformance import calls, pressure, stream, waiting
from masdeepflow.gateway.conformance.table import BEHAVIOURS, TIMEOUT, Behaviour, observe

__all__ = ["BEHAVIOURS", "TIMEOUT", "Behaviour", "calls", "observe", "pressure", "stream", "waiting"]
