"""Deadlines: a time in seconds, or None for never; and a clock that stops during a pause.

When a suspended machine, a stopped process or a CPU-starved process runs again, all its deadlines are overdue
at once. A deadline may decide only about what could have been read before it. So a :class:`SteadyClock` is
set back when a deadline is overdue by more than LATE_S: this deadline is due again at least SETTLE_S later,
and all others move with it. A process with deadlines wakes up often enough (``wake_s``) to detect also a
pause that ends before the deadline.
"""

from __future__ import annotations

from typing import Final

from gexec import limits

#: A process that is never on time is overloaded, not suspended: after this many moves deadlines count.
MOVES_MAX: Final = 32
_NEAR_S: Final = 60.0
#: Sums of floating-point times are not exact.
_ROUNDING_S: Final = 1e-6


def earlier(one_s: float | None, other_s: float | None) -> float | None:
    """Return the earlier of two deadlines."""
    if one_s is None:
        return other_s
    if other_s is None or one_s <= other_s:
        return one_s
    return other_s


def wake_s(now_s: float, due_s: float) -> float:
    """Return when to wake up at the latest for a deadline, so that a pause before it is detected.

    Every HEARTBEAT_S in its last minute; for a deadline further away, pauses do not matter yet.
    """
    if due_s - now_s > _NEAR_S:
        return due_s - _NEAR_S
    return min(due_s, now_s + limits.HEARTBEAT_S)


def overslept(now_s: float, due_s: float) -> bool:
    """Tell whether a deadline is so overdue that this process cannot have been running when it was due."""
    return now_s - due_s > limits.LATE_S


class SteadyClock:
    """The time in which a process runs: a monotonic clock, less the pauses.

    Args:
        raw_s: the time of a monotonic clock, now.

    Attributes:
        behind_s: the sum of the pauses so far: steady time plus this is monotonic time.
    """

    __slots__ = ("_last_s", "_moves", "behind_s")

    def __init__(self, raw_s: float) -> None:
        self.behind_s = 0.0
        self._last_s = raw_s
        self._moves = 0

    def save(self) -> float:
        """Return its last reading."""
        return self._last_s

    def restore(self, saved_s: float, raw_s: float) -> None:
        """Continue from a reading of another process's clock: what has passed since then is a pause."""
        self.behind_s = raw_s - saved_s
        self._last_s = saved_s

    def now(self, raw_s: float, due_s: float | None) -> float:
        """Return the steady time; set the clock back if a deadline shows that there was a pause.

        Args:
            raw_s: the time of a monotonic clock.
            due_s: when the caller had to wake up at the latest (``wake_s``), in steady time.

        After a pause the clock continues from its last reading, limited so that ``due_s`` is between SETTLE_S
        and LOST_AFTER_S away. Compared with the last reading it goes back by at most SETTLE_S + LATE_S.
        """
        now_s = raw_s - self.behind_s
        if due_s is not None and now_s >= due_s - _ROUNDING_S:
            now_s = max(now_s, due_s)  # a timer for due_s + behind_s must not find it a hair too early
            if not overslept(now_s, due_s):
                self._moves = 0
            elif self._moves < MOVES_MAX:
                self._moves += 1
                resumed_s = max(self._last_s, due_s - limits.LOST_AFTER_S)
                resumed_s = min(resumed_s, due_s - limits.SETTLE_S)
                self.behind_s += now_s - resumed_s
                now_s = resumed_s
        self._last_s = now_s
        return now_s
