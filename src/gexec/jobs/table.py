"""Background jobs as people see them: ranks that nodes report joined into jobs, a table, JSON. Pure."""

from __future__ import annotations

import json
from collections.abc import Iterable, Sequence
from typing import Any

from gexec.errors import UsageError
from gexec.jobs.states import RankState
from gexec.render.fold import fold_bounded
from gexec.render.text import printable
from gexec.render.text import size as shown_size
from gexec.wire.outcome import NAMES

#: Digits of a job's id that are shown.
SHOWN_DIGITS = 12
#: Digits of an id that must be given.
GIVEN_DIGITS = 4
_COMMAND_MAX = 60
_NODES_MAX = 60
_HEX = frozenset("0123456789abcdef")


class KeptJob:
    """A background job: the ranks of it that were found, each once, in order."""

    def __init__(self, ranks: Iterable[RankState]) -> None:
        self.ranks = sorted({state.rank: state for state in ranks}.values(), key=lambda state: state.rank)
        first = self.ranks[0]
        self.id = first.job
        self.name = first.name
        self.user = first.user
        self.uid = first.uid
        self.command = first.command
        self.size = max([state.ranks for state in self.ranks])
        self.started_s = min([state.started_s for state in self.ranks])

    @property
    def runs(self) -> bool:
        """True if one of its ranks runs."""
        return any(state.runs for state in self.ranks)

    @property
    def missing(self) -> list[int]:
        """The ranks that were not found."""
        found = {state.rank for state in self.ranks}
        return [rank for rank in range(self.size) if rank not in found]

    def counts(self) -> dict[str, int]:
        """Return how many ranks are in each state, most first."""
        found: dict[str, int] = {}
        for state in self.ranks:
            found[shown_state(state)] = found.get(shown_state(state), 0) + 1
        return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))

    def fields(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return {
            "job": self.id,
            "name": self.name,
            "user": self.user,
            "uid": self.uid,
            "command": self.command,
            "cwd": self.ranks[0].cwd,
            "started_s": self.started_s,
            "lease_s": self.ranks[0].lease_s,
            "size": self.size,
            "found": len(self.ranks),
            "states": self.counts(),
            "bytes": sum([sum(state.lengths) for state in self.ranks]),
            "processes": [_process(state) for state in self.ranks],
        }


def _process(state: RankState) -> dict[str, Any]:
    told: dict[str, Any] = {"rank": state.rank, "node": state.node, "state": "running"}
    outcome = state.outcome
    if outcome is not None:
        told |= {"state": NAMES[outcome.kind], "value": outcome.value, "reason": outcome.text}
        told["ended_s"] = state.ended_s
    return told | {
        "stdout_bytes": state.lengths[0],
        "stderr_bytes": state.lengths[1],
        "kept_bytes": state.kept_bytes,
        "dropped_bytes": sum(state.dropped),
    }


def shown_state(state: RankState) -> str:
    """Return a rank's state in a few words."""
    return "running" if state.outcome is None else state.outcome.summary


def jobs_of(states: Iterable[RankState]) -> list[KeptJob]:
    """Return the jobs of these ranks, the oldest first."""
    by_id: dict[tuple[int, str], list[RankState]] = {}
    for state in states:
        by_id.setdefault((state.uid, state.job), []).append(state)
    return sorted([KeptJob(ranks) for ranks in by_id.values()], key=lambda job: (job.started_s, job.id))


def matching(jobs: Sequence[KeptJob], word: str) -> list[KeptJob]:
    """Return the jobs that a word names: those with this name, else those whose id begins with it."""
    named = [job for job in jobs if job.name == word]
    if named:
        return named
    if len(word) < GIVEN_DIGITS or not _HEX.issuperset(word):
        return []
    return [job for job in jobs if job.id.startswith(word)]


def only(jobs: Sequence[KeptJob], word: str) -> tuple[KeptJob | None, str]:
    """Return the job that a word means, None if there is none, and what to say about the choice.

    Of several with one name it is the newest that runs, or else the newest.

    Raises:
        UsageError: several ids begin with it.
    """
    found = matching(jobs, word)
    if len(found) < 2:
        return (found[0] if found else None), ""
    if any(job.name != word for job in found):
        ids = ", ".join([job.id[:SHOWN_DIGITS] for job in found[:8]])
        raise UsageError(f"job {word}: the ids of {len(found)} jobs begin with it: {ids}")
    chosen = ([job for job in found if job.runs] or found)[-1]
    which = "the newest that runs" if chosen.runs else "the newest"
    return chosen, f"{len(found)} jobs are called {word}: this is {chosen.id[:SHOWN_DIGITS]}, {which}"


def again(job: str) -> str:
    """Say how to see a job again, by its whole id."""
    return f"`gexecctl attach {job[:SHOWN_DIGITS]}` shows it again"


def table(jobs: Sequence[KeptJob], now_s: float, with_users: bool) -> list[str]:
    """Return a heading and a line for each job (``now_s``: UNIX time); [] if there is none."""
    if not jobs:
        return []
    with_names = any(job.name for job in jobs)
    heading = ["JOB", "NAME", "USER", "STATE", "NODES", "AGE", "BYTES", "COMMAND"]
    rows = [heading, *[_row(job, now_s) for job in jobs]]
    left_out = {name for name, wanted in (("NAME", with_names), ("USER", with_users)) if not wanted}
    columns = [index for index, name in enumerate(heading) if name not in left_out]
    widths = {index: max([len(row[index]) for row in rows]) for index in columns}
    return ["  ".join([row[index].ljust(widths[index]) for index in columns]).rstrip() for row in rows]


def _row(job: KeptJob, now_s: float) -> list[str]:
    counts = job.counts()
    states = ", ".join([state if len(counts) == 1 else f"{count} {state}" for state, count in counts.items()])
    nodes = fold_bounded([printable(state.node) for state in job.ranks], _NODES_MAX)
    if len(job.ranks) < job.size:
        nodes += f" ({len(job.ranks)} of {job.size})"
    command = printable(" ".join(job.command))
    return [
        job.id[:SHOWN_DIGITS],
        printable(job.name),
        printable(job.user),
        states,
        nodes,
        age(now_s - job.started_s),
        shown_size(sum([sum(state.lengths) for state in job.ranks])),
        command if len(command) <= _COMMAND_MAX else command[: _COMMAND_MAX - 3] + "...",
    ]


def age(seconds: float) -> str:
    """Return a time span in its largest unit: 45s, 12m, 3h, 2d."""
    whole = max(0, int(seconds))
    for unit, length in (("d", 86_400), ("h", 3600), ("m", 60)):
        if whole >= length:
            return f"{whole // length}{unit}"
    return f"{whole}s"


def json_line(job: KeptJob) -> str:
    """Return a job as one line of JSON."""
    return json.dumps(job.fields()) + "\n"


def completions(jobs: Sequence[KeptJob]) -> list[str]:
    """Return what may stand for a job on a command line: ids, and names, each once."""
    return [*[job.id[:SHOWN_DIGITS] for job in jobs], *sorted({job.name for job in jobs if job.name})]
