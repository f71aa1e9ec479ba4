"""Whole lines from many byte streams, each with its rank's prefix. Pure; never loses or adds a byte of a
process's output, except the prefixes, and a newline where two nodes' lines would otherwise join.

Bytes of an incomplete line are kept here. All except the first few count as taken, so a line may be longer
than any window. The first ones count as taken only when the line is written, so that lines which are not read
cannot accumulate, however they are cut. All incomplete lines together may have :class:`Budget` bytes. Above
that, the longest one becomes the *owner* of its output: it is passed on piece by piece until it ends, while
the others' bytes wait untaken, bounded by their windows.
"""

from __future__ import annotations

from gexec.limits import WINDOW_MIN_BYTES
from gexec.wire import ranks as sets

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from gexec.wire.ranks import Ranges

#: Incomplete lines of a job, both streams together.
BUDGET_BYTES = 64 * 1024 * 1024
#: Bytes of an incomplete line that are not taken before it is written. The process can continue with half its
#: window.
_UNTAKEN_BYTES = WINDOW_MIN_BYTES // 2
#: Equal lines of many ranks are joined into pieces of about this size.
_JOIN_BYTES = 64 * 1024

#: Bytes to write, and what is taken when they are written: ``count`` bytes of each of these ranks.
Piece = tuple[bytes, "Ranges", int]


class Budget:
    """The memory of the incomplete lines of all outputs of a job."""

    __slots__ = ("limit_bytes", "used_bytes")

    def __init__(self, limit_bytes: int = BUDGET_BYTES) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0


class Lines:
    """The lines of one stream (stdout or stderr) of all ranks, in the order in which they end.

    After each call take ``ready`` (pieces to write, in order) and ``absorbed`` (what counts as
    taken at once) and clear both.

    Args:
        prefixes: one for each rank, or None for none.
        budget: shared by the outputs of a job.
        raw: pass everything on as it arrives (one rank, no prefix).
    """

    __slots__ = (
        "_budget",
        "_open",
        "_owner",
        "_partial",
        "_prefixes",
        "_raw",
        "_waiting",
        "absorbed",
        "ready",
    )

    def __init__(self, prefixes: Sequence[bytes] | None, budget: Budget, raw: bool = False) -> None:
        self.ready: list[Piece] = []
        self.absorbed: list[tuple[Ranges, int]] = []
        self._prefixes = prefixes
        self._budget = budget
        self._raw = raw
        self._partial: dict[int, bytearray] = {}
        self._owner = -1
        #: Output of other ranks while there is an owner; None means the rank's end.
        self._waiting: list[tuple[int, bytes | None]] = []
        #: The last piece ended without a newline, and its line is finished.
        self._open = False

    @property
    def held_bytes(self) -> int:
        """Bytes that wait for the owner's line to end."""
        return sum([len(data) for _, data in self._waiting if data])

    def output(self, ranks: Ranges, data: bytes) -> None:
        """Take the next output of all these ranks."""
        if not data:
            return
        if self._raw:
            self.ready.append((data, ranks, len(data)))
            return
        if self._owner < 0 and not self._partial and data.find(b"\n") == len(data) - 1:
            self._equal_lines(ranks, data)
            return
        for low, high in ranks:
            for rank in range(low, high):
                if self._owner >= 0:
                    self._behind_owner(rank, data)
                else:
                    self._absorb(rank, data)

    def ended(self, ranks: Ranges) -> None:
        """These ranks write no more: a last line without a newline is passed on unchanged."""
        if self._raw or (self._owner < 0 and not self._partial):
            return
        for rank in sets.members(ranks):
            if rank == self._owner:
                self._release(closed=False)
            elif self._owner >= 0:
                self._waiting.append((rank, None))
            else:
                self._flush(rank)

    def _equal_lines(self, ranks: Ranges, data: bytes) -> None:
        """The usual case: one complete line of each of many ranks, and no incomplete lines."""
        prefixes = self._prefixes
        step = max(1, _JOIN_BYTES // (len(data) + 8))
        for low, high in ranks:
            for start in range(low, high, step):
                end = min(high, start + step)
                if prefixes is None:
                    text = data * (end - start)
                else:
                    text = b"".join([prefix + data for prefix in prefixes[start:end]])
                self._emit(text, ((start, end),), len(data))

    def _absorb(self, rank: int, data: bytes) -> None:
        """Pass on the whole lines of ``data`` and keep the rest. There is no owner."""
        cut = data.rfind(b"\n") + 1
        if cut:
            whole = data if cut == len(data) else data[:cut]
            count = cut
            if rank in self._partial:
                begun, untaken = self._begun(rank)
                whole = begun + whole
                count += untaken
            self._emit(self._prefixed(rank, whole), ((rank, rank + 1),), count)
        if cut < len(data):
            tail = data[cut:] if cut else data
            kept = self._partial.setdefault(rank, bytearray())
            before = max(_UNTAKEN_BYTES, len(kept))
            kept += tail
            if len(kept) > before:
                self.absorbed.append((((rank, rank + 1),), len(kept) - before))
            self._budget.used_bytes += len(tail)
            if self._budget.used_bytes > self._budget.limit_bytes:
                self._elect()

    def _begun(self, rank: int) -> tuple[bytes, int]:
        """Remove and return a rank's incomplete line, and how much of it is not taken yet."""
        begun = bytes(self._partial.pop(rank))
        self._budget.used_bytes -= len(begun)
        return begun, min(len(begun), _UNTAKEN_BYTES)

    def _elect(self) -> None:
        """Make the rank with the longest incomplete line the owner, and pass on what it has."""
        rank = max(self._partial, key=lambda candidate: len(self._partial[candidate]))
        self._emit_begun(rank)
        self._owner = rank

    def _behind_owner(self, rank: int, data: bytes) -> None:
        if rank != self._owner:
            self._waiting.append((rank, data))
            return
        cut = data.find(b"\n") + 1
        head = data[:cut] if cut else data
        self._emit(head, ((rank, rank + 1),), len(head))
        if cut:
            if cut < len(data):
                self._waiting.append((rank, data[cut:]))
            self._release(closed=True)

    def _release(self, closed: bool) -> None:
        """The owner's line has ended: continue with what waited, in order of arrival."""
        self._owner = -1
        self._open = not closed
        waiting, self._waiting = self._waiting, []
        for rank, data in waiting:
            if self._owner >= 0 and data is not None:
                self._behind_owner(rank, data)
            elif data is not None:
                self._absorb(rank, data)
            else:
                self.ended(((rank, rank + 1),))

    def _flush(self, rank: int) -> None:
        if rank in self._partial:
            self._emit_begun(rank)
            self._open = True

    def _emit_begun(self, rank: int) -> None:
        begun, untaken = self._begun(rank)
        prefix = b"" if self._prefixes is None else self._prefixes[rank]
        self._emit(prefix + begun, ((rank, rank + 1),), untaken)

    def _prefixed(self, rank: int, whole: bytes) -> bytes:
        if self._prefixes is None:
            return whole
        prefix = self._prefixes[rank]
        if whole.find(b"\n") == len(whole) - 1:
            return prefix + whole
        return prefix + whole[:-1].replace(b"\n", b"\n" + prefix) + b"\n"

    def _emit(self, data: bytes, ranks: Ranges, count: int) -> None:
        if self._open:
            self._open = False
            if self._prefixes is not None:
                data = b"\n" + data
        self.ready.append((data, ranks, count))
