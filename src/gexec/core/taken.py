"""Children that have refused this node as *stale*: another parent has them, or they lie.

If it is true, an ancestor of this node has taken them over, and this node hears of it: it gets another epoch,
is released or closed, or loses its parent. If none of this happens in time, the ranks are reported as lost.
An ancestor that has taken them over ignores that report, because they are no longer below this node.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from gexec import limits
from gexec.core.child import Child
from gexec.core.saving import Saved
from gexec.wire import outcome as outcomes
from gexec.wire import ranks as ranksets
from gexec.wire.frames import LENGTH_UNKNOWN, Ended

WHY: Final = "says that it has another parent, but none took over"


class Taken:
    """The ranks of these children that have no outcome here."""

    def __init__(self) -> None:
        #: (when it is overdue, the child) in this order, and those that were reported.
        self._waiting: deque[tuple[float, Child]] = deque()
        self._told: list[tuple[float, Child]] = []

    def children(self) -> list[Child]:
        """Return all of these children."""
        return [child for _, child in (*self._waiting, *self._told)]

    def save(self) -> Saved:
        """Return its state; the children themselves are saved with ``child.saved_children``."""
        waiting = [(due_s, child.number) for due_s, child in self._waiting]
        return {"waiting": waiting, "told": [(due_s, child.number) for due_s, child in self._told]}

    def restore(self, saved: Saved, children: dict[int, Child]) -> None:
        """Continue with a state that ``save`` returned, and these children."""
        self._waiting = deque([(due_s, children[number]) for due_s, number in saved["waiting"]])
        self._told = [(due_s, children[number]) for due_s, number in saved["told"]]

    def add(self, child: Child, now_s: float) -> None:
        """A child, already forgotten, has another parent."""
        self._waiting.append((now_s + limits.TAKEN_S, child))

    def clear(self) -> None:
        """Forget them all."""
        self._waiting.clear()
        self._told.clear()

    def resync(self, higher: bool) -> set[int]:
        """This node reports everything again; with a higher epoch, it asks these children again instead.

        Returns:
            The ranks that it must not ask for, because they may have another parent.
        """
        if higher:
            self.clear()
            return set()
        self._waiting.extendleft(reversed(self._told))
        self._told.clear()
        ranks: set[int] = set()
        for _, child in self._waiting:
            # Earlier reports may have been lost on the way up.
            child.owes = set(range(child.low, child.high))
            ranks |= child.owes
        return ranks

    def next_deadline_s(self) -> float | None:
        """Return when the next one is overdue, None if there is none."""
        return self._waiting[0][0] if self._waiting else None

    def take_overdue(self, now_s: float) -> list[Ended]:
        """Return the outcomes of the ranks of which nobody took over in time."""
        ends = []
        while self._waiting and self._waiting[0][0] <= now_s:
            late = self._waiting.popleft()
            self._told.append(late)
            low, below = late[1].low, late[1].owes - {late[1].low}
            for owes, who in (({low} & late[1].owes, "it"), (below, f"rank {low}, on the way to it,")):
                if owes:
                    text = f"{who} {WHY} within {limits.TAKEN_S:g} s"
                    ranges = ranksets.of(sorted(owes))
                    ends.append(Ended(ranges, outcomes.lost(text), LENGTH_UNKNOWN, LENGTH_UNKNOWN))
        return ends
