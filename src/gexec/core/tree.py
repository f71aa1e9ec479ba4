"""Laying out a tree over ranks: contiguous ranges, so that each hop sends only what its subtree needs.

A node gets the range [low, high), is ``low`` itself and splits the rest among its children. The
split depends on nothing but its arguments: whoever takes over a lost node's subtree finds the
same children with the same ranges (docs/protocol.md, Loss). Part of libe's job (architecture.md).
"""

from __future__ import annotations

from typing import Final

#: Epochs are u32 on the wire; one is left so that the last turn of the last level fits.
_EPOCHS: Final = 2**32 - 2
#: Levels that share the epochs. Deeper ones (fan-out 1 or 2 over very many nodes) cannot repair.
REPAIRING_LEVELS_MAX: Final = 12


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
    """Return how many levels lie below a node that splits ``ranks`` among its children."""
    levels = 0
    while ranks > 0:
        levels += 1
        # The first range is the largest: its share, less the node that is its first rank.
        ranks = -(-ranks // fanout) - 1
    return levels


def turns(ranks: int, below: int, fanout: int) -> tuple[int, int]:
    """Return how a node gives epochs to its children, so that an ancestor's always beat a descendant's.

    A node that was given epoch E asks a child for the ``turn``-th time with ``E + turn * stride``,
    and the child has the epochs up to the next turn for its own children. So whoever takes over a
    subtree needs to know nothing about what happened in it: its next turn is above all of it.

    Args:
        ranks: of the whole job.
        below: how many ranks this node splits among its children (all, at the root).

    Returns:
        (how many turns there are, stride); (1, 0) where nothing can be asked twice.
    """
    levels = depth(ranks, fanout)
    height = depth(below, fanout)
    sharing = min(levels, REPAIRING_LEVELS_MAX)
    exponent = height - 1 - (levels - sharing)
    if exponent < 0:
        return 1, 0
    per_level = _root(_EPOCHS, sharing)
    return (per_level, per_level**exponent) if per_level > 1 else (1, 0)


def _root(number: int, degree: int) -> int:
    """Return the largest integer whose ``degree``-th power is at most ``number``; exact."""
    low, high = 1, number
    while low < high:
        middle = (low + high + 1) // 2
        if middle**degree <= number:
            low = middle
        else:
            high = middle - 1
    return low
