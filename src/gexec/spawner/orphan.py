"""A process below a task that outlived its parent, and how its task is found.

Its task is found by its cell, the control group that each task has where gexecd may make some; else by the
mark in its environment, by its process group, by the output pipe that it holds, or by the group or session
that it shares with another such process. A process without a cell that hides all of these could be of any
task that ran when it was started.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import Final

from gexec.posix import descendants
from gexec.spawner.task import TaskProcess
from gexec.wire.messages import LEFT_SHOWN_MAX, ProcessLeft

OPEN: Final = "open"  #: the end of a task that still runs decides what is done with it
DUE: Final = "due"  #: it is being ended
LEFT: Final = "left"  #: it is left alone, unless the end of its task is requested later
#: Processes of one task that are examined for a report.
_LOOKED_AT_MAX: Final = 1024


class Orphan:
    """A child of this process that is neither a task nor a helper.

    Attributes:
        born: when it was started, in ``clock.ticks``.
        cell: the name of its cell; "" = it has none.
        owner: its task; None = not known.
        state: OPEN, DUE or LEFT.
        due_s: when the next signal is due (state DUE, monotonic).
        asked: it got HUP and TERM, so SIGKILL is next.
        rounds: how often it got SIGKILL.
        guessed: it is left alone only because no known task could have started it.
    """

    __slots__ = (
        "asked", "born", "cell", "due_s", "group", "guessed", "mark", "owner", "pid", "rounds", "session",
        "state", "uid",
    )  # fmt: skip

    def __init__(self, pid: int, stat: descendants.Stat, cell: str = "") -> None:
        env = descendants.environ_of(pid)
        self.pid = pid
        self.cell = cell
        self.uid = descendants.uid_of(pid)
        self.mark = _entry(env, b"GEXEC_JOB="), _entry(env, b"GEXEC_MY_VNN=")
        self.group = stat.group
        self.session = stat.session
        self.born = stat.born
        self.owner: TaskProcess | None = None
        self.state = OPEN
        self.due_s = 0.0
        self.asked = False
        self.rounds = 0
        self.guessed = False


def could_own(task: TaskProcess, orphan: Orphan) -> bool:
    """Return whether a process that hides its task was started while this task ran, as the same user.

    A process in a cell hides nothing.
    """
    if orphan.cell or orphan.uid != task.uid or orphan.born < task.since:
        return False
    return task.until is None or orphan.born <= task.until


def what_is_left(task: TaskProcess, pids: list[int]) -> ProcessLeft:
    """Count a task's leftovers: these children of this process, and what is below them."""
    found = holders = 0
    shown: list[str] = []
    for pid in pids:
        if found >= _LOOKED_AT_MAX:
            break
        stat = descendants.stat_of(pid)
        if stat is None:
            continue
        pids += descendants.children_of(pid)
        if stat.state in "ZX":
            continue
        found += 1
        if len(shown) < LEFT_SHOWN_MAX:
            shown.append(f"{pid} {stat.name}")
        if task.leaves and task.outputs & descendants.pipes_of(pid):
            holders += 1
    return ProcessLeft(task.number, holders, found, tuple(shown))


class Owners:
    """Finds the task of an orphan, at one moment.

    Args:
        tasks: all possible tasks; of two with the same mark, group or pipe the later one is used.
        kin: the known orphans.
    """

    def __init__(self, tasks: Iterable[TaskProcess], kin: Iterable[Orphan]) -> None:
        self._cells: dict[str, TaskProcess] = {}
        self._marks: dict[tuple[bytes, bytes], TaskProcess] = {}
        self._groups: dict[int, TaskProcess] = {}
        self._outputs: dict[int, TaskProcess] = {}
        for task in tasks:
            if task.cell is not None:
                self._cells[task.cell.name] = task
            self._marks[task.mark] = task
            self._groups[task.pid] = task
            for inode in task.outputs:
                self._outputs[inode] = task
        # Every task is in this process's own session, so this session identifies no task.
        self._own_group, self._own_session = os.getpgrp(), os.getsid(0)
        self._kin_groups: dict[int, Orphan] = {}
        self._kin_sessions: dict[int, Orphan] = {}
        for orphan in kin:
            self.add(orphan)

    def add(self, orphan: Orphan) -> None:
        """Use an orphan to recognise others of its group or session.

        Its pid is used as both numbers: it may have begun a session after it was first examined.
        """
        self._kin_groups[orphan.pid] = self._kin_sessions[orphan.pid] = orphan
        if orphan.group != self._own_group:
            self._kin_groups[orphan.group] = orphan
        if orphan.session != self._own_session:
            self._kin_sessions[orphan.session] = orphan

    def task_of(self, orphan: Orphan) -> TaskProcess | None:
        """Return the task that the orphan certainly belongs to, or None."""
        if orphan.cell:
            return self._cells.get(orphan.cell)
        task = self._marks.get(orphan.mark) or self._groups.get(orphan.group)
        if task is None and self._outputs:
            for inode in descendants.pipes_of(orphan.pid):
                task = task or self._outputs.get(inode)
        return task

    def kin_of(self, orphan: Orphan) -> Orphan | None:
        """Return an orphan of the same group or session: the kernel reuses no number that is in use."""
        return self._kin_groups.get(orphan.group) or self._kin_sessions.get(orphan.session)


def _entry(env: list[bytes], start: bytes) -> bytes:
    """Return the first entry of an environment that begins with ``start``, or b""."""
    for entry in env:
        if entry.startswith(start):
            return entry
    return b""
