"""rsync as the judge of what its own rules mean."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

#: A run takes 20 ms.
_HANGS_AFTER_S = 30


class Judge:
    """Runs rsync in a directory, which copies nothing (``-n`` is the caller's).

    rsync 3.5 itself hung once in some ten thousand such runs: that says nothing about our code, so one run
    without an answer is passed over.
    """

    def __init__(self, here: Path) -> None:
        self._here = here
        self._hung = 0

    def run(self, words: Sequence[str | bytes]) -> subprocess.CompletedProcess[bytes] | None:
        """Return how it ended; None once, if it hangs."""
        try:
            return subprocess.run(
                ["rsync", *words],
                cwd=self._here,
                env=os.environ | {"LC_ALL": "C"},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=_HANGS_AFTER_S,
            )
        except subprocess.TimeoutExpired:
            self._hung += 1
            if self._hung > 1:
                raise
            return None
