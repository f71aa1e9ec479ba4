"""Detects a receiver that is so slow that it delays all others, which get the same stream. Pure.

Only time spent on received data counts, not time spent waiting for more: a waiting receiver is not slow.
"""

from __future__ import annotations

#: Working time over which a receiver is judged.
OVER_S = 5.0


class Pace:
    """Compares progress with elapsed time.

    Args:
        least_bytes_per_s: the lowest permitted rate; 0 = any.
        over_s: working time after which the rate is checked; then the measurement begins again.
    """

    __slots__ = ("_bytes", "_least", "_over_s", "_spent_s", "bytes_per_s")

    def __init__(self, least_bytes_per_s: int, over_s: float = OVER_S) -> None:
        self._least = least_bytes_per_s
        self._over_s = over_s
        self._bytes = 0
        self._spent_s = 0.0
        #: Result of the last check.
        self.bytes_per_s = 0.0

    def is_too_slow(self, count: int, spent_s: float) -> bool:
        """Record that ``count`` bytes took ``spent_s``; return True to give up."""
        if not self._least:
            return False
        self._bytes += count
        self._spent_s += spent_s
        if self._spent_s < self._over_s:
            return False
        self.bytes_per_s = self._bytes / self._spent_s
        self._bytes, self._spent_s = 0, 0.0
        return self.bytes_per_s < self._least
