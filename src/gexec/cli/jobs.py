"""``gexecctl jobs`` and the actions with one background job, as nodes report them (docs/background.md)."""

from __future__ import annotations

import time

from gexec.cli.command import Command, print_, run
from gexec.cli.querying import NO_JOB, ask_nodes
from gexec.cli.table import options_of
from gexec.errors import GexecError
from gexec.jobs import table

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from gexec.cli.command import Call


class JobsCommand(Command):
    """One of gexecctl's commands about background jobs."""

    __slots__ = ()
    options_anywhere = True

    def __init__(self, action: str) -> None:
        super().__init__(f"gexecctl {action}", prefix="host")
        self.options = options_of(self.page)

    @property
    def page(self) -> str:
        """See Command."""
        return "gexecctl-jobs" if self.name == "gexecctl jobs" else "gexecctl-job"

    def argv(self, words: Sequence[str]) -> Sequence[str]:
        """See Command."""
        return ("gexec-job",)


def main(words: Sequence[str]) -> int:
    """Run ``gexecctl jobs`` or an action with one job; ``words``: its name and its arguments."""
    if words[0] == "jobs":
        return run(JobsCommand("jobs"), words[1:], _show)
    from gexec.cli.jobactions import act

    return run(JobsCommand(words[0]), words[1:], act)


def _show(call: Call) -> int:
    parsed = call.parsed
    if call.has_nothing_to_rerun():
        return 0
    if parsed.flag("complete"):
        return _complete(call)
    query = ask_nodes(call)
    jobs = query.jobs
    lacking = []
    if parsed.rest:
        matching = {word: table.matching(jobs, word) for word in parsed.rest}
        lacking = [word for word, matched in matching.items() if not matched]
        jobs = [job for job in jobs if any(job in matched for matched in matching.values())]
    if parsed.flag("json"):
        lines = [table.json_line(job) for job in jobs]
    else:
        lines = [line + "\n" for line in table.table(jobs, time.time(), parsed.flag("all-users"))]
    if query.run.is_over:
        return query.run.conclude()
    status = print_("".join(lines), call.say)
    for word in lacking:
        call.say(query.lacking(word))
    return status or query.run.conclude() or (NO_JOB if lacking else 0)


def _complete(call: Call) -> int:
    """Print what may stand for a job; nothing at all if the nodes cannot be asked."""
    try:
        jobs = ask_nodes(call).jobs
    except GexecError:
        return 255
    return print_("".join([f"{word}\n" for word in table.completions(jobs)]), call.say)
