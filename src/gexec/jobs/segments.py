"""Which bytes of a stream are kept, and in which files. Pure.

A stream is a row of segments: files that are named by the stream and by the offset of their first byte, so
that whoever reads them knows which bytes are missing. The first segment, the *head*, is kept; of the others,
the *tail*, the oldest goes when a new one is begun and the budget would be exceeded.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final, NamedTuple

#: Parts of a budget: one is the head, the others are the tail.
PARTS: Final = 5
#: Most segments of a tail: a full disk can make many small ones.
_TAIL_MAX: Final = 64
STREAMS: Final = ("stdout", "stderr")


class Segment(NamedTuple):
    """A file's part of a stream: ``size`` bytes from ``offset`` on."""

    offset: int
    size: int

    @property
    def end(self) -> int:
        """The offset behind its last byte."""
        return self.offset + self.size


def file_name(stream: int, offset: int) -> str:
    """Return the name of a segment's file; ``stream``: 0 = stdout, 1 = stderr."""
    return f"{STREAMS[stream]}.{offset}"


def parsed(name: str) -> tuple[int, int] | None:
    """Return stream and offset of a file's name; None if it is not a segment's."""
    kind, _, digits = name.partition(".")
    if kind not in STREAMS or not (digits.isascii() and digits.isdigit()) or len(digits) > 18:
        return None
    offset = int(digits)
    return None if digits != str(offset) else (STREAMS.index(kind), offset)


class Row:
    """The segments of one stream while it is written.

    Args:
        budget: bytes that may be kept, at least PARTS.

    Attributes:
        part: bytes of a whole segment.
        end: bytes of the stream so far, kept or not.
        dropped: bytes that could not be written.
    """

    def __init__(self, budget: int) -> None:
        self.part = budget // PARTS
        self._segments: list[Segment] = []
        #: The last segment takes more.
        self._is_open = False
        self.end = 0
        self.dropped = 0

    @property
    def room(self) -> int:
        """Bytes that the current segment takes; 0 = the next byte begins a segment."""
        return self.part - self._segments[-1].size if self._is_open else 0

    @property
    def segments(self) -> tuple[Segment, ...]:
        """All segments, in order."""
        return tuple(self._segments)

    def doomed(self) -> tuple[Segment, ...]:
        """Return the segments that go when the next one is begun, oldest first."""
        tail = self._segments[1:]
        kept = sum([segment.size for segment in tail])
        count = 0
        while tail[count:] and (kept + self.part > (PARTS - 1) * self.part or len(tail) - count >= _TAIL_MAX):
            kept -= tail[count].size
            count += 1
        return tuple(tail[:count])

    def begin(self) -> int:
        """Begin a segment at the stream's end, without the doomed ones; return its offset."""
        gone = len(self.doomed())
        del self._segments[1 : 1 + gone]
        self._segments.append(Segment(self.end, 0))
        self._is_open = True
        return self.end

    def wrote(self, count: int) -> None:
        """The current segment has ``count`` bytes more: at most its room."""
        last = self._segments[-1]
        self._segments[-1] = Segment(last.offset, last.size + count)
        self.end += count
        self._is_open = last.size + count < self.part

    def lost(self, count: int) -> None:
        """``count`` bytes cannot be written: the next ones begin a segment."""
        self.end += count
        self.dropped += count
        self._is_open = False
        if self._segments and not self._segments[-1].size:
            self._segments.pop()  # its file is removed


class Gap(NamedTuple):
    """Bytes that are missing: from ``offset`` up to ``end``."""

    offset: int
    end: int


def place(segments: Iterable[Segment], position: int) -> Segment | Gap | None:
    """Return the segment that has the byte at ``position``, or the gap before the next one.

    None: nothing is there from this position on.
    """
    following: int | None = None
    for segment in segments:
        if segment.offset <= position < segment.end:
            return segment
        if segment.offset > position and segment.size and (following is None or segment.offset < following):
            following = segment.offset
    return None if following is None else Gap(position, following)
