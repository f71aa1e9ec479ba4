"""The process that replaces gexecd: takes one job from its client, runs an ssh for each rank, and reports.

Its descriptor 0 is the client's socket. One thread with one poll loop; it never waits for one node while
others have events. When the client disconnects, it ends the commands and exits.
"""

from __future__ import annotations

import os
import resource
import signal
import socket
from fcntl import F_DUPFD_CLOEXEC, fcntl

from gexec import limits
from gexec.errors import GexecError, ProtocolError
from gexec.posix.loop import PollLoop
from gexec.posix.reaping import reaped
from gexec.ssh import settings
from gexec.ssh.commands import Commands
from gexec.ssh.link import ClientLink
from gexec.ssh.process import exit_status
from gexec.ssh.work import Work
from gexec.version import VERSION
from gexec.wire.frames import (
    REFUSED_DENIED,
    Accepted,
    Ack,
    Close,
    Frame,
    Goodbye,
    Hello,
    Kill,
    Ping,
    Pong,
    Refused,
    Signal,
    Stdin,
    Submit,
)
from gexec.wire.jobspec import DETACHED, STRICT, JobSpec


def main(arguments: list[str]) -> int:
    """Serve the client at descriptor 0: ``(ask|batch) CHDIR SSH [OPTION]...``."""
    mode, chdir, *ssh = arguments
    # Above 2, even if the caller's stderr is closed.
    client = socket.socket(fileno=fcntl(0, F_DUPFD_CLOEXEC, 3))
    null = os.open(os.devnull, os.O_RDWR)
    # A failed import is reported on stderr; after that stderr is closed, for readers that wait for its end.
    for fd in (0, 2):
        os.dup2(null, fd)
    if null > 2:
        os.close(null)
    _raise_descriptor_limit()
    engine = Engine(client, [os.fsencode(word) for word in ssh], os.fsencode(chdir), ask=mode == "ask")
    try:
        engine.run()
    finally:
        engine.abandon()
    return 0


def _raise_descriptor_limit() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        try:
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        except (OSError, ValueError):
            pass  # then fewer ssh run at a time


class Engine:
    """One client and its job.

    Args:
        client: connected socket.
        ssh: absolute path and options.
        chdir: working directory on the nodes, b"" = home.
        ask: ssh may ask on the terminal.
    """

    def __init__(self, client: socket.socket, ssh: list[bytes], chdir: bytes, ask: bool) -> None:
        self._ssh = ssh
        self._chdir = chdir
        self._ask = ask
        self._loop = PollLoop(self._on_signal)
        self._client = ClientLink(client, self._loop, self._on_frame, self._on_error, self._on_end)
        self._work: Work | None = None

    def run(self) -> None:
        """Return when the client has disconnected and nothing runs."""
        self._loop.take_signals([signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP])
        for signum in (signal.SIGINT, signal.SIGQUIT, signal.SIGTSTP) if self._ask else ():
            signal.signal(signum, signal.SIG_IGN)  # from the terminal: the client passes them on
        self._client.say(Hello(limits.PROTOCOL_VERSION, f"gexec {VERSION} ssh"), channel=0)
        self._client.flush()
        # Sending may show that the client is gone, so it comes before each check of that.
        while self._client.open or (self._work is not None and self._work.busy):
            self._loop.turn(None)
            if self._work is not None:
                self._work.advance()
            self._client.flush()

    def abandon(self) -> None:
        """End all ssh, in any case."""
        if self._work is not None:
            self._work.abandon()

    def _on_frame(self, channel: int, frame: Frame) -> None:
        work = self._work
        if channel == 0:
            if isinstance(frame, Ping):
                self._client.say(Pong(frame.token), channel=0)
        elif isinstance(frame, Submit):
            self._submitted(frame)
        elif work is None:
            raise ProtocolError(f"{type(frame).__name__} before Submit")
        elif isinstance(frame, Ack):
            for rank, stream, offset in frame.entries:
                work.acknowledged(rank, stream, offset)
        elif isinstance(frame, Stdin):
            work.stdin(frame)
        elif isinstance(frame, Signal):
            work.signal(frame.signum)
        elif isinstance(frame, Kill):
            work.end_all("the job was killed before its turn", frame.now)
        elif isinstance(frame, Close):
            self._client.close()

    def _submitted(self, frame: Submit) -> None:
        if self._work is not None:
            raise ProtocolError("a second Submit")
        job = JobSpec.decode(frame.blob)
        if job.flags & (DETACHED | STRICT):
            raise ProtocolError("a job over ssh cannot be detached or strict")
        mark = os.urandom(16).hex().encode()
        self._work = Work(
            job=job,
            commands=Commands(job, self._ssh, mark, self._chdir, self._ask),
            mark=mark,
            env=dict(os.environb) | settings.environment(self._ask),
            ask=self._ask,
            loop=self._loop,
            client=self._client,
        )
        self._client.say(Accepted(os.urandom(16)))

    def _on_error(self, error: GexecError) -> None:
        """Report a protocol error to the client, if it is still connected."""
        self._client.say(Refused(REFUSED_DENIED, str(error)) if self._work is None else Goodbye(str(error)))
        self._client.flush()

    def _on_end(self) -> None:
        if self._work is not None:
            self._work.client_gone()

    def _on_signal(self, signum: int) -> None:
        if signum != signal.SIGCHLD:
            self._client.close()
            return
        for pid, wait_status in reaped():
            if self._work is not None:
                self._work.reaped(pid, exit_status(wait_status))
