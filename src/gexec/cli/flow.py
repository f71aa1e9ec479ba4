"""One run: submitted jobs, one or several after each other, to one summary and one exit status.

gexec, enexec and ensh on all nodes, batches (``cli/rolling.py``), fetching and copying all go through
here. Imported while gexecd is at work already. Part of the thin client.
"""

from __future__ import annotations

import os
import select
import time

from gexec.client.console import Console, finish
from gexec.client.interrupts import DEADLY, Interrupts
from gexec.client.stdio import READER_GONE, standard_sinks
from gexec.render.prefix import prefixes
from gexec.render.view import Prefixed

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal
    from collections.abc import Callable, Sequence

    from gexec.cli.command import Call
    from gexec.client.connection import Connection
    from gexec.client.progress import Progress
    from gexec.client.stdio import Input
    from gexec.render.view import View
    from gexec.select.sources import Choice
    from gexec.wire.jobspec import JobSpec
    from gexec.wire.outcome import Outcome
else:
    import _signal


class Run:
    """Runs jobs inside ``with``, in which their signals are caught, from the first job on, by one pipe.

    So a signal that comes while the next job is submitted is that job's. After the block come
    ``finish`` and ``conclude``.

    Args:
        call: what the user asked for.
        job: names all nodes of the run; its jobs run on them or on some of them.
        choice: of these nodes.
        view: shows all jobs; None = lines with plain prefixes.
        several: further jobs may follow the first one.
        interrupt: what the processes get at ^C; None = SIGINT.
        detaches: signals that only end gexec, and what it then says; None = there are none.

    Attributes:
        view: as above.
        progress: draws on the terminal, or None.
        status: an exit status that overrides the jobs' own, or None.
        asked_to_end: the user has asked for the end.
        killed: the last job was killed at once.
    """

    def __init__(
        self,
        call: Call,
        job: JobSpec,
        choice: Choice,
        view: View | None = None,
        several: bool = False,
        interrupt: int | None = None,
        detaches: tuple[frozenset[int], str] | None = None,
    ) -> None:
        self._call = call
        self._names = list(job.names)
        self._choice = choice
        self._several = several
        self._interrupt = interrupt
        self._detaches = detaches
        self._outcomes: Sequence[Outcome] = ()
        self._sinks = standard_sinks()
        self._interrupts: Interrupts | None = None
        self._farewell = ""
        #: The signal that asked for the end, or 0.
        self._signum = 0
        #: Ranks whose outcome the view has.
        self._shown: set[int] = set()
        self.view = view or Prefixed(prefixes(call.prefix, self._names, list(job.addresses)), job.ranks)
        self.progress = _progress(call, job)
        self.status: int | None = None
        self.asked_to_end = self.killed = False

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *_: object) -> None:
        if self._interrupts is not None:
            self._interrupts.restore()

    def one(
        self,
        connection: Connection,
        source: Input | None = None,
        ranks: Sequence[int] | None = None,
        again: Callable[[Outcome], bool] | None = None,
        tell_started: bool = False,
    ) -> None:
        """Run one submitted job until it is over or left, and close its connection.

        Args:
            connection: of the job.
            source: what its processes read, or None.
            ranks: of the run, which the job's ranks are, in its order; None = all.
            again: outcomes that are not shown before ``finish``, since these ranks may run again.
            tell_started: write when all processes have started.

        Raises:
            DaemonError, ProtocolError: gexecd refused the job, did not answer, or sent nonsense.
        """
        session, view = connection.session, self.view
        if ranks is None:
            ranks = range(len(self._names))
        if self._several:
            from gexec.render.part import Part

            view = Part(view, ranks, again)
        if self.progress is not None:
            self.progress.watch(session, ranks)

        def started() -> None:
            count = sum([high - low for low, high in session.started])
            console.say(f"{count} of {len(ranks)} started after {self._call.elapsed()}")

        console = Console(
            connection,
            view,
            self._sinks,
            self._caught(),
            source=source,
            command=self._call.command.name,
            started=started if tell_started else None,
            last=not self._several,
            names=[self._names[rank] for rank in ranks],
            progress=self.progress,
            interrupt=self._interrupt,
            detaches=self._detaches,
        )
        ending = console.ending
        try:
            console.run()
        finally:
            connection.close()
            self.status, self._farewell = ending.status, ending.farewell
            self.asked_to_end, self._signum = ending.asked_to_end, ending.signum
            self.killed = ending.killed
            for rank, outcome in zip(ranks, session.outcomes, strict=True):
                if outcome is not None and (again is None or not again(outcome)):
                    self._shown.add(rank)

    @property
    def is_over(self) -> bool:
        """True if no further job may begin: the user asked for the end, or the output has no reader."""
        return self.asked_to_end or self.status is not None

    def pause(self, wait_s: float) -> bool:
        """Wait before the next job; return at once and False if none may begin."""
        interrupts = self._caught()
        poll = select.poll()
        poll.register(interrupts.fd, select.POLLIN)
        until_s = time.monotonic() + wait_s
        left_s = wait_s
        while not self.is_over:
            poll.poll(int(left_s * 1000))
            for signum in interrupts.received():
                if signum in DEADLY:
                    self.asked_to_end, self._signum = True, signum
                    return False
                if signum == _signal.SIGTSTP:
                    os.kill(os.getpid(), _signal.SIGSTOP)
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return True
        return False

    def finish(self, outcomes: Sequence[Outcome]) -> None:
        """Write what the view still holds after its last job. ``outcomes``: of all ranks."""
        say, error = self._call.say, None
        if self._several:
            for rank, outcome in enumerate(outcomes):
                if rank not in self._shown:
                    self.view.ended(((rank, rank + 1),), outcome)
            error = finish(self.view, self._sinks)
        self._outcomes = outcomes
        say.after_open_line = not self._sinks[2].ends_line
        if error is not None and self.status is None:
            self.status = say.unwritten(error)

    def conclude(self, in_full: bool = False, by_signal: bool = False) -> int:
        """Write what failed, to stderr and where else the user wants it, and return the exit status.

        Args:
            in_full: write the summary also after a run that ended early, unless stdout has no reader.
            by_signal: a signal that asked for the end gives the status, unless all nodes succeeded.
        """
        if self._farewell:
            self._call.say(self._farewell, escape=False)
        outcomes, status = self._outcomes, 0
        if self.status is None or (in_full and self.status != READER_GONE):
            status = self._summarise(outcomes)
        if "failed-to" in self._call.parsed.values:
            from gexec.cli.nodefiles import write_failed

            if not write_failed(self._call, self._choice, outcomes):
                status = 255
        if self.status is not None:
            return self.status
        return (self.status_by_signal(outcomes) if by_signal else 0) or status

    def status_by_signal(self, outcomes: Sequence[Outcome]) -> int:
        """Return the status of the signal that asked for the end; 0 if none did, or all nodes succeeded."""
        return 128 + self._signum if self._signum and not all(outcome.ok for outcome in outcomes) else 0

    def _summarise(self, outcomes: Sequence[Outcome]) -> int:
        parsed, say = self._call.parsed, self._call.say
        failed = not all(outcome.ok for outcome in outcomes)
        status = 0
        if failed or parsed.flag("summary"):
            from gexec.render.summary import exit_status, full_summary, summary

            for line in (full_summary if parsed.flag("summary") else summary)(self._names, outcomes):
                say(line, escape=False)
            status = exit_status(outcomes)
        if parsed.flag("verbose"):
            say(f"done after {self._call.elapsed()}")
        if failed or parsed.flag("skip-down"):
            self._remember_reached(outcomes)
        if "exit-policy" in parsed.values:
            from gexec.render.policy import parse_policy, policy_status

            status = policy_status(parse_policy(parsed.value("exit-policy", "")), outcomes)
        return status

    def _remember_reached(self, outcomes: Sequence[Outcome]) -> None:
        """Record which nodes could not be reached, for --skip-down."""
        from gexec.client.down import remember
        from gexec.select.rounds import is_down, unreached

        ended = [(name, outcome) for (name, _), outcome in zip(self._choice.nodes, outcomes, strict=True)]
        down = {name for name, outcome in ended if is_down(outcome)}
        remember(down, {name for name, outcome in ended if not unreached(outcome)} - down)

    def _caught(self) -> Interrupts:
        """Return the signals that came, caught from now on until the block ends."""
        if self._interrupts is None:
            self._interrupts = Interrupts()
            self._interrupts.catch()
        return self._interrupts


def _progress(call: Call, job: JobSpec) -> Progress | None:
    """Return what draws on the terminal, None where it cannot be seen or would disturb."""
    raw = call.prefix == "none" and job.ranks == 1
    if call.parsed.flag("no-progress") or call.parsed.flag("detached") or raw or not os.isatty(2):
        return None
    from gexec.client.progress import Progress, wanted

    return Progress(list(job.names), call.begin_s) if wanted() else None
