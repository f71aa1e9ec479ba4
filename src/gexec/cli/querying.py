"""Asks the nodes for the background jobs that they have, and lets them do something with one.

No server knows them: each call runs ``gexec-job`` on the nodes, as a job of the caller.
"""

from __future__ import annotations

import os

from gexec.cli.flow import Run
from gexec.client.interrupts import DEADLY
from gexec.client.job import Request, build, part, submit
from gexec.client.transfer import environment
from gexec.errors import ProtocolError, UsageError
from gexec.jobs import table
from gexec.jobs.states import LINE_MAX_BYTES, RankState
from gexec.render.prefix import prefixes
from gexec.render.view import Prefixed
from gexec.render.wrapped import Wrapped
from gexec.wire import ranks as sets
from gexec.wire.frames import STDOUT
from gexec.wire.jobspec import NO_STDIN, REMOTE_PATH
from gexec.wire.outcome import EXITED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from gexec.cli.command import Call
    from gexec.render.view import View
    from gexec.select.sources import Choice
    from gexec.wire.jobspec import JobSpec
    from gexec.wire.outcome import Outcome
    from gexec.wire.ranks import Ranges

#: Exit status: no node has the job.
NO_JOB = 1
#: Lines of all nodes together.
_STATES_MAX = 1_000_000


class Query:
    """What the nodes have answered.

    Attributes:
        job: the job that has asked them.
        choice: who chose the nodes.
        outcomes: how that ended on each node.
        found: each rank of a background job, and the index of the node that reports it.
        run: of the job.
    """

    def __init__(self, job: JobSpec, choice: Choice, run: Run, collected: Collected) -> None:
        self.job = job
        self.choice = choice
        self.run = run
        self.outcomes: list[Outcome] = []
        self.found = collected.found

    @property
    def jobs(self) -> list[table.KeptJob]:
        """The jobs of these ranks, the oldest first."""
        return table.jobs_of([state for _, state in self.found])

    @property
    def silent(self) -> int:
        """How many nodes have not answered."""
        return sum([not outcome.ok for outcome in self.outcomes])

    def lacking(self, word: str) -> str:
        """Return the sentence that says that no node has a job of this id or name."""
        asked = f"{len(self.outcomes)} nodes" if len(self.outcomes) != 1 else "1 node"
        why = f", but {self.silent} of them did not answer" if self.silent else ""
        return f"job {word}: there is none on {asked}{why}"


def ask_nodes(call: Call) -> Query:
    """Ask the nodes for the background jobs that they have.

    Raises:
        GexecError: they cannot be asked at all.
    """
    parsed = call.parsed
    if parsed.flag("all-users") and os.geteuid() != 0:
        raise UsageError("option --all-users: only root sees the jobs of others")
    words = ["gexec-job", "list"]
    if parsed.flag("all-users"):
        words.append("--all-users")
    request = on_nodes(call.request(words))
    job, choice = build(request)
    call.verbose(f"{job.ranks} nodes from {choice.source} are asked")
    shown = Prefixed(prefixes("host", list(job.names), ()), job.ranks)
    collected = Collected(shown)
    connection = submit(job)
    with Run(call, job, choice, collected, detaches=(DEADLY, "")) as asking:
        asking.one(connection)
    query = Query(job, choice, asking, collected)
    query.outcomes = connection.session.ended_outcomes()
    asking.finish(query.outcomes)
    return query


def hides_outcome(outcome: Outcome) -> bool:
    """Tell whether ``gexec-job`` may have ended so because the command's outcome is none of a process.

    A command that was *lost* or *timed out* is known to the nodes only: ``true_outcomes`` asks them.
    """
    return outcome.kind == EXITED and outcome.value in (124, 255)


def true_outcomes(call: Call, job: str, ranks: Sequence[int], outcomes: Sequence[Outcome]) -> list[Outcome]:
    """Return the outcomes of ranks of a background job; ``outcomes``: how ``gexec-job`` ended for each."""
    if not any(map(hides_outcome, outcomes)):
        return list(outcomes)
    known = {state.rank: state.outcome for _, state in ask_nodes(call).found if state.job == job}
    return [
        (known.get(rank) or outcome) if hides_outcome(outcome) else outcome
        for rank, outcome in zip(ranks, outcomes, strict=True)
    ]


def on_nodes(request: Request) -> Request:
    """Let a request run ``gexec-job``, as it is installed on the nodes."""
    request.stdin = False
    request.remote_path = True
    request.env = environment()
    request.chdir = "/"
    return request


def program_of(asked: JobSpec, indices: Sequence[int], words: Sequence[str]) -> JobSpec:
    """Return the job that runs ``gexec-job`` with these arguments on some nodes of another job.

    Args:
        asked: the other job.
        indices: of the nodes, in the order of the new job's ranks; a node may occur more than once.
        words: what follows ``gexec-job``.
    """
    job = part(asked, indices)
    job.program = b"gexec-job"
    job.argv = [os.fsencode(word) for word in ("gexec-job", *words)]
    path = os.fsencode(environment()["PATH"])
    job.env = [entry for entry in job.env if not entry.startswith(b"PATH=")] + [b"PATH=" + path]
    job.cwd, job.background, job.timeout_s = b"/", b"", 0.0
    job.flags = NO_STDIN | REMOTE_PATH
    return job


class Collected(Wrapped):
    """Takes the nodes' lines out of what they write; ``view`` shows the rest.

    Attributes:
        found: each rank that a node reports, and the node's index.
    """

    __slots__ = ("_begun", "found")

    def __init__(self, view: View) -> None:
        super().__init__(view)
        self._begun: dict[int, bytes] = {}
        self.found: list[tuple[int, RankState]] = []

    def output(self, stream: int, ranks: Ranges, data: bytes) -> None:
        """See View."""
        if stream != STDOUT:
            super().output(stream, ranks, data)
            return
        self.taken.append((stream, ranks, len(data)))
        for rank in sets.members(ranks):
            *lines, rest = (self._begun.pop(rank, b"") + data).split(b"\n")
            try:
                if len(rest) > LINE_MAX_BYTES or len(self.found) > _STATES_MAX:
                    raise ProtocolError("a node reports more than a node can have")
                self.found += [(rank, RankState.parse(line)) for line in lines]
            except ProtocolError as error:
                self.error = self.error or str(error)
            if rest:
                self._begun[rank] = rest
