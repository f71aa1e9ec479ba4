"""One run of ensync: a job whose stdin is what a sender writes, and whose processes are receivers.

Receivers may run any number of times, so what was lost is tried once more; and where no gexecd answers the
same goes over ssh, in which the receiver itself is sent ahead of the files (gexec.ssh.loader).
"""

from __future__ import annotations

import os
import time
from errno import ELOOP, ENAMETOOLONG

from gexec import limits
from gexec.cli.flow import Run
from gexec.client.feed import Feed
from gexec.client.job import build, part, submit
from gexec.client.nodes import choose
from gexec.client.stdio import Input
from gexec.client.transfer import Pushed, environment
from gexec.errors import AuthError, DaemonError, GexecError, UsageError
from gexec.files.roots import roots_of
from gexec.files.walking import FILE, walk
from gexec.render.fold import fold_bounded
from gexec.render.prefix import prefixes
from gexec.render.sentences import Sentences
from gexec.render.text import printable, shown
from gexec.render.text import seconds as shown_seconds
from gexec.render.text import size as shown_size
from gexec.render.view import Prefixed
from gexec.select.rounds import unreached
from gexec.wire.jobspec import NO_STDIN
from gexec.wire.outcome import DENIED, LOST, NOT_STARTED, exited

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gexec.cli.command import Call, Submit
    from gexec.cli.ensync import CopyTask
    from gexec.render.view import View
    from gexec.select.sources import Choice
    from gexec.wire.jobspec import JobSpec
    from gexec.wire.outcome import Outcome

#: Up to so many nodes each hands the data on to one other, beyond to two: a chain is as fast as one link,
#: but its start takes as many steps as there are nodes.
CHAIN_MAX = 32
#: How a receiver ends that has given up for --min-rate (cli/receive.py, SLOW).
_SLOW = exited(4)
#: For larger trees the progress shows no total: counting takes too long.
_COUNTED_MAX = 20_000


class Copy:
    """One run.

    Args:
        call, task: what the arguments ask for.

    Raises:
        UsageError: the arguments make no sense, or a file is not there.
    """

    def __init__(self, call: Call, task: CopyTask) -> None:
        self._call = call
        self._parsed = call.parsed
        self._say = call.say
        self._task = task
        self._sender_status = 0
        self._problems: dict[str, None] = {}
        argv = ["rm", "-f", "--", *task.paths] if task.removes else ["gexec-receive", *task.receiver]
        if task.floor:
            argv.append(task.floor)
        request = self._request = call.request(argv)
        request.stdin = not task.removes
        request.remote_path = True
        request.env = environment()
        request.chdir = "/"
        call.command.choose(call.parsed, request)
        if not task.removes:
            _check_roots(task)

    def run(self) -> int:
        """Copy; return the exit status."""
        if self._call.has_nothing_to_rerun():
            return 0
        job, choice = self._plan()
        self._call.verbose(f"{job.ranks} nodes from {choice.source}")
        self._names = list(job.names)
        self._view = Pushed(self._shown(), job.ranks)
        everyone = range(job.ranks)
        run = self._run = Run(self._call, job, choice, self._view, several=True)
        with run:
            if self._task.via == "ssh":
                outcomes = self._by_ssh(choice, everyone)
            else:
                outcomes = self._by_gexec(job, choice, everyone)
        run.finish(outcomes)
        for problem in self._problems:
            self._say(problem)
        status = run.conclude(by_signal=True)
        if run.status is None:
            self._tell_reports()
        return max(status, self._sender_status)

    def _plan(self) -> tuple[JobSpec, Choice]:
        request = self._request
        if self._task.via == "ssh":
            choice = choose(request)
            return self._ssh_job(choice, range(len(choice.nodes))), choice
        job, choice = build(request)
        if not self._task.removes:
            job.flags &= ~NO_STDIN  # names that came from stdin leave a job without
            if "fanout" not in self._parsed.values:
                job.fanout = 1 if job.ranks <= CHAIN_MAX else 2
        return job, choice

    def _shown(self) -> View:
        names = self._names
        if self._task.compares:
            from gexec.render.gather import Gathered

            return Sentences(Gathered(names), names, self._task.neutral(names))
        return Sentences(Prefixed(prefixes("host", names, ()), len(names)), names, self._task.neutral(names))

    def _may_come_again(self, outcome: Outcome) -> bool:
        """Return True if a node may be tried again. What it reported of differences must not come twice."""
        return unreached(outcome) or outcome == _SLOW or (outcome.kind == LOST and not self._task.compares)

    # -- ways ----------------------------------------------------------------------------------

    def _by_gexec(self, job: JobSpec, choice: Choice, ranks: Sequence[int]) -> list[Outcome]:
        # In a second job ranks would be others, and a strict one has none.
        again = not (self._task.ranked or self._parsed.flag("strict"))
        auto = self._task.via == "auto"
        try:
            outcomes = self._one(submit, job, ranks)
        except (AuthError, DaemonError) as error:
            if not auto:
                raise
            self._say(f"{error}; all nodes are reached by ssh instead")
            return self._by_ssh(choice, ranks)
        lost = [rank for rank in ranks if outcomes[rank].kind == LOST and not self._task.compares]
        if again:
            self._try("once more", lost, outcomes, lambda: self._one(submit, part(job, lost), lost))
        slow = [rank for rank in ranks if outcomes[rank] == _SLOW]
        if again:
            self._try("at their own pace", slow, outcomes, lambda: self._at_own_pace(job, slow))
        left = [rank for rank in ranks if self._may_come_again(outcomes[rank]) and rank not in slow]
        if again and auto:
            self._try("by ssh", left, outcomes, lambda: self._by_ssh(choice, left))
        return outcomes

    def _at_own_pace(self, job: JobSpec, ranks: Sequence[int]) -> list[Outcome]:
        """Copy to nodes that have left the run for being slow, each fed from here."""
        own = part(job, ranks)
        own.argv = [word for word in own.argv if word != self._task.floor.encode()]
        own.fanout = min(len(ranks), limits.FANOUT_MAX)
        return self._one(submit, own, ranks)

    def _try(
        self, how: str, ranks: Sequence[int], outcomes: list[Outcome], run: Callable[[], list[Outcome]]
    ) -> None:
        """Make a further attempt for some ranks, unless the run is over; put what it brought into
        ``outcomes``. Where nothing ran this time, a lost node is still a lost one.
        """
        if not ranks or not self._run.pause(0):
            return
        names = fold_bounded([shown(self._names[rank]) for rank in ranks])
        why = printable(outcomes[ranks[0]].describe())
        self._say(f"{how}: {len(ranks)} of {len(self._names)} nodes ({why}): {names}", escape=False)
        try:
            later = run()
        except GexecError as error:
            self._say(str(error))
            return
        for rank, outcome in zip(ranks, later, strict=True):
            if outcomes[rank].kind != LOST or outcome.kind not in (NOT_STARTED, DENIED):
                outcomes[rank] = outcome

    def _by_ssh(self, choice: Choice, ranks: Sequence[int]) -> list[Outcome]:
        from gexec.ssh.job import SshOptions
        from gexec.ssh.job import submit as submit_to_ssh
        from gexec.ssh.settings import given

        arguments = given(self._parsed.all("ssh-option"), self._parsed.last("user"))
        options = SshOptions(arguments=arguments, ask=self._parsed.flag("ask"))

        job = self._ssh_job(choice, ranks)
        return self._one(lambda job: submit_to_ssh(job, options), job, ranks, by_ssh=True)

    def _ssh_job(self, choice: Choice, ranks: Sequence[int]) -> JobSpec:
        from gexec.ssh.job import prepare
        from gexec.ssh.loader import words

        request = self._request
        only_ssh = self._task.via == "ssh"
        # Ports are those of gexecd, unless ssh is the only way.
        nodes = [(name, (port or request.port) if only_ssh else 0) for name, port in choice.nodes]
        return prepare(
            [nodes[rank] for rank in ranks],
            request.argv if self._task.removes else words(self._task.receiver),
            stdin=request.stdin,
            # One stream, which all read at the same time, unless the user wants less.
            fanout=request.fanout if "fanout" in self._parsed.values else min(len(ranks), limits.FANOUT_MAX),
            timeout_s=request.timeout_s,
            connect_timeout_s=request.connect_timeout_s,
        )

    def _one(self, submit: Submit, job: JobSpec, ranks: Sequence[int], by_ssh: bool = False) -> list[Outcome]:
        """Run one job, whose ranks are these of the run, and return how they ended."""
        if self._task.removes:
            connection = submit(job)
            self._run.one(connection, None, ranks, self._may_come_again)
            return connection.session.ended_outcomes()
        feed = Feed(self._task.sender(by_ssh))
        try:
            connection = submit(job)
            if self._run.progress is not None:
                self._run.progress.measure(feed.bytes_read, lambda: _bytes_of(self._task))
            self._run.one(connection, Input(feed.fd), ranks, self._may_come_again)
        finally:
            self._sender_status = max(self._sender_status, feed.close())
            self._problems.update(dict.fromkeys(feed.problems))
        return connection.session.ended_outcomes()

    # -- reports -------------------------------------------------------------------------------

    def _tell_reports(self) -> None:
        reports = [report for report in self._view.reports if report is not None]
        if not reports or not (self._parsed.flag("verbose") or os.isatty(2)):
            return
        total = sum([report.bytes for report in reports])
        files = sum([report.files + report.links for report in reports])
        same = sum([report.unchanged for report in reports])
        elapsed_s = max(1e-3, time.monotonic() - self._call.begin_s)
        done = "different" if self._task.compares else "written"
        self._say(
            f"{files} files {done} on {len(reports)} of {len(self._names)} nodes, {same} were right already: "
            f"{shown_size(total)} in {shown_seconds(elapsed_s)}, {shown_size(total / elapsed_s)}/s in all"
        )


def _check_roots(task: CopyTask) -> None:
    try:
        if task.filters.has_list:
            task.filters.source(task.paths, task.names)  # what it names is reported by the sender
            return
        roots_of(task.paths, task.names)
        # One by one: none is left out because it would be below another one.
        roots = [root for path in task.paths for root in roots_of([path], task.names)]
    except OSError as error:
        raise UsageError(
            f"the working directory is not known ({error.strerror}): give absolute paths"
        ) from error
    for root in roots:
        if not os.path.lexists(root.path):
            raise UsageError(f"{os.fsdecode(root.path)}: {_missing(root.path)}")


def _missing(path: bytes) -> str:
    """Return why nothing is at a path."""
    if any(letter in path for letter in (b"*", b"?", b"[")):
        return "no file matches the pattern, or it was quoted and no shell expanded it"
    try:
        os.lstat(path)
    except PermissionError:
        return "you may not look into its directory; copy as a user who may"
    except NotADirectoryError:
        return "a part of its path is a file, not a directory"
    except OSError as error:
        if error.errno in (ENAMETOOLONG, ELOOP):
            return f"the path cannot be followed: {error.strerror}"
    return "there is no such file or directory on this host"


def _bytes_of(task: CopyTask) -> int:
    """Return the bytes that a sender will read, holes left out; 0 if there are too many files to know."""
    total = 0
    for count, found in enumerate(walk(*task.filters.source(task.paths, task.names))):
        if found.kind == FILE and found.status is not None:
            total += min(found.status.st_size, found.status.st_blocks * 512)
        if count > _COUNTED_MAX:
            return 0
    return total
