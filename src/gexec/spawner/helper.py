"""A helper: a process that has become one user for good and starts that user's tasks.

The starter forks it (``spawner.starter``), so that each task costs a posix_spawn and not a fork of a
Python process with setgroups, setresgid and setresuid (docs/decisions/0007-spawner.md). It holds
no secret and no descriptor but its channel to the spawner: what it could do, the user could do.
"""

from __future__ import annotations

import gc
import os
import signal
import socket
from collections.abc import Callable, Sequence
from typing import Any, Final, NoReturn

from gexec.errors import ProtocolError
from gexec.posix import clock, identity
from gexec.posix.channel import MessageLost, Port
from gexec.posix.loop import PollLoop
from gexec.spawner.launcher import Launcher
from gexec.wire import outcome
from gexec.wire.launches import FROM_HELPER, LAUNCH, TO_HELPER, Launch, LaunchCheck
from gexec.wire.messages import (
    ForgetProcess,
    KillProcess,
    ProcessRefused,
    SignalProcess,
    Table,
)

#: A helper without tasks ends after this long.
IDLE_S: Final = 300.0


def be_helper(fd: int, uid: int, gids: Sequence[int]) -> NoReturn:
    """Be a helper in a process that was just forked; never returns.

    Everything inherited but ``fd``, the channel to the spawner, is closed before it becomes the user.
    """

    def become() -> None:
        gc.disable()
        os.setsid()
        os.umask(0o077)
        identity.drop_to(uid, gids[0], gids[1:])

    live(fd, "gexecd-helper", become, lambda sock: Helping(sock, TO_HELPER, FROM_HELPER, IDLE_S))


def live(
    fd: int, title: str, become: Callable[[], None], make: Callable[[socket.socket], Helping]
) -> NoReturn:
    """Lead the life of a helper or starter in a process that was just forked; never returns.

    Args:
        fd: the channel to the spawner; everything else that was inherited is closed.
        become: takes the identity that the process has from now on.
        make: returns what it does, for its channel.
    """
    status = 70
    try:
        signal.set_wakeup_fd(-1)
        for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(signum, signal.SIG_IGN)  # it ends with its channel
        identity.close_inherited([fd])
        identity.null_stdio()
        os.chdir("/")
        become()
        # After the change of identity, which sets the flag anew.
        identity.forbid_tracing()
        identity.become_subreaper()
        identity.set_title(title)
        helping = make(socket.socket(fileno=fd))
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        helping.run()
        status = 0
    except BaseException:
        pass  # no traceback: stderr is /dev/null; the status says that it went wrong
    finally:
        os._exit(status)


class Helping:
    """What a helper does: it launches what the spawner asks for, and tells what becomes of it.

    Args:
        sock: its end of the channel.
        hears, says: the tables of the spawner and its own.
        idle_s: it ends after so long without tasks; None = never.
    """

    def __init__(self, sock: socket.socket, hears: Table, says: Table, idle_s: float | None) -> None:
        self._port = Port(sock, hears, says)
        self._launcher = self.make_launcher()
        self._idle_s = idle_s
        self._gone = False
        self._loop = PollLoop(lambda signum: self._launcher.reap())
        self._loop.take_signals([signal.SIGCHLD])
        self._loop.watch(self._port.endpoint.fileno(), self._converse)

    def make_launcher(self) -> Launcher:
        """Return what starts its tasks."""
        return Launcher(self.say)

    @property
    def is_busy(self) -> bool:
        """True while it has tasks, or what they left is to be ended."""
        return bool(self._launcher.tasks) or not self._launcher.settled

    @property
    def is_owing(self) -> bool:
        """True while something must end before it may go, since the spawner is gone."""
        return not self._launcher.settled

    def run(self) -> None:
        """Serve until the spawner is gone and what is attached has ended, or until it is idle for long."""
        idle_since_s = clock.now_s()
        while not self._gone:
            if self.is_busy:
                idle_since_s = clock.now_s()
            elif self._idle_s is not None and clock.now_s() - idle_since_s >= self._idle_s:
                return
            deadline_s = self._launcher.next_deadline_s()
            if deadline_s is None and self._idle_s is not None:
                deadline_s = idle_since_s + self._idle_s
            self._turn(deadline_s)
        # Detached tasks go on.
        self._launcher.end_all(now=False)
        while self.is_owing:
            deadline_s = self._launcher.next_deadline_s()
            self._turn(clock.now_s() + 0.1 if deadline_s is None else deadline_s)

    def _turn(self, deadline_s: float | None) -> None:
        self._loop.turn(deadline_s)
        self._launcher.tick()
        if not self._gone:
            endpoint = self._port.endpoint
            self._loop.want_write(endpoint.fileno(), endpoint.wants_write)

    def _converse(self) -> None:
        try:
            self._port.endpoint.flush()
            request = self._port.receive()
        except MessageLost as lost:
            self.lost(lost)
            return
        except (ConnectionError, ProtocolError):
            self._leave()
            return
        if request is None:
            return
        try:
            self.handle(request)
        except Exception as error:
            # Trouble with one task is that task's: the user's others go on.
            if isinstance(request, Launch | LaunchCheck):
                self.say(ProcessRefused(request.task, outcome.unexpected(error)))

    def lost(self, lost: MessageLost) -> None:
        """There was no descriptor or memory for a request."""
        if lost.kind == LAUNCH:
            self.say(ProcessRefused(lost.task, outcome.no_room(str(lost))))

    def handle(self, request: Any) -> None:
        """Do what the spawner asks for."""
        if isinstance(request, Launch):
            self._launcher.start(request.task, request.spec, request.fds)
        elif isinstance(request, LaunchCheck):
            self._launcher.check(request.task, request.spec)
        elif isinstance(request, SignalProcess):
            self._launcher.signal(request.task, request.signum)
        elif isinstance(request, KillProcess):
            self._launcher.kill(request.task, request.now)
        elif isinstance(request, ForgetProcess):
            self._launcher.forget(request.task)

    def say(self, said: Any) -> None:
        """Tell the spawner, if it is still there."""
        if not self._gone:
            try:
                self._port.say(said)
            except ProtocolError:
                self._leave()

    def _leave(self) -> None:
        self._gone = True
        self._loop.unwatch(self._port.endpoint.fileno())
