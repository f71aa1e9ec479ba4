"""How a user's signals end a job, and when gexec exits without waiting any longer.

Every signal is passed on to the processes, and then:

- ^C twice within a second kills the job at once.
- TERM and HUP ask for the end: what has not ended KILL_GRACE_S later, or when such a signal comes again
  (or ^C) after a second, is killed at once.
- Of a background job, some signals end only gexec, which detaches.
- LEAVE_AFTER_S after a kill at once, or when ^C follows it, gexec exits without gexecd's confirmation,
  with 128 + the signal.

Part of the thin client.
"""

from __future__ import annotations

import os
import time

from gexec import limits
from gexec.client.interrupts import DEADLY
from gexec.client.session import ACCEPTED

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Sequence

    from gexec.client.connection import Connection
    from gexec.client.interrupts import Interrupts
else:
    import _signal

DOUBLE_INTERRUPT_S = 1.0
#: TERM and HUP that follow each other within this time are one: timeout(1) and systemd send two at once.
SAME_REQUEST_S = 1.0
#: From the kill at once, or from the end of the reader of stdout, to leaving without confirmation.
LEAVE_AFTER_S = 5.0


class Ending:
    """Decides when one job ends early, and requests it.

    Args:
        connection: of the job.
        interrupts: signals come from there.
        say: writes a sentence for the user.
        names: of the job's ranks, for the list of those that still run; None = it is not written.
        last: no other job follows in the same run.
        interrupt: what the processes get at ^C; None = SIGINT.
        detaches: signals that end only this client, and what it then says; None = there are none.

    Attributes:
        status: an exit status that overrides the job's own, or None.
        farewell: why gexec left before the job's end, or "".
        asked_to_end: the user has asked for the end, by ^C, TERM or HUP.
        signum: the first of them that came, or 0.
        killed: it was killed at once.
        left: gexec waits for nothing any more.
    """

    def __init__(
        self,
        connection: Connection,
        interrupts: Interrupts,
        say: Callable[[str], None],
        names: Sequence[bytes] | None,
        last: bool,
        interrupt: int | None = None,
        detaches: tuple[frozenset[int], str] | None = None,
    ) -> None:
        self._connection = connection
        self._session = connection.session
        self._interrupts = interrupts
        self._say = say
        self._names = names
        self._last = last
        self._interrupt_with = interrupt or _signal.SIGINT
        self._detaches = detaches
        self._interrupted_s = -DOUBLE_INTERRUPT_S
        #: The first TERM or HUP, and when it came.
        self._ended_by = 0
        self._ended_at_s = 0.0
        self._leave_s = 0.0
        self.killed = False
        self.status: int | None = None
        self.farewell = ""
        self.asked_to_end = False
        self.signum = 0
        self.left = False

    def on_signals(self) -> None:
        """Act on the signals that came."""
        for signum in self._interrupts.received():
            if self._session.state == ACCEPTED:
                self._on_signal(signum)
            else:
                self._on_signal_outside(signum)

    @property
    def due_s(self) -> float | None:
        """When to call ``on_time`` at the latest, on the monotonic clock; None if nothing is due."""
        return min([due_s for due_s in (self._leave_s, self._kill_due_s) if due_s], default=None)

    @property
    def _kill_due_s(self) -> float:
        """When the grace after TERM or HUP is over; 0 if none runs."""
        is_running = self._ended_by and not self.killed and self._session.state == ACCEPTED
        return self._ended_at_s + limits.KILL_GRACE_S if is_running else 0.0

    def on_time(self, now_s: float) -> None:
        """Kill what TERM or HUP did not end, leave what does not end at all."""
        if self._kill_due_s and now_s >= self._kill_due_s:
            self._kill_at_once(f"not ended {limits.KILL_GRACE_S:g} s after {_name(self._ended_by)}")
        if self._leave_s and now_s > self._leave_s:
            self._leave()

    def kill(self, now: bool = False) -> None:
        """End the job on all nodes: with SIGHUP and SIGTERM, after the grace SIGKILL; or SIGKILL at once."""
        self._session.kill(now)
        grace_s = 0.0 if now else LEAVE_AFTER_S
        leave_s = time.monotonic() + grace_s + LEAVE_AFTER_S
        self._leave_s = min(self._leave_s, leave_s) if self._leave_s else leave_s

    def _on_signal_outside(self, signum: int) -> None:
        """Nothing runs yet, or nothing any more: a signal does what it does to any program.

        But in a run of several jobs there is something to report about those before this one.
        """
        if signum in DEADLY:
            if self._last or self.asked_to_end:
                self._interrupts.die(signum)
            self._asked(signum)
            self._session.close()
        elif signum == _signal.SIGTSTP:
            os.kill(os.getpid(), _signal.SIGSTOP)

    def _on_signal(self, signum: int) -> None:
        if self._detaches is not None and signum in self._detaches[0]:
            self.status, self.farewell = 128 + signum, self._detaches[1]
            self._leave()
        elif signum == _signal.SIGINT:
            self._interrupt()
        elif signum in (_signal.SIGTERM, _signal.SIGHUP):
            self._asked_to_end(signum)
        else:
            self._session.signal(signum)
        if signum == _signal.SIGTSTP and not self.left:
            self._connection.send()
            os.kill(os.getpid(), _signal.SIGSTOP)

    def _interrupt(self) -> None:
        if self.killed:
            self._leave()
            return
        self._asked(_signal.SIGINT)
        now_s = time.monotonic()
        if now_s - self._interrupted_s <= DOUBLE_INTERRUPT_S:
            self._kill_at_once("^C twice within a second")
        elif self._ended_by:
            self._kill_at_once(f"^C after {_name(self._ended_by)}")
        else:
            self._session.signal(self._interrupt_with)
            self._tell_running()
        self._interrupted_s = now_s

    def _tell_running(self) -> None:
        if self._names is None:
            return
        from gexec.render.running import still_running

        who = still_running(self._names, self._session.started, self._session.outcomes)
        self._say(f"^C goes to all processes (^C once more within a second kills them); {who}")

    def _asked_to_end(self, signum: int) -> None:
        self._asked(signum)
        now_s = time.monotonic()
        if not self._ended_by:
            self._ended_by, self._ended_at_s = signum, now_s
        elif now_s - self._ended_at_s > SAME_REQUEST_S:
            if self.killed:
                self._leave()
            else:
                self._kill_at_once(f"{_name(signum)} came again")
            return
        self._session.signal(signum)

    def _asked(self, signum: int) -> None:
        self.asked_to_end = True
        self.signum = self.signum or signum

    def _kill_at_once(self, why: str) -> None:
        self.killed = True
        self._say(f"{why}: the job is being killed on all nodes")
        self.kill(now=True)

    def _leave(self) -> None:
        """Stop waiting for gexecd's confirmation; once gexec has exited, gexecd ends whatever is left."""
        running = sum([outcome is None for outcome in self._session.outcomes])
        if self.status is None:
            if running:
                count = len(self._session.outcomes)
                self.farewell = f"the end of {running} of {count} processes is not confirmed"
            self.status = 128 + int(self._ended_by or _signal.SIGINT)
        self._session.close()
        self._connection.send()
        self.left = True


def _name(signum: int) -> str:
    return "SIGTERM" if signum == _signal.SIGTERM else "SIGHUP"
