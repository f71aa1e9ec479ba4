"""The root's record of each stream's progress and each rank's outcome: nothing twice, nothing lost.

Whichever way a report came, and however often it was sent again after a loss, the ledger passes each byte and
each outcome on exactly once.
"""

from __future__ import annotations

from typing import ClassVar

from gexec.core.saving import Savable
from gexec.wire import frames
from gexec.wire import ranks as ranksets
from gexec.wire.frames import Ended, Output
from gexec.wire.outcome import DENIED, LOST, NOT_STARTED, Outcome
from gexec.wire.ranks import Ranges


class Ledger(Savable):
    """Per-rank state of a whole job of ``count`` ranks."""

    __slots__ = ("_acknowledged", "_position", "_started", "outcomes", "remaining")
    SAVED: ClassVar[str] = "_acknowledged _position _started outcomes remaining"

    def __init__(self, count: int) -> None:
        self.outcomes: list[Outcome | None] = [None] * count
        self.remaining = count
        self._started = bytearray(count)
        self._position: dict[tuple[int, int], int] = {}
        self._acknowledged: dict[tuple[int, int], int] = {}

    def start(self, ranges: Ranges) -> Ranges:
        """Return the ranks that were not known to have started."""
        fresh = []
        for rank in ranksets.members(ranges):
            if not self._started[rank] and self.outcomes[rank] is None:
                self._started[rank] = 1
                fresh.append(rank)
        return ranksets.of(fresh)

    def started(self, rank: int) -> bool:
        """Tell whether the rank's process is known to have run."""
        return bool(self._started[rank])

    def output(self, frame: Output) -> tuple[list[Output], list[int], list[int]]:
        """Record output.

        Returns:
            New output, to pass on; ranks that had (part of) it already; ranks for which bytes before it are
            missing (their node must send again).
        """
        end = frame.offset + len(frame.data)
        fresh: dict[int, list[int]] = {}
        doubled: list[int] = []
        gaps: list[int] = []
        for rank in ranksets.members(frame.ranks):
            if self.outcomes[rank] is not None:
                doubled.append(rank)
                continue
            position = self._position.get((rank, frame.stream), 0)
            if frame.offset > position:
                gaps.append(rank)
                continue
            if frame.offset < position:
                doubled.append(rank)
            if end > position:
                fresh.setdefault(position, []).append(rank)
                self._position[(rank, frame.stream)] = end
        passed = [
            Output(ranksets.of(ranks), frame.stream, position, frame.data[position - frame.offset :])
            for position, ranks in fresh.items()
        ]
        return passed, doubled, gaps

    def end(self, frame: Ended) -> tuple[Ended | None, list[int]]:
        """Record outcomes.

        Returns:
            The frame for the ranks that end now (None if none does), and the ranks whose output is still
            incomplete (their node must send again; they have not ended).
        """
        complete = frame.outcome.kind not in (LOST, NOT_STARTED, DENIED)
        ending: list[int] = []
        gaps: list[int] = []
        for rank in ranksets.members(frame.ranks):
            if self.outcomes[rank] is not None:
                continue
            if complete and self.lengths(rank) != (frame.stdout_length, frame.stderr_length):
                gaps.append(rank)
                continue
            self.outcomes[rank] = frame.outcome
            ending.append(rank)
        self.remaining -= len(ending)
        if not ending:
            return None, gaps
        lengths = (frame.stdout_length, frame.stderr_length)
        if not complete and any(self.lengths(rank) != lengths for rank in ending):
            lengths = (frames.LENGTH_UNKNOWN, frames.LENGTH_UNKNOWN)  # of output that did not come
        return Ended(ranksets.of(ending), frame.outcome, *lengths), gaps

    def lengths(self, rank: int) -> tuple[int, int]:
        """Return how many bytes of stdout and stderr the rank has sent."""
        get = self._position.get
        return get((rank, frames.STDOUT), 0), get((rank, frames.STDERR), 0)

    def acknowledge(self, rank: int, stream: int, offset: int) -> bool:
        """Record what the client has taken; False if it claims more than it was sent."""
        if offset > self._position.get((rank, stream), 0):
            return False
        if offset > self._acknowledged.get((rank, stream), 0):
            self._acknowledged[(rank, stream)] = offset
        return True

    def acknowledged(self, rank: int, stream: int) -> int:
        """Return how much of this stream the client has taken."""
        return self._acknowledged.get((rank, stream), 0)
