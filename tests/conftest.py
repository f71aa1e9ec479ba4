"""For all tests: property tests try the same examples everywhere, and are never failed by a slow machine."""

from __future__ import annotations

from hypothesis import settings

settings.register_profile("gexec", deadline=None, derandomize=True, print_blob=True)
settings.load_profile("gexec")
