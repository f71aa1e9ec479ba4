"""Laying out a tree over ranks: contiguous ranges, so that each hop sends only what its subtree needs.

A node gets the range [low, high), is ``low`` itself and splits the rest among its children. The
split depends on nothing but its arguments: whoever takes over a lost node's subtree finds the
same children with the same ranges (docs/protocol.md, Loss). Part of libe's job (architecture.md).
"""

from __future__ import annotations


def split(low: int, high: int, fanout: int) -> list[tuple[int, int]]:
    """Split ranks [low, high) into at most ``fanout`` ranges whose sizes differ by one at most.

    Args:
        low, high: half-open, may be empty.
        fanout: at least 1.

    Returns:
        Non-empty ranges in ascending order; the larger ones first.
    """
    count = high - low
    if count <= 0:
        return []
    parts = min(fanout, count)
    share, larger = divmod(count, parts)
    ranges = []
    for index in range(parts):
        end = low + share + (index < larger)
        ranges.append((low, end))
        low = end
    return ranges


def children(low: int, high: int, fanout: int) -> list[tuple[int, int]]:
    """Return the ranges of the children of the node that has [low, high) and is ``low`` itself."""
    return split(low + 1, high, fanout)


def depth(ranks: int, fanout: int) -> int:
    """Return how many levels lie below the root of a tree over ``ranks`` nodes."""
    ranges = split(0, ranks, fanout)
    levels = 0
    while ranges:
        levels += 1
        low, high = ranges[0]
        ranges = children(low, high, fanout)
    return levels
