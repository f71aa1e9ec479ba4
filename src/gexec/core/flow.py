"""Bounded byte streams: the bytes that one side must keep until the other has taken them.

Positions are offsets from the stream's start. Nothing here blocks: the caller checks whether there is room,
and stops reading its source if there is none (docs/protocol.md, Flow).
"""

from __future__ import annotations

from typing import ClassVar, Final

from gexec import limits
from gexec.core.saving import Savable
from gexec.core.states import hold
from gexec.errors import ProtocolError

#: Why a rank is lost about which a captured relay above it has lied, up or down.
MISFIT: Final = "its stdin does not fit together"
MISFIT_ACKS: Final = "the client acknowledges output that it did not write"
#: Where the offsets of output of a node's next relay begin, if its relay dies; then at twice this, and so on.
LIFE_BYTES: Final = 2**48
TOO_MUCH: Final = f"more than {2 * limits.STDIN_WINDOW_BYTES} bytes of stdin are not taken"


def life_begin(offset: int) -> int:
    """Return the offset at which the output of the same relay begins."""
    return offset - offset % LIFE_BYTES


class RetainedStream(Savable):
    """Output of one (rank, stream) at its node: kept until acknowledged end to end.

    Args:
        window_bytes: stop reading the source when this much is not acknowledged.
    """

    __slots__ = ("_chunks", "base", "closed", "end", "window_bytes")
    SAVED: ClassVar[str] = "_chunks base closed end window_bytes"

    def __init__(self, window_bytes: int) -> None:
        self.window_bytes = window_bytes
        self.base = 0
        self.end = 0
        self.closed = False
        self._chunks: list[tuple[int, bytes]] = []

    def begin_at(self, offset: int) -> None:
        """Continue at an offset, with nothing kept of what came before it."""
        self.base = self.end = offset

    @property
    def full(self) -> bool:
        """True when the source must not be read."""
        return self.end - self.base >= self.window_bytes

    def append(self, data: bytes) -> int:
        """Keep ``data`` and return the offset it begins at."""
        offset = self.end
        self._chunks.append((offset, data))
        self.end += len(data)
        return offset

    def acknowledge(self, offset: int) -> bool:
        """The client has taken everything before ``offset``; return False if that is more than was sent."""
        if offset > self.end:
            return False
        if offset <= self.base:
            return True
        self.base = offset
        kept = 0
        while kept < len(self._chunks) and self._chunks[kept][0] + len(self._chunks[kept][1]) <= offset:
            kept += 1
        del self._chunks[:kept]
        return True

    def unacknowledged(self) -> list[tuple[int, bytes]]:
        """Return (offset, data) of everything that may have to be sent again, in order."""
        return list(self._chunks)

    def story(self) -> str:
        """Return what is known about the stream, in a few words."""
        return f"{self.end} bytes, {self.base} acknowledged{', closed' if self.closed else ''}"

    def validate(self, who: str) -> None:
        """Check that everything is kept that may have to be sent again. Raises BrokenInvariantError."""
        hold(self.base <= self.end, who, "at most {} bytes are acknowledged", self.end)
        position = self._chunks[0][0] if self._chunks else self.base
        hold(position <= self.base, who, "bytes from {} on are kept", self.base)
        for offset, data in self._chunks:
            hold(offset == position, who, "kept bytes continue at {}", position)
            position += len(data)
        hold(position == self.end, who, "bytes up to {} are kept", self.end)


class Broadcast(Savable):
    """stdin at one node: bytes for several takers, kept until the slowest has taken them.

    Takers are numbered; each has the offset up to which it has taken bytes, or ALL if it wants no more.

    Attributes:
        differs_at: where the last bytes differ from what another parent has sent; ALL if they do not.
    """

    __slots__ = ("_before", "_chunks", "_restarting", "_taken", "_takers", "base", "differs_at", "end", "eof")

    ALL: ClassVar[int] = 2**64 - 1
    SAVED: ClassVar[str] = "_before _chunks _restarting _taken _takers base differs_at end eof"

    def __init__(self) -> None:
        self.base = 0
        self.end = 0
        self.eof = False
        self._chunks: list[tuple[int, bytes]] = []
        self._takers: dict[int, int] = {}
        self._restarting = True
        self.differs_at = self.ALL
        #: What the parent before has sent, until the new one has sent these bytes, too.
        self._before: list[tuple[int, bytes]] = []
        #: The last result of ``taken``; None if it may have changed.
        self._taken: int | None = None

    def add(self, taker: int) -> None:
        """Add a taker; it begins at the oldest byte that is kept."""
        self._takers[taker] = 0 if self._restarting else self.base
        self._taken = None

    def remove(self, taker: int) -> None:
        """Remove a taker: its bytes are not waited for any more."""
        if self._takers.pop(taker, None) is not None:
            self._taken = None

    def awaits(self, taker: int) -> bool:
        """Tell whether there is this taker."""
        return taker in self._takers

    def restart(self) -> None:
        """Another parent will send everything that processes below may need, including older bytes."""
        if not self._before or _end_of(self._before) <= self.end:
            self._before = list(self._chunks)
        self._restarting = True
        self._taken = None

    def resume(self, offset: int, data: bytes, eof: bool) -> tuple[int, bytes, bool] | None:
        """Add bytes of a parent, like ``append``, whatever a captured relay has sent before it.

        What does not continue the stream begins it anew, for all takers: each finds out by itself whether it
        was given something else (``Intake``).
        """
        self.differs_at = self._compare(offset, data) if self._before else self.ALL
        if not self._restarting and (offset > self.end or (self.eof and offset + len(data) > self.end)):
            self.restart()
        return self.append(offset, data, eof)

    def _compare(self, offset: int, data: bytes) -> int:
        """Return where a piece of these bytes begins that differs from what was sent before, or ALL."""
        end, before = offset + len(data), self._before
        if end >= _end_of(before):
            self._before = []
        for begin, former in before:
            low, high = max(begin, offset), min(begin + len(former), end)
            if low < high and former[low - begin : high - begin] != data[low - offset : high - offset]:
                return low
        return self.ALL

    def append(self, offset: int, data: bytes, eof: bool) -> tuple[int, bytes, bool] | None:
        """Add bytes that may overlap earlier ones; return (offset, bytes, eof) to pass on, if any.

        The first bytes, and the first after ``restart``, determine where the kept bytes begin. All of them
        are passed on: every taker ignores the bytes that it already has.

        Raises:
            ProtocolError: a gap, or bytes after the end of stdin.
        """
        if self._restarting:
            self._restarting = False
            self._chunks.clear()
            self.base = self.end = offset
            self.eof = False
        if offset > self.end:
            raise ProtocolError(f"stdin continues at {offset}, expected {self.end}")
        fresh = data if offset == self.end else data[self.end - offset :]  # compiled slices are copies
        if fresh and self.eof:
            raise ProtocolError("stdin continues after its end of file")
        if not fresh and self.eof >= eof:
            return None
        begin = self.end
        if fresh:
            self._chunks.append((begin, fresh))
            self.end += len(fresh)
        self._taken = None
        self.eof = self.eof or eof
        return begin, fresh, self.eof

    def took(self, taker: int, offset: int) -> None:
        """This taker has taken everything before ``offset``."""
        known = self._takers.get(taker)
        if known is not None and offset > known:
            self._takers[taker] = offset
            if known == self._taken:
                self._taken = None

    def taken(self) -> int:
        """Return the offset that all takers have reached (ALL: none wants more); drop the bytes before it."""
        if self._taken is not None:
            return self._taken
        slowest = min(self._takers.values(), default=self.ALL)
        if self._restarting and slowest < self.ALL:
            slowest = 0  # some takers may need older bytes than those kept
        limit = min(slowest, self.end)
        if limit > self.base:
            self.base = limit
            kept = 0
            while kept < len(self._chunks) and self._chunks[kept][0] + len(self._chunks[kept][1]) <= limit:
                kept += 1
            del self._chunks[:kept]
        self._taken = slowest
        return slowest

    @property
    def overfull(self) -> bool:
        """True if more is kept than an honest client has under way."""
        return self.end - self.base > 2 * limits.STDIN_WINDOW_BYTES

    def kept(self) -> list[tuple[int, bytes, bool]]:
        """Return (offset, data, eof) of what a new taker must get; nothing while it will be sent again."""
        if self._restarting:
            return []
        pieces = [(offset, data, False) for offset, data in self._chunks]
        if self.eof:
            pieces.append((self.end, b"", True))
        return pieces


def _end_of(chunks: list[tuple[int, bytes]]) -> int:
    offset, data = chunks[-1]
    return offset + len(data)
