"""The latency histogram of bpf/wire.h in its plainest form, to compare the kernel's with."""

from __future__ import annotations

__all__ = ["BUCKETS", "bucket"]

BUCKETS = 208
_UNIT_NS = 1024
_PER_OCTAVE = 8


def bucket(duration_ns: int) -> int:
    """Return the bucket of a duration: eight of equal width in every octave of 1024 ns units."""
    units = duration_ns // _UNIT_NS
    if units < _PER_OCTAVE:
        return units
    octave = units.bit_length() - 1
    width = (1 << octave) // _PER_OCTAVE
    return min(_PER_OCTAVE * (octave - 2) + (units - (1 << octave)) // width, BUCKETS - 1)
