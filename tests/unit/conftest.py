"""Properties are tried on the same examples in every run: a test that fails by chance fails someone else's change."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("unit", derandomize=True, database=None, deadline=None, max_examples=100)
settings.load_profile("unit")
