"""The interface of all output formats: a job's events in, bytes for stdout and stderr out.

The loop that runs a job (client/console.py) passes events to its view, writes what the view returns, and
acknowledges what counts as taken; it is independent of formats. A view does no I/O. What it keeps counts as
taken, so it must limit what it keeps. What it returns to be written counts as taken when the reader of that
descriptor has it; so a slow reader slows down the processes. A view with much output at one time, such as
everything that it kept, returns a part, sets ``held``, and continues in ``refill`` when that part is written.
Part of the thin client.
"""

from __future__ import annotations

from gexec.render.lines import Budget, Lines
from gexec.wire.frames import STDERR, STDOUT

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from gexec.wire.outcome import Outcome
    from gexec.wire.ranks import Ranges

#: ``count`` bytes of a stream of each of these ranks: (stream, ranks, count).
Credit = tuple[int, "Ranges", int]
#: To be written: (descriptor 1 or 2, bytes, what is taken when they are written, or None).
Write = tuple[int, bytes, "Credit | None"]


class View:
    """Takes the events of a job's ranks; each call may add to ``writes`` and ``taken``.

    Attributes:
        writes: what to write, in order; the loop takes it and clears it.
        taken: what counts as taken without being written now; the loop takes it and clears it.
        held: there is more to write: call ``refill`` each time everything returned so far is written.
        error: one sentence that says why this view cannot continue, "" while it can. The job is then ended
            with 255; later output is taken and discarded.
        status: gexec's exit status, where the outcomes do not determine it; else None.
    """

    __slots__ = ("error", "held", "status", "taken", "writes")

    def __init__(self) -> None:
        self.writes: list[Write] = []
        self.taken: list[Credit] = []
        self.held = False
        self.error = ""
        self.status: int | None = None

    def started(self, ranks: Ranges) -> None:
        """These ranks' processes run."""

    def responding(self, ranks: Ranges, responds: bool) -> None:
        """Nothing has come from these ranks' nodes for some seconds; or something has come again."""

    def output(self, stream: int, ranks: Ranges, data: bytes) -> None:
        """Each of these ranks next wrote ``data``, of any length, to the stream (STDOUT or STDERR)."""
        raise NotImplementedError

    def ended(self, ranks: Ranges, outcome: Outcome) -> None:
        """These ranks have ended with this outcome and write no more."""

    def withheld(self, ranks: Ranges) -> None:
        """These ranks have ended, and will run again in a further job, which will tell how they end."""

    def finish(self) -> None:
        """No more events: all ranks have ended, or the caller exits. Write what is kept."""

    def refill(self) -> None:
        """Everything returned so far is written; if ``held``, return more."""


class Prefixed(View):
    """Each line as soon as it is complete, with its rank's prefix, stdout and stderr separately.

    Args:
        prefixes: one for each rank, or None for none.
        ranks: how many; the output of a single rank without prefix is passed on as it arrives.
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
