"""When something is due: a time in seconds, or None for never."""

from __future__ import annotations


def earlier(one_s: float | None, other_s: float | None) -> float | None:
    """Return the earlier of two deadlines."""
    if one_s is None:
        return other_s
    if other_s is None or one_s <= other_s:
        return one_s
    return other_s
