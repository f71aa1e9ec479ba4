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
from gexec.cli.views import OutputForm
from gexec.client.extent import about, extent_of
from gexec.client.feed import Feed
from gexec.client.job import build, part, submit
from gexec.client.nodes import choose
from gexec.client.stdio import Input
from gexec.client.transfer import INTERRUPT, Pushed, environment
from gexec.errors import AuthError, DaemonError, GexecError, UsageError
from gexec.files.roots import roots_of
from gexec.files.signatures import KEY_BYTES, StreamSigner
from gexec.files.walking import walk
from gexec.render.fold import fold_bounded
from gexec.render.sentences import Sentences
from gexec.render.text import printable, shown
from gexec.render.text import seconds as shown_seconds
from gexec.render.text import size as shown_size
from gexec.select.rounds import unreached
from gexec.wire.jobspec import NO_STDIN, PROMPT
from gexec.wire.outcome import DENIED, LOST, NOT_STARTED, exited

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gexec.cli.command import Call, Submit
    from gexec.cli.ensync import CopyTask
    from gexec.client.connection import Connection
    from gexec.select.sources import Choice
    from gexec.wire.jobspec import JobSpec
    from gexec.wire.outcome import Outcome

#: Up to so many nodes each hands the data on to one other, beyond to two: a chain is as fast as one link,
#: but its start takes as many steps as there are nodes.
CHAIN_MAX = 32
#: How a receiver ends that has given up for --min-rate (cli/receive.py, SLOW).
_SLOW = exited(4)


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
        request = self._request = call.request(self._receiver())
        request.stdin = True
        request.remote_path = True
        request.env = environment()
        request.chdir = "/"
        request.stall_s = task.stall_s
        call.command.choose(call.parsed, request)

    def _receiver(self) -> list[str]:
        """Look at what is copied; return the command for it, in which audit logs find that."""
        task = self._task
        _check(task)
        roots, rules = task.filters.source(task.paths, task.names)
        paths = [os.path.abspath(os.fsencode(path)) for path in task.paths]
        if task.removes:
            return ["gexec-receive", f"--about={about(None, paths)}", *task.receiver]
        if task.deletes and not any(os.path.isdir(path) and not os.path.islink(path) for path in paths):
            self._say("--delete: no directory is copied, so nothing can be deleted")
        words = ["gexec-receive", f"--about={about(extent_of(walk(roots, rules)), paths)}", *task.receiver]
        return [*words, task.floor] if task.floor else words

    def run(self) -> int:
        """Copy; return the exit status."""
        if self._call.has_nothing_to_rerun():
            return 0
        job, choice = self._plan()
        self._call.verbose(f"{job.ranks} nodes from {choice.source}")
        self._names = list(job.names)
        self._view = self._shown(job)
        everyone = range(job.ranks)
        run = self._run = Run(self._call, job, choice, self._view, several=True, interrupt=INTERRUPT)
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
        job.flags &= ~NO_STDIN  # names that came from stdin leave a job without
        if "fanout" not in self._parsed.values:
            job.fanout = 1 if job.ranks <= CHAIN_MAX else 2
        return job, choice

    def _shown(self, job: JobSpec) -> Pushed:
        form = OutputForm(self._parsed, "host", "gather" if self._task.compares else "", self._judge)
        view = form.view(job)
        if form.form != "json":
            return Pushed(Sentences(view, self._names, self._task.neutral(self._names)), job.ranks)
        from gexec.render.jsonl import Jsonl

        assert isinstance(view, Jsonl)
        told = view.told
        return Pushed(view, job.ranks, lambda rank, report: told("report", rank, report.fields()))

    def _judge(self, outcomes: Sequence[Outcome], status: int) -> int:
        """Return the exit status, if this is what the policy makes of the outcomes."""
        return max(self._run.status_by_signal(outcomes) or status, self._sender_status)

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
            self._try("once more", lost, outcomes, lambda: self._once_more(job, lost))
        slow = [rank for rank in ranks if outcomes[rank] == _SLOW]
        if again:
            self._try("at their own pace", slow, outcomes, lambda: self._at_own_pace(job, slow))
        left = [rank for rank in ranks if self._may_come_again(outcomes[rank]) and rank not in slow]
        if again and auto:
            self._try("by ssh", left, outcomes, lambda: self._by_ssh(choice, left))
        return outcomes

    def _once_more(self, job: JobSpec, ranks: Sequence[int]) -> list[Outcome]:
        """Copy to lost nodes. None gets much time, or stands in the way of another: it may be frozen."""
        again = part(job, ranks)
        again.flags |= PROMPT
        again.fanout = max(job.fanout, min(len(ranks), limits.FANOUT_DEFAULT))
        return self._one(_submit_promptly, again, ranks)

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
            words(self._task.receiver),
            stdin=True,
            # One stream, which all read at the same time, unless the user wants less.
            fanout=request.fanout if "fanout" in self._parsed.values else min(len(ranks), limits.FANOUT_MAX),
            timeout_s=request.timeout_s,
            connect_timeout_s=request.connect_timeout_s,
            stall_s=request.stall_s,
        )

    def _one(self, submit: Submit, job: JobSpec, ranks: Sequence[int], by_ssh: bool = False) -> list[Outcome]:
        """Run one job, whose ranks are these of the run, and return how they ended."""
        # Over ssh only so many nodes are reached at a time.
        # ssh reaches each node itself: nothing that could alter the stream passes it on.
        secret = b"" if by_ssh else os.urandom(KEY_BYTES)
        feed = Feed(self._task.sender(by_ssh, at_once=not by_ssh or job.fanout >= len(ranks)), secret)
        self._view.ask(feed, ranks)
        try:
            connection = _submit_signed(submit, job, secret) if secret else submit(job)
            if self._run.progress is not None:
                self._run.progress.measure(feed.bytes_read, feed.total)
            self._run.one(connection, Input(feed.fd), ranks, self._may_come_again)
        finally:
            self._sender_status = max(self._sender_status, feed.close())
            self._problems.update(dict.fromkeys(feed.problems))
        if self._view.conflict:
            raise UsageError(self._conflict())
        return connection.session.ended_outcomes()

    def _conflict(self) -> str:
        directory, name = [
            fold_bounded([shown(self._names[rank]) for rank in sorted(ranks)])
            for ranks in (self._view.into_directory, self._view.into_name)
        ]
        dest = printable(self._parsed.value("dest", ""))
        return (
            f"--dest {dest} is a directory on {directory}, and not on {name}: nothing was copied. "
            f"Say {dest}/ to copy into a directory, or -T to copy to this name"
        )

    # -- reports -------------------------------------------------------------------------------

    def _tell_reports(self) -> None:
        reports = [report for report in self._view.reports if report is not None]
        is_wanted = os.isatty(2) and not self._parsed.flag("quiet")
        if not reports or not (self._parsed.flag("verbose") or is_wanted):
            return
        total = sum([report.bytes for report in reports])
        files = sum([report.files + report.links for report in reports])
        same = sum([report.unchanged for report in reports])
        deleted = sum([report.deleted for report in reports])
        elapsed_s = max(1e-3, time.monotonic() - self._call.begin_s)
        done = "different" if self._task.compares else "written"
        gone = f", {deleted} deleted" if deleted else ""
        self._say(
            f"{files} files {done}{gone} on {len(reports)} of {len(self._names)} nodes, "
            f"{same} were right already: {shown_size(total)} in {shown_seconds(elapsed_s)}, "
            f"{shown_size(total / elapsed_s)}/s in all"
        )


def _submit_promptly(job: JobSpec) -> Connection:
    """Submit a job to a gexecd that may be frozen itself."""
    connection = submit(job)
    connection.accept_within(job.connect_timeout_s)
    return connection


def _submit_signed(submit: Submit, job: JobSpec, secret: bytes) -> Connection:
    """Submit a job whose receivers accept only what this key has signed, in this attempt."""
    argv = job.argv
    job.argv = [*argv, b"--signed-by=" + StreamSigner(secret).public.hex().encode()]
    try:
        return submit(job)
    finally:
        job.argv = argv


def _check(task: CopyTask) -> None:
    """Raise UsageError for what is not there."""
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
    for root in () if task.removes else roots:
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
    told = "there is no such file or directory on this host"
    return f"{told}; -n gives nodes, --dest the directory there" if b":/" in path else told
