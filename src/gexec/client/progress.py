"""How far a job is, on a terminal's stderr: drawn after a second, never between output lines.

What it draws stands below everything else and is erased before anything is written there. It is
drawn only while the last line on the terminal is whole and the terminal takes it at once, so that
nothing ever waits for it.
"""

from __future__ import annotations

import io
import os
import select

from gexec.render.fold import fold_bounded
from gexec.render.text import shown
from gexec.render.text import size as shown_size
from gexec.wire.ranks import size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gexec.client.session import JobSession
    from gexec.wire.outcome import Outcome

#: A run that takes no longer shows no progress.
AFTER_S = 1.0
EVERY_S = 0.25
#: So many nodes that are still running are named.
NAMED_MAX = 16
_NARROWEST = 20


class Progress:
    """Draws done, failed and running of one session after the other on a terminal.

    Args:
        names: of all ranks of the run.
        begin_s: monotonic time at which the run began.
        fd: the terminal.

    Attributes:
        due_s: monotonic time at which to call ``tick`` next.
    """

    __slots__ = (
        "_before", "_begin_s", "_fd", "_lines", "_names", "_ranks", "_read", "_session", "_total",
        "_total_of", "due_s",
    )  # fmt: skip

    def __init__(self, names: Sequence[bytes], begin_s: float, fd: int = 2) -> None:
        self._fd = fd
        self._names = names
        self._begin_s = begin_s
        self._session: JobSession | None = None
        self._ranks: Sequence[int] = ()
        self._lines = 0
        #: How ranks of the sessions before the present one have ended; what is tried again has not.
        self._before: list[Outcome | None] = [None] * len(names)
        self._read: Callable[[], int] | None = None
        self._total_of: Callable[[], int] | None = None
        self._total = 0
        self.due_s = begin_s + AFTER_S

    def watch(self, session: JobSession, ranks: Sequence[int]) -> None:
        """Show this session from now on; its rank i is rank ``ranks[i]`` of the run."""
        if self._session is not None:
            for rank, outcome in zip(self._ranks, self._session.ended_outcomes(), strict=True):
                self._before[rank] = outcome
        for rank in ranks:
            self._before[rank] = None
        self._session, self._ranks = session, ranks

    def measure(self, read: Callable[[], int], total: Callable[[], int]) -> None:
        """Show bytes, too: how many were read, and of how many (0: not known; asked when it is drawn)."""
        self._read, self._total_of = read, total

    def tick(self, now_s: float, quiet: bool) -> None:
        """Draw anew if it is time; ``quiet``: nothing waits to be written and the last line is whole."""
        if now_s < self.due_s:
            return
        self.due_s = now_s + EVERY_S
        if quiet and _writable(self._fd):
            text = self._text(now_s)
            self._write(self._erasing() + text)
            self._lines = text.count(b"\n")

    def erase(self) -> None:
        """Take away what is drawn, before something else is written."""
        if self._lines:
            self._write(self._erasing())
            self._lines = 0

    def _erasing(self) -> bytes:
        return b"\r" + b"\x1b[1A\x1b[2K" * self._lines

    def _write(self, data: bytes) -> None:
        try:
            os.write(self._fd, data)
        except OSError:
            self.due_s = float("inf")  # the terminal is gone: nobody looks

    def _text(self, now_s: float) -> bytes:
        # Only here, a second after the start, and not in runs without a terminal.
        from rich.console import Console
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        session = self._session
        if session is None:
            return b""
        total = len(self._names)
        outcomes = session.outcomes
        ended = [outcome for outcome in (*self._before, *outcomes) if outcome is not None]
        done = len(ended)
        failed = sum([not outcome.ok for outcome in ended])
        started = size(session.started)
        running = [
            self._ranks[rank]
            for low, high in session.started
            for rank in range(low, high)
            if outcomes[rank] is None
        ]
        width = max(_NARROWEST, _columns(self._fd) - 1)
        told = [f"{done}/{total} done"]
        told += [f"{failed} failed"] if failed else []
        quiet = [self._ranks[rank] for rank in sorted(session.quiet)]
        told += [f"{len(quiet)} not responding"] if quiet else []
        told += [f"{len(running)} running" if started else "starting", f"{now_s - self._begin_s:.0f} s"]
        bytes_read, moved = self._moved(now_s)
        lines = [moved, told] if moved else [told]
        bar = (self._total, bytes_read) if self._total else (total, done)
        bar_width = min(30, width // 3)
        room = width - bar_width - 1
        grid = Table.grid(padding=(0, 1))
        if max(len(", ".join(parts)) for parts in lines) <= room:
            text = "\n".join(fitting(parts, room) for parts in lines)
            grid.add_row(ProgressBar(*bar, width=bar_width), Text(text, no_wrap=True))
        else:
            grid.add_row(Text("\n".join(fitting(parts, width) for parts in lines), no_wrap=True))
        buffer = io.StringIO()
        console = Console(file=buffer, force_terminal=True, width=width, legacy_windows=False)
        console.print(grid, no_wrap=True, overflow="ellipsis", crop=True)
        for what, ranks in (("not responding", quiet), ("still running", running)):
            if 0 < len(ranks) <= NAMED_MAX:
                names = fold_bounded([shown(self._names[rank]) for rank in ranks])
                console.print(
                    Text(f"{what}: {names}", style="dim"), no_wrap=True, overflow="ellipsis", crop=True
                )
        return buffer.getvalue().encode("utf-8", "backslashreplace")

    def _moved(self, now_s: float) -> tuple[int, list[str]]:
        """Return how many bytes were read, and texts for the amount and the rate."""
        if self._read is None:
            return 0, []
        if self._total_of is not None:
            self._total = self._total_of()
        count = self._read()
        told = shown_size(count)
        if self._total:
            count = min(count, self._total)
            told = f"{shown_size(count)} of {shown_size(self._total)}"
        return count, [told, f"{shown_size(count / max(1e-3, now_s - self._begin_s))}/s"]


def fitting(parts: list[str], room: int) -> str:
    """Return the first parts, the most important ones, that fit a line whole; a cut number is a wrong one."""
    line = ""
    for part in parts:
        longer = f"{line}, {part}" if line else part
        if len(longer) > room:
            break
        line = longer
    return line


def _columns(fd: int) -> int:
    try:
        return os.get_terminal_size(fd).columns
    except OSError:
        return 0  # the terminal is gone


def _writable(fd: int) -> bool:
    poll = select.poll()
    poll.register(fd, select.POLLOUT)
    return any(event & select.POLLOUT for _, event in poll.poll(0))


def wanted(fd: int = 2) -> bool:
    """Return True if it can be seen: the descriptor is a terminal that can move its cursor."""
    return os.isatty(fd) and os.environ.get("TERM", "dumb") != "dumb"
