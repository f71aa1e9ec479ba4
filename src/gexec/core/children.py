"""The children of a subtree: by number, by rank, and how long each may take to answer."""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Iterable
from itertools import pairwise
from typing import Final

from gexec import limits
from gexec.core.child import ASKED, REACHED, Child
from gexec.core.deadlines import earlier
from gexec.core.flow import Broadcast
from gexec.core.saving import Saved
from gexec.core.states import hold
from gexec.wire.frames import Ack

#: Entries of one Ack frame (13 bytes each, within FRAME_MAX_BYTES).
ACKS_MAX: Final = 16 * 1024
Entry = tuple[int, int, int]
#: Overdue children of a job of very many nodes are taken over in steps, each in a turn of the event loop of
#: its own. A step ends with the child that brings the sum of their ranks to this.
STEP_RANKS: Final = 32


class Siblings:
    """The children of one node (or the root). Their ranges never overlap.

    An inner child that does not answer holds its subtree only for a limited time: a few times as long as half
    of its siblings took (the *hedge*), or longer if at least its machine has answered.
    """

    def __init__(self) -> None:
        self.all: dict[int, Child] = {}
        #: Inner children that have not answered.
        self._holding: dict[int, Child] = {}
        #: Of these, children whose machine has answered: loaded rather than dead.
        self._slow: dict[int, Child] = {}
        self._answers_s: list[float] = []
        self._inner = 0
        #: When the next step is due, while some of the overdue children were left for it.
        self._step_s: float | None = None
        #: The children by rank, for acknowledgements; None if it must be rebuilt.
        self._by_rank: tuple[list[int], list[Child]] | None = None

    def save(self) -> Saved:
        """Return its state; the children themselves are saved with ``child.saved_children``."""
        numbers: Saved = {"all": list(self.all), "holding": list(self._holding), "slow": list(self._slow)}
        return numbers | {"answers_s": self._answers_s, "inner": self._inner, "step_s": self._step_s}

    def restore(self, saved: Saved, children: dict[int, Child]) -> None:
        """Continue with a state that ``save`` returned, and these children.

        ``all`` stays the same object, because others use it.
        """
        self._answers_s, self._inner, self._step_s = saved["answers_s"], saved["inner"], saved["step_s"]
        self.all.clear()
        self.all.update({number: children[number] for number in saved["all"]})
        self._holding = {number: children[number] for number in saved["holding"]}
        self._slow = {number: children[number] for number in saved["slow"]}
        self._by_rank = None

    def add(self, child: Child) -> None:
        """Add a child that is asked."""
        self.all[child.number] = child
        self._by_rank = None
        if child.inner:
            self._inner += 1
            self._holding[child.number] = child

    def remove(self, child: Child) -> None:
        """Remove a child."""
        del self.all[child.number]
        self._release(child)
        self._by_rank = None
        child.become("forgotten")

    def clear(self) -> list[Child]:
        """Remove all children; return them, the newest first.

        In the other order, each that waits to be dialled would begin in the place of one before it.
        """
        removed = list(reversed(self.all.values()))
        for child in removed:
            child.become("forgotten")
        for some in (self.all, self._holding, self._slow):
            some.clear()
        self._by_rank = None
        return removed

    def _release(self, child: Child) -> Child | None:
        return self._holding.pop(child.number, None) or self._slow.pop(child.number, None)

    def reached(self, number: int) -> None:
        """A child's machine has answered: allow it more time, because it is loaded rather than dead.

        Not after a silence: the machine of a stopped daemon answers, too, and those below it wait.
        """
        child = self._holding.get(number)
        if child is not None and not child.silent:
            del self._holding[number]
            self._slow[number] = child
            child.become("machine answers")

    def answered(self, child: Child, now_s: float) -> None:
        """A child has sent its first frame."""
        child.become("any frame")
        if self._release(child) is not None:
            insort(self._answers_s, now_s - child.asked_s)

    def narrow(self, child: Child) -> None:
        """Leave a child only its own rank."""
        child.high = child.low + 1
        child.owes &= {child.low}
        self._by_rank = None

    def routed(self, entries: Iterable[Entry]) -> list[tuple[int, Ack]]:
        """Return (rank, stream, offset) entries as frames to the children that hold their ranks."""
        if self._by_rank is None:
            held = sorted(self.all.values(), key=lambda child: child.low)
            self._by_rank = [child.low for child in held], held
        lows, held = self._by_rank
        routed: dict[int, list[Entry]] = {}
        for entry in entries:
            at = bisect_right(lows, entry[0]) - 1
            if at >= 0 and entry[0] < held[at].high:
                routed.setdefault(held[at].number, []).append(entry)
        return [
            (number, Ack(tuple(mine[begin : begin + ACKS_MAX])))
            for number, mine in routed.items()
            for begin in range(0, len(mine), ACKS_MAX)
        ]

    def open_ranks(self) -> set[int]:
        """Return the ranks whose outcome a child still owes, or whose outcome depends on a child."""
        ranks: set[int] = set()
        for child in self.all.values():
            ranks.update(child.owes, [rank for rank, _ in child.unreached])
        return ranks

    # -- time -----------------------------------------------------------------------------

    def _hedge_s(self) -> float:
        """Return how long an inner child may take: a few times as long as half of its siblings took."""
        answers = self._answers_s
        if not answers or 2 * len(answers) < self._inner:
            return limits.HEDGE_MAX_S
        return min(limits.HEDGE_MAX_S, max(limits.HEDGE_MIN_S, 4 * answers[len(answers) // 2]))

    def next_deadline_s(self) -> float | None:
        """Return when the next child is overdue, None if there is none to wait for."""
        if self._step_s is not None:
            return self._step_s
        due_s: float | None = None
        # Each dict is (nearly) in the order in which the children were asked.
        for child in self._holding.values():
            due_s = child.asked_s + self._hedge_s()
            break
        for child in self._slow.values():
            due_s = earlier(due_s, child.asked_s + limits.HEDGE_REACHED_S)
            break
        return due_s

    def take_overdue(self, now_s: float) -> list[Child]:
        """Return children that have held their subtree too long; they are no longer waited for."""
        self._step_s = None
        due: list[Child] = []
        ranks = 0
        for children, patience_s in (
            (self._holding, self._hedge_s()),
            (self._slow, limits.HEDGE_REACHED_S),
        ):
            limit_s = now_s - patience_s + 1e-6
            for child in children.values():
                if child.asked_s > limit_s:
                    continue
                if ranks >= STEP_RANKS:
                    self._step_s = now_s
                    break
                due.append(child)
                ranks += child.high - child.low
        for child in due:
            self._release(child)
            self._inner -= 1
            child.become("too slow")
        return due

    # -- checks and diagnosis --------------------------------------------------------------

    def validate(self, first: int = 0, high: int = limits.RANKS_MAX, stdin: Broadcast | None = None) -> None:
        """Check what must always hold of the children of ranks in [first, high), each and together."""
        held = sorted(self.all.values(), key=lambda child: child.low)
        for child in held:
            child.validate()
            who = f"child {child.number}"
            hold(first <= child.low and child.high <= high, who, "is within the range below")
            taken = stdin is None or stdin.awaits(child.number)
            hold(taken, who, "is counted among the takers of stdin")
            hold(self.all[child.number] is child, who, "is found by its number")
            holds = child.inner and child.state == ASKED
            hold((child.number in self._holding) == holds, who, "is waited for while it holds a subtree")
            hold((child.number in self._slow) == (child.state == REACHED), who, "is slow once reached")
        for one, other in pairwise(held):
            hold(one.high <= other.low, "children", "{} and {} do not overlap", one.number, other.number)
        waited = len(self._holding) + len(self._slow)
        hold(waited <= len(held) and self._inner >= 0, "children", "only children are waited for")
        if self._by_rank is not None:
            same = self._by_rank[1] == held and self._by_rank[0] == [child.low for child in held]
            hold(same, "children", "the index by rank has them all")

    def story(self, rank: int) -> list[str]:
        """Return what is known about a rank: a line for each child that is involved."""
        return [
            child.story(rank)
            for child in self.all.values()
            if child.low <= rank < child.high or any(rank == unreached for unreached, _ in child.unreached)
        ]
