"""The interface of all output formats: a job's events in, bytes for stdout and stderr out.

The loop that runs a job (client/console.py) tells its view what happens, takes what is to be written
and what counts as taken, and acknowledges it to the job; it is independent of formats. A view
does no I/O. What it keeps counts as taken, so it bounds what it keeps; what it hands out to be
written counts as taken when the reader of that descriptor has it, which is how a slow reader slows
the processes down. A view with much to say at one time, such as all that it kept, hands out a part,
sets ``held``, and goes on in ``refill`` when that part is written. Part of the thin client.
"""

from __future__ import annotations

from gexec.render.lines import Budget, Lines
from gexec.wire.frames import STDERR, STDOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from gexec.wire.outcome import Outcome
    from gexec.wire.ranks import Ranges

#: So many bytes of this stream of each of these ranks: (stream, ranks, count).
Credit = tuple[int, "Ranges", int]
#: To be written: (descriptor 1 or 2, bytes, what is taken once they are written, or None).
Write = tuple[int, bytes, "Credit | None"]


class View:
    """Takes what happens to the ranks of a job; each of these calls may add to ``writes`` and ``taken``.

    Attributes:
        writes: what is to be written, in order; the loop takes it and clears it.
        taken: what is done with without being written now; the loop takes it and clears it.
        held: there is more to write: call ``refill`` each time all that was handed out is written.
        error: one sentence: why this view cannot go on, "" while it can. The job is then ended with 255;
            what comes afterwards is taken and thrown away.
    """

    __slots__ = ("error", "held", "taken", "writes")

    def __init__(self) -> None:
        self.writes: list[Write] = []
        self.taken: list[Credit] = []
        self.held = False
        self.error = ""

    def started(self, ranks: Ranges) -> None:
        """These ranks' processes run."""

    def output(self, stream: int, ranks: Ranges, data: bytes) -> None:
        """Each of these ranks wrote ``data``, of any length, next to the stream (STDOUT or STDERR)."""
        raise NotImplementedError

    def ended(self, ranks: Ranges, outcome: Outcome) -> None:
        """These ranks have ended this way and write no more."""

    def finish(self) -> None:
        """No more events: all ranks have ended, or the caller exits. Write what is held."""

    def refill(self) -> None:
        """All that was handed out is written; if ``held``, hand out more."""


class Prefixed(View):
    """Each line as soon as it is whole, each rank's prefix in front, stdout and stderr apart.

    Args:
        prefixes: one for each rank, or None for none.
        ranks: how many; a single rank without prefix is passed on as it comes.
    """

    __slots__ = ("_lines",)

    def __init__(self, prefixes: Sequence[bytes] | None, ranks: int) -> None:
        super().__init__()
        budget = Budget()
        raw = prefixes is None and ranks == 1
        self._lines = {stream: Lines(prefixes, budget, raw) for stream in (STDOUT, STDERR)}

    def output(self, stream: int, ranks: Ranges, data: bytes) -> None:
        """See View."""
        lines = self._lines[stream]
        lines.output(ranks, data)
        self._take(stream, lines)

    def ended(self, ranks: Ranges, outcome: Outcome) -> None:
        """See View."""
        for stream, lines in self._lines.items():
            lines.ended(ranks)
            self._take(stream, lines)

    def _take(self, stream: int, lines: Lines) -> None:
        for ranks, count in lines.absorbed:
            self.taken.append((stream, ranks, count))
        lines.absorbed.clear()
        for data, ranks, count in lines.ready:
            self.writes.append((stream, data, (stream, ranks, count) if count else None))
        lines.ready.clear()
