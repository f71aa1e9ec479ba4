"""What stands in for the loop of the command line in tests of views: it writes to memory."""

from __future__ import annotations

from gexec.render.view import View
from gexec.wire import ranks as sets
from gexec.wire.frames import STDERR, STDOUT
from gexec.wire.outcome import Outcome
from gexec.wire.ranks import Ranges


def one(rank: int) -> Ranges:
    return ((rank, rank + 1),)


class Loop:
    """Tells a view what happens, and keeps what it writes and takes.

    Attributes:
        text: what stands on descriptors 1 and 2.
        parts: all that was written, in order: (descriptor, bytes).
        taken: bytes of each (stream, rank).
    """

    def __init__(self, view: View) -> None:
        self.view = view
        self.text = {1: b"", 2: b""}
        self.parts: list[tuple[int, bytes]] = []
        self.taken: dict[tuple[int, int], int] = {}
        self._take()

    def out(self, ranks: int | Ranges, data: bytes, stream: int = STDOUT) -> None:
        self.view.output(stream, one(ranks) if isinstance(ranks, int) else ranks, data)
        self._take()

    def err(self, ranks: int | Ranges, data: bytes) -> None:
        self.out(ranks, data, STDERR)

    def started(self, ranks: Ranges) -> None:
        self.view.started(ranks)
        self._take()

    def responding(self, ranks: Ranges, responds: bool) -> None:
        self.view.responding(ranks, responds)
        self._take()

    def ended(self, ranks: int | Ranges, outcome: Outcome) -> None:
        self.view.ended(one(ranks) if isinstance(ranks, int) else ranks, outcome)
        self._take()

    def drain(self) -> None:
        """Let the view hand out all it holds, as when its readers are quick."""
        while self.view.held:
            self.view.refill()
            self._take()

    def finish(self) -> None:
        self.view.finish()
        self._take()
        self.drain()

    def _take(self) -> None:
        for fd, data, credit in self.view.writes:
            self.parts.append((fd, data))
            self.text[fd] += data
            if credit is not None:
                self._count(*credit)
        for credit in self.view.taken:
            self._count(*credit)
        self.view.writes.clear()
        self.view.taken.clear()

    def _count(self, stream: int, ranks: Ranges, count: int) -> None:
        for rank in sets.members(ranks):
            self.taken[stream, rank] = self.taken.get((stream, rank), 0) + count
