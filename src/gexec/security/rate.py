"""A token bucket for each user: a request limit with bounded memory."""

from __future__ import annotations

#: Buckets kept; full ones are dropped first, because a new bucket is also full.
BUCKETS_MAX = 4096


class Rate:
    """Permits each key ``per_s`` requests per second, and ``burst`` at once.

    Pure: the clock is an argument and must not go backwards.
    """

    __slots__ = ("_buckets", "_burst", "_per_s")

    def __init__(self, per_s: float, burst: float) -> None:
        self._per_s = per_s
        self._burst = burst
        self._buckets: dict[int, tuple[float, float]] = {}  # key: (tokens, at)

    def take(self, key: int, now_s: float) -> bool:
        """Take one token of ``key``; False if there is none."""
        tokens, at_s = self._buckets.get(key, (self._burst, now_s))
        tokens = min(self._burst, tokens + (now_s - at_s) * self._per_s)
        allowed = tokens >= 1
        if key not in self._buckets and len(self._buckets) >= BUCKETS_MAX:
            self._forget(now_s)
        self._buckets[key] = (tokens - 1 if allowed else tokens, now_s)
        return allowed

    def _forget(self, now_s: float) -> None:
        full = [
            key
            for key, (tokens, at_s) in self._buckets.items()
            if tokens + (now_s - at_s) * self._per_s >= self._burst
        ]
        for key in full or [next(iter(self._buckets))]:
            del self._buckets[key]
