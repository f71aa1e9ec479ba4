"""Equal lines that many ranks write to stderr, printed once with the folded names. Pure.

For jobs of our own programs, which write messages there: a full disk on a thousand nodes is reported in one
line. Imported when files are copied or fetched.
"""

from __future__ import annotations

from gexec.render.fold import fold_bounded
from gexec.render.text import shown
from gexec.render.wrapped import Wrapped
from gexec.wire import ranks as sets
from gexec.wire.frames import STDERR

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gexec.render.view import View
    from gexec.wire.outcome import Outcome
    from gexec.wire.ranks import Ranges

#: Most different lines that are kept, and their total size; further ones are written as they arrive.
LINES_MAX = 1000
KEPT_MAX_BYTES = 1024 * 1024
#: A longer line is not a message: it is written in pieces, each as a line.
LINE_MAX_BYTES = 16 * 1024
#: Incomplete lines of all ranks.
_BEGUN_MAX_BYTES = 4 * 1024 * 1024


class Sentences(Wrapped):
    """Keeps each different line of stderr with the ranks that wrote it, until ``finish``.

    Args:
        view: shows stdout.
        names: of the nodes, by rank.
        neutral: returns a rank's line in the form in which the other ranks would write it. A line of only one
            rank is written unchanged.
    """

    __slots__ = ("_begun", "_begun_bytes", "_kept", "_kept_bytes", "_names", "_neutral")

    def __init__(
        self, view: View, names: Sequence[bytes], neutral: Callable[[int, bytes], bytes] | None = None
    ) -> None:
        super().__init__(view)
        self._names = names
        self._neutral = neutral
        #: Line, neutral -> (the first one unchanged, bit N: rank N wrote it). With bits, 1000 lines of 10,000
        #: ranks take little over a megabyte.
        self._kept: dict[bytes, tuple[bytes, int]] = {}
        self._kept_bytes = 0
        self._begun: dict[int, bytes] = {}
        self._begun_bytes = 0

    def started(self, ranks: Ranges) -> None:
        """See View. A rank that was lost may start once more: its incomplete line does not continue."""
        self._complete(ranks)
        super().started(ranks)

    def output(self, stream: int, ranks: Ranges, data: bytes) -> None:
        """See View."""
        if stream != STDERR:
            super().output(stream, ranks, data)
            return
        first, *later = data.split(b"\n")
        for rank in sets.members(ranks):
            taken, part = 0, first
            for next_part in later:
                taken += self._line(rank, self._pop(rank) + part, len(part) + 1)
                part = next_part
            taken += self._begin(rank, part)
            if taken:
                self.taken.append((STDERR, ((rank, rank + 1),), taken))

    def ended(self, ranks: Ranges, outcome: Outcome) -> None:
        """See View."""
        self._complete(ranks)
        super().ended(ranks, outcome)

    def finish(self) -> None:
        """See View. The kept lines are written now, in the order of their first arrival."""
        for rank in sorted(self._begun):
            self._line(rank, self._pop(rank), 0)
        for line, (raw, bits) in self._kept.items():
            ranks = [rank for rank in range(bits.bit_length()) if bits >> rank & 1]
            names = fold_bounded([shown(self._names[rank]) for rank in ranks])
            text = names.encode() + b" " + (raw if len(ranks) == 1 else line) + b"\n"
            self.writes.append((STDERR, text, None))
        self._kept.clear()
        super().finish()

    def _complete(self, ranks: Ranges) -> None:
        for rank in sets.members(ranks) if self._begun else ():
            if rank in self._begun:
                self._line(rank, self._pop(rank), 0)

    def _begin(self, rank: int, part: bytes) -> int:
        """Keep the beginning of a line; return how much of it is taken."""
        begun = self._pop(rank) + part
        if len(begun) > LINE_MAX_BYTES or self._begun_bytes + len(begun) > _BEGUN_MAX_BYTES:
            return self._line(rank, begun, len(part))
        if begun:
            self._begun[rank] = begun
            self._begun_bytes += len(begun)
        return len(part)

    def _pop(self, rank: int) -> bytes:
        begun = self._begun.pop(rank, b"")
        self._begun_bytes -= len(begun)
        return begun

    def _line(self, rank: int, raw: bytes, count: int) -> int:
        """Keep or write a line of which ``count`` bytes are not taken yet; return how many are taken now."""
        line = self._neutral(rank, raw) if self._neutral is not None else raw
        known = self._kept.get(line)
        if known is not None:
            self._kept[line] = known[0], known[1] | 1 << rank
            return count
        size = len(line) + len(raw)
        if (
            len(raw) <= LINE_MAX_BYTES
            and self._kept_bytes + size <= KEPT_MAX_BYTES
            and len(self._kept) < LINES_MAX
        ):
            self._kept[line] = raw, 1 << rank
            self._kept_bytes += size
            return count
        text = shown(self._names[rank]).encode() + b" " + raw + b"\n"
        self.writes.append((STDERR, text, (STDERR, ((rank, rank + 1),), count) if count else None))
        return 0
