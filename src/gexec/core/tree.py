"""The tree over ranks: contiguous ranges, so that each hop sends only what its subtree needs.

A node gets the range [low, high), is ``low`` itself and splits the rest among its children. The split depends
only on its arguments: a node that takes over a lost node's subtree computes the same children with the same
ranges (docs/protocol.md, Loss). Replaces a part of the original's libe (docs/python.md).
"""

from __future__ import annotations

from typing import ClassVar, Final

from gexec.core.saving import Savable

#: Epochs are u32 on the wire; one is left so that the last turn of the last level fits.
_EPOCHS: Final = 2**32 - 2
EPOCH_MAX: Final = 2**32 - 1
#: Levels that share the epochs. Deeper levels (fan-out 1 or 2 with very many nodes) cannot repair.
REPAIRING_LEVELS_MAX: Final = 12


def split(low: int, high: int, fanout: int) -> list[tuple[int, int]]:
    """Split ranks [low, high) into at most ``fanout`` ranges whose sizes differ by at most one.

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


def cover(
    first: int, high: int, fanout: int, owed: set[int], covered: set[int]
) -> list[tuple[int, int, set[int]]]:
    """Return ranges for new children that owe the ranks of ``owed``, in [first, high): (low, high, owes).

    They contain none of ``covered``, the ranks of other children, and are parts of the usual split.
    """
    found: list[tuple[int, int, set[int]]] = []
    for low, end in split(first, high, fanout) if owed else ():
        owes = owed.intersection(range(low, end))
        if not owes:
            continue
        if covered.isdisjoint(range(low, end)):
            found.append((low, end, owes))
            continue
        if low in owes:
            found.append((low, low + 1, {low}))
        found += cover(low + 1, end, fanout, owes - {low}, covered)
    return found


def lineage(ranks: int, fanout: int, rank: int) -> list[tuple[int, int]]:
    """Return the ranges of a rank's ancestors in a job of ``ranks``, the outermost first, then its own.

    The first rank of each is the ancestor, and the last range is [rank, end of its subtree). This is the
    whole tree's split from the root, of which every takeover splits a part in the same way.

    Args:
        rank: 0 to ``ranks`` - 1.
    """
    low, high = 0, ranks
    above: list[tuple[int, int]] = []
    while True:
        share, larger = divmod(high - low, min(fanout, high - low))
        rest = low + larger * (share + 1)  # from here on the ranges have ``share`` ranks
        if rank < rest:
            share += 1
            low += (rank - low) // share * share
        else:
            low = rest + (rank - rest) // share * share
        high = low + share
        above.append((low, high))
        if low == rank:
            return above
        low += 1


def depth(ranks: int, fanout: int) -> int:
    """Return how many levels are below a node that splits ``ranks`` among its children."""
    levels = 0
    while ranks > 0:
        levels += 1
        # The first range is the largest; its first rank is the child itself.
        ranks = -(-ranks // fanout) - 1
    return levels


def turns(ranks: int, below: int, fanout: int) -> tuple[int, int]:
    """Return how a node gives epochs to its children, so that an ancestor's always beat a descendant's.

    A node that was given epoch E asks a child in turn ``turn`` with epoch ``E + turn * stride``, and the
    child has the epochs up to the next turn for its own children. So a node that takes over a subtree needs
    no information about what happened in it: its next turn is above all epochs used there.

    Args:
        ranks: of the whole job.
        below: how many ranks this node splits among its children (all, at the root).

    Returns:
        (number of turns, stride); (1, 0) if no child can be asked twice.
    """
    levels = depth(ranks, fanout)
    height = depth(below, fanout)
    sharing = min(levels, REPAIRING_LEVELS_MAX)
    exponent = height - 1 - (levels - sharing)
    if exponent < 0:
        return 1, 0
    per_level = _root(_EPOCHS, sharing)
    return (per_level, per_level**exponent) if per_level > 1 else (1, 0)


class Epochs(Savable):
    """The epochs that a node gives to its children, in turns (see :func:`turns`).

    Args:
        ranks: of the whole job.
        given: the epoch that the node was given; 1 at the root.
        below: how many ranks it splits among its children.
    """

    __slots__ = ("_fanout", "_ranks", "_stride", "_turns", "_used", "given")
    SAVED: ClassVar[str] = "_stride _turns _used given"

    def __init__(self, ranks: int, fanout: int, given: int, below: int) -> None:
        self.given = given
        self._ranks = ranks
        self._fanout = fanout
        self._used = -1  #: the highest turn so far
        self._divide(below)

    def renew(self, given: int, below: int) -> bool:
        """The node was given an epoch again; return whether it is a higher one."""
        higher = given > self.given
        self.given = max(self.given, given)
        if higher:
            self._used = -1
        self._divide(below)
        return higher

    def _divide(self, below: int) -> None:
        self._turns, self._stride = turns(self._ranks, below, self._fanout)
        if self._stride:  # an ancestor may give any epoch, the highest too
            self._turns = min(self._turns, (EPOCH_MAX - self.given) // self._stride + 1)

    def of(self, turn: int) -> int:
        """Return the epoch of a turn, which is used by this."""
        self._used = max(self._used, turn)
        return self.given + turn * self._stride

    def fresh(self) -> int:
        """Return a turn above all that were used with this epoch; the last one if there is none."""
        return min(self._used + 1, self._turns - 1)

    def is_last(self, turn: int) -> bool:
        """Tell whether no turn is left after this one."""
        return turn + 1 >= self._turns


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
