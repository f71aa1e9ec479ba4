"""The root's record of each stream's progress and each rank's outcome: nothing twice, nothing lost.

Whichever way a report came, and however often it was sent again after a loss, the ledger passes each byte and
each outcome on exactly once.
"""

from __future__ import annotations

from typing import ClassVar, Final

from gexec.core.flow import LIFE_BYTES, life_begin
from gexec.core.saving import Savable
from gexec.limits import LIVES_MAX
from gexec.wire import ranks as ranksets
from gexec.wire.frames import LENGTH_UNKNOWN, STDERR, STDOUT, Ended, Output
from gexec.wire.outcome import DENIED, LOST, NOT_STARTED, Outcome
from gexec.wire.ranks import Ranges

_UNKNOWN: Final = (LENGTH_UNKNOWN, LENGTH_UNKNOWN)


class Ledger(Savable):
    """Per-rank state of a whole job of ``count`` ranks."""

    __slots__ = ("_acknowledged", "_missing", "_position", "_started", "outcomes", "remaining")
    SAVED: ClassVar[str] = "_acknowledged _missing _position _started outcomes remaining"

    def __init__(self, count: int) -> None:
        self.outcomes: list[Outcome | None] = [None] * count
        self.remaining = count
        self._started = bytearray(count)
        self._position: dict[tuple[int, int], int] = {}
        self._acknowledged: dict[tuple[int, int], int] = {}
        #: By (rank, stream): offsets that no byte has, because the relay of the rank's node died.
        self._missing: dict[tuple[int, int], int] = {}

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
            New output, to pass on with the client's offsets; ranks that had (part of) it already; ranks for
            which bytes before it are missing (their node must send again).
        """
        end = frame.offset + len(frame.data)
        fresh: dict[tuple[int, int], list[int]] = {}
        doubled: list[int] = []
        gaps: list[int] = []
        for rank in ranksets.members(frame.ranks):
            if self.outcomes[rank] is not None:
                doubled.append(rank)
                continue
            position = self._advanced(rank, frame.stream, frame.offset)
            if frame.offset > position:
                gaps.append(rank)
                continue
            if frame.offset < position:
                doubled.append(rank)
            if end > position:
                missing = self.missing(rank, frame.stream)
                fresh.setdefault((position, missing), []).append(rank)
                self._position[(rank, frame.stream)] = end
        passed = [
            Output(
                ranksets.of(ranks), frame.stream, position - missing, frame.data[position - frame.offset :]
            )
            for (position, missing), ranks in fresh.items()
        ]
        return passed, doubled, gaps

    def _advanced(self, rank: int, stream: int, offset: int) -> int:
        """Return the stream's position, moved on to the life of the relay that ``offset`` is of.

        What an earlier relay has not delivered will never come: the client's offsets continue without it.
        """
        position = self._position.get((rank, stream), 0)
        if offset < LIFE_BYTES:  # nearly always
            return position
        begin = life_begin(offset)
        if position < begin <= LIVES_MAX * LIFE_BYTES:
            self._missing[(rank, stream)] = self._missing.get((rank, stream), 0) + begin - position
            self._position[(rank, stream)] = position = begin
        return position

    def end(self, frame: Ended) -> tuple[list[Ended], list[int]]:
        """Record outcomes.

        Returns:
            The frames for the ranks that end now, with the client's lengths, and the ranks whose output is
            still incomplete (their node must send again; they have not ended).
        """
        complete = frame.outcome.kind not in (LOST, NOT_STARTED, DENIED)
        told = (frame.stdout_length, frame.stderr_length)
        ending: dict[tuple[int, int], list[int]] = {}
        gaps: list[int] = []
        for rank in ranksets.members(frame.ranks):
            if self.outcomes[rank] is not None:
                continue
            if complete:
                self._advanced(rank, STDOUT, told[0])
                self._advanced(rank, STDERR, told[1])
            known = _UNKNOWN
            if self.lengths(rank) == told:
                known = (told[0] - self.missing(rank, STDOUT), told[1] - self.missing(rank, STDERR))
            elif complete:
                gaps.append(rank)
                continue
            self.outcomes[rank] = frame.outcome
            ending.setdefault(known, []).append(rank)
        self.remaining -= sum(map(len, ending.values()))
        return [Ended(ranksets.of(ranks), frame.outcome, *known) for known, ranks in ending.items()], gaps

    def missing(self, rank: int, stream: int) -> int:
        """Return by how much the offsets of the rank's node are ahead of the client's."""
        return self._missing.get((rank, stream), 0) if self._missing else 0

    def lengths(self, rank: int) -> tuple[int, int]:
        """Return the offsets that stdout and stderr of the rank have reached."""
        get = self._position.get
        return get((rank, STDOUT), 0), get((rank, STDERR), 0)

    def acknowledge(self, rank: int, stream: int, offset: int) -> int | None:
        """Record what the client has taken.

        Returns:
            The offset as the rank's node counts, or None if the client claims more than it was sent.
        """
        offset += self.missing(rank, stream)
        if offset > self._position.get((rank, stream), 0):
            return None
        if offset > self._acknowledged.get((rank, stream), 0):
            self._acknowledged[(rank, stream)] = offset
        return offset

    def acknowledged(self, rank: int, stream: int) -> int:
        """Return how much of this stream the client has taken."""
        return self._acknowledged.get((rank, stream), 0)
