"""Starting, watching and ending tasks as the identity that this process has.

The same code runs in the spawner (for its own identity) and in each user's helper. One thread,
no event loop of its own: the owner calls ``reap`` after SIGCHLD and ``tick`` when
``next_deadline_s`` has come, and gets events through ``emit``.

The process must be a child subreaper (``proc.identity.become_subreaper``): whatever a task leaves
behind then becomes a child of this process, is found among its children (``proc.leftovers``), and
is ended.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable

from gexec.core import outcome
from gexec.core.deadlines import earlier
from gexec.core.outcome import Outcome
from gexec.limits import LINGER_S
from gexec.proc import clock, descendants, starting
from gexec.proc.leftovers import GENTLE, SWEEP_S, Leftovers
from gexec.proc.messages import Event, LaunchSpec, TaskEnded, TaskReady, TaskRefused, TaskStarted
from gexec.proc.starting import Refusal
from gexec.proc.task import Task


class Launcher:
    """Tasks of one identity.

    Args:
        emit: called with each event.
        other_ended: called with (pid, wait status) of a reaped child that is no task.
        not_orphans: the pids of children that are neither tasks nor theirs (the relay, helpers).
        linger_s: how long leftovers of an ended task may live.
    """

    def __init__(
        self,
        emit: Callable[[Event], None],
        *,
        other_ended: Callable[[int, int], None] | None = None,
        not_orphans: Callable[[], set[int]] = set,
        linger_s: float = LINGER_S,
    ) -> None:
        self._emit = emit
        self._other_ended = other_ended
        self._tasks: dict[int, Task] = {}
        self._by_pid: dict[int, Task] = {}
        self._leftovers = Leftovers(self._by_pid, not_orphans, linger_s)

    @property
    def tasks(self) -> int:
        """How many tasks' processes run, detached ones included."""
        return len(self._by_pid)

    @property
    def attached(self) -> int:
        """How many running tasks somebody waits for."""
        return len([task for task in self._by_pid.values() if not task.detached])

    @property
    def settled(self) -> bool:
        """True when nothing is left that must be ended before this process may go."""
        return not self.attached and not self._leftovers.owed

    # -- starting ----------------------------------------------------------------------------

    def start(self, number: int, spec: LaunchSpec, fds: tuple[int, ...]) -> None:
        """Start a task; emits TaskStarted or TaskRefused. Closes ``fds`` (stdin, stdout, stderr)."""
        try:
            if number in self._tasks:
                self._emit(TaskRefused(number, outcome.not_started("the task number is in use")))
                return
            pid = starting.spawn(spec, fds)
        except Refusal as refusal:
            self._emit(TaskRefused(number, refusal.outcome))
            return
        finally:
            for fd in fds:
                os.close(fd)
        task = Task(number, pid, spec)
        self._tasks[number] = self._by_pid[pid] = task
        self._leftovers.task_started(task)
        self._emit(TaskStarted(number, pid))

    def check(self, number: int, spec: LaunchSpec) -> None:
        """Do what ``start`` does but the start itself; emits TaskReady or TaskRefused."""
        try:
            starting.check(spec)
        except Refusal as refusal:
            self._emit(TaskRefused(number, refusal.outcome))
        else:
            self._emit(TaskReady(number))

    # -- signals and ends --------------------------------------------------------------------

    def signal(self, number: int, signum: int) -> None:
        """Send a signal to the task's process group; nothing if it has ended."""
        task = self._tasks.get(number)
        if task is not None:
            _signal_group(task.pid, signum)

    def kill(self, number: int, now: bool) -> None:
        """End a task: HUP, TERM and CONT to all its processes, KILL after its grace; or KILL at once."""
        task = self._tasks.get(number)
        if task is not None:
            self._end(task, now)

    def forget(self, number: int) -> None:
        """Emit no more events of a task and leave it, and what it leaves behind, alone."""
        task = self._tasks.pop(number, None) or self._leftovers.past_task(number)
        if task is not None:
            task.detached = True
            task.hard_at_s = None
            self._leftovers.spare(task)

    def end_all(self, now: bool) -> None:
        """End every attached task."""
        for task in list(self._tasks.values()):
            self._end(task, now)
        if now:
            self._leftovers.hurry(clock.now_s())
            self.tick()

    def hunt(self, uid: int, spared: set[tuple[bytes, ...]]) -> None:
        """End what a user's dead helper left behind, but for detached tasks (their marks).

        Call it after the helper was reaped: its tasks are then children of this process.
        """
        self._leftovers.hunt(uid, spared)
        self.tick()

    def _end(self, task: Task, now: bool) -> None:
        now_s = clock.now_s()
        if now:
            task.hard_at_s = now_s
            self._kill_hard(task)
        elif task.hard_at_s is None:
            task.hard_at_s = now_s + task.spec.kill_grace_s
            for signum in GENTLE:
                _signal_group(task.pid, signum)
            self._signal_outside_group(task)

    def _signal_outside_group(self, task: Task) -> None:
        queue = [(child, task.pid) for child in descendants.children_of(task.pid)]
        while queue:
            pid, parent = queue.pop()
            queue += [(child, pid) for child in descendants.children_of(pid)]
            stat = descendants.stat_of(pid)
            if stat is not None and stat.group != task.pid:
                for signum in GENTLE:
                    descendants.send(pid, signum, parent)
        for orphan in self._leftovers.of(task):
            if orphan.group != task.pid:
                descendants.send_tree([orphan.pid], GENTLE)

    def _kill_hard(self, task: Task) -> None:
        # What lives outside the group first, while it can still be found under the task's process.
        descendants.kill_tree([task.pid, *[orphan.pid for orphan in self._leftovers.of(task)]])
        _signal_group(task.pid, signal.SIGKILL)

    # -- reaping -----------------------------------------------------------------------------

    def reap(self) -> None:
        """Collect every child that has ended; emits TaskEnded. Call it after SIGCHLD."""
        reaped = False
        now_s = clock.now_s()
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                break
            if pid == 0:
                break
            reaped = True
            self._leftovers.reaped(pid)
            task = self._by_pid.pop(pid, None)
            if task is None:
                if self._other_ended is not None:
                    self._other_ended(pid, status)
                continue
            task.ended_s = now_s
            self._leftovers.task_ended(task)
            if not task.detached:
                del self._tasks[task.number]
                self._emit(TaskEnded(task.number, _outcome(status), task.hard_at_s is not None))
        if reaped:
            self._leftovers.survey(now_s)

    # -- time --------------------------------------------------------------------------------

    def next_deadline_s(self) -> float | None:
        """Return the monotonic time at which ``tick`` has something to do, or None."""
        due_s = self._leftovers.next_deadline_s()
        for task in self._by_pid.values():
            due_s = earlier(due_s, task.hard_at_s)
        return due_s

    def tick(self) -> None:
        """Do what is due: SIGKILL after the grace, and the ends of what tasks left behind."""
        now_s = clock.now_s()
        for task in list(self._by_pid.values()):
            if task.hard_at_s is not None and task.hard_at_s <= now_s:
                self._kill_hard(task)
                task.hard_at_s = now_s + SWEEP_S
        self._leftovers.tick(now_s)

    def close(self) -> None:
        """Give up what the launcher itself holds."""
        self._leftovers.close()


def _outcome(status: int) -> Outcome:
    code = os.waitstatus_to_exitcode(status)
    return outcome.exited(code) if code >= 0 else outcome.killed(-code)


def _signal_group(group: int, signum: int) -> None:
    # The group's number is the pid of our own unreaped child, so nobody else can have it.
    try:
        os.killpg(group, signum)
    except OSError:
        pass  # it has moved to another group, or belongs to somebody else by now (sudo)
