"""Limits how many launches of one user the spawner handles at a time; the others wait here, in order.

A job may name one node thousands of times, and a user may stop the helper process that performs the launches:
neither may fill the spawner's queues or exhaust its descriptors.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable

from gexec.limits import LAUNCHES_UNDER_WAY_MAX


class Launches:
    """The queue of launches. Exactly one ``done`` follows each launch."""

    def __init__(self) -> None:
        self._under_way: dict[int, int] = {}
        self._waiting: dict[int, deque[Callable[[], bool]]] = {}

    def ask(self, uid: int, begin: Callable[[], bool]) -> None:
        """Call ``begin`` now, or when it is this launch's turn.

        ``begin`` returns whether a launch is under way now: then ``done`` must follow.
        """
        count = self._under_way.get(uid, 0)
        if count >= LAUNCHES_UNDER_WAY_MAX:
            self._waiting.setdefault(uid, deque()).append(begin)
            return
        self._under_way[uid] = count + 1
        if not begin():
            self.done(uid)

    def resume(self, uid: int) -> None:
        """The relay before this one had a launch of this user under way: ``done`` must follow."""
        self._under_way[uid] = self._under_way.get(uid, 0) + 1

    def done(self, uid: int) -> None:
        """The spawner has answered a launch of this user, or it was given up."""
        waiting = self._waiting.get(uid)
        while waiting:
            begin = waiting.popleft()
            if not waiting:
                del self._waiting[uid]
            if begin():
                return  # takes the place of the one that is done
        count = self._under_way[uid] - 1
        if count:
            self._under_way[uid] = count
        else:
            del self._under_way[uid]
