"""Finds the leftovers of tasks among this process's children, and leaves them alone or ends them.

The process is a child subreaper, so a process below a task that outlives its parent becomes a child
of this process (``spawner.orphan`` finds its task). Leftovers of a task that ended by itself are left
alone, unless the node's policy ends them; leftovers of a task whose end was requested are ended. A
leftover that hides its task is treated like those of the first task to end that could have started
it: it is ended only if a task that was ended could own it.
"""

from __future__ import annotations

import signal
from collections import deque
from collections.abc import Callable, Iterable
from typing import Final

from gexec.core.deadlines import earlier
from gexec.posix import cgroups, clock, descendants
from gexec.spawner.cells import Cells
from gexec.spawner.orphan import DUE, LEFT, OPEN, Orphan, Owners, could_own, what_is_left
from gexec.spawner.task import TaskProcess
from gexec.wire.messages import ProcessLeft

#: Time between two rounds of SIGKILL.
SWEEP_S: Final = 0.02
#: Signals that request an end; SIGCONT, because the process may be stopped.
GENTLE: Final = (int(signal.SIGHUP), int(signal.SIGTERM), int(signal.SIGCONT))
#: Rounds after which a process that cannot be killed (a set-uid program of another user) is left alone.
_ROUNDS_MAX: Final = 250
#: Remembered tasks whose leftovers are left alone; the oldest are forgotten first.
_MARKS_MAX: Final = 4096
_PAST_MAX: Final = 1024


class Leftovers:
    """All orphans of one launcher.

    Args:
        running: the launcher's running tasks by pid; the launcher keeps it up to date.
        not_orphans: returns the pids of children that are neither tasks nor leftovers (helpers).
        on_left: called ``linger_s`` after the end of a task that ended by itself and has leftovers.
        linger_s: how long to wait for the end of processes that still hold a task's output; if the
            policy ends leftovers, how long they may live.
        cells: the control groups of the tasks; None = they have none.
    """

    def __init__(
        self,
        running: dict[int, TaskProcess],
        not_orphans: Callable[[], set[int]],
        on_left: Callable[[ProcessLeft], None],
        linger_s: float,
        cells: Cells | None = None,
    ) -> None:
        self._cells = cells
        self._running = running
        self._not_orphans = not_orphans
        self._on_left = on_left
        self._linger_s = linger_s
        self._orphans: dict[int, Orphan] = {}
        self._open: dict[int, Orphan] = {}
        self._due: dict[int, Orphan] = {}
        #: Orphans that were reaped since the last survey: the next one may find processes that they started.
        self._reaped: list[Orphan] = []
        #: Tasks that were reaped since the last ``settle``.
        self._fresh: list[TaskProcess] = []
        #: By number: tasks that ended by themselves with leftovers, which are ended if the job is ended.
        self._past: dict[int, TaskProcess] = {}
        #: Those tasks, and those whose leftovers the policy ends, oldest first, until they are reported.
        self._lingering: deque[TaskProcess] = deque()
        #: Tasks whose leftovers are ended as soon as they are found.
        self._ended: list[TaskProcess] = []
        self._purge_s: float | None = None
        self._left_marks: dict[tuple[bytes, bytes], None] = {}
        self._left_pids: frozenset[int] = frozenset()
        self._children = descendants.Children()

    @property
    def owed(self) -> bool:
        """True while leftovers exist that will be ended."""
        return bool(self._due)

    # -- what the launcher reports -----------------------------------------------------------

    def task_ended(self, task: TaskProcess) -> None:
        """Note that a task was reaped and is no longer in ``running``. Call ``settle`` next."""
        self._fresh.append(task)

    def reaped(self, pid: int) -> None:
        """Note that a child was reaped: a task, an orphan or another one."""
        orphan = self._orphans.get(pid)
        if orphan is not None:
            self._drop(orphan)

    def forget(self, task: TaskProcess) -> None:
        """Leave this task's leftovers alone."""
        self._remember(task.mark)
        if self._cells is not None and task.cell is not None:
            self._cells.leave(task.cell)

    def lost(
        self,
        tasks: Iterable[TaskProcess],
        left_marks: Iterable[tuple[bytes, bytes]],
        left_pids: Iterable[int],
    ) -> None:
        """Note that a user's helper has ended: its children are now this process's. Call ``settle`` next.

        Args:
            tasks: the tasks that ran under it; all their processes are ended.
            left_marks, left_pids: what the helper had left alone.
        """
        # Orphans that were found before these tasks were known here: ``survey`` decides about them again.
        for orphan in [orphan for orphan in self._orphans.values() if orphan.guessed]:
            self._drop(orphan)
        for mark in left_marks:
            self._remember(mark)
        self._left_pids |= frozenset(left_pids)
        self._ended += tasks

    def end_past(self, number: int, now: bool, now_s: float) -> None:
        """End the leftovers of a task that has ended; do nothing if it is not remembered."""
        task = self._past_task(number)
        if task is None:
            return
        if self._past.pop(number, None) is not None:
            task.hard_at_s = now_s + task.kill_grace_s
            self._hunt_for(task, now_s)
        for orphan in list(self._orphans.values()):
            if orphan.owner is task and (now or orphan.state == LEFT):
                self._condemn(orphan, now_s, asked=now)

    def forget_past(self, number: int) -> None:
        """Leave alone the leftovers of a task that ended before it was detached."""
        task = self._past_task(number)
        if task is not None and not task.ending:
            task.detached = True
            self.forget(task)
            for orphan in self.of(task):
                self._leave(orphan)

    def _past_task(self, number: int) -> TaskProcess | None:
        task = self._past.get(number)
        for ended in self._ended:
            if task is None and ended.number == number:
                task = ended
        return task

    def hurry(self, now_s: float) -> None:
        """Make everything that will be ended due now, with SIGKILL."""
        for orphan in self._due.values():
            self._condemn(orphan, now_s, asked=True)

    # -- finding the tasks -------------------------------------------------------------------

    def survey(self) -> None:
        """Find new orphans among the children: usually none, which costs one read."""
        strangers = set(self._children.pids()) - self._running.keys()
        strangers -= self._not_orphans()
        for pid in self._orphans.keys() - strangers:
            self._drop(self._orphans[pid])
        fresh = strangers - self._orphans.keys()
        if fresh:
            tasks = (*self._past.values(), *self._ended, *self._fresh, *self._running.values())
            owners = Owners(tasks, (*self._reaped, *self._orphans.values()))
            now_s = clock.now_s()
            for pid in fresh:
                stat = descendants.stat_of(pid)
                if stat is not None:
                    cell = "" if self._cells is None else cgroups.cell_of(pid)
                    orphan = self._orphans[pid] = Orphan(pid, stat, cell)
                    self._judge(orphan, owners, now_s)
                    owners.add(orphan)
        self._reaped.clear()

    def of(self, task: TaskProcess) -> list[Orphan]:
        """Return the orphans that belong to a task."""
        return [orphan for orphan in self._orphans.values() if orphan.owner is task]

    def _judge(self, orphan: Orphan, owners: Owners, now_s: float) -> None:
        """Decide what to do with a new orphan."""
        task = owners.task_of(orphan)
        if task is not None:
            orphan.owner = task
            if task.until is None or task in self._fresh:
                self._open[orphan.pid] = orphan
            elif task in self._ended:
                self._condemn_for(orphan, task, now_s)
            else:
                orphan.state = LEFT
            return
        if orphan.cell or orphan.mark in self._left_marks or orphan.pid in self._left_pids:
            orphan.state = LEFT
            return
        kin = owners.kin_of(orphan)
        if kin is not None:
            orphan.owner, orphan.state = kin.owner, kin.state
            if kin.state == DUE:
                self._condemn(orphan, kin.due_s, kin.asked)
            elif kin.state == OPEN:
                self._open[orphan.pid] = orphan
            return
        self._judge_hidden(orphan, now_s)

    def _judge_hidden(self, orphan: Orphan, now_s: float) -> None:
        for task in self._ended:
            if could_own(task, orphan):
                self._condemn_for(orphan, task, now_s)
                return
        if any(could_own(task, orphan) for task in (*self._fresh, *self._running.values())):
            self._open[orphan.pid] = orphan
        else:
            orphan.state, orphan.guessed = LEFT, True

    # -- ending and leaving alone ------------------------------------------------------------

    def settle(self, now_s: float) -> None:
        """Find the leftovers of the tasks that have just ended, and decide what to do with them."""
        self.survey()
        fresh, self._fresh = self._fresh, []
        self._left_pids = frozenset()
        # First the tasks whose end was requested: orphans that could be of several tasks end with them.
        for task in sorted(fresh, key=_ends_by_itself):
            mine = [orphan for orphan in self._open.values() if self._goes_with(orphan, task)]
            if task.ending:
                self._hunt_for(task, now_s)
                for orphan in mine:
                    self._condemn_for(orphan, task, now_s)
            elif mine or (task.cell is not None and task.cell.is_occupied):
                self._let_be(task, mine, now_s)
            else:
                self._give(task)
        if self._ended and self._purge_s is None:
            self._purge_s = now_s + self._linger_s  # for tasks of a lost helper

    def _goes_with(self, orphan: Orphan, task: TaskProcess) -> bool:
        return orphan.owner is task or (orphan.owner is None and could_own(task, orphan))

    def _let_be(self, task: TaskProcess, mine: list[Orphan], now_s: float) -> None:
        """Handle the leftovers of a task that ended by itself."""
        for orphan in mine:
            orphan.owner = task
        if not task.detached:
            self._lingering.append(task)
        if not task.leaves and not task.detached:
            self._hunt_for(task, now_s)
            for orphan in mine:
                self._condemn(orphan, now_s + self._linger_s, asked=False)
            return
        self.forget(task)
        if not task.detached:
            self._past[task.number] = task
            if len(self._past) > _PAST_MAX:
                self._past.pop(next(iter(self._past)))
        for orphan in mine:
            self._leave(orphan)

    def _give(self, task: TaskProcess) -> None:
        """Give back the cell of a task that has left nothing."""
        if self._cells is not None and task.cell is not None:
            self._cells.give(task.cell)
            task.cell = None

    def _hunt_for(self, task: TaskProcess, now_s: float) -> None:
        self._ended.append(task)
        if self._purge_s is None:
            self._purge_s = now_s + self._linger_s

    def _condemn_for(self, orphan: Orphan, task: TaskProcess, now_s: float) -> None:
        """End an orphan of a task that was ended."""
        hard_at_s = task.hard_at_s
        # The task's known orphans and the processes below it got HUP and TERM together with the task.
        asked = hard_at_s is not None and (orphan.owner is task or hard_at_s <= now_s)
        orphan.owner = task
        self._condemn(orphan, now_s if hard_at_s is None or not asked else hard_at_s, asked)

    def _condemn(self, orphan: Orphan, due_s: float, asked: bool) -> None:
        orphan.state, orphan.due_s, orphan.asked = DUE, due_s, asked
        self._open.pop(orphan.pid, None)
        self._due[orphan.pid] = orphan

    def _leave(self, orphan: Orphan) -> None:
        orphan.state = LEFT
        self._open.pop(orphan.pid, None)
        self._due.pop(orphan.pid, None)

    def _drop(self, orphan: Orphan) -> None:
        del self._orphans[orphan.pid]
        self._open.pop(orphan.pid, None)
        self._due.pop(orphan.pid, None)
        self._reaped.append(orphan)

    def _remember(self, mark: tuple[bytes, bytes]) -> None:
        self._left_marks[mark] = None
        if len(self._left_marks) > _MARKS_MAX:
            self._left_marks.pop(next(iter(self._left_marks)))

    # -- time --------------------------------------------------------------------------------

    def next_deadline_s(self) -> float | None:
        """Return the monotonic time at which ``tick`` is due, or None."""
        due_s = self._purge_s
        if self._lingering:
            due_s = earlier(due_s, self._reported_s(self._lingering[0]))
        for orphan in self._due.values():
            due_s = earlier(due_s, orphan.due_s)
        return due_s

    def tick(self, now_s: float) -> None:
        """Report leftovers, and end those that are due: HUP and TERM, then SIGKILL until they are gone."""
        due_s = self.next_deadline_s()
        if due_s is None or due_s > now_s:
            return
        self.survey()
        while self._lingering and self._reported_s(self._lingering[0]) <= now_s:
            self._report(self._lingering.popleft())
        for orphan in list(self._due.values()):
            if orphan.due_s <= now_s:
                self._end(orphan, now_s)
        if self._purge_s is not None and self._purge_s <= now_s:
            self._purge(now_s)

    def _end(self, orphan: Orphan, now_s: float) -> None:
        if not orphan.asked:
            grace_s = self._linger_s if orphan.owner is None else orphan.owner.kill_grace_s
            orphan.asked, orphan.due_s = True, now_s + grace_s
            descendants.send_tree([orphan.pid], GENTLE)
            return
        if not (orphan.cell and orphan.owner is not None and self.end_cell(orphan.owner)):
            descendants.kill_tree([orphan.pid])
        orphan.rounds += 1
        orphan.due_s = now_s + SWEEP_S
        if orphan.rounds >= _ROUNDS_MAX:
            self._leave(orphan)

    def end_cell(self, task: TaskProcess) -> bool:
        """End everything in a task's cell with SIGKILL; False if it has none."""
        if self._cells is None or task.cell is None:
            return False
        self._cells.end(task.cell)
        return True

    def _purge(self, now_s: float) -> None:
        """Forget tasks that ended at least ``linger_s`` ago and have no leftovers that must be ended."""
        owners = {id(orphan.owner) for orphan in self._due.values()}
        before_s = now_s - self._linger_s
        ended, self._ended = self._ended, []
        for task in ended:
            if id(task) in owners or (task.ended_s or now_s) > before_s or self._is_unfinished(task, now_s):
                self._ended.append(task)
            else:
                self._give(task)
        self._purge_s = now_s + self._linger_s if self._ended else None

    def _is_unfinished(self, task: TaskProcess, now_s: float) -> bool:
        """Tell whether something in a task's cell has time left; end what was found among no orphans."""
        if task.cell is None or not task.cell.is_due:
            return False
        until_s = max(task.hard_at_s or 0.0, self._reported_s(task) + task.kill_grace_s)
        if now_s >= until_s:
            self.end_cell(task)
        return now_s < until_s

    def _reported_s(self, task: TaskProcess) -> float:
        return (task.ended_s or 0.0) + self._linger_s

    def _report(self, task: TaskProcess) -> None:
        """Report a task's leftovers, if some still exist and their end was not requested since."""
        if task.ending:
            return
        left = what_is_left(task, [orphan.pid for orphan in self.of(task)])
        if left.processes:
            self._on_left(left)
        else:
            self._past.pop(task.number, None)

    def close(self) -> None:
        """Close the descriptor that this object holds."""
        self._children.close()


def _ends_by_itself(task: TaskProcess) -> bool:
    return not task.ending
