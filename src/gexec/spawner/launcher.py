"""Starts, watches and ends tasks with the identity of this process.

It runs in the starter and in each user's helper. One thread, no event loop of its own: the owner calls
``reap`` after SIGCHLD and ``tick`` when ``next_deadline_s`` is due, and gets events through ``emit``.

The process must be a child subreaper (``posix.identity.become_subreaper``): what a task leaves behind then
becomes a child of this process, is found among its children (``spawner.leftovers``), and is left alone or
ended.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable, Iterable
from typing import Final

from gexec.core.deadlines import earlier
from gexec.limits import LINGER_S
from gexec.posix import clock, descendants
from gexec.posix.reaping import reaped
from gexec.spawner import starting
from gexec.spawner.cells import Cell, Cells
from gexec.spawner.keeping import spawn_kept
from gexec.spawner.leftovers import GENTLE, SWEEP_S, Leftovers
from gexec.spawner.starting import Refusal, Ways
from gexec.spawner.task import TaskProcess, mark_of
from gexec.wire import outcome
from gexec.wire.launches import HelperEvent, LaunchSpec, ProcessRan
from gexec.wire.messages import ProcessEnded, ProcessReady, ProcessRefused, ProcessStarted
from gexec.wire.outcome import Outcome

#: How long the report that a task runs may wait for the report that it has ended: most commands end soon,
#: and then one event reports both.
_STARTED_HELD_S: Final = 0.05
#: Maximum of tasks at a time whose start is held back: the relay may delay further launches until then.
_HELD_MAX: Final = 32
#: A task that has not ended after so many SIGKILLs (its storage hangs, perhaps for days) gets fewer of them.
_SWEEPS_MAX: Final = 250
_SLOW_SWEEP_S: Final = 5.0
#: Signals that request an end: a task that ends after one of them has not ended by itself.
_ENDS: Final = frozenset([signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGKILL, signal.SIGTERM])


class Launcher:
    """Tasks of one identity.

    Args:
        emit: called with each event.
        other_ended: called with the pid of a reaped child that is no task.
        not_orphans: returns the pids of children that are neither tasks nor leftovers (helpers).
        linger_s: how long after a task's end its leftovers are reported; see ``Leftovers``.
        ways: how tasks are started.
        cells: control groups for the tasks; None = they get none.
    """

    def __init__(
        self,
        emit: Callable[[HelperEvent], None],
        *,
        other_ended: Callable[[int], None] = lambda pid: None,
        not_orphans: Callable[[], set[int]] = set,
        linger_s: float = LINGER_S,
        ways: Ways | None = None,
        cells: Cells | None = None,
    ) -> None:
        self._emit = emit
        self._other_ended = other_ended
        self._uid = os.geteuid()
        self._ways = ways or Ways()
        self._tasks: dict[int, TaskProcess] = {}
        self._by_pid: dict[int, TaskProcess] = {}
        #: Started tasks whose start is not reported yet, oldest first, and when the report is due.
        self._held: dict[int, float] = {}
        self._cells = cells
        self._leftovers = Leftovers(self._by_pid, not_orphans, emit, linger_s, cells)

    @property
    def tasks(self) -> int:
        """Number of tasks whose processes run, with detached ones."""
        return len(self._by_pid)

    @property
    def attached(self) -> int:
        """Number of running tasks, without detached ones."""
        return len([task for task in self._by_pid.values() if not task.detached])

    @property
    def settled(self) -> bool:
        """True when nothing is left that must end before this process may end."""
        return not self.attached and not self._leftovers.owed

    # -- starting ----------------------------------------------------------------------------

    def start(self, number: int, spec: LaunchSpec, fds: tuple[int, ...]) -> None:
        """Start a task; emits ProcessStarted, at its end ProcessRan, or ProcessRefused.

        Closes ``fds`` (stdin, stdout, stderr).
        """
        try:
            if number in self._tasks:
                self._emit(ProcessRefused(number, outcome.not_started("the task number is in use")))
                return
            since = clock.ticks()
            outputs = descendants.pipe_inodes(fds[1:])
            pid, shown_pid, cell = self._spawn(spec, fds)
        except Refusal as refusal:
            self._emit(ProcessRefused(number, refusal.outcome))
            return
        finally:
            for fd in fds:
                os.close(fd)
        task = TaskProcess(
            number,
            pid,
            mark_of(spec.job_id, spec.rank),
            uid=self._uid,
            since=since,
            kill_grace_s=spec.kill_grace_s,
            leaves=spec.leaves,
        )
        task.shown_pid = shown_pid
        task.outputs = outputs
        task.cell = cell
        self._tasks[number] = self._by_pid[pid] = task
        self._held[number] = clock.now_s() + _STARTED_HELD_S
        if len(self._held) > _HELD_MAX:
            self._tell_started(next(iter(self._held)))

    def _spawn(self, spec: LaunchSpec, fds: tuple[int, ...]) -> tuple[int, int, Cell | None]:
        """Start a task, if possible in a cell; return the pids of our child and its program, and the cell.

        Raises:
            Refusal: as ``starting.spawn``.
        """
        cells = self._cells
        cell = None if cells is None else cells.enter()
        if cells is None or cell is None:
            return *self._spawn_here(spec, fds), None
        started = is_out = False
        try:
            pid, shown_pid = self._spawn_here(spec, fds)
            started = True
        finally:
            is_out = cells.back()
            if is_out and not started:
                cells.give(cell)
        return pid, shown_pid, cell if is_out else None

    def _spawn_here(self, spec: LaunchSpec, fds: tuple[int, ...]) -> tuple[int, int]:
        if spec.keeping is None:
            pid = starting.spawn(spec, fds, self._ways)
            return pid, pid
        return spawn_kept(spec, spec.keeping, fds[0], self._ways)

    def _tell_started(self, number: int) -> None:
        if self._held.pop(number, None) is not None:
            self._emit(ProcessStarted(number, self._tasks[number].shown_pid))

    def check(self, number: int, spec: LaunchSpec) -> None:
        """Check whether a task could be started; emits ProcessReady or ProcessRefused."""
        try:
            starting.check(spec, self._ways)
        except Refusal as refusal:
            self._emit(ProcessRefused(number, refusal.outcome))
        else:
            self._emit(ProcessReady(number))

    # -- signals and ends --------------------------------------------------------------------

    def signal(self, number: int, signum: int) -> None:
        """Send a signal to the task's process group.

        If the task has ended already, a signal that requests an end (INT, TERM, HUP, QUIT, KILL) ends
        its leftovers.
        """
        task = self._tasks.get(number)
        if task is not None:
            task.signalled = task.signalled or signum in _ENDS
            _signal_group(task.pid, signum)
        elif signum in _ENDS:
            self.kill(number, signum == signal.SIGKILL)

    def kill(self, number: int, now: bool) -> None:
        """End a task: HUP, TERM and CONT to all its processes, KILL after its grace; or KILL at once.

        If the task has ended already, end its leftovers, as long as the task is remembered.
        """
        task = self._tasks.get(number)
        if task is not None:
            self._leftovers.survey()
            self._end(task, now)
        else:
            self._leftovers.end_past(number, now, clock.now_s())
            self.tick()

    def forget(self, number: int) -> None:
        """Detach a task: emit nothing more but its end, and leave it and its leftovers alone."""
        self._tell_started(number)
        task = self._tasks.pop(number, None)
        if task is not None:
            task.detached = True
            task.hard_at_s = None
            self._leftovers.forget(task)
        else:
            self._leftovers.forget_past(number)

    def end_all(self, now: bool) -> None:
        """End every attached task."""
        self._leftovers.survey()
        for task in list(self._tasks.values()):
            self._end(task, now)
        if now:
            self._leftovers.hurry(clock.now_s())
            self.tick()

    def lost(
        self,
        tasks: Iterable[TaskProcess],
        left_marks: Iterable[tuple[bytes, bytes]],
        left_pids: Iterable[int],
    ) -> None:
        """Take over from a helper that was reaped: end its tasks, leave alone what it left alone."""
        self.reap()
        self._leftovers.lost(tasks, left_marks, left_pids)
        self._leftovers.settle(clock.now_s())

    def _end(self, task: TaskProcess, now: bool) -> None:
        now_s = clock.now_s()
        if now:
            task.hard_at_s = now_s
            self._kill_hard(task)
        elif task.hard_at_s is None:
            task.hard_at_s = now_s + task.kill_grace_s
            for signum in GENTLE:
                _signal_group(task.pid, signum)
            self._signal_outside_group(task)

    def _signal_outside_group(self, task: TaskProcess) -> None:
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

    def _kill_hard(self, task: TaskProcess) -> None:
        # With a cell, the rest is for processes that have left it, which only root's can.
        if self._leftovers.end_cell(task) and not task.sweeps:
            return
        # Processes outside the group first, while they can still be found below the task's process.
        descendants.kill_tree([task.pid, *[orphan.pid for orphan in self._leftovers.of(task)]])
        _signal_group(task.pid, signal.SIGKILL)

    # -- reaping -----------------------------------------------------------------------------

    def reap(self) -> None:
        """Collect every child that has ended; emits ProcessEnded or ProcessRan. Call it after SIGCHLD."""
        now_s = clock.now_s()
        some = False
        for pid, status in reaped():
            some = True
            self._leftovers.reaped(pid)
            task = self._by_pid.pop(pid, None)
            if task is None:
                self._other_ended(pid)
            else:
                self._ended(task, status, now_s)
        if some:
            self._leftovers.settle(now_s)

    def _ended(self, task: TaskProcess, status: int, now_s: float) -> None:
        task.ended_s = now_s
        task.until = clock.ticks()
        self._leftovers.task_ended(task)
        if not task.detached:
            del self._tasks[task.number]
        if self._held.pop(task.number, None) is None:
            self._emit(ProcessEnded(task.number, _outcome(status), task.ending))
        else:
            self._emit(ProcessRan(task.number, task.shown_pid, _outcome(status), task.ending))

    # -- time --------------------------------------------------------------------------------

    def next_deadline_s(self) -> float | None:
        """Return the monotonic time at which ``tick`` is due, or None."""
        due_s = self._leftovers.next_deadline_s()
        for held_s in self._held.values():
            due_s = earlier(due_s, held_s)
            break
        for task in self._by_pid.values():
            due_s = earlier(due_s, task.hard_at_s)
        return due_s

    def tick(self) -> None:
        """Do what is due: held reports, SIGKILL after the grace, and the ends of leftovers."""
        now_s = clock.now_s()
        for number in [number for number, due_s in self._held.items() if due_s <= now_s]:
            self._tell_started(number)
        for task in list(self._by_pid.values()):
            if task.hard_at_s is not None and task.hard_at_s <= now_s:
                self._kill_hard(task)
                task.sweeps += 1
                task.hard_at_s = now_s + (SWEEP_S if task.sweeps < _SWEEPS_MAX else _SLOW_SWEEP_S)
        self._leftovers.tick(now_s)

    def close(self) -> None:
        """Close the descriptor that the launcher holds."""
        self._leftovers.close()


def _outcome(status: int) -> Outcome:
    code = os.waitstatus_to_exitcode(status)
    return outcome.exited(code) if code >= 0 else outcome.killed(-code)


def _signal_group(group: int, signum: int) -> None:
    # The group's number is the pid of our own unreaped child, so no other group can have it.
    try:
        os.killpg(group, signum)
    except OSError:
        pass  # it has moved to another group, or runs as another user now (sudo)
