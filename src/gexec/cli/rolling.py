"""A run of several jobs: batches of a rolling change, and further attempts where no node was reached."""

from __future__ import annotations

import os
import select
import signal
import time

from gexec.cli.command import conclude, plain, progress_of
from gexec.cli.nodefiles import write_failed
from gexec.client.console import Console, finish
from gexec.client.interrupts import DEADLY, Interrupts
from gexec.client.job import part
from gexec.client.kept import KeptInput
from gexec.client.session import OVER
from gexec.client.sink import Sink, standard_sinks
from gexec.errors import GexecError
from gexec.render.part import Part
from gexec.select.rounds import Rounds, share, unreached
from gexec.wire.jobspec import NO_STDIN
from gexec.wire.outcome import lost, not_started

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gexec.cli.command import Command, Opener, Say
    from gexec.cli.options import Parsed
    from gexec.cli.views import OutputForm
    from gexec.client.progress import Progress
    from gexec.render.view import View
    from gexec.select.sources import Choice
    from gexec.wire.jobspec import JobSpec

#: Before the first further attempt; each later one waits twice as long, up to the second.
_RETRY_S = 1.0
_RETRY_MAX_S = 30.0
_ENDED = "the run was ended before it came to this node"


class RollingRun:
    """One run: shows all its jobs in one view, and stops where the user or too many failures say so."""

    def __init__(
        self,
        command: Command,
        parsed: Parsed,
        job: JobSpec,
        submit: Opener,
        rounds: Rounds,
        view: View,
        progress: Progress | None,
        say: Say,
    ) -> None:
        self._command = command
        self._job = job
        self._submit = submit
        self._view = view
        self._progress = progress
        self._say = say
        self._verbose = parsed.flag("verbose")
        self._delay_s = parsed.seconds("batch-delay")
        self.rounds = rounds
        self.sinks: dict[int, Sink] = standard_sinks()
        self._kept = None if job.flags & NO_STDIN else KeptInput()
        #: An exit status that overrides the run's own.
        self.status: int | None = None
        #: Why ranks that were never tried were not.
        self.why = ""
        #: Ranks whose outcome the view has not been told.
        self.untold: set[int] = set()

    def go(self) -> None:
        """Run job after job."""
        self._interrupts = Interrupts()
        # One pipe for the whole run: a signal that comes while a job is submitted is seen by its console.
        self._interrupts.catch()
        try:
            self._go()
        finally:
            self._interrupts.restore()
            if self._kept is not None:
                self._kept.close()
        if self.rounds.stopped:
            self.why = "not tried: too many nodes have failed before (--max-failures)"

    def _go(self) -> None:
        number = attempts = 0
        while not self.why and (ranks := self.rounds.next()):
            if self._kept is not None:
                self.why = self._kept.why
                if self.why:
                    break
                self._kept.rewind()
            if self.rounds.again:
                attempts += 1
                wait_s = min(_RETRY_MAX_S, _RETRY_S * 2 ** (attempts - 1))
                self._tell(f"attempt {attempts + 1} for {len(ranks)} nodes in {wait_s:g} s")
            else:
                number += 1
                attempts = 0
                wait_s = self._delay_s if number > 1 else 0.0
                self._tell(f"batch {number}: {len(ranks)} nodes" + (f" in {wait_s:g} s" if wait_s else ""))
            if self._asked_to_end(wait_s):
                self.why = _ENDED
                break
            self._one(ranks)

    def _tell(self, text: str) -> None:
        if self._verbose:
            self._say(text)

    def _one(self, ranks: list[int]) -> None:
        try:
            sock, session = self._submit(part(self._job, ranks))
        except GexecError as error:
            if self.rounds.outcomes.count(None) == len(self.rounds.outcomes):
                raise  # nothing has run yet: this is the whole run's own failure
            self._stopped_by(error)
            self.untold = set(ranks)
            self.rounds.ended([not_started(str(error))] * len(ranks))
            return
        if self._progress is not None:
            self._progress.watch(session, ranks)
        again = unreached if self.rounds.may_come_again else None
        console = Console(
            sock,
            session,
            Part(self._view, ranks, again),
            self.sinks,
            read_stdin=self._kept is not None,
            kept=self._kept,
            command=self._command.name,
            last=False,
            names=[self._job.names[rank] for rank in ranks],
            progress=self._progress,
            interrupts=self._interrupts,
        )
        missing = lost("gexec left before it ended")
        try:
            console.run()
        except GexecError as error:
            self._stopped_by(error)
            # Only a job that gexecd has refused cannot have run.
            missing = (not_started if session.state == OVER else lost)(str(error))
        finally:
            sock.close()
        outcomes = [outcome or missing for outcome in session.outcomes]
        self.untold = {
            rank
            for rank, told, outcome in zip(ranks, session.outcomes, outcomes, strict=True)
            if told is None or (again is not None and again(outcome))
        }
        self.rounds.ended(outcomes)
        if console.status is not None:
            self.status = console.status
            if console.farewell:
                self._say(console.farewell, escape=False)
        if console.asked_to_end or console.status is not None:
            self.why = _ENDED

    def _stopped_by(self, error: GexecError) -> None:
        self._say(str(error))
        self.why = _ENDED

    def _asked_to_end(self, wait_s: float) -> bool:
        """Wait; return at once and True if a signal asks for the end."""
        poll = select.poll()
        poll.register(self._interrupts.fd, select.POLLIN)
        until_s = time.monotonic() + wait_s
        left_s = wait_s
        while True:
            poll.poll(int(left_s * 1000))
            for signum in self._interrupts.received():
                if signum in DEADLY:
                    return True
                if signum == signal.SIGTSTP:
                    os.kill(os.getpid(), signal.SIGSTOP)
            left_s = until_s - time.monotonic()
            if left_s <= 0:
                return False


def run_rounds(
    command: Command,
    parsed: Parsed,
    kind: str,
    job: JobSpec,
    choice: Choice,
    submit: Opener,
    output: OutputForm | None,
    say: Say,
    begin_s: float,
) -> int:
    """Run a job in rounds; return its exit status."""
    rounds = rounds_of(parsed, job.ranks)
    view = output.view(job) if output else plain(kind, job)
    run = RollingRun(command, parsed, job, submit, rounds, view, progress_of(parsed, job, kind, begin_s), say)
    run.go()
    outcomes = run.rounds.finished(run.why)
    for rank, tried in enumerate(run.rounds.outcomes):
        # What was held back because it might be tried again, and what was never tried, has ended too.
        if tried is None or rank in run.untold:
            view.ended(((rank, rank + 1),), outcomes[rank])
    gone = finish(view, run.sinks)
    say.after_open_line = not run.sinks[2].ends_line
    if isinstance(gone, BrokenPipeError):
        write_failed(parsed, choice, outcomes, say)
        return 128 + int(signal.SIGPIPE)
    if gone is not None and run.status is None:
        say(f"cannot write stdout: {gone.strerror}")
        run.status = 255
    status = conclude(parsed, job, choice, outcomes, say, begin_s)
    return status if run.status is None else run.status


def rounds_of(parsed: Parsed, total: int) -> Rounds:
    """Return what the options say about batches and further attempts; UsageError for what makes no sense."""
    batch, most = parsed.last("batch"), parsed.last("max-failures")
    return Rounds(
        total,
        batch=0 if batch is None else share("--batch", batch, total, least=1),
        retries=parsed.integer("retries"),
        failures_max=None if most is None else share("--max-failures", most, total, least=0),
        together=parsed.flag("strict"),
    )
