"""The spawner's helpers: one process per user that starts that user's tasks (``spawner.helper``)."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import deque
from collections.abc import Callable
from typing import Final

from gexec.core.deadlines import earlier
from gexec.errors import ProtocolError
from gexec.limits import LINGER_S
from gexec.posix import clock
from gexec.posix.channel import HelperPort, MessageLost
from gexec.posix.loop import PollLoop
from gexec.security.policy import Account
from gexec.spawner.helper import fork_helper
from gexec.spawner.task import TaskProcess
from gexec.wire.messages import (
    AcceptedKeys,
    Certificates,
    Event,
    Launch,
    ProcessLeft,
    ProcessStarted,
    Request,
)

#: A helper takes no new tasks after this long, so that a user's new groups come to count.
_AGE_MAX_S: Final = 600.0
#: Ended tasks of one helper that are remembered, and processes that they left.
_LEFT_MAX: Final = 1024
#: A helper that leaves a launch unanswered for so long may be stopped by its user: it is continued.
_ANSWERS_S: Final = 1.0
#: What a helper may need, beyond the time itself, to tell what a task left behind.
_TOLD_S: Final = 1.0
#: How long a helper may be busy with what does not end by SIGKILL at once.
_HARD_S: Final = 6.0


class Helper:
    """A user's helper as the spawner sees it.

    Attributes:
        tasks: its attached tasks.
        unanswered: launches that it has not answered, oldest first, and since when.
        detached: the marks of detached ones.
        ended: by number, the marks of those that ended and may leave something: at most 1024.
        doomed: those that ended and may not, while something of them may be left: at most 1024.
        left_pids: some of what they left behind, as it told: at most 1024.
        quiet_s: when it has told all about those (monotonic).
    """

    __slots__ = (
        "detached",
        "doomed",
        "ended",
        "left_pids",
        "made_s",
        "pid",
        "port",
        "quiet_s",
        "tasks",
        "uid",
        "unanswered",
    )

    def __init__(self, pid: int, port: HelperPort, uid: int) -> None:
        self.pid = pid
        self.port = port
        self.uid = uid
        self.made_s = clock.now_s()
        self.tasks: set[int] = set()
        self.unanswered: dict[int, float] = {}
        self.detached: set[tuple[bytes, bytes]] = set()
        self.ended: dict[int, tuple[bytes, bytes]] = {}
        self.doomed: deque[TaskProcess] = deque(maxlen=_LEFT_MAX)
        self.left_pids: dict[int, None] = {}
        self.quiet_s = 0.0

    def ask(self, request: Request) -> None:
        """Send a request. A helper that reads nothing any more is ended."""
        try:
            self.port.ask(request)
        except (OSError, ProtocolError):
            self.end()  # it has left thousands of messages unread

    def end(self) -> None:
        """End it with SIGKILL; it handles no other. It is our unreaped child, so the pid is right."""
        os.kill(self.pid, signal.SIGKILL)

    def launch(self, request: Launch) -> None:
        """Have it launch or check a task.

        Raises:
            OSError, ProtocolError: it takes no more just now, or there is no descriptor for it.
        """
        self.port.ask(request)
        self.tasks.add(request.task)
        self.unanswered[request.task] = clock.now_s()

    @property
    def wake_s(self) -> float | None:
        """When it has left a launch unanswered for too long, or None."""
        for asked_s in self.unanswered.values():
            return asked_s + _ANSWERS_S
        return None

    def wake(self) -> None:
        """Let it go on, if its user has stopped it; it is our unreaped child, so the pid is right."""
        os.kill(self.pid, signal.SIGCONT)
        self.unanswered = dict.fromkeys(self.unanswered, clock.now_s())

    def task_ended(self, task: TaskProcess) -> None:
        """A task has ended: what it left behind may be told, and is ended if that was asked for."""
        self.quiet_s = clock.now_s() + LINGER_S + _TOLD_S
        if task.ending or not task.leaves:
            self.doomed.append(task)
        if not task.ending:
            self.ended[task.number] = task.mark
            if len(self.ended) > _LEFT_MAX:
                self.ended.pop(next(iter(self.ended)))

    def lost_tasks(self) -> list[TaskProcess]:
        """Return the tasks that ended lately and may have left what the helper was still ending."""
        now_s = clock.now_s()
        return [
            task
            for task in self.doomed
            if now_s < (task.ended_s or 0.0) + task.kill_grace_s + LINGER_S + _HARD_S
        ]

    def left_marks(self) -> list[tuple[bytes, bytes]]:
        """Return the marks of tasks whose leftovers are left alone."""
        doomed = {task.mark for task in self.doomed}
        return [mark for mark in (*self.detached, *self.ended.values()) if mark not in doomed]

    def told_left(self, event: ProcessLeft) -> bool:
        """Take in what a task left behind; False if this is not to be told, or not again."""
        if event.task not in self.ended or not event.processes:
            return False
        for shown in event.shown:
            pid = shown.partition(" ")[0]
            if pid.isdecimal():
                self.left_pids[int(pid)] = None
        while len(self.left_pids) > _LEFT_MAX:
            self.left_pids.pop(next(iter(self.left_pids)))
        return True


class Helpers:
    """All helpers of one spawner.

    Args:
        loop: the spawner's.
        on_event: called with what a helper tells about a task that was asked of it.
        descriptors: their soft limit of descriptors, and their tasks'; None = this process's own.
    """

    def __init__(
        self, loop: PollLoop, on_event: Callable[[Event], None], descriptors: int | None = None
    ) -> None:
        self._loop = loop
        self._descriptors = descriptors
        self._on_event = on_event
        self._by_pid: dict[int, Helper] = {}
        self._current: dict[int, Helper] = {}  # by uid: the one that takes new tasks

    def __len__(self) -> int:
        return len(self._by_pid)

    @property
    def pids(self) -> set[int]:
        """Their pids; all are unreaped children of this process."""
        return set(self._by_pid)

    def for_account(self, account: Account) -> Helper:
        """Return the helper that takes this user's new tasks; forked if there is none.

        Raises:
            OSError: there can be none now.
        """
        helper = self._current.get(account.uid)
        if helper is not None and clock.now_s() - helper.made_s > _AGE_MAX_S:
            self._retire(account.uid)
            helper = None
        if helper is None:
            helper = self._forked(account)
        return helper

    def _forked(self, account: Account) -> Helper:
        pid, port = fork_helper(account.uid, account.gid, account.gids, descriptors=self._descriptors)
        helper = Helper(pid, port, account.uid)
        self._by_pid[pid] = self._current[account.uid] = helper
        self._loop.watch(port.endpoint.fileno(), lambda: self._heard(helper))
        return helper

    def wake_s(self) -> float | None:
        """Return when ``wake`` has something to do, or None."""
        due_s: float | None = None
        for helper in self._by_pid.values():
            due_s = earlier(due_s, helper.wake_s)
        return due_s

    def wake(self) -> None:
        """Let those go on that their users have stopped."""
        now_s = clock.now_s()
        for helper in self._by_pid.values():
            due_s = helper.wake_s
            if due_s is not None and due_s <= now_s:
                helper.wake()

    def flush(self) -> None:
        """Send on what waits for the helpers to read."""
        for helper in self._by_pid.values():
            endpoint = helper.port.endpoint
            if endpoint.wants_write:
                try:
                    endpoint.flush()
                except OSError:
                    helper.end()  # something that it was told is lost, so it cannot go on
            self._loop.want_write(endpoint.fileno(), endpoint.wants_write)

    def retire_all(self) -> None:
        """Give new tasks to new helpers; the present ones end with their tasks."""
        for uid in list(self._current):
            self._retire(uid)

    def dismiss_all(self) -> None:
        """Close every helper's channel: each ends its attached tasks and then itself."""
        for helper in self._by_pid.values():
            self._dismiss(helper)

    def kill_all(self) -> None:
        """End those that do not end themselves."""
        for helper in self._by_pid.values():
            helper.end()

    def of_pid(self, pid: int) -> Helper | None:
        """Return the helper that has this pid and can be asked, or None."""
        helper = self._by_pid.get(pid)
        return helper if helper is not None and helper.port.endpoint.fileno() >= 0 else None

    def reaped(self, pid: int) -> Helper | None:
        """Return the helper that had this pid, after its last words were passed on; None if none had."""
        helper = self._by_pid.pop(pid, None)
        if helper is not None:
            while self._loop.watches(helper.port.endpoint.fileno()) and self._heard(helper):
                pass
            self._dismiss(helper)
        return helper

    def _heard(self, helper: Helper) -> bool:
        """Take in the next thing it says; False if there is nothing now, or never again."""
        try:
            event = helper.port.receive()
        except (ConnectionError, ProtocolError, MessageLost, OSError):
            # Ended by idleness or by its user's hand; reaping it does the rest.
            self._loop.unwatch(helper.port.endpoint.fileno())
            self._forsake(helper)
            if helper.pid in self._by_pid:
                helper.end()
            return False
        if event is None:
            return False
        if isinstance(event, (Certificates, AcceptedKeys)):
            return True  # none of its business
        if isinstance(event, ProcessLeft):
            if helper.told_left(event):
                self._on_event(event)
        elif event.task in helper.tasks:  # else it was forgotten meanwhile
            helper.unanswered.pop(event.task, None)
            if not isinstance(event, ProcessStarted):
                helper.tasks.discard(event.task)
            self._on_event(event)
        if helper is not self._current.get(helper.uid):
            self._dismiss_idle(helper)
        return True

    def _retire(self, uid: int) -> None:
        helper = self._current.pop(uid, None)
        if helper is not None:
            self._dismiss_idle(helper)

    def _dismiss_idle(self, helper: Helper) -> None:
        if helper.tasks or helper.detached or helper.pid not in self._by_pid:
            return
        if clock.now_s() < helper.quiet_s:
            self._loop.call_at(helper.quiet_s, lambda: self._dismiss_idle(helper))
        else:
            self._dismiss(helper)

    def _forsake(self, helper: Helper) -> None:
        if self._current.get(helper.uid) is helper:
            del self._current[helper.uid]

    def _dismiss(self, helper: Helper) -> None:
        self._forsake(helper)
        endpoint = helper.port.endpoint
        if endpoint.fileno() >= 0:
            with contextlib.suppress(OSError):
                endpoint.flush()
            self._loop.unwatch(endpoint.fileno())
            endpoint.close()
