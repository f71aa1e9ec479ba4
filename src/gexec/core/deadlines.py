"""When something is due: a time in seconds, or None for never; and a clock that stands still in a pause.

A suspended machine, a stopped process or a starved one wakes up with every deadline overdue at once. A
deadline may decide only about what could have been read before it, so a :class:`SteadyClock` is put back
when one is found overdue by more than LATE_S: it is due again SETTLE_S later, and all others move with it.
Whoever has deadlines wakes up often enough (``wake_s``) to see a pause that ends before them, too.
"""

from __future__ import annotations

from typing import Final

from gexec import limits

#: A process that is never on time is overloaded rather than suspended: after so many moves deadlines count.
MOVES_MAX: Final = 32
_NEAR_S: Final = 60.0
#: Sums of times are not exact.
_ROUNDING_S: Final = 1e-6


def earlier(one_s: float | None, other_s: float | None) -> float | None:
    """Return the earlier of two deadlines."""
    if one_s is None:
        return other_s
    if other_s is None or one_s <= other_s:
        return one_s
    return other_s


def wake_s(now_s: float, due_s: float) -> float:
    """Return when to wake up at the latest for a deadline, so that a pause before it shows.

    Every HEARTBEAT_S in its last minute; a deadline that is further away need not know of pauses yet.
    """
    if due_s - now_s > _NEAR_S:
        return due_s - _NEAR_S
    return min(due_s, now_s + limits.HEARTBEAT_S)


def overslept(now_s: float, due_s: float) -> bool:
    """Tell whether a deadline is so overdue that this process cannot have run when it came."""
    return now_s - due_s > limits.LATE_S


class SteadyClock:
    """The time in which a process runs: what a monotonic clock says, less the pauses.

    Args:
        raw_s: the time of a monotonic clock, now.

    Attributes:
        behind_s: how long it stood still until now: steady time plus this is monotonic time.
    """

    __slots__ = ("_last_s", "_moves", "behind_s")

    def __init__(self, raw_s: float) -> None:
        self.behind_s = 0.0
        self._last_s = raw_s
        self._moves = 0

    def now(self, raw_s: float, due_s: float | None) -> float:
        """Return the steady time; put the clock back if a deadline shows that there was a pause.

        Args:
            raw_s: the time of a monotonic clock.
            due_s: when the caller was to wake up at the latest (``wake_s``), in steady time.

        After a pause the clock goes on from where it was read last, but so that ``due_s`` is between
        SETTLE_S and LOST_AFTER_S away. It goes back by SETTLE_S + LATE_S at most.
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
