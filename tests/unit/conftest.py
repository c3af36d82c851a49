"""What holds for every unit test."""

from __future__ import annotations

from hypothesis import settings

# How long an example takes says more about the machine than about the code: slowness is for bench/ to find.
settings.register_profile("masdeepflow", deadline=None)
settings.load_profile("masdeepflow")
