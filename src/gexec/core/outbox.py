"""A node's reports to its parent, held for a short time so that equal ones become one frame.

A frame carries one content and the set of ranks that sent it, so an ancestor's work depends on the number of
*different* outputs, not on the number of nodes.
"""

from __future__ import annotations

from typing import ClassVar

from gexec import limits
from gexec.core.saving import Savable, Saved
from gexec.wire import ranks as ranksets
from gexec.wire.frames import Ended, Frame, Output, RanksStarted, Ready
from gexec.wire.outcome import Outcome
from gexec.wire.ranks import Ranges


class Outbox(Savable):
    """Collects reports; ``take`` returns them as frames in an order that keeps every stream's order.

    Order kept: Started before a rank's output, output of each (rank, stream) in order, Ended last.
    """

    __slots__ = ("_ended", "_index", "_last", "_output", "_ready", "_started", "size_bytes")
    #: All but ``_index``, which follows from ``_output``.
    SAVED: ClassVar[str] = "_ended _last _output _ready _started size_bytes"

    def __init__(self) -> None:
        self._reset()

    def _reset(self) -> None:
        self.size_bytes = 0
        self._started: list[tuple[int, int]] = []
        self._ready: list[tuple[int, int]] = []
        self._output: list[tuple[Output, list[tuple[int, int]]]] = []
        #: (stream, offset, data) -> index of its newest record in _output.
        self._index: dict[tuple[int, int, bytes], int] = {}
        #: (rank, stream) -> index of its newest record: it must never be joined to an older one.
        self._last: dict[tuple[int, int], int] = {}
        self._ended: dict[tuple[Outcome, int, int], list[tuple[int, int]]] = {}

    def restore(self, saved: Saved) -> None:
        """Continue with a state that ``save`` returned."""
        super().restore(saved)
        self._index = {
            (frame.stream, frame.offset, frame.data): index for index, (frame, _) in enumerate(self._output)
        }

    def __bool__(self) -> bool:
        return bool(self._started or self._ready or self._output or self._ended)

    def delay_s(self, ranks: int) -> float:
        """Return how long a node with ``ranks`` in its subtree delays reports, to gather more of them.

        Reports of started processes are not urgent, and more reports usually follow soon. With many nodes
        below, a longer delay pays off, because each frame wakes up every ancestor.
        """
        if not (self._output or self._ended or self._ready):
            return limits.GATHER_MAX_S
        return min(limits.GATHER_MAX_S, limits.GATHER_S + limits.GATHER_PER_RANK_S * ranks)

    def started(self, ranges: Ranges) -> None:
        """These ranks' processes run."""
        self._started += ranges

    def ready(self, ranges: Ranges) -> None:
        """These ranks can start."""
        self._ready += ranges

    def output(self, frame: Output) -> None:
        """These ranks wrote this."""
        stream, last = frame.stream, self._last
        members = ranksets.members(frame.ranks)
        key = (stream, frame.offset, frame.data)
        index = self._index.get(key)
        if index is not None and all(last.get((rank, stream), -1) < index for rank in members):
            self._output[index][1].extend(frame.ranks)
        else:
            index = self._index[key] = len(self._output)
            self._output.append((frame, list(frame.ranks)))
            self.size_bytes += len(frame.data)
        for rank in members:
            last[(rank, stream)] = index

    def ended(self, frame: Ended) -> None:
        """These ranks ended."""
        key = (frame.outcome, frame.stdout_length, frame.stderr_length)
        self._ended.setdefault(key, []).extend(frame.ranks)

    def take(self) -> list[Frame]:
        """Return everything collected as frames, and clear the outbox."""
        frames: list[Frame] = []
        if self._ready:
            frames += [Ready(part) for part in portions(_joined(self._ready))]
        if self._started:
            frames += [RanksStarted(part) for part in portions(_joined(self._started))]
        for first, ranges in self._output:
            for part in portions(_joined(ranges)):
                frames.append(Output(part, first.stream, first.offset, first.data))
        for (outcome, stdout_length, stderr_length), ranges in self._ended.items():
            for part in portions(_joined(ranges)):
                frames.append(Ended(part, outcome, stdout_length, stderr_length))
        self._reset()
        return frames

    def clear(self) -> None:
        """Forget everything collected."""
        self._reset()


def portions(ranges: Ranges) -> list[Ranges]:
    """Cut ranges into portions that each fit one frame (RANGES_MAX); nearly always one."""
    if len(ranges) <= limits.RANGES_MAX:
        return [ranges]
    return [ranges[at : at + limits.RANGES_MAX] for at in range(0, len(ranges), limits.RANGES_MAX)]


def _joined(ranges: list[tuple[int, int]]) -> Ranges:
    return ranksets.union(tuple(ranges), ()) if len(ranges) > 1 else tuple(ranges)
