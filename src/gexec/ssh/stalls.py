"""Gives up commands that stand still: all ssh of a job read one stdin, at the pace of the slowest.

The rule is that of gexecd (core/stall.py). ssh takes some megabytes for its node before it waits; so a
command that reads nothing is found later than there, but it holds nobody until then.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

from gexec.core.stall import LOOK_S, Stall
from gexec.posix import clock
from gexec.posix.loop import PollLoop
from gexec.ssh.process import SshProcess
from gexec.ssh.stdin import KeptStdin


class Stalls:
    """The clocks of one job's running commands.

    Args:
        limit_s: how long a command may stand still; 0 = for ever.
        stdin: of the job; without it no command stands still.
        processes: of the job, by rank, as they are at any time.
        give_up: called with a process and the reason.
    """

    def __init__(
        self,
        limit_s: float,
        stdin: KeptStdin | None,
        processes: Mapping[int, SshProcess],
        loop: PollLoop,
        give_up: Callable[[SshProcess, str], None],
    ) -> None:
        self._limit_s = limit_s
        self._processes = processes
        self._loop = loop
        self._give_up = give_up
        self._clocks: dict[int, Stall] = {}
        if limit_s and stdin is not None:
            self._later(stdin)

    def signalled(self, rank: int, signum: int) -> None:
        """The user has sent a signal to a command."""
        if rank in self._clocks:
            self._clocks[rank].signalled(signum)

    def _later(self, stdin: KeptStdin) -> None:
        self._loop.call_at(clock.now_s() + LOOK_S, lambda: self._look(stdin))

    def _look(self, stdin: KeptStdin) -> None:
        """Measure every running command, once a second."""
        self._later(stdin)
        now_s = clock.now_s()
        for rank, process in list(self._processes.items()):
            if process.running and not process.stalled:
                if rank not in self._clocks:
                    self._clocks[rank] = Stall(self._limit_s, now_s)
                self._measure(process, stdin, self._clocks[rank], now_s)

    def _measure(self, process: SshProcess, stdin: KeptStdin, stall: Stall, now_s: float) -> None:
        taken = process.fed - process.unread_stdin()
        waits = process.feeding and taken < stdin.end
        # Whoever cannot write because the client does not read is not standing still.
        heard = all(map(self._loop.watches, process.outputs.values()))
        expected = heard and (waits or stdin.eof)
        if stall.stands_still(taken + sum(process.sent.values()), expected, now_s):
            self._give_up(process, stall.told(ended=not waits))
