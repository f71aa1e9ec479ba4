"""Deadlines for peers that allow for a pause of this process (core/deadlines.py)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from gexec.core.countdown import Countdown


class Timer(Protocol):
    """One scheduled call."""

    def cancel(self) -> None:
        """Cancel the call."""


class Timers(Protocol):
    """A clock with scheduled calls: an event loop, or the simulator."""

    def time(self) -> float:
        """Return the seconds of a monotonic clock."""

    def call_at(self, when: float, callback: Callable[[], object]) -> Timer:
        """Schedule a call at this time of the clock; it is never made before ``call_at`` returns."""


class Deadline:
    """Calls a function once when a peer's time is over; only time in which this process ran counts."""

    __slots__ = ("_callback", "_countdown", "_timer", "_timers")

    def __init__(self, timers: Timers, delay_s: float, callback: Callable[[], object]) -> None:
        self._timers = timers
        self._callback = callback
        self._countdown = Countdown(timers.time(), delay_s)
        self._timer = timers.call_at(self._countdown.due_s, self._due)

    def cancel(self) -> None:
        """Cancel the call."""
        self._timer.cancel()

    def _due(self) -> None:
        if self._countdown.over(self._timers.time()):
            self._callback()
        else:
            self._timer = self._timers.call_at(self._countdown.due_s, self._due)
