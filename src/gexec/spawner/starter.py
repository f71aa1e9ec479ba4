"""The starter: starts the tasks of gexecd's own identity, and forks the helpers of other users.

The spawner's program forks it before it reads anything. The starter keeps gexecd's identity and executes
the spawner's requests: those that a helper executes (``spawner.helper``), and requests to fork a helper, to
signal one, and to end the tasks of a helper that has died, which are the starter's children then.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
from typing import Any, NoReturn

from gexec import limits
from gexec.posix import clock, memory, session
from gexec.posix.cgroups import CellTree
from gexec.posix.channel import MessageLost
from gexec.spawner.cellmaker import CellMaker
from gexec.spawner.helper import Helping, be_helper, live
from gexec.spawner.launcher import Launcher
from gexec.spawner.task import TaskProcess, mark_of
from gexec.wire.launches import (
    DENIED_MARK,
    FROM_STARTER,
    NEW_HELPER,
    TO_STARTER,
    Becoming,
    HelperGone,
    LostTasks,
    NewHelper,
    OldTask,
    SignalHelper,
    StarterNote,
)


def be_starter(fd: int, group: str) -> NoReturn:
    """Run the starter in a process that was just forked; never returns.

    It closes every inherited descriptor but ``fd``, the channel to the spawner.

    Args:
        group: the directory of the control group that it may divide; "" = there is none.
    """
    live(fd, "gexecd-starter", memory.settle, lambda sock: _Starter(sock, group))


class _Forked:
    """A helper, or the session that is its parent: our unreaped child.

    Attributes:
        is_session: it is a session, which ends after its helper and passes on SIGCONT and SIGTERM.
        why_fd: a pipe that has the reason if the helper cannot begin; -1 = the pipe was closed.
    """

    def __init__(self, number: int, why_fd: int, is_session: bool) -> None:
        self.number = number
        self.why_fd = why_fd
        self.is_session = is_session
        self.why = b""


class _Starter(Helping):
    def __init__(self, sock: socket.socket, group: str) -> None:
        #: The helpers by pid, and their pids by number.
        self._forked: dict[int, _Forked] = {}
        self._pids: dict[int, int] = {}
        super().__init__(sock, TO_STARTER, FROM_STARTER, None)
        if os.geteuid() == 0:
            self._leave_keyring()
        self._cell_maker: CellMaker | None = None
        if group:
            try:
                self._cell_maker = CellMaker(
                    CellTree(group), self._loop, lambda text: self.say(StarterNote(text))
                )
            except OSError as error:
                self.say(StarterNote(f"no control groups for commands below {group}: {error.strerror}"))

    def _leave_keyring(self) -> None:
        """Leave the keyring of the session in which gexecd was started, also in tasks of root."""
        try:
            session.join_new_keyring()
        except OSError as error:
            text = f"{error.strerror}: no process here can use keyrings, so tasks get none of their own"
            self.say(StarterNote(text))

    def make_launcher(self) -> Launcher:
        return Launcher(self.say, other_ended=self._ended, not_orphans=lambda: set(self._forked))

    @property
    def is_owing(self) -> bool:
        # When the spawner has ended, the helpers also end their tasks and exit.
        keeps = self._cell_maker is not None and self._cell_maker.is_owing
        return super().is_owing or bool(self._forked) or keeps

    def run(self) -> None:
        super().run()
        if self._cell_maker is not None:
            self._cell_maker.close()

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
            if pid is not None:  # our unreaped child, so the pid is correct
                stops = request.signum == signal.SIGKILL and self._forked[pid].is_session
                os.kill(pid, signal.SIGTERM if stops else request.signum)
        elif isinstance(request, LostTasks):
            self._launcher.lost(
                [_revived(task, request.uid) for task in request.tasks],
                [mark_of(bytes.fromhex(job), rank) for job, rank in request.marks],
                request.pids,
            )
            self._dismiss(request.task, max([task.kill_grace_s for task in request.tasks], default=0.0))
        else:
            super().handle(request)

    def _fork(self, request: NewHelper) -> None:
        open_fds = list(request.fds)
        cells_fd = -1
        try:
            open_fds += os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
            fd, why_fd, theirs = open_fds
            if self._cell_maker is not None:
                cells_fd = self._cell_maker.admit(request.task)
                open_fds += [cells_fd] if cells_fd >= 0 else []
            pid = _forked(fd, request.becoming, theirs, cells_fd)
            open_fds.remove(why_fd)
            is_session = bool(request.becoming.pam)
            self._forked[pid] = forked = _Forked(request.task, why_fd, is_session)
            self._pids[request.task] = pid
            self._loop.watch(why_fd, lambda: self._told_why(forked))
            if is_session:
                self._loop.call_at(clock.now_s() + limits.PAM_S, lambda: self._is_overdue(pid, forked))
        except OSError as error:
            self._dismiss(request.task, 0.0)
            self.say(HelperGone(request.task, error.strerror or "it cannot be forked"))
        finally:
            for each in open_fds:
                os.close(each)

    def _dismiss(self, helper: int, wait_s: float) -> None:
        if self._cell_maker is not None:
            self._cell_maker.dismiss(helper, wait_s)

    def _told_why(self, forked: _Forked) -> bool:
        """Read the reason of a helper that cannot begin; False if there is nothing more to read."""
        if forked.why_fd < 0:
            return False
        try:
            piece = os.read(forked.why_fd, limits.TEXT_MAX_BYTES)
        except BlockingIOError:
            return False
        forked.why = (forked.why + piece)[: limits.TEXT_MAX_BYTES]
        if not piece:  # it has begun, or ended
            self._loop.unwatch(forked.why_fd)
            os.close(forked.why_fd)
            forked.why_fd = -1
        return bool(piece)

    def _ended(self, pid: int) -> None:
        forked = self._forked.pop(pid, None)
        if forked is None:
            return
        while self._told_why(forked):
            pass
        del self._pids[forked.number]
        denied = forked.why.startswith(DENIED_MARK)
        why = forked.why.removeprefix(DENIED_MARK)
        self.say(HelperGone(forked.number, why.decode(errors="replace"), denied))
        if self._gone:  # else the spawner's answer says how long its tasks have
            self._dismiss(forked.number, 0.0)

    def _is_overdue(self, pid: int, forked: _Forked) -> None:
        """End a session whose modules do not answer, with what they have started."""
        if self._forked.get(pid) is forked and forked.why_fd >= 0:
            forked.why = b"PAM of this node has not answered for %d s" % limits.PAM_S
            for end in (os.killpg, os.kill):
                with contextlib.suppress(ProcessLookupError):
                    end(pid, signal.SIGKILL)


def _forked(fd: int, becoming: Becoming, why_fd: int, cells_fd: int) -> int:
    """Fork a helper, or its session if it has one; return the pid."""
    if not becoming.pam:
        pid = os.fork()
        if pid == 0:
            be_helper(fd, becoming, why_fd, cells_fd)
        return pid
    blocked = (signal.SIGCHLD, signal.SIGCONT, signal.SIGTERM)  # until the session can pass them on
    before = signal.pthread_sigmask(signal.SIG_BLOCK, blocked)
    try:
        pid = os.fork()
        if pid == 0:
            from gexec.spawner.session import be_session  # the starter itself never loads PAM

            be_session(fd, becoming, why_fd, cells_fd)
        return pid
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


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
