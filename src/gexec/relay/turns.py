"""Who may begin now, and who waits for its turn: each user in order, the users in turn.

Pure. A user gets a place as long as its share (``security.quota``) has room; the others wait, and nothing is
refused. So a job of thousands of nodes that do not answer delays the dials of its own user only.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from gexec.security.quota import Shares


class Turn:
    """One request; ``end`` it once, whether it has begun or not."""

    __slots__ = ("_turns", "amount", "began", "begin", "over", "uid", "urgent")

    def __init__(self, turns: Turns, uid: int, amount: int, begin: Callable[[], None]) -> None:
        self._turns = turns
        self.uid = uid
        self.amount = amount
        self.begin = begin
        self.began = False
        self.over = False
        self.urgent = False

    def end(self) -> None:
        """Its place is free, or it does not wait any more."""
        if not self.over:
            self.over = True
            self._turns.ended(self)


class Turns:
    """The requests of all users; ``shares`` is what they take places of."""

    def __init__(self, shares: Shares) -> None:
        self._shares = shares
        self._waiting: dict[int, deque[Turn]] = {}
        self._busy = False

    def ask(self, uid: int, amount: int, begin: Callable[[], None], urgent: bool = False) -> Turn:
        """Call ``begin`` now, or as soon as ``amount`` places are free for this user.

        An ``urgent`` request does not wait: it takes its places beyond the user's share.
        """
        turn = Turn(self, uid, amount, begin)
        if urgent:
            self.hurry(turn)
            return turn
        self._waiting.setdefault(uid, deque()).append(turn)
        self._go_on()
        return turn

    def hurry(self, turn: Turn) -> None:
        """Begin a request that waits: it has become urgent."""
        turn.urgent = True
        if not (turn.began or turn.over):
            self._shares.charge(turn.uid, turn.amount)
            turn.began = True
            turn.begin()

    def waits(self, uid: int) -> int:
        """Return how many requests of a user wait, some of which may have given up."""
        return len(self._waiting.get(uid, ()))

    def ended(self, turn: Turn) -> None:
        """A request has ended: whose turn is it?"""
        if turn.began:
            self._shares.give(turn.uid, turn.amount)
        self._go_on()

    def _go_on(self) -> None:
        # Not recursive: a request that ends while it begins is followed by the next one in this loop.
        if self._busy:
            return
        self._busy = True
        try:
            begun = -1
            while begun:
                begun = sum([self._next_of(uid) for uid in list(self._waiting)])
        finally:
            self._busy = False

    def _next_of(self, uid: int) -> bool:
        """Begin one request of a user; False if none can begin."""
        queue = self._waiting[uid]
        while queue and (queue[0].over or queue[0].began):
            queue.popleft()
        if queue and self._shares.take(uid, queue[0].amount):
            turn = queue.popleft()
            turn.began = True
            turn.begin()
            return True
        if not queue:
            del self._waiting[uid]
        return False
