"""Ranks whose nodes do not respond: a state that is reported upwards, and no outcome.

A relay notices that nothing has come on a child's link for NOT_RESPONDING_S; the child's own rank is
reported, whether or not it has ended, because the ranks below it cannot be heard either. It responds again as
soon as anything comes from it, through whichever parent. If it is lost, its outcome says so.
Source: docs/protocol.md, Liveness.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Final

from gexec.core.child import Child
from gexec.core.outbox import portions
from gexec.core.saving import Savable
from gexec.wire import ranks as ranksets
from gexec.wire.frames import Ended, Frame, NotResponding, OfRanks, Output, Responding
from gexec.wire.ranks import Ranges

#: A node that was just heard is not silent for this long: what says so could only flood its ancestors.
_AGAIN_S: Final = 1.0


class QuietRanks(Savable):
    """What a node has reported to its parent, or the root to its client.

    Args:
        tell: sends a frame there.
    """

    SAVED: ClassVar[str] = "_heard_s ranks"

    def __init__(self, tell: Callable[[Frame], None]) -> None:
        self.ranks: set[int] = set()
        self._tell = tell
        #: When ranks that did not respond were heard again.
        self._heard_s: dict[int, float] = {}

    def child(self, child: Child | None, quiet: bool, now_s: float) -> None:
        """Nothing has come from a child for some time (``quiet``), or something has come again."""
        if child is not None and (quiet or self.ranks):
            self._note([child.low], quiet, now_s)

    def lost(self, child: Child | None, now_s: float) -> None:
        """The connection to a child ended: if it owes its own rank, it is asked again, or has an outcome."""
        if child is not None and child.low not in child.owes:
            self._note([child.low], False, now_s)

    def passed(self, frame: Frame | None, now_s: float) -> None:
        """A child's frame is passed on: what it tells about ranks."""
        if isinstance(frame, NotResponding):
            self._note(ranksets.members(frame.ranks), True, now_s)
        elif not self.ranks:
            return
        elif isinstance(frame, Ended):
            self.ranks.difference_update(ranksets.members(frame.ranks))
        elif isinstance(frame, Output | OfRanks):
            self._note(ranksets.members(frame.ranks), False, now_s)

    def decided(self, rank: int) -> None:
        """The outcome of a rank was decided here, which is reported in any case."""
        self.ranks.discard(rank)

    def again(self) -> None:
        """Report everything again: a new parent knows nothing of it."""
        self._say(ranksets.of(self.ranks), True)

    def _note(self, ranks: list[int], quiet: bool, now_s: float) -> None:
        if quiet:
            early_s = now_s - _AGAIN_S
            news = [
                rank
                for rank in ranks
                if rank not in self.ranks and self._heard_s.get(rank, early_s) <= early_s
            ]
            self.ranks.update(news)
        else:
            news = [rank for rank in ranks if rank in self.ranks]
            self.ranks.difference_update(news)
            self._heard_s.update(dict.fromkeys(news, now_s))
        self._say(ranksets.of(news), quiet)

    def _say(self, ranges: Ranges, quiet: bool) -> None:
        for part in portions(ranges):
            if part:
                self._tell(NotResponding(part) if quiet else Responding(part))
