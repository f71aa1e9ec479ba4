"""A run of several jobs: batches of a rolling change, and further attempts where no node was reached."""

from __future__ import annotations

from gexec.cli.flow import Run
from gexec.client.job import part
from gexec.client.kept import KeptInput
from gexec.client.session import OVER
from gexec.errors import GexecError
from gexec.select.rounds import Rounds, share, unreached
from gexec.wire.jobspec import NO_STDIN
from gexec.wire.outcome import lost, not_started

TYPE_CHECKING = False
if TYPE_CHECKING:
    from gexec.cli.command import Call, Submit
    from gexec.cli.options import Parsed
    from gexec.select.sources import Choice
    from gexec.wire.jobspec import JobSpec
    from gexec.wire.outcome import Outcome

#: Before the first further attempt; each later one waits twice as long, up to the second.
_RETRY_S = 1.0
_RETRY_MAX_S = 30.0
_ENDED = "the run was ended before it came to this node"


class RollingRun:
    """Runs a job round after round, and stops when the user or too many failures require it.

    Args:
        call: its --batch-delay is between batches.
        job: for all nodes.
        submit: submits the job of a round.
        rounds: plans them.
        run: shows them.
    """

    def __init__(self, call: Call, job: JobSpec, submit: Submit, rounds: Rounds, run: Run) -> None:
        self._call = call
        self._job = job
        self._submit = submit
        self._rounds = rounds
        self._run = run
        self._kept = None if job.flags & NO_STDIN else KeptInput()
        #: Why ranks that were never tried were not.
        self._why = ""

    def go(self) -> list[Outcome]:
        """Run job after job; return the outcomes of all ranks."""
        try:
            with self._run:
                self._go()
        finally:
            if self._kept is not None:
                self._kept.close()
        if self._rounds.stopped:
            self._why = "not tried: too many nodes have failed before (--max-failures)"
        return self._rounds.finished(self._why)

    def _go(self) -> None:
        number = attempts = 0
        delay_s = self._call.parsed.seconds("batch-delay")
        while not self._why and (ranks := self._rounds.next()):
            if self._kept is not None:
                self._why = self._kept.why
                if self._why:
                    break
                self._kept.rewind()
            if self._rounds.again:
                attempts += 1
                wait_s = min(_RETRY_MAX_S, _RETRY_S * 2 ** (attempts - 1))
                self._call.verbose(f"attempt {attempts + 1} for {len(ranks)} nodes in {wait_s:g} s")
            else:
                number += 1
                attempts = 0
                wait_s = delay_s if number > 1 else 0.0
                when = f" in {wait_s:g} s" if wait_s else ""
                self._call.verbose(f"batch {number}: {len(ranks)} nodes{when}")
            if self._run.pause(wait_s):
                self._rounds.ended(self._one(ranks))
            if self._run.is_over:
                self._why = _ENDED

    def _one(self, ranks: list[int]) -> list[Outcome]:
        """Run one round, and return how its ranks ended."""
        try:
            connection = self._submit(part(self._job, ranks))
        except GexecError as error:
            if self._rounds.outcomes.count(None) == len(self._rounds.outcomes):
                raise  # nothing has run yet: this is the whole run's own failure
            self._stopped_by(error)
            return [not_started(str(error))] * len(ranks)
        session = connection.session
        try:
            self._run.one(connection, self._kept, ranks, unreached if self._rounds.may_come_again else None)
        except GexecError as error:
            self._stopped_by(error)
            # Only a job that gexecd has refused cannot have run.
            missing = (not_started if session.state == OVER else lost)(str(error))
            return [outcome or missing for outcome in session.outcomes]
        return session.ended_outcomes()

    def _stopped_by(self, error: GexecError) -> None:
        self._call.say(str(error))
        self._why = _ENDED


def run_rounds(call: Call, job: JobSpec, choice: Choice, submit: Submit) -> int:
    """Run a job in rounds; return its exit status."""
    rounds = rounds_of(call.parsed, job.ranks)
    run = Run(call, job, choice, call.view(job), several=True)
    run.finish(RollingRun(call, job, submit, rounds, run).go())
    return run.conclude(in_full=True)


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
