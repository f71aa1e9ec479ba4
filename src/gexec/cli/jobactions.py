"""``gexecctl attach``, ``wait``, ``output``, ``signal``, ``kill`` and ``forget``: one background job.

First all nodes are asked which ranks of the job they have; then ``gexec-job`` runs once for each of these
ranks, and ends as the rank's command did. So views, summary and exit status are those of any job.
"""

from __future__ import annotations

import os

from gexec.cli.flow import Run
from gexec.cli.job import shown_ranks
from gexec.cli.querying import NO_JOB, ask_nodes, hides_outcome, program_of, true_outcomes
from gexec.client.job import submit
from gexec.client.transfer import INTERRUPT
from gexec.errors import UsageError
from gexec.jobs import states, table
from gexec.render.summary import summary
from gexec.select.sources import Choice
from gexec.wire.jobspec import JobSpec
from gexec.wire.outcome import Outcome, exited, lost

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal

    from gexec.cli.command import Call
    from gexec.cli.querying import Query
    from gexec.jobs.states import RankState
else:
    import _signal

ACTIONS = ("attach", "wait", "output", "signal", "kill", "forget")
_TAIL = "64k"
#: Nodes were chosen: ranks on others are not missed.
_CHOOSING = ("nodes", "exclude", "nprocs", "pick", "nodelist", "hosts-file", "rerun", "skip-down")


def act(call: Call) -> int:
    """Do it; return the exit status."""
    action = call.command.name.rpartition(" ")[2]
    signum = _check_arguments(call, action)
    if call.has_nothing_to_rerun():
        return 0
    query = ask_nodes(call)
    if query.run.is_over:
        return query.run.conclude()
    word = call.parsed.rest[0]
    job, note = table.only(query.jobs, word)
    if job is None:
        return _none(call, query, word)
    if note:
        call.say(note)
    return Acting(call, action, query, job).run(signum)


def _check_arguments(call: Call, action: str) -> int:
    """Return the signal of ``signal``, else 0; UsageError for arguments that make no sense."""
    parsed, rest = call.parsed, call.parsed.rest
    expected = "JOB and a signal" if action == "signal" else "one JOB"
    if len(rest) != (2 if action == "signal" else 1):
        raise UsageError(f"expected {expected}: `gexecctl jobs` lists them")
    if "tail" in parsed.values and action not in ("attach", "output"):
        raise UsageError("option --tail: only attach and output show output")
    if parsed.flag("now") and action != "kill":
        raise UsageError("option --now: only kill ends processes")
    return signal_number(rest[1]) if action == "signal" else 0


def signal_number(text: str) -> int:
    """Return the number of a signal: TERM, SIGTERM or 15. Raises UsageError: there is none."""
    import signal

    if text.isascii() and text.isdigit() and len(text) < 4 and 1 <= int(text) < signal.NSIG:
        return int(text)
    name = text.upper() if text.upper().startswith("SIG") else f"SIG{text.upper()}"
    found = getattr(signal.Signals, name, None)
    if found is None:
        raise UsageError(f"signal {text[:40]!r}: expected a name such as TERM, or a number")
    return int(found)


def _none(call: Call, query: Query, word: str) -> int:
    """Say that no node has the job; return the exit status."""
    call.say(f"{query.lacking(word)}; `gexecctl jobs` lists them")
    return _tell_silent(call, query) if query.silent else NO_JOB


def _tell_silent(call: Call, query: Query) -> int:
    for line in summary(list(query.job.names), query.outcomes):
        call.say(line, escape=False)
    return 255


class Acting:
    """One action with the ranks of a job that were found.

    Args:
        call, action: what the user asked for.
        query: what the nodes have answered.
        job: the job.
    """

    def __init__(self, call: Call, action: str, query: Query, job: table.KeptJob) -> None:
        self._call = call
        self._action = action
        self._query = query
        self._job = job
        indices = {
            state.rank: index for index, state in query.found if (state.uid, state.job) == (job.uid, job.id)
        }
        #: For each rank: the node that has it, and its state; None: it was not found.
        self._ranks: list[tuple[int, RankState] | None] = [
            (indices[state.rank], state) for state in job.ranks
        ]
        if not any(call.parsed.given(name) for name in _CHOOSING):
            found = {state.rank: (indices[state.rank], state) for state in job.ranks}
            self._ranks = [found.get(rank) for rank in range(job.size)]

    def run(self, signum: int) -> int:
        """Do it; return the exit status."""
        outcomes = [self._known(entry) for entry in self._ranks]
        todo = [place for place, outcome in enumerate(outcomes) if outcome is None]
        if not todo and self._action in ("signal", "kill"):
            self._call.say(f"job {self._job.id[: table.SHOWN_DIGITS]}: nothing of it runs")
            return NO_JOB if self._action == "signal" else 0
        whole, choice = self._whole()
        detaches = None
        if self._action in ("attach", "wait"):
            signums = frozenset([_signal.SIGINT, _signal.SIGTERM, _signal.SIGHUP])
            detaches = signums, f"detached: the job goes on; {table.again(self._job.id)}"
        shown = Run(
            self._call,
            whole,
            choice,
            self._call.view(whole),
            several=True,
            interrupt=INTERRUPT,
            detaches=detaches,
        )
        with shown:
            if todo:
                for place, outcome in zip(todo, self._ask(shown, todo, signum), strict=True):
                    outcomes[place] = outcome
        done = [exited(0) if outcome is None else outcome for outcome in outcomes]
        shown.finish(done)
        return self._conclude(shown, done)

    def _known(self, entry: tuple[int, RankState] | None) -> Outcome | None:
        """Return the outcome of a rank for which nothing needs to run; None if gexec-job must."""
        if entry is None:
            # Where all nodes have answered, there is nothing to be done with it.
            is_done = self._action not in ("attach", "wait") and all(each.ok for each in self._query.outcomes)
            return exited(0) if is_done else lost("no node that was asked has it")
        state = entry[1]
        if self._action in ("attach", "output", "forget"):
            return None
        if self._action == "wait":
            return state.outcome
        if self._action == "kill":
            may_run = state.held or (state.outcome is not None and state.outcome.text == states.UNKEPT)
            return None if state.runs or may_run else exited(0)
        return None if state.runs else exited(0)

    def _whole(self) -> tuple[JobSpec, Choice]:
        """Return the job as it was started, as far as it is known, for views and the summary."""
        asked = self._query
        nodes, addresses = [], []
        for place, entry in enumerate(self._ranks):
            nodes.append((f"rank{place}", 0) if entry is None else asked.choice.nodes[entry[0]])
            addresses.append(b"" if entry is None else asked.job.addresses[entry[0]])
        choice = Choice(nodes, asked.choice.source)
        names = [os.fsencode(name) for name, _ in nodes]
        whole = JobSpec(names=names, addresses=addresses, program=b"/", argv=[b"gexec-job"], env=[])
        return whole, choice

    def _ask(self, shown: Run, todo: list[int], signum: int) -> list[Outcome]:
        """Run gexec-job for these ranks; return how it ended for each."""
        entries = [entry for place in todo if (entry := self._ranks[place]) is not None]
        words = [self._action, self._job.id, shown_ranks([state.rank for _, state in entries])]
        if signum:
            words.append(str(signum))
        words += self._options()
        connection = submit(program_of(self._query.job, [index for index, _ in entries], words))
        mirrors = self._action in ("attach", "wait")
        shown.one(connection, ranks=todo, again=hides_outcome if mirrors else None)
        ended = connection.session.ended_outcomes()
        if not mirrors or shown.status is not None:
            return ended
        return true_outcomes(self._call, self._job.id, [state.rank for _, state in entries], ended)

    def _options(self) -> list[str]:
        parsed = self._call.parsed
        words = []
        tail = parsed.last("tail") or (_TAIL if self._action == "attach" else None)
        if tail is not None:
            words.append(f"--tail={tail}")
        if parsed.flag("now"):
            words.append("--now")
        if self._job.uid != os.geteuid():
            words.append(f"--uid={self._job.uid}")
        return words

    def _conclude(self, shown: Run, outcomes: list[Outcome]) -> int:
        if None in self._ranks:
            silent = [outcome for outcome in self._query.outcomes if not outcome.ok]
            if silent:
                self._call.say(f"{len(silent)} of {len(self._query.outcomes)} nodes did not answer:")
                _tell_silent(self._call, self._query)
        return shown.conclude()
