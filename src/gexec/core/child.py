"""One child in a node's subtree, as core/subtree.py keeps it."""

from __future__ import annotations


class Child:
    """One child: the range it was asked for and the ranks it still owes an outcome for.

    Attributes:
        turn: which of this node's turns the child's epoch is (core/tree.py, turns).
        answered: it has said something since it was asked.
        attach_only: it was asked to attach, never to run.
        again: why it was lost and asked once more; empty the first time.
        losses: how often in short succession.
        resyncing: it was asked to send everything again and has not answered: what it says
            meanwhile is of the time before.
        maybe_asked: somebody else may have started its ranks; with an ``elder`` that may be so if
            the elder was ever reached.
        elder: the slow child whose ranks these were when it did not answer in time.
        reached: whether it was ever reached, and so may have asked those below; None: open.
        unreached: (rank, why) that could not be reached, whose verdict waits for this elder:
            *not started* if nobody can have started it, else *lost*.
    """

    __slots__ = (
        "again", "answered", "asked_s", "attach_only", "elder", "high", "losses", "low", "maybe_asked",
        "number", "owes", "reached", "resyncing", "turn", "unreached",
    )  # fmt: skip

    def __init__(self, number: int, low: int, high: int, owes: set[int], turn: int, asked_s: float) -> None:
        self.number = number
        self.low = low
        self.high = high
        self.owes = owes
        self.turn = turn
        self.asked_s = asked_s
        self.answered = False
        self.attach_only = False
        self.again = ""
        self.losses = 0
        self.resyncing = False
        self.maybe_asked = False
        self.elder: Child | None = None
        self.reached: bool | None = None
        self.unreached: list[tuple[int, str]] = []

    @property
    def inner(self) -> bool:
        """True if it has others below it."""
        return self.high - self.low > 1

    @property
    def asked_before(self) -> bool | None:
        """Whether somebody else may have started its ranks; None while that is open."""
        if self.elder is None:
            return self.maybe_asked
        return self.elder.reached
