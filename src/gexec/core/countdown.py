"""A wait for one deadline by itself, in which pauses of the process do not count (core/deadlines.py)."""

from __future__ import annotations

from gexec import limits
from gexec.core.deadlines import MOVES_MAX, overslept


class Countdown:
    """A wait of so many seconds in which this process runs, for one deadline by itself.

    The caller waits until ``due_s``, then asks ``over``; a step in which there was a pause does not count.
    """

    __slots__ = ("_left_s", "_moves", "due_s")

    def __init__(self, now_s: float, wait_s: float) -> None:
        self._left_s = wait_s
        self._moves = 0
        self.due_s = now_s + min(wait_s, limits.HEARTBEAT_S)

    def over(self, now_s: float) -> bool:
        """Tell whether the time is over; else ``due_s`` is when to ask again."""
        if overslept(now_s, self.due_s) and self._moves < MOVES_MAX:
            self._moves += 1
            self._left_s = max(self._left_s, limits.SETTLE_S)
        else:
            self._left_s -= limits.HEARTBEAT_S
            if self._left_s <= 0:
                return True
        self.due_s = now_s + min(self._left_s, limits.HEARTBEAT_S)
        return False
