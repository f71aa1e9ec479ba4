"""The starter: starts the tasks of gexecd's own identity, and forks the helpers of other users.

The spawner's program forks it before it reads anything. The starter keeps gexecd's identity and executes
the spawner's requests: those that a helper executes (``spawner.helper``), and requests to fork a helper, to
signal one, and to end the tasks of a helper that has died, which are the starter's children then.
"""

from __future__ import annotations

import os
import socket
from typing import Any, NoReturn

from gexec.posix import clock, memory
from gexec.posix.channel import MessageLost
from gexec.spawner.helper import Helping, be_helper, live
from gexec.spawner.launcher import Launcher
from gexec.spawner.task import TaskProcess, mark_of
from gexec.wire.launches import (
    FROM_STARTER,
    NEW_HELPER,
    TO_STARTER,
    HelperGone,
    LostTasks,
    NewHelper,
    OldTask,
    SignalHelper,
)


def be_starter(fd: int) -> NoReturn:
    """Run the starter in a process that was just forked; never returns.

    It closes every inherited descriptor but ``fd``, the channel to the spawner.
    """
    live(fd, "gexecd-starter", memory.settle, _Starter)


class _Starter(Helping):
    def __init__(self, sock: socket.socket) -> None:
        #: The numbers of helpers by pid, and their pids by number: all are unreaped children.
        self._numbers: dict[int, int] = {}
        self._pids: dict[int, int] = {}
        super().__init__(sock, TO_STARTER, FROM_STARTER, None)

    def make_launcher(self) -> Launcher:
        return Launcher(self.say, other_ended=self._ended, not_orphans=lambda: set(self._numbers))

    @property
    def is_owing(self) -> bool:
        # When the spawner has ended, the helpers also end their tasks and exit.
        return super().is_owing or bool(self._numbers)

    def lost(self, lost: MessageLost) -> None:
        if lost.kind == NEW_HELPER:
            self.say(HelperGone(lost.task, str(lost)))
        else:
            super().lost(lost)

    def handle(self, request: Any) -> None:
        if isinstance(request, NewHelper):
            self._fork(request)
        elif isinstance(request, SignalHelper):
            pid = self._pids.get(request.task)
            if pid is not None:
                os.kill(pid, request.signum)  # our unreaped child, so the pid is correct
        elif isinstance(request, LostTasks):
            self._launcher.lost(
                [_revived(task, request.uid) for task in request.tasks],
                [mark_of(bytes.fromhex(job), rank) for job, rank in request.marks],
                request.pids,
            )
        else:
            super().handle(request)

    def _fork(self, request: NewHelper) -> None:
        (fd,) = request.fds
        try:
            pid = os.fork()
            if pid == 0:
                be_helper(fd, request.uid, request.gids)
        except OSError as error:
            self.say(HelperGone(request.task, error.strerror or "it cannot be forked"))
        else:
            self._numbers[pid] = request.task
            self._pids[request.task] = pid
        finally:
            os.close(fd)

    def _ended(self, pid: int) -> None:
        number = self._numbers.pop(pid, None)
        if number is not None:
            del self._pids[number]
            self.say(HelperGone(number))


def _revived(old: OldTask, uid: int) -> TaskProcess:
    """Return a task of a helper that has died."""
    task = TaskProcess(
        old.number,
        old.pid,
        mark_of(bytes.fromhex(old.job_hex), old.rank),
        uid=uid,
        since=old.since,
        kill_grace_s=old.kill_grace_s,
        leaves=old.leaves,
    )
    task.signalled = old.ending
    task.until = clock.ticks() if old.until is None else old.until
    task.ended_s = clock.now_s() - (old.ago_s or 0.0)
    return task
