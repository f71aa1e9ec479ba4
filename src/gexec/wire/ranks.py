"""Sets of ranks as sorted, disjoint, half-open ranges: ``((0, 3), (7, 8))`` is {0, 1, 2, 7}.

A job's outcome on a thousand nodes is usually one range, so frames and machines use ranges. Part of the thin
client: imports nothing.
"""

from __future__ import annotations

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable

Ranges = tuple[tuple[int, int], ...]


def of(ranks: Iterable[int]) -> Ranges:
    """Return the ranges of ranks, which may be in any order and contain duplicates. O(n log n)."""
    ranges: list[tuple[int, int]] = []
    for rank in sorted(set(ranks)):
        if ranges and ranges[-1][1] == rank:
            ranges[-1] = (ranges[-1][0], rank + 1)
        else:
            ranges.append((rank, rank + 1))
    return tuple(ranges)


def members(ranges: Ranges) -> list[int]:
    """Return the ranks in ascending order."""
    return [rank for low, high in ranges for rank in range(low, high)]


def size(ranges: Ranges) -> int:
    """Return how many ranks the ranges contain."""
    return sum(high - low for low, high in ranges)


def union(left: Ranges, right: Ranges) -> Ranges:
    """Return the ranks that are in either; adjacent ranges join. O(a + b) after sorting."""
    merged: list[tuple[int, int]] = []
    for low, high in sorted(left + right):
        if merged and low <= merged[-1][1]:
            if high > merged[-1][1]:
                merged[-1] = (merged[-1][0], high)
        else:
            merged.append((low, high))
    return tuple(merged)


def difference(left: Ranges, right: Ranges) -> Ranges:
    """Return the ranks of ``left`` that are not in ``right``."""
    kept: list[tuple[int, int]] = []
    position = 0
    for low, high in left:
        while position < len(right) and right[position][1] <= low:
            position += 1
        index = position
        while index < len(right) and right[index][0] < high:
            if right[index][0] > low:
                kept.append((low, right[index][0]))
            low = max(low, right[index][1])
            index += 1
        if low < high:
            kept.append((low, high))
    return tuple(kept)


def intersection(left: Ranges, right: Ranges) -> Ranges:
    """Return the ranks that are in both."""
    return difference(left, difference(left, right))


def contains(ranges: Ranges, rank: int) -> bool:
    """Tell whether ``rank`` is in the ranges."""
    return any(low <= rank < high for low, high in ranges)
