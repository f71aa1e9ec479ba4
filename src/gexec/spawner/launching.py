"""One process that starts tasks for the spawner, as the spawner knows it: a helper, or the starter."""

from __future__ import annotations

import contextlib
import signal
from collections import deque
from collections.abc import Iterable
from typing import Final

from gexec.errors import ProtocolError
from gexec.limits import LINGER_S
from gexec.posix import clock
from gexec.posix.channel import Port
from gexec.security.policy import Account
from gexec.wire.launches import (
    HelperRequest,
    Launch,
    LaunchCheck,
    LaunchSpec,
    LostTasks,
    OldTask,
    SignalHelper,
)
from gexec.wire.messages import ProcessLeft

#: The number of the starter, which counts as a helper; those that it forks have others.
STARTER: Final = 0
#: Ended tasks of one helper that are remembered, and processes that they left.
_LEFT_MAX: Final = 1024
#: A helper that leaves a launch unanswered for so long may be stopped by its user: it is continued.
_ANSWERS_S: Final = 1.0
#: What a helper may need, beyond the time itself, to tell what a task left behind.
_TOLD_S: Final = 1.0
#: How long a helper may be busy with what does not end by SIGKILL at once.
_HARD_S: Final = 6.0


class LaunchedTask:
    """A task that was given to a helper, as the spawner knows it."""

    __slots__ = ("account", "helper", "kill_by_s", "launch", "pid", "since")

    def __init__(self, account: Account, launch: LaunchSpec, helper: Helper) -> None:
        self.account = account
        self.launch = launch
        self.helper = helper
        self.pid = 0
        self.kill_by_s: float | None = None
        self.since = clock.ticks()

    @property
    def mark(self) -> tuple[str, int]:
        """Job id and rank, by which its processes are recognised."""
        return self.launch.job_hex, self.launch.rank


class _EndedTask:
    """A task that has ended, by itself or not, and may have left something."""

    __slots__ = ("ended_s", "ending", "number", "task", "until")

    def __init__(self, number: int, task: LaunchedTask, ending: bool) -> None:
        self.number = number
        self.task = task
        self.ending = ending
        self.until, self.ended_s = clock.ticks(), clock.now_s()

    def told(self) -> OldTask:
        """Return it as the starter is told of it."""
        return _told(self.number, self.task, self.ending, self.until, clock.now_s() - self.ended_s)


class Helper:
    """A user's helper as the spawner sees it; with the number STARTER, the starter.

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
        "_starter", "detached", "doomed", "ended", "left_pids", "made_s", "number", "port", "quiet_s",
        "tasks", "uid", "unanswered",
    )  # fmt: skip

    def __init__(self, number: int, port: Port, uid: int, starter: Port) -> None:
        self.number = number
        self.port = port
        self.uid = uid
        self.made_s = clock.now_s()
        self.tasks: set[int] = set()
        self.unanswered: dict[int, float] = {}
        self.detached: set[tuple[str, int]] = set()
        self.ended: dict[int, tuple[str, int]] = {}
        self.doomed: deque[_EndedTask] = deque(maxlen=_LEFT_MAX)
        self.left_pids: dict[int, None] = {}
        self.quiet_s = 0.0
        self._starter = starter

    def ask(self, request: HelperRequest | LostTasks) -> None:
        """Send a request. A helper that reads nothing any more is ended.

        Raises:
            OSError, ProtocolError: the starter reads nothing.
        """
        try:
            self.port.say(request)
        except (OSError, ProtocolError):
            if self.number == STARTER:
                raise
            self.end()  # it has left thousands of messages unread

    def end(self) -> None:
        """End it with SIGKILL."""
        self._signal(signal.SIGKILL)

    def resume(self) -> None:
        """Let it go on, if its user has stopped it."""
        self._signal(signal.SIGCONT)

    def _signal(self, signum: int) -> None:
        # Through the starter, whose unreaped child it is: so the pid is right. Nobody else stops a starter.
        if self.number != STARTER:
            with contextlib.suppress(OSError, ProtocolError):  # the starter has ended: all ends
                self._starter.say(SignalHelper(self.number, signum))

    def launch(self, request: Launch | LaunchCheck) -> None:
        """Have it launch or check a task.

        Raises:
            OSError, ProtocolError: it takes no more just now, or there is no descriptor for it.
        """
        self.port.say(request)
        self.tasks.add(request.task)
        self.unanswered[request.task] = clock.now_s()

    @property
    def wake_s(self) -> float | None:
        """When it has left a launch unanswered for too long, or None."""
        for asked_s in self.unanswered.values():
            return asked_s + _ANSWERS_S
        return None

    def wake(self) -> None:
        """Let it go on, and wait anew for its answers."""
        self.resume()
        self.unanswered = dict.fromkeys(self.unanswered, clock.now_s())

    def task_ended(self, number: int, task: LaunchedTask, ending: bool) -> None:
        """A task has ended: what it left behind may be told, and is ended if that was asked for."""
        self.quiet_s = clock.now_s() + LINGER_S + _TOLD_S
        if ending or not task.launch.leaves:
            self.doomed.append(_EndedTask(number, task, ending))
        if not ending:
            self.ended[number] = task.mark
            if len(self.ended) > _LEFT_MAX:
                self.ended.pop(next(iter(self.ended)))

    def lost_tasks(self, running: Iterable[tuple[int, LaunchedTask]]) -> LostTasks:
        """Return what the starter must know when it has ended: what is to be ended of it, and what not."""
        now_s = clock.now_s()
        tasks = [
            ended.told()
            for ended in self.doomed
            if now_s < ended.ended_s + ended.task.launch.kill_grace_s + LINGER_S + _HARD_S
        ]
        tasks += [_told(number, task, True) for number, task in running]
        doomed = {ended.task.mark for ended in self.doomed}
        marks = [mark for mark in (*self.detached, *self.ended.values()) if mark not in doomed]
        return LostTasks(self.number, self.uid, tasks, marks, list(self.left_pids))

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


def _told(
    number: int, task: LaunchedTask, ending: bool, until: int | None = None, ago_s: float | None = None
) -> OldTask:
    launch = task.launch
    return OldTask(
        number, task.pid, launch.job_hex, launch.rank, task.since, until, ago_s, launch.kill_grace_s,
        launch.leaves, ending,
    )  # fmt: skip
