"""Deadlines for peers that are not fooled by a pause of this process (core/deadlines.py)."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

from gexec import limits
from gexec.core.deadlines import MOVES_MAX, overslept


class Deadline:
    """Calls once when a peer's time is over.

    Found overdue by more than LATE_S it waits SETTLE_S more: it was this process that was not run, and
    the peer's answer may wait to be read.
    """

    __slots__ = ("_at_s", "_callback", "_handle", "_loop", "_moves")

    def __init__(
        self, loop: asyncio.AbstractEventLoop, delay_s: float, callback: Callable[[], object]
    ) -> None:
        self._loop = loop
        self._callback = callback
        self._moves = 0
        self._at_s = loop.time() + delay_s
        self._handle = loop.call_at(self._at_s, self._due)

    def cancel(self) -> None:
        """Do not call any more."""
        self._handle.cancel()

    def _due(self) -> None:
        now_s = self._loop.time()
        if overslept(now_s, self._at_s) and self._moves < MOVES_MAX:
            self._moves += 1
            self._at_s = now_s + limits.SETTLE_S
            self._handle = self._loop.call_at(self._at_s, self._due)
        else:
            self._callback()
