"""A wait for a single deadline, in which pauses of the process do not count (core/deadlines.py)."""

from __future__ import annotations

from gexec import limits
from gexec.core.deadlines import MOVES_MAX, overslept


class Countdown:
    """A wait of ``wait_s`` seconds in which this process runs, for a single deadline.

    The caller waits until ``due_s``, then calls ``over``; a step that contains a pause does not count.
    """

    __slots__ = ("_left_s", "_moves", "due_s")

    def __init__(self, now_s: float, wait_s: float) -> None:
        self._left_s = wait_s
        self._moves = 0
        self.due_s = now_s + min(wait_s, limits.HEARTBEAT_S)

    def over(self, now_s: float) -> bool:
        """Tell whether the time is over; if not, ``due_s`` is when to call this again."""
        if overslept(now_s, self.due_s) and self._moves < MOVES_MAX:
            self._moves += 1
            self._left_s = max(self._left_s, limits.SETTLE_S)
        else:
            self._left_s -= limits.HEARTBEAT_S
            if self._left_s <= 0:
                return True
        self.due_s = now_s + min(self._left_s, limits.HEARTBEAT_S)
        return False
