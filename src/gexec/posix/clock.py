"""The time of this process, for the loops without asyncio: it stands still while the process is not run.

A deadline of this process is a time of this clock. Its loop says after each wait which deadline it
waited for, so that after a pause (core/deadlines.py) all of them move.
"""

from __future__ import annotations

import time
from typing import Final

from gexec.core.deadlines import SteadyClock

_CLOCK: Final = SteadyClock(time.monotonic())


def now_s() -> float:
    """Return the time now."""
    return _CLOCK.now(time.monotonic(), None)


def awake(due_s: float | None) -> float:
    """Return the time now, after a wait for what comes or for this deadline."""
    return _CLOCK.now(time.monotonic(), due_s)
