"""Progress of a process that gets stdin: one that stands still for too long is given up.

All nodes of a job get the same stdin, at the pace of the slowest process. So a process that is stopped, or
whose storage hangs, would hold all others for ever. In a job with ``stall_s`` its node measures once a second
what the process has done: how much of its stdin it has taken, and how much it has written. The clock runs
only while something is expected from it (docs/protocol.md, Flow).
"""

from __future__ import annotations

from typing import ClassVar, Final

from gexec.core.saving import Savable

#: Time between two measurements.
LOOK_S: Final = 1.0
#: Signals that stop a process because its user wants that, and the one that continues it (Linux's numbers).
_STOPS: Final = (19, 20, 21, 22)
_CONTINUES: Final = 18


class Stall(Savable):
    """The clock of one process, from the request for it to its end.

    Args:
        limit_s: how long it may stand still.
        now_s: now, when it is requested.

    Attributes:
        look_s: when to measure next.
    """

    __slots__ = ("_done", "_ending", "_limit_s", "_since_s", "_stopped", "look_s")
    SAVED: ClassVar[str] = "_done _ending _limit_s _since_s _stopped look_s"

    def __init__(self, limit_s: float, now_s: float) -> None:
        self.look_s = now_s + LOOK_S
        self._limit_s = limit_s
        #: Bytes taken and written, when they changed last or nothing was expected.
        self._done = 0
        self._since_s = now_s
        self._stopped = False
        self._ending = False

    def signalled(self, signum: int) -> None:
        """The user has sent a signal to the process: a stopped one is not expected to do anything."""
        if signum in _STOPS:
            self._stopped = True
        elif signum == _CONTINUES:
            self._stopped = False

    def end_requested(self, grace_s: float) -> None:
        """It is being ended, which takes it ``grace_s`` if it does not obey: from now on that is expected."""
        self._ending = True
        self._limit_s = max(self._limit_s, grace_s + LOOK_S)

    def look(self, now_s: float) -> bool:
        """Return whether it is time to measure; if so, set the time for the next one."""
        if now_s < self.look_s:
            return False
        self.look_s = now_s + LOOK_S
        return True

    def stands_still(self, done: int, expected: bool, now_s: float) -> bool:
        """Take a measurement; return whether the process has stood still for too long.

        Args:
            done: bytes that it has taken and written so far.
            expected: stdin waits for it, or has ended; and its output is read.
        """
        idle = not expected or self._stopped
        if done != self._done or (idle and not self._ending):
            self._done = done
            self._since_s = now_s
        return now_s - self._since_s >= self._limit_s

    def told(self, ended: bool) -> str:
        """Return the reason why it is given up; ``ended``: it had taken all of its stdin."""
        if self._ending:
            return f"did not end within {self._limit_s:g} s: given up"
        if ended:
            return f"did nothing for {self._limit_s:g} s after the end of its input: given up"
        return f"took none of its input for {self._limit_s:g} s: given up"
