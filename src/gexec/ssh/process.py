"""One ssh of the job: its pipes, its process, and the state of its command."""

from __future__ import annotations

import fcntl
import os
import signal
import termios
from struct import Struct
from typing import Final

from gexec.ssh.transcript import Transcript
from gexec.ssh.verdict import verdict
from gexec.wire.frames import STDERR, STDOUT
from gexec.wire.outcome import Outcome, held_by, output_cut

_INT: Final = Struct("i")
#: Signals that Python ignores or a parent may have ignored; ssh gets their defaults, as from a shell.
_DEFAULTS = (signal.SIGPIPE, signal.SIGINT, signal.SIGQUIT, signal.SIGHUP, signal.SIGTERM, signal.SIGTSTP)


class SshProcess:
    """The ssh of one rank, from its start to its outcome.

    Attributes:
        stdin: our end of its pipe, None if closed. It carries *go*, then the command's stdin or orders.
        outputs: stream -> our end of its pipe, while it is open.
        status: of ssh once it was reaped: exit status, or 128 + signal.
        sent: stream -> bytes of the command's output that were passed to the client.
        acknowledged: stream -> how many of these bytes the client has acknowledged.
        fed, feeding: bytes of stdin written to ssh; whether it wants more.
    """

    def __init__(self, rank: int, argv: list[bytes], env: dict[bytes, bytes], mark: bytes) -> None:
        """Start ssh. OSError if there are no descriptors or processes left."""
        self.rank = rank
        self.transcript = Transcript(mark)
        self.status: int | None = None
        self.went = False
        self.sent = {STDOUT: 0, STDERR: 0}
        self.acknowledged = {STDOUT: 0, STDERR: 0}
        self.fed = 0
        self.feeding = False
        #: Why it was given up before the command began.
        self.ended_for = ""
        self.out_of_time = ""
        self.asked_kill = False
        self.forced = False
        #: Why it was given up for standing still.
        self.stalled = ""
        #: Ended here while another process on the node held the output of a command that had ended.
        self.cut = False
        opened: list[int] = []
        try:
            theirs_in, ours_in = os.pipe()
            opened += (theirs_in, ours_in)
            ours_out, theirs_out = os.pipe()
            opened += (ours_out, theirs_out)
            ours_err, theirs_err = os.pipe()
            opened += (ours_err, theirs_err)
            self.pid = spawn(argv, env, theirs_in, theirs_out, theirs_err)
        except OSError:
            for fd in opened:
                os.close(fd)
            raise
        for fd in (theirs_in, theirs_out, theirs_err):
            os.close(fd)
        self.stdin: int | None = ours_in
        self.outputs = {STDOUT: ours_out, STDERR: ours_err}
        for fd in (ours_in, ours_out, ours_err):
            os.set_blocking(fd, False)

    @property
    def running(self) -> bool:
        """True while the command may run on its node."""
        return self.went and self.status is None and self.transcript.status is None

    def outcome(self) -> Outcome:
        """Return how the rank ended, once ssh was reaped and its output read."""
        outcome = verdict(
            went=self.went,
            status=self.transcript.status,
            explanation=self.transcript.explanation(),
            ssh_status=self.status or 0,
            ended_for=self.ended_for,
            out_of_time=self.out_of_time,
            asked_kill=self.asked_kill,
            forced=self.forced,
            stalled=self.stalled,
        )
        return output_cut(outcome, held_by(0)) if self.cut else outcome

    def unread_stdin(self) -> int:
        """Return how many bytes of its stdin ssh has not read."""
        if self.stdin is None:
            return 0
        (count,) = _INT.unpack(fcntl.ioctl(self.stdin, termios.FIONREAD, bytes(_INT.size)))
        return int(count)

    def order(self, data: bytes) -> None:
        """Write a line to the script on the node; ignored if it no longer reads."""
        if self.stdin is not None:
            try:
                os.write(self.stdin, data)
            except OSError:
                pass  # it has ended, or its node does not read: the deadlines end it

    def close_stdin(self) -> None:
        """Close our end of its stdin."""
        if self.stdin is not None:
            os.close(self.stdin)
            self.stdin = None

    def send_signal(self, signum: int) -> None:
        """Send a signal to ssh itself, unless it was reaped."""
        if self.status is None:
            try:
                os.kill(self.pid, signum)
            except OSError:
                pass


def spawn(argv: list[bytes], env: dict[bytes, bytes], stdin: int, stdout: int, stderr: int) -> int:
    """Start a program (absolute path) with these descriptors, all above 2, as 0 to 2; return its pid."""
    actions = [(os.POSIX_SPAWN_DUP2, fd, number) for number, fd in enumerate((stdin, stdout, stderr))]
    return os.posix_spawn(argv[0], argv, env, file_actions=actions, setsigdef=_DEFAULTS, setsigmask=())


def exit_status(wait_status: int) -> int:
    """Return the exit status for a wait status, 128 + N for a signal."""
    code = os.waitstatus_to_exitcode(wait_status)
    return code if code >= 0 else 128 - code
