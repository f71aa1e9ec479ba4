"""The clock of this process, for loops without asyncio: it stops while the process does not run.

Deadlines of this process are times of this clock. After each wait, the loop passes the deadline that it
waited for, so that a pause (core/deadlines.py) moves all deadlines.
"""

from __future__ import annotations

import os
import time
from typing import Final

from gexec.core.deadlines import SteadyClock

_CLOCK: Final = SteadyClock(time.monotonic())
_TICKS_PER_S: Final = os.sysconf("SC_CLK_TCK")


def now_s() -> float:
    """Return the time now."""
    return _CLOCK.now(time.monotonic(), None)


def awake(due_s: float | None) -> float:
    """Return the time now, after a wait for events or for this deadline."""
    return _CLOCK.now(time.monotonic(), due_s)


def resume(saved_s: float) -> None:
    """Continue from the time of the program that this process has executed before: the rest was a pause."""
    _CLOCK.restore(saved_s, time.monotonic())


def ticks() -> int:
    """Return the time since boot in the kernel's clock ticks, the unit of process start times in /proc."""
    return int(time.clock_gettime(time.CLOCK_BOOTTIME) * _TICKS_PER_S)
