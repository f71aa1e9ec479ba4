"""The stdin of one node's own process: what it was given, and what its pipe has taken."""

from __future__ import annotations

from collections.abc import Callable
from typing import ClassVar, Final

from gexec import limits
from gexec.core import events
from gexec.core.flow import Broadcast
from gexec.core.saving import Savable

#: The process's number among the takers of stdin; children count from 1.
OWN_TAKER: Final = 0


class Intake(Savable):
    """The first ``end`` bytes of stdin, and its end of file or not, that one process was given.

    Args:
        stdin: the job's, at this node; None = it has none.
        emit: takes effects.

    Attributes:
        missed: bytes that it needs are not kept any more.
    """

    SAVED: ClassVar[str] = "_wanted _written end eof missed"

    def __init__(self, stdin: Broadcast | None, emit: Callable[[events.Effect], None]) -> None:
        self.end = 0
        self.eof = False
        self.missed = False
        self._stdin = stdin
        self._emit = emit
        #: Bytes that its pipe has taken.
        self._written = 0
        self._wanted = True
        if stdin is not None:
            stdin.add(OWN_TAKER)

    def contradicts(self, offset: int, data: bytes, eof: bool, differs_at: int) -> bool:
        """Tell whether the process was given something else than this, or than bytes at ``differs_at``."""
        end = offset + len(data)
        return differs_at < self.end or (self.eof and end > self.end) or (eof and end < self.end)

    def offer(self, offset: int, data: bytes, eof: bool, is_starting: bool) -> bool:
        """Give the process what it did not have of this; False if it cannot continue with it."""
        if self.eof:
            return True
        if offset > self.end:
            # If it starts, it was requested before, here or by another parent: the spawner will refuse it.
            self.missed |= is_starting
            return is_starting or not self._wanted
        fresh = data if offset == self.end else data[self.end - offset :]  # compiled slices are copies
        self.end += len(fresh)
        if fresh:
            self._emit(events.WriteStdin(fresh))
        if eof:
            self.eof = True
            self._emit(events.CloseStdin())
        return True

    def wrote(self, count: int) -> None:
        """The process's pipe took ``count`` more bytes; reported in steps, because it may cost a frame."""
        if self._stdin is None:
            return
        before = self._written // limits.STDIN_STEP_BYTES
        self._written += count
        if self._written // limits.STDIN_STEP_BYTES != before:
            self._stdin.took(OWN_TAKER, self._written)

    def broken(self) -> None:
        """The process reads no more."""
        self._wanted = False
        if self._stdin is not None:
            self._stdin.took(OWN_TAKER, Broadcast.ALL)

    def taken(self, unread: int) -> tuple[int, bool]:
        """Return how many bytes the process has read if so many are in its pipe; and whether it must read."""
        taken = self._written - unread
        return taken, self._wanted and taken < self.end
