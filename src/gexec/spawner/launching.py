"""The spawner's records of one process that starts tasks for it: a helper, or the starter."""

from __future__ import annotations

import contextlib
import os
import signal
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import Any, Final

from gexec.errors import ProtocolError
from gexec.limits import LINGER_S
from gexec.posix import clock
from gexec.posix.channel import Port
from gexec.security.policy import Account
from gexec.wire.launches import (
    Becoming,
    HelperRequest,
    Launch,
    LaunchCheck,
    LaunchSpec,
    LostTasks,
    OldTask,
    SignalHelper,
)
from gexec.wire.messages import U32_MAX, ProcessLeft

#: State in types that JSON can represent.
Saved = dict[str, Any]
#: The number of the starter, which is treated as a helper; the helpers have other numbers.
STARTER: Final = 0
#: Maximum of one helper's ended tasks that are remembered, and of their leftovers.
_LEFT_MAX: Final = 1024
#: A helper that has not answered a launch after this time gets SIGCONT: its user may have stopped it.
_ANSWERS_S: Final = 1.0
#: Time that a helper may need, beyond LINGER_S, to report a task's leftovers.
_TOLD_S: Final = 1.0
#: A tenth of what a helper could do, since it does other things as well.
_LAUNCHES_PER_CPU_S: Final = 100
#: How long a helper may be busy with leftovers that SIGKILL does not end at once.
_HARD_S: Final = 6.0


class LaunchedTask:
    """A task that the spawner has sent to a helper."""

    __slots__ = (
        "account", "digest", "helper", "kept", "kill_by_s", "launch", "life", "pid", "since", "started_s",
        "told_kills",
    )  # fmt: skip

    def __init__(self, account: Account, launch: LaunchSpec, helper: Helper, digest: bytes) -> None:
        self.account = account
        self.launch = launch
        self.helper = helper
        self.pid = 0
        self.kill_by_s: float | None = None
        self.since = clock.ticks()
        #: When its start was reported (``posix.clock``).
        self.started_s = 0.0
        #: Audit lines about its end: 1 = one about a graceful end, 2 = one about SIGKILL.
        self.told_kills = 0
        #: SHA-256 of its credential.
        self.digest = digest
        #: Its stdout and stderr, for the next relay; () = it does not outlive this one.
        self.kept: tuple[int, ...] = ()
        #: How many relays it has outlived.
        self.life = 0

    def keep(self, fds: tuple[int, ...]) -> None:
        """Keep these descriptors instead of those before."""
        for fd in self.kept:
            os.close(fd)
        self.kept = fds

    @property
    def mark(self) -> tuple[str, int]:
        """Job id and rank, by which its processes are recognised."""
        return self.launch.job_hex, self.launch.rank

    def save(self) -> Saved:
        """Return it in types that JSON can represent, for ``restored``; of its account only the identity."""
        launch, account = self.launch, self.account
        return {
            "account": (account.name, account.uid, account.gid),
            "launch": (launch.job_hex, launch.rank, launch.kill_grace_s, launch.leaves),
            "helper": self.helper.number,
            "times": (self.pid, self.kill_by_s, self.since, self.started_s, self.told_kills),
            "kept": (self.digest.hex(), self.kept, self.life),
        }

    @classmethod
    def restored(cls, saved: Saved, helpers: Mapping[int, Helper]) -> LaunchedTask:
        """Return the task that ``save`` returned."""
        name, uid, gid = saved["account"]
        job_hex, rank, kill_grace_s, leaves = saved["launch"]
        launch = LaunchSpec(b"", [], [], b"", 0, False, kill_grace_s, bytes.fromhex(job_hex), rank, leaves)
        digest, kept, life = saved["kept"]
        task = cls(Account(name, uid, gid), launch, helpers[saved["helper"]], bytes.fromhex(digest))
        task.kept, task.life = tuple(kept), life
        task.pid, task.kill_by_s, task.since, task.started_s, task.told_kills = saved["times"]
        return task


class _EndedTask:
    """A task that has ended, by itself or not, and may have leftovers."""

    __slots__ = ("ended_s", "ending", "number", "task", "until")

    def __init__(self, number: int, task: LaunchedTask, ending: bool) -> None:
        self.number = number
        self.task = task
        self.ending = ending
        self.until, self.ended_s = clock.ticks(), clock.now_s()

    def save(self) -> list[Any]:
        """Return it in types that JSON can represent."""
        return [self.number, self.task.save(), self.ending, self.until, self.ended_s]

    def told(self) -> OldTask:
        """Return the task as the starter gets it."""
        return _told(self.number, self.task, self.ending, self.until, clock.now_s() - self.ended_s)


class Helper:
    """The spawner's record of a user's helper; with the number STARTER, of the starter.

    Attributes:
        becoming: what it is, and its tasks with it.
        launches_left: it gets no more tasks: it uses its own limit of CPU time, too.
        tasks: its attached tasks.
        unanswered: launches that it has not answered, oldest first, and when they were sent.
        detached: by number, the marks of detached tasks that run.
        ended: by number, the marks of tasks that ended by themselves: at most 1024.
        doomed: ended tasks whose leftovers are ended: at most 1024.
        left_pids: pids of some leftovers that it has reported: at most 1024.
        quiet_s: when it has reported all leftovers (monotonic).
    """

    __slots__ = (
        "_starter", "becoming", "detached", "doomed", "ended", "launches_left", "left_pids", "made_s",
        "number", "port", "quiet_s", "tasks", "unanswered",
    )  # fmt: skip

    def __init__(self, number: int, port: Port, becoming: Becoming, starter: Port) -> None:
        self.number = number
        self.port = port
        self.becoming = becoming
        self.launches_left = _launches_max(becoming)
        self.made_s = clock.now_s()
        self.tasks: set[int] = set()
        self.unanswered: dict[int, float] = {}
        self.detached: dict[int, tuple[str, int]] = {}
        self.ended: dict[int, tuple[str, int]] = {}
        self.doomed: deque[_EndedTask] = deque(maxlen=_LEFT_MAX)
        self.left_pids: dict[int, None] = {}
        self.quiet_s = 0.0
        self._starter = starter

    def save(self) -> Saved:
        """Return it in types that JSON can represent, for ``restore``; its channel is inherited."""
        return {
            "number": self.number,
            "fd": self.port.endpoint.fileno(),
            "queue": self.port.endpoint.save(),
            "becoming": asdict(self.becoming),
            "launches_left": self.launches_left,
            "made_s": self.made_s,
            "tasks": list(self.tasks),
            "unanswered": list(self.unanswered.items()),
            "detached": list(self.detached.items()),
            "ended": list(self.ended.items()),
            "doomed": [ended.save() for ended in self.doomed],
            "left_pids": list(self.left_pids),
            "quiet_s": self.quiet_s,
        }

    def restore(self, saved: Saved, helpers: Mapping[int, Helper]) -> None:
        """Continue with what ``save`` returned, beside number, channel and ``becoming``."""
        self.port.endpoint.restore(saved["queue"])
        self.launches_left, self.made_s = saved["launches_left"], saved["made_s"]
        self.quiet_s = saved["quiet_s"]
        self.tasks = set(saved["tasks"])
        self.unanswered = dict(saved["unanswered"])
        self.detached = {number: (job, rank) for number, (job, rank) in saved["detached"]}
        self.ended = {number: (job, rank) for number, (job, rank) in saved["ended"]}
        self.left_pids = dict.fromkeys(saved["left_pids"])
        for number, task, ending, until, ended_s in saved["doomed"]:
            ended = _EndedTask(number, LaunchedTask.restored(task, helpers), ending)
            ended.until, ended.ended_s = until, ended_s
            self.doomed.append(ended)

    def ask(self, request: HelperRequest | LostTasks) -> None:
        """Send a request. End a helper that does not read its messages.

        Raises:
            OSError, ProtocolError: the starter does not read its messages.
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
        """Continue it with SIGCONT: its user may have stopped it."""
        self._signal(signal.SIGCONT)

    def _signal(self, signum: int) -> None:
        # The starter sends it to its own unreaped child, so the pid is correct. Only gexecd's own user can
        # stop the starter.
        if self.number != STARTER:
            with contextlib.suppress(OSError, ProtocolError):  # the starter has ended, so gexecd ends
                self._starter.say(SignalHelper(self.number, signum))

    def launch(self, request: Launch | LaunchCheck) -> None:
        """Send it a task to launch or check.

        Raises:
            OSError, ProtocolError: its queue is full, or no descriptor is available.
        """
        self.port.say(request)
        self.launches_left -= 1
        self.tasks.add(request.task)
        self.unanswered[request.task] = clock.now_s()

    @property
    def uid(self) -> int:
        """The user that it is."""
        return self.becoming.uid

    @property
    def wake_s(self) -> float | None:
        """When its time to answer the oldest launch is over, or None."""
        for asked_s in self.unanswered.values():
            return asked_s + _ANSWERS_S
        return None

    def wake(self) -> None:
        """Continue it with SIGCONT, and restart the time for its answers."""
        self.resume()
        self.unanswered = dict.fromkeys(self.unanswered, clock.now_s())

    def task_ended(self, number: int, task: LaunchedTask, ending: bool) -> None:
        """Note that a task has ended: its leftovers may be reported, or are ended."""
        self.quiet_s = clock.now_s() + LINGER_S + _TOLD_S
        if ending or not task.launch.leaves:
            self.doomed.append(_EndedTask(number, task, ending))
        if not ending:
            self._remember(number, task.mark)

    def detached_ended(self, number: int) -> None:
        """Note that a detached task has ended; its leftovers are still left alone."""
        mark = self.detached.pop(number, None)
        if mark is not None:
            self._remember(number, mark)

    def _remember(self, number: int, mark: tuple[str, int]) -> None:
        self.ended[number] = mark
        if len(self.ended) > _LEFT_MAX:
            self.ended.pop(next(iter(self.ended)))

    def lost_tasks(self, running: Iterable[tuple[int, LaunchedTask]]) -> LostTasks:
        """Return, for the starter, which tasks of an ended helper to end, and what to leave alone."""
        now_s = clock.now_s()
        tasks = [
            ended.told()
            for ended in self.doomed
            if now_s < ended.ended_s + ended.task.launch.kill_grace_s + LINGER_S + _HARD_S
        ]
        tasks += [_told(number, task, True) for number, task in running]
        doomed = {ended.task.mark for ended in self.doomed}
        marks = [mark for mark in (*self.detached.values(), *self.ended.values()) if mark not in doomed]
        return LostTasks(self.number, self.uid, tasks, marks, list(self.left_pids))

    def told_left(self, event: ProcessLeft) -> bool:
        """Note a task's leftovers; return False if the task is not remembered or has none."""
        if event.task not in self.ended or not event.processes:
            return False
        for shown in event.shown:
            pid = shown.partition(" ")[0]
            if pid.isdecimal():
                self.left_pids[int(pid)] = None
        while len(self.left_pids) > _LEFT_MAX:
            self.left_pids.pop(next(iter(self.left_pids)))
        return True


def _launches_max(becoming: Becoming) -> int:
    """Return how many tasks a helper may start: each costs it 1 ms of CPU time at most, usually 0.3 ms."""
    cpu_s = [soft for name, soft, _ in becoming.limits if name == "cpu" and soft >= 0]
    return min(cpu_s) * _LAUNCHES_PER_CPU_S if cpu_s else U32_MAX


def _told(
    number: int, task: LaunchedTask, ending: bool, until: int | None = None, ago_s: float | None = None
) -> OldTask:
    launch = task.launch
    return OldTask(
        number, task.pid, launch.job_hex, launch.rank, task.since, until, ago_s, launch.kill_grace_s,
        launch.leaves, ending,
    )  # fmt: skip
