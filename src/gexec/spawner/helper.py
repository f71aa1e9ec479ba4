"""A helper: a process that permanently has one user's identity and starts that user's tasks.

The starter forks it (``spawner.starter``), so that each task costs a posix_spawn and not a fork of a
Python process with setgroups, setresgid and setresuid (docs/decisions/0007-spawner.md). It holds
no secret, and only its channels to the spawner and the starter: beside what its user can do, it can move
itself between the control groups that the starter has made for its tasks.
"""

from __future__ import annotations

import errno
import gc
import os
import signal
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final, NoReturn

from gexec.errors import ProtocolError
from gexec.posix import clock, identity, session
from gexec.posix.channel import MessageLost, Port
from gexec.posix.loop import PollLoop
from gexec.spawner.cells import Cells
from gexec.spawner.launcher import Launcher
from gexec.spawner.starting import Ways
from gexec.wire import outcome
from gexec.wire.launches import FROM_HELPER, LAUNCH, TO_HELPER, Becoming, Launch, LaunchCheck
from gexec.wire.messages import (
    ForgetProcess,
    KillProcess,
    ProcessRefused,
    SignalProcess,
    Table,
)

if TYPE_CHECKING:
    from gexec.spawner.commands import Permitted

#: A helper without tasks ends after this time.
IDLE_S: Final = 300.0


def be_helper(
    fd: int,
    becoming: Becoming,
    why_fd: int,
    cells_fd: int,
    env: dict[bytes, bytes] | None = None,
    session_pid: int = 0,
) -> NoReturn:
    """Run a helper in a process that was just forked; never returns.

    It closes every other inherited descriptor before it becomes the user.

    Args:
        fd: its channel to the spawner.
        why_fd: a pipe, for the reason if it cannot become what it shall; it closes it.
        cells_fd: its channel to the starter, for the control groups of its tasks; -1 = there are none.
        env: variables of a PAM session for all tasks.
        session_pid: the process of this session, its parent; 0 = none. The helper ends with it.
    """

    def become() -> None:
        try:
            gc.disable()
            if not session_pid:
                os.setsid()
                session.leave_keyring()
            become_user(becoming)
            if session_pid:
                identity.die_with_parent(signal.SIGKILL)
                if os.getppid() != session_pid:
                    raise OSError(errno.ESRCH, "its session has ended")
        except OSError as error:
            os.write(why_fd, (error.strerror or str(error)).encode("utf-8", "backslashreplace"))
            raise
        os.close(why_fd)

    def make(sock: socket.socket) -> Helping:
        cells = Cells(socket.socket(fileno=cells_fd)) if cells_fd >= 0 else None
        return Helping(sock, TO_HELPER, FROM_HELPER, IDLE_S, Ways(permitted(becoming), env), cells)

    live(fd, "gexecd-helper", become, make, why_fd, cells_fd)


def permitted(becoming: Becoming) -> Permitted | None:
    """Return the check of a helper's programs; None if all are permitted."""
    if not (becoming.allow_commands or becoming.deny_commands):
        return None
    from gexec.spawner.commands import Permitted

    return Permitted(becoming.allow_commands, becoming.deny_commands)


def become_user(becoming: Becoming) -> None:
    """Set limits, nice value and umask, and then become the user, permanently.

    Raises:
        OSError: the process is not what it shall be: the caller must exit.
    """
    os.umask(0o077)
    session.set_limits(becoming.limits)
    if becoming.nice:
        os.nice(becoming.nice)
    if os.geteuid() == 0:  # else it is the user already, and nobody else is served
        if becoming.spool:
            make_user_spool(becoming.spool, becoming.uid, becoming.gids[0])
        identity.drop_to(becoming.uid, becoming.gids[0], becoming.gids[1:])


def make_user_spool(spool: str, uid: int, gid: int) -> None:
    """Make a user's directory of background jobs, as root: nobody else may create entries there.

    What is in its place can only be root's doing. Nothing is raised: the keeper reports what is missing.
    """
    path = f"{spool}/{uid}"
    try:
        try:
            os.mkdir(path, 0o700)
        except FileExistsError:
            pass
        os.chown(path, uid, gid, follow_symlinks=False)
    except OSError:
        pass  # the keeper reports why it is not there


def live(
    fd: int, title: str, become: Callable[[], None], make: Callable[[socket.socket], Helping], *keep: int
) -> NoReturn:
    """Run a helper or the starter in a process that was just forked; never returns.

    Args:
        fd: the channel to the spawner; every other inherited descriptor but ``keep`` is closed.
        become: sets the identity that the process keeps.
        make: returns the object that serves the channel.
    """
    status = 70
    try:
        signal.set_wakeup_fd(-1)
        for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(signum, signal.SIG_IGN)  # it ends when its channel is closed
        identity.close_inherited([fd, *[each for each in keep if each >= 0]])
        identity.null_stdio()
        os.chdir("/")
        become()
        # After the change of identity, which sets the dumpable flag again.
        identity.forbid_tracing()
        identity.become_subreaper()
        identity.set_title(title)
        helping = make(socket.socket(fileno=fd))
        signal.pthread_sigmask(signal.SIG_SETMASK, ())
        helping.run()
        status = 0
    except BaseException:
        pass  # no traceback: stderr is /dev/null; the exit status reports the failure
    finally:
        os._exit(status)


class Helping:
    """A helper's work: it starts the tasks that the spawner requests and reports their events.

    Args:
        sock: its end of the channel.
        hears, says: the message tables of the spawner and of the helper.
        idle_s: the helper ends after this time without tasks; None = never.
        ways: how tasks are started.
        cells: control groups for its tasks.
    """

    def __init__(
        self,
        sock: socket.socket,
        hears: Table,
        says: Table,
        idle_s: float | None,
        ways: Ways | None = None,
        cells: Cells | None = None,
    ) -> None:
        self._ways = ways
        self._cells = cells
        self._port = Port(sock, hears, says)
        self._launcher = self.make_launcher()
        self._idle_s = idle_s
        self._gone = False
        self._loop = PollLoop(lambda signum: self._launcher.reap())
        self._loop.take_signals([signal.SIGCHLD])
        self._loop.watch(self._port.endpoint.fileno(), self._converse)

    def make_launcher(self) -> Launcher:
        """Return the launcher of its tasks."""
        return Launcher(self.say, ways=self._ways, cells=self._cells)

    @property
    def is_busy(self) -> bool:
        """True while it has tasks, or leftovers that it must end."""
        return bool(self._launcher.tasks) or not self._launcher.settled

    @property
    def is_owing(self) -> bool:
        """True while something must end before this process may end. Used after the spawner has ended."""
        return not self._launcher.settled

    def run(self) -> None:
        """Serve until the spawner and all attached tasks have ended, or for ``idle_s`` without tasks."""
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
        # Detached tasks continue.
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
            # An error refuses only the task that it is about: the user's other tasks continue.
            if isinstance(request, Launch | LaunchCheck):
                self.say(ProcessRefused(request.task, outcome.unexpected(error)))

    def lost(self, lost: MessageLost) -> None:
        """Refuse a launch for which no descriptor or memory was available."""
        if lost.kind == LAUNCH:
            self.say(ProcessRefused(lost.task, outcome.no_room(str(lost))))

    def handle(self, request: Any) -> None:
        """Execute a request of the spawner."""
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
        """Send a message to the spawner, if it has not ended."""
        if not self._gone:
            try:
                self._port.say(said)
            except ProtocolError:
                self._leave()

    def _leave(self) -> None:
        self._gone = True
        self._loop.unwatch(self._port.endpoint.fileno())
