"""One run of ensync: a job whose stdin is what a sender writes, and whose processes are receivers.

Where gexecd does not answer, the same goes over ssh, one stream for each node, in which the receiver
itself is sent ahead of the files (gexec.ssh.loader).
"""

from __future__ import annotations

import os
import sys
import time

from gexec.cli.command import conclude, progress_of, request_of
from gexec.client.console import Console, finish
from gexec.client.job import build, open_session, part
from gexec.client.nodes import choose
from gexec.client.sink import standard_sinks
from gexec.client.transfer import Pushed
from gexec.errors import AuthError, DaemonError, GexecError, UsageError
from gexec.files.sender import roots_of
from gexec.render.fold import fold_bounded
from gexec.render.part import Part
from gexec.render.prefix import prefixes
from gexec.render.text import printable, shown
from gexec.render.text import seconds as shown_seconds
from gexec.render.text import size as shown_size
from gexec.render.view import Prefixed
from gexec.select.rounds import unreached

TYPE_CHECKING = False
if TYPE_CHECKING:
    import _socket
    from collections.abc import Sequence

    from gexec.cli.command import Command, Opener, Say
    from gexec.cli.ensync import Task
    from gexec.cli.options import Parsed
    from gexec.client.session import JobSession
    from gexec.core.jobspec import JobSpec
    from gexec.core.outcome import Outcome
    from gexec.render.view import View
    from gexec.select.sources import Choice

#: Up to so many nodes each hands the data on to one other, beyond to two: a chain is as fast as one link,
#: but its start takes as many steps as there are nodes.
CHAIN_MAX = 32


class Copy:
    """One run.

    Args:
        command: for the manners of choosing nodes.
        parsed, task: what the words ask for.
        begin_s: monotonic time of the start.
    """

    def __init__(self, command: Command, parsed: Parsed, task: Task, say: Say, begin_s: float) -> None:
        self._command = command
        self._parsed = parsed
        self._task = task
        self._say = say
        self._begin_s = begin_s
        self._sinks = standard_sinks()
        self._over = False
        self._status: int | None = None
        self._sender_status = 0
        argv = ("rm", "-f", "--", *task.paths) if task.removes else ("gexec-receive", *task.receiver)
        request = self._request = request_of(command, parsed, argv)
        request.stdin = not task.removes
        request.remote_path = True
        request.strict = parsed.flag("strict")
        request.chdir = "/"
        command.choose(parsed, request)
        if not task.removes:
            _check_roots(task)

    def run(self) -> int:
        """Copy; return the exit status."""
        job, choice = self._plan()
        if self._parsed.flag("verbose"):
            self._say(f"{job.ranks} nodes from {choice.source}")
        self._view = Pushed(self._shown(job), job.ranks)
        self._progress = progress_of(self._parsed, job, "host", self._begin_s)
        everyone = range(job.ranks)
        if self._task.via == "ssh":
            outcomes = self._by_ssh(choice, everyone)
        else:
            outcomes = self._by_gexec(job, choice, everyone)
        for rank in everyone:
            if unreached(outcomes[rank]):
                self._view.ended(((rank, rank + 1),), outcomes[rank])
        finish(self._view, self._sinks)
        if self._status is not None:
            return self._status
        status = conclude(self._parsed, job, choice, outcomes, None, self._say, self._begin_s)
        self._tell_reports(job)
        return max(status, self._sender_status)

    def _plan(self) -> tuple[JobSpec, Choice]:
        request = self._request
        request.fanout = request.fanout if "fanout" in self._parsed.values else 1
        if self._task.via == "ssh":
            choice = choose(request)
            return self._ssh_job(choice, range(len(choice.nodes))), choice
        job, choice = build(request)
        if job.ranks > CHAIN_MAX and "fanout" not in self._parsed.values:
            job.fanout = 2
        return job, choice

    def _shown(self, job: JobSpec) -> View:
        names = list(job.names)
        if self._task.compares:
            from gexec.render.gather import Gathered

            return Gathered(names)
        return Prefixed(prefixes("host", names, ()), job.ranks)

    # -- ways ----------------------------------------------------------------------------------

    def _by_gexec(self, job: JobSpec, choice: Choice, ranks: Sequence[int]) -> list[Outcome]:
        auto = self._task.via == "auto"
        try:
            outcomes = self._one(open_session, job, ranks, auto)
        except (AuthError, DaemonError) as error:
            if not auto:
                raise
            self._say(f"{error}; all nodes are reached by ssh instead")
            return self._by_ssh(choice, ranks)
        left = [rank for rank in ranks if unreached(outcomes[rank])]
        if auto and left and not self._over:
            names = fold_bounded([shown(job.names[rank]) for rank in left])
            why = printable(outcomes[left[0]].describe())
            self._say(f"{len(left)} of {job.ranks} nodes by ssh ({why}): {names}", escape=False)
            for rank, outcome in zip(left, self._by_ssh(choice, left), strict=True):
                outcomes[rank] = outcome
        return outcomes

    def _by_ssh(self, choice: Choice, ranks: Sequence[int]) -> list[Outcome]:
        from gexec.ssh.job import Options
        from gexec.ssh.job import open_session as open_ssh

        arguments = [word for text in self._parsed.all("ssh-option") for word in ("-o", text)]
        user = self._parsed.last("user")
        arguments += [] if user is None else ["-l", user]
        options = Options(arguments=arguments, ask=self._parsed.flag("ask"))

        def submit(job: JobSpec) -> tuple[_socket.socket, JobSession]:
            return open_ssh(job, options)

        return self._one(submit, self._ssh_job(choice, ranks), ranks, False, by_ssh=True)

    def _ssh_job(self, choice: Choice, ranks: Sequence[int]) -> JobSpec:
        from gexec.ssh.job import prepare
        from gexec.ssh.loader import words

        request = self._request
        nodes = [choice.nodes[rank] for rank in ranks]
        return prepare(
            [(name, port or request.port) for name, port in nodes],
            request.argv if self._task.removes else words(self._task.receiver),
            stdin=request.stdin,
            fanout=len(nodes),  # one stream, which all read at the same time
            timeout_s=request.timeout_s,
            connect_timeout_s=request.connect_timeout_s,
        )

    def _one(
        self, submit: Opener, job: JobSpec, ranks: Sequence[int], again: bool, by_ssh: bool = False
    ) -> list[Outcome]:
        """Run one job on these ranks and return how they ended."""
        feed = None if self._task.removes else Feed(self._task, by_ssh)
        try:
            sock, session = submit(job if len(ranks) == job.ranks else part(job, ranks))
            if self._progress is not None:
                self._progress.watch(session, ranks)
            console = Console(
                sock,
                session,
                Part(self._view, ranks, unreached if again else None),
                self._sinks,
                read_stdin=feed is not None,
                stdin_fd=feed.fd if feed else 0,
                command=self._command.name,
                last=False,
                names=[job.names[rank] for rank in range(job.ranks)],
                progress=self._progress,
            )
            console.run()
            sock.close()
        finally:
            if feed is not None:
                self._sender_status = max(self._sender_status, feed.close())
        self._over = console.asked_to_end or console.status is not None
        self._status = console.status if self._status is None else self._status
        if console.farewell:
            self._say(console.farewell, escape=False)
        return session.ended_outcomes()

    # -- what it says --------------------------------------------------------------------------

    def _tell_reports(self, job: JobSpec) -> None:
        reports = [report for report in self._view.reports if report is not None]
        if not reports or not (self._parsed.flag("verbose") or os.isatty(2)):
            return
        total = sum([report.bytes for report in reports])
        files = sum([report.files + report.links for report in reports])
        same = sum([report.unchanged for report in reports])
        elapsed_s = max(1e-3, time.monotonic() - self._begin_s)
        self._say(
            f"{files} files written on {len(reports)} of {job.ranks} nodes, {same} were right already: "
            f"{shown_size(total)} in {shown_seconds(elapsed_s)}, {shown_size(total / elapsed_s)}/s in all"
        )


class Feed:
    """The sender, a process of its own beside us, and the end of the pipe that it writes into.

    Attributes:
        fd: its stream, to be read.
    """

    def __init__(self, task: Task, by_ssh: bool) -> None:
        self.fd, writing = os.pipe()
        words = [sys.executable, "-m", "gexec.cli.send", f"--names={task.names}"]
        words.append(f"--compress={'never' if by_ssh else task.compress}")
        if task.bytes_per_s:
            words.append(f"--bwlimit={task.bytes_per_s}")
        if "--checksum" in task.receiver:
            words.append("--digests")
        if by_ssh:
            words.append("--loader")
        try:
            self._pid = os.posix_spawn(
                sys.executable,
                [*words, "--", *task.paths],
                os.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, writing, 1), (os.POSIX_SPAWN_CLOSE, self.fd)],
            )
        except OSError as error:
            raise GexecError(f"the sender cannot be started: {error.strerror}") from error
        finally:
            os.close(writing)

    def close(self) -> int:
        """Read no more; return the sender's exit status: 1 if it could not send something.

        That nobody reads to the end is no fault of the sender's: those who did not are told otherwise.
        """
        os.close(self.fd)
        status = os.waitstatus_to_exitcode(os.waitpid(self._pid, 0)[1])
        return status if status in (0, 1) else 0


def _check_roots(task: Task) -> None:
    for root in roots_of(task.paths, task.names):
        if not os.path.lexists(root.path):
            raise UsageError(f"{os.fsdecode(root.path)}: there is no such file or directory on this host")
