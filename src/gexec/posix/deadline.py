"""Deadlines for peers that allow for a pause of this process (core/deadlines.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gexec.core.deadlines import Countdown


class Deadline:
    """Calls a function once when a peer's time is over, counting only time in which this process ran."""

    __slots__ = ("_callback", "_countdown", "_handle", "_loop")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, delay_s: float, callback: Callable[[], object]
    ) -> None:
        self._loop = loop
        self._callback = callback
        self._countdown = Countdown(loop.time(), delay_s)
        self._handle = loop.call_at(self._countdown.due_s, self._due)

    def cancel(self) -> None:
        """Do not call any more."""
        self._handle.cancel()

    def _due(self) -> None:
        if self._countdown.over(self._loop.time()):
            self._callback()
        else:
            self._handle = self._loop.call_at(self._countdown.due_s, self._due)
