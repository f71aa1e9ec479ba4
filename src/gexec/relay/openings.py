"""The children of one job whose links are requested later: in steps, and not long before they are dialled.

A job of very many nodes asks thousands of children at once. Requesting all their links in one turn of the
event loop would delay other users' jobs by seconds, and so would dropping them. So a step requests few, and
none while enough of this job's links wait for their turn to be dialled (``relay.turns``).
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Final

from gexec.posix.deadline import Timer, Timers

#: Links requested in one step.
STEP_MAX: Final = 64
#: Links of one job that wait to be dialled; further ones are requested when these begin.
WAITING_MAX: Final = 64


class Openings:
    """The children that were not opened yet, in order; ``open`` requests the link of one.

    Attributes:
        waiting: opened children whose links wait to be dialled.
        step_max: links requested in one step.
    """

    def __init__(self, timers: Timers, open_: Callable[[int], None], step_max: int = STEP_MAX) -> None:
        self.waiting: set[int] = set()
        self.step_max = step_max
        self._timers = timers
        self._open = open_
        self._queue: deque[int] = deque()
        self._opened = 0
        self._timer: Timer | None = None

    def add(self, child: int) -> None:
        """Open a child, now or in a later step."""
        if self._queue or self._full:
            self._queue.append(child)
            self._step_soon()
        else:
            self._opened += 1
            self._open(child)

    @property
    def _full(self) -> bool:
        return self._opened >= self.step_max or len(self.waiting) >= WAITING_MAX

    def begun(self, child: int) -> None:
        """A child's link is dialled, or has ended, or the child is not needed any more."""
        self.waiting.discard(child)
        if self._queue:
            self._step_soon()

    def end(self) -> None:
        """Open none any more."""
        self._queue.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _step_soon(self) -> None:
        if self._timer is None and len(self.waiting) < WAITING_MAX:
            self._timer = self._timers.call_at(self._timers.time(), self._step)

    def _step(self) -> None:
        self._timer = None
        self._opened = 0
        while self._queue and not self._full:
            self._opened += 1
            self._open(self._queue.popleft())
        if self._queue:
            self._step_soon()
