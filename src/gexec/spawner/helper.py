"""A user's helper: a process that has become that user for good and starts that user's tasks.

Forked once per user from the spawner, so that each task costs a posix_spawn and not a fork of a
Python process with setgroups, setresgid and setresuid (docs/decisions/0007-spawner.md). It holds
no secret and no descriptor but its channel to the spawner: what it could do, the user could do.
"""

from __future__ import annotations

import gc
import os
import select
import signal
import socket
from collections.abc import Sequence
from typing import Final, NoReturn

from gexec.core.deadlines import wake_s
from gexec.errors import ProtocolError
from gexec.posix import channel, clock, identity
from gexec.posix.channel import HelperPort, MessageLost, SpawnerPort
from gexec.spawner import starting
from gexec.spawner.launcher import Launcher
from gexec.wire import outcome
from gexec.wire.messages import (
    LAUNCH,
    Event,
    ForgetProcess,
    KillProcess,
    Launch,
    ProcessRefused,
    Request,
    SignalProcess,
)

#: A helper without tasks ends after this long.
IDLE_S: Final = 300.0


def fork_helper(
    uid: int,
    gid: int,
    groups: Sequence[int],
    *,
    idle_s: float = IDLE_S,
    descriptors: int | None = None,
) -> tuple[int, HelperPort]:
    """Fork a helper for this user; return its pid and the spawner's end of its channel.

    Must be called from a single-threaded process. The child closes every descriptor it inherits,
    the relay's channel first of all, before it becomes the user.

    Raises:
        OSError: there is no descriptor, process or memory for it.
    """
    ours, theirs = channel.pair()
    try:
        pid = os.fork()
    except OSError:
        ours.close()
        theirs.close()
        raise
    if pid == 0:
        _be_helper(theirs, uid, gid, groups, idle_s, descriptors)
    theirs.close()
    return pid, HelperPort(ours)


def _be_helper(
    sock: socket.socket,
    uid: int,
    gid: int,
    groups: Sequence[int],
    idle_s: float,
    descriptors: int | None,
) -> NoReturn:
    status = 70
    try:
        signal.set_wakeup_fd(-1)
        for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
            signal.signal(signum, signal.SIG_IGN)  # it ends with its channel
        gc.disable()
        fd = sock.detach()
        identity.close_inherited([fd])
        identity.null_stdio()
        if descriptors is not None:
            identity.limit_descriptors(descriptors)
        os.setsid()
        os.chdir("/")
        os.umask(0o077)
        identity.drop_to(uid, gid, groups)
        # After the drop: a change of identity sets the flag anew.
        identity.forbid_tracing()
        identity.become_subreaper()
        identity.set_title("gexecd-helper")
        _Helper(socket.socket(fileno=fd), idle_s).loop()
        status = 0
    except BaseException:
        pass  # no traceback: stderr is /dev/null; the status says that it went wrong
    finally:
        os._exit(status)


class _Helper:
    def __init__(self, sock: socket.socket, idle_s: float) -> None:
        self._port = SpawnerPort(sock)
        self._launcher = Launcher(self._tell)
        self._idle_s = idle_s
        self._wake_read, wake_write = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, _noted)
        signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
        self._gone = False

    def loop(self) -> None:
        idle_since_s = clock.now_s()
        while not self._gone:
            if self._busy():
                idle_since_s = clock.now_s()
            deadline_s = self._launcher.next_deadline_s()
            until_s = idle_since_s + self._idle_s if deadline_s is None else deadline_s
            self._poll(until_s, with_channel=True)
            if not self._busy() and clock.now_s() - idle_since_s >= self._idle_s:
                return
        self._leave()

    def _busy(self) -> bool:
        return bool(self._launcher.tasks) or not self._launcher.settled

    def _leave(self) -> None:
        """End what is attached, since the spawner is gone; detached tasks go on."""
        self._launcher.end_all(now=False)
        while not self._launcher.settled:
            deadline_s = self._launcher.next_deadline_s()
            self._poll(clock.now_s() + 0.1 if deadline_s is None else deadline_s, with_channel=False)

    def _poll(self, until_s: float, with_channel: bool) -> None:
        poller = select.poll()
        poller.register(self._wake_read, select.POLLIN)
        endpoint = self._port.endpoint
        if with_channel:
            poller.register(endpoint, select.POLLIN | (select.POLLOUT if endpoint.wants_write else 0))
        until_s = wake_s(clock.now_s(), until_s)
        ready = poller.poll(int(max(0.0, until_s - clock.now_s()) * 1000) + 1)
        clock.awake(until_s)
        for fd, _ in ready:
            if fd == self._wake_read:
                os.read(fd, 4096)
                self._launcher.reap()
            else:
                self._converse()
        self._launcher.tick()

    def _converse(self) -> None:
        try:
            self._port.endpoint.flush()
            request = self._port.receive()
        except MessageLost as lost:
            if lost.kind == LAUNCH:
                self._tell(ProcessRefused(lost.task, outcome.no_room(str(lost))))
            return
        except (ConnectionError, ProtocolError):
            self._gone = True
            return
        if request is None:
            return
        try:
            self._handle(request)
        except Exception as error:
            # Trouble with one task is that task's: the user's others go on.
            if isinstance(request, Launch):
                self._tell(ProcessRefused(request.task, starting.unexpected(error)))

    def _handle(self, request: Request) -> None:
        if isinstance(request, Launch):
            if request.fds:
                self._launcher.start(request.task, request.spec, request.fds)
            else:
                self._launcher.check(request.task, request.spec)
        elif isinstance(request, SignalProcess):
            self._launcher.signal(request.task, request.signum)
        elif isinstance(request, KillProcess):
            self._launcher.kill(request.task, request.now)
        elif isinstance(request, ForgetProcess):
            self._launcher.forget(request.task)

    def _tell(self, event: Event) -> None:
        if not self._gone:
            try:
                self._port.tell(event)
            except ProtocolError:
                self._gone = True


def _noted(signum: int, frame: object) -> None:
    """Let the wake-up descriptor do the telling."""
