"""A node is reported as not responding once, until it responds or its rank ends; never without a fault."""

from __future__ import annotations

from gexec.wire import ranks as ranksets
from gexec.wire.frames import NotResponding, OfRanks
from laboratory.world import Violation


class Responses:
    """What the client has heard about nodes that do not respond. ``faults``: there are some."""

    def __init__(self, faults: bool) -> None:
        self._faults = faults
        self._quiet: set[int] = set()

    def hear(self, frame: OfRanks) -> None:
        """Take a report: NotResponding or Responding."""
        ranks = set(ranksets.members(frame.ranks))
        if not isinstance(frame, NotResponding):
            if not ranks <= self._quiet:
                raise Violation(f"ranks {sorted(ranks - self._quiet)} respond, which nobody had doubted")
            self._quiet -= ranks
            return
        if not self._faults:
            raise Violation(f"ranks {sorted(ranks)} do not respond, without any fault")
        if ranks & self._quiet:
            raise Violation(f"ranks {sorted(ranks & self._quiet)} are reported as not responding twice")
        self._quiet |= ranks

    def ends(self, ranges: ranksets.Ranges) -> None:
        """Ranks have their outcomes: that is report enough."""
        self._quiet.difference_update(ranksets.members(ranges))
