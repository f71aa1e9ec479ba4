"""Reads what a keeper has written of one stream: bytes, and gaps where bytes are missing."""

from __future__ import annotations

import os
from typing import Final

from gexec.jobs.segments import Gap, Segment, file_name, place
from gexec.jobs.spool import RankPlace

_PIECE_BYTES: Final = 64 * 1024


class StreamReader:
    """Reads a stream from a position on, also while it grows.

    Args:
        rank: where.
        stream: 0 = stdout, 1 = stderr.

    Attributes:
        position: the offset of the next byte.
    """

    def __init__(self, rank: RankPlace, stream: int) -> None:
        self._rank = rank
        self._stream = stream
        self._fd = -1
        #: The offset of the open segment.
        self._from = 0
        self.position = 0

    def begin_at_tail(self, most: int) -> None:
        """Go to the last ``most`` bytes that are there; behind a newline, if one is among them."""
        segments = self._rank.segments(self._stream)
        end = max([segment.end for segment in segments], default=0)
        if end <= most:
            return
        self.position = end - most
        while self.position < end:
            piece = self.next()
            if isinstance(piece, bytes):
                newline = piece.find(b"\n")
                self.position -= len(piece)
                if 0 <= newline < len(piece) - 1:
                    self.position += newline + 1
                return
            if piece is None:
                return

    def next(self) -> bytes | Gap | None:
        """Return the next bytes, at most 64 KiB, or the gap before them; None: there are none yet.

        OSError: a file cannot be read.
        """
        while True:
            if self._fd >= 0:
                piece = os.pread(self._fd, _PIECE_BYTES, self.position - self._from)
                if piece:
                    self.position += len(piece)
                    return piece
            found = place(self._rank.segments(self._stream), self.position)
            if found is None:
                return None
            if isinstance(found, Gap):
                self.position = found.end
                return found
            if not self._open(found):
                return None

    def _open(self, segment: Segment) -> bool:
        """Open a segment; False if it has just been removed, or is the open one."""
        if self._fd >= 0:
            if self._from == segment.offset:
                return False
            os.close(self._fd)
            self._fd = -1
        try:
            self._fd = self._rank.open(file_name(self._stream, segment.offset))
        except FileNotFoundError:
            return True  # looked for again: there is a gap now
        self._from = segment.offset
        return True

    def close(self) -> None:
        """Close the open file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
