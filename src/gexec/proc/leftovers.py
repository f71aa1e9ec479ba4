"""What tasks leave behind: found among this process's children, and ended in time.

The process is a child subreaper, so whatever outlives its parent below a task becomes a child of
this process. It is recognised by its environment or its process group; what hides whose it is goes
when no task runs that it could belong to.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from typing import Final

from gexec.core.deadlines import earlier
from gexec.proc import clock, descendants
from gexec.proc.task import Task

#: Between two rounds of SIGKILL while something still lives.
SWEEP_S: Final = 0.02
#: What asks a process to end; SIGCONT, because it may be stopped.
GENTLE: Final = (int(signal.SIGHUP), int(signal.SIGTERM), int(signal.SIGCONT))
#: Rounds after which what cannot be killed (a set-uid program of another user) is given up.
_ROUNDS_MAX: Final = 250
#: Detached tasks whose leftovers are left alone; the oldest are forgotten first.
_DETACHED_MAX: Final = 4096


class Orphan:
    """A child of this process that is neither a task nor known to its owner."""

    __slots__ = ("group", "hard_at_s", "mark", "pid", "rounds", "seen_s", "uid")

    def __init__(self, pid: int, mark: tuple[bytes, ...], group: int, now_s: float) -> None:
        self.pid = pid
        self.uid = descendants.uid_of(pid)
        self.mark = mark
        self.group = group
        self.seen_s = now_s
        self.hard_at_s: float | None = None
        self.rounds = 0


class Leftovers:
    """All orphans of one launcher.

    Args:
        running: the launcher's running tasks by pid, always as they are now.
        not_orphans: the pids of children that are neither tasks nor theirs (the relay, helpers).
        linger_s: how long leftovers of an ended task may live.
    """

    def __init__(
        self, running: dict[int, Task], not_orphans: Callable[[], set[int]], linger_s: float
    ) -> None:
        self._running = running
        self._not_orphans = not_orphans
        self._linger_s = linger_s
        self._orphans: dict[int, Orphan] = {}
        #: Ended tasks whose leftovers are still being seen to.
        self._past: dict[tuple[bytes, ...], Task] = {}
        self._detached: dict[tuple[bytes, ...], None] = {}
        self._hunted: dict[int, set[tuple[bytes, ...]]] = {}
        self._idle_since_s = clock.now_s()
        self._children = descendants.Children()
        self._uid = os.geteuid()

    @property
    def owed(self) -> bool:
        """True while something is left that will be ended."""
        return any(self._due_s(orphan) is not None for orphan in self._orphans.values())

    # -- what the launcher tells -------------------------------------------------------------

    def task_started(self, task: Task) -> None:
        """A task runs (again: a rank may run once more only under another job id)."""
        self._past.pop(task.mark, None)

    def task_ended(self, task: Task) -> None:
        """A task's process was reaped, and is no longer among the running."""
        self._past[task.mark] = task
        if not self._running and task.ended_s is not None:
            self._idle_since_s = task.ended_s

    def reaped(self, pid: int) -> None:
        """A child has ended, whoever it was."""
        self._orphans.pop(pid, None)

    def past_task(self, number: int) -> Task | None:
        """Return the ended task of this number while its leftovers are being seen to."""
        for task in self._past.values():
            if task.number == number:
                return task
        return None

    def spare(self, task: Task) -> None:
        """Leave alone what this task leaves behind."""
        self._detached[task.mark] = None
        if len(self._detached) > _DETACHED_MAX:
            self._detached.pop(next(iter(self._detached)))

    def hunt(self, uid: int, spared: set[tuple[bytes, ...]]) -> None:
        """End what a user's dead helper left behind, but for detached tasks (their marks)."""
        self._hunted[uid] = spared
        self.survey(clock.now_s())

    def hurry(self, now_s: float) -> None:
        """Let everything that will be ended be due now, with SIGKILL."""
        for orphan in self._orphans.values():
            if self._due_s(orphan) is not None:
                orphan.hard_at_s = now_s

    # -- whose it is -------------------------------------------------------------------------

    def survey(self, now_s: float) -> None:
        """Note the children that are nobody's: usually none, at the cost of one read."""
        strangers = set(self._children.pids()) - self._running.keys()
        strangers -= self._not_orphans()
        for pid in strangers - self._orphans.keys():
            stat = descendants.stat_of(pid)
            if stat is None:
                continue
            env = descendants.environ_of(pid)
            mark = _entry(env, b"GEXEC_JOB="), _entry(env, b"GEXEC_MY_VNN=")
            self._orphans[pid] = Orphan(pid, mark, stat.group, now_s)
        for pid in self._orphans.keys() - strangers:
            del self._orphans[pid]
        if not self._orphans:
            self._past.clear()

    def of(self, task: Task) -> list[Orphan]:
        """Return the orphans that belong to a task."""
        return [orphan for orphan in self._orphans.values() if self._owner(orphan) is task]

    def _owner(self, orphan: Orphan) -> Task | None:
        """Return the task that an orphan belongs to: by its environment, else by its group."""
        for task in self._running.values():
            if task.mark == orphan.mark or task.pid == orphan.group:
                return task
        for task in self._past.values():
            if task.mark == orphan.mark or task.pid == orphan.group:
                return task
        return None

    # -- when it goes ------------------------------------------------------------------------

    def _due_s(self, orphan: Orphan) -> float | None:
        """Return when something is to be done about an orphan; None = it is left alone."""
        if orphan.rounds >= _ROUNDS_MAX:
            return None
        if orphan.hard_at_s is not None:
            return orphan.hard_at_s
        owner = self._owner(orphan)
        if owner is not None:
            if owner.ended_s is None or owner.detached:
                return None
            return owner.ended_s if owner.hard_at_s is not None else owner.ended_s + self._linger_s
        hunted = self._hunted.get(orphan.uid) if orphan.uid is not None else None
        if hunted is not None:
            return None if orphan.mark in hunted else orphan.seen_s
        if orphan.mark in self._detached or self._running:
            return None
        # It hides whose it is; once nothing runs that it could belong to, it goes.
        if orphan.uid != self._uid:
            return None
        return max(orphan.seen_s, self._idle_since_s) + self._linger_s

    def next_deadline_s(self) -> float | None:
        """Return the monotonic time at which ``tick`` has something to do, or None."""
        due_s: float | None = None
        for orphan in self._orphans.values():
            due_s = earlier(due_s, self._due_s(orphan))
        return due_s

    def tick(self, now_s: float) -> None:
        """End what is due: first gently, then with SIGKILL until it is gone."""
        if self._orphans:
            self.survey(now_s)
        for orphan in list(self._orphans.values()):
            due_s = self._due_s(orphan)
            if due_s is None or due_s > now_s:
                continue
            if orphan.hard_at_s is None:
                owner = self._owner(orphan)
                if owner is not None and owner.hard_at_s is not None:
                    orphan.hard_at_s = max(now_s, owner.hard_at_s)
                else:
                    grace_s = owner.spec.kill_grace_s if owner is not None else self._linger_s
                    orphan.hard_at_s = now_s + grace_s
                    descendants.send_tree([orphan.pid], GENTLE)
            else:
                descendants.kill_tree([orphan.pid])
                orphan.rounds += 1
                orphan.hard_at_s = now_s + SWEEP_S

    def close(self) -> None:
        """Give up the descriptor that this holds."""
        self._children.close()


def _entry(env: list[bytes], start: bytes) -> bytes:
    """Return the first entry of an environment that starts so, or nothing."""
    for entry in env:
        if entry.startswith(start):
            return entry
    return b""
