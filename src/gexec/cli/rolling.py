"""A run of several jobs: batches of a rolling change, and further attempts where no node was reached."""

from __future__ import annotations

import select
import time

from gexec.cli.command import conclude, plain, progress_of, seconds_of
from gexec.cli.options import integer
from gexec.client.console import Console, finish
from gexec.client.interrupts import DEADLY, Interrupts
from gexec.client.job import part
from gexec.client.sink import Sink, standard_sinks
from gexec.core.outcome import not_started
from gexec.errors import GexecError, UsageError
from gexec.render.part import Part
from gexec.select.rounds import Rounds, share, unreached

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gexec.cli.command import Command, Opener, Say
    from gexec.cli.options import Parsed
    from gexec.cli.views import Output
    from gexec.client.progress import Progress
    from gexec.core.jobspec import JobSpec
    from gexec.render.view import View
    from gexec.select.sources import Choice

_RETRIES_MAX = 100
#: Before the first further attempt; each later one waits twice as long, up to the second.
_RETRY_S = 1.0
_RETRY_MAX_S = 30.0


class Run:
    """One run: shows all its jobs in one view, and stops where the user or too many failures say so."""

    def __init__(
        self,
        command: Command,
        parsed: Parsed,
        job: JobSpec,
        submit: Opener,
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
        self._delay_s = seconds_of(parsed, "batch-delay", 0.0)
        self.rounds = _rounds(parsed, job.ranks)
        self.sinks: dict[int, Sink] = standard_sinks()
        #: An exit status that overrides the run's own.
        self.status: int | None = None
        #: Why ranks that were never tried were not.
        self.why = ""

    def go(self) -> None:
        """Run job after job."""
        number = attempts = 0
        while (ranks := self.rounds.next()) and not self.why:
            if self.rounds.again:
                attempts += 1
                wait_s = min(_RETRY_MAX_S, _RETRY_S * 2 ** (attempts - 1))
                self._tell(f"attempt {attempts + 1} for {len(ranks)} nodes in {wait_s:g} s")
            else:
                number += 1
                attempts = 0
                wait_s = self._delay_s if number > 1 else 0.0
                self._tell(f"batch {number}: {len(ranks)} nodes" + (f" in {wait_s:g} s" if wait_s else ""))
            if wait_s and not _pause(wait_s):
                self.why = "the run was ended before it came to this node"
                break
            self._one(ranks)
        if self.rounds.stopped:
            self.why = "not tried: too many nodes have failed before (--max-failures)"

    def _tell(self, text: str) -> None:
        if self._verbose:
            self._say(text)

    def _one(self, ranks: list[int]) -> None:
        try:
            sock, session = self._submit(part(self._job, ranks))
        except GexecError as error:
            if self.rounds.outcomes.count(None) == len(self.rounds.outcomes):
                raise  # nothing has run yet: this is the whole run's own failure
            self._end(str(error), len(ranks))
            return
        if self._progress is not None:
            self._progress.watch(session, ranks)
        console = Console(
            sock,
            session,
            Part(self._view, ranks, unreached if self.rounds.may_come_again else None),
            self.sinks,
            read_stdin=False,
            command=self._command.name,
            last=False,
            names=[self._job.names[rank] for rank in ranks],
            progress=self._progress,
        )
        try:
            console.run()
        except GexecError as error:
            self._end(str(error), len(ranks))
            return
        finally:
            sock.close()
        self.rounds.ended(session.ended_outcomes())
        if console.status is not None:
            self.status = console.status
            if console.farewell:
                self._say(console.farewell, escape=False)
        if console.asked_to_end or console.status is not None:
            self.why = "the run was ended before it came to this node"

    def _end(self, text: str, count: int) -> None:
        self._say(text)
        self.rounds.ended([not_started(text)] * count)
        self.why = "the run was ended before it came to this node"


def run_rounds(
    command: Command,
    parsed: Parsed,
    job: JobSpec,
    choice: Choice,
    submit: Opener,
    output: Output | None,
    say: Say,
    begin_s: float,
) -> int:
    """Run a job in rounds; return its exit status."""
    kind = parsed.last("prefix-type") or command.prefix
    view = output.view(job) if output else plain(kind, job)
    run = Run(command, parsed, job, submit, view, progress_of(parsed, job, kind, begin_s), say)
    run.go()
    outcomes = run.rounds.finished(run.why)
    for rank, outcome in enumerate(run.rounds.outcomes):
        # What was held back because it might be tried again, and what was never tried, has ended too.
        if outcome is None or (unreached(outcome) and run.rounds.retries):
            view.ended(((rank, rank + 1),), outcomes[rank])
    gone = finish(view, run.sinks)
    if not run.sinks[2].ends_line:
        say.new_line()
    if run.status is not None or gone is not None:
        return 141 if run.status is None else run.status
    return conclude(parsed, job, choice, outcomes, output, say, begin_s)


def _rounds(parsed: Parsed, total: int) -> Rounds:
    batch, most = parsed.last("batch"), parsed.last("max-failures")
    if batch is None and (most is not None or "batch-delay" in parsed.values):
        given = "max-failures" if most is not None else "batch-delay"
        raise UsageError(f"option --{given}: it says what is done between batches; give --batch too")
    return Rounds(
        total,
        batch=0 if batch is None else share("--batch", batch, total, least=1),
        retries=integer("--retries", parsed.last("retries") or "0", 0, _RETRIES_MAX),
        failures_max=None if most is None else share("--max-failures", most, total, least=0),
    )


def _pause(wait_s: float) -> bool:
    """Wait between two jobs; False if a signal asks for the end."""
    interrupts = Interrupts()
    interrupts.catch()
    try:
        poll = select.poll()
        poll.register(interrupts.fd, select.POLLIN)
        until_s = time.monotonic() + wait_s
        while (left_s := until_s - time.monotonic()) > 0:
            poll.poll(int(left_s * 1000) + 1)
            if any(signum in DEADLY for signum in interrupts.received()):
                return False
        return True
    finally:
        interrupts.restore()
