"""The launcher's record of a task."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from gexec.spawner.cells import Cell  # the starter has none


def mark_of(job_id: bytes, rank: int) -> tuple[bytes, bytes]:
    """Return the environment entries by which a task's processes are recognised."""
    return b"GEXEC_JOB=" + job_id.hex().encode(), b"GEXEC_MY_VNN=%d" % rank


class TaskProcess:
    """A started task; it is kept for some time after its end.

    Args:
        number: the relay's number of the task.
        pid: its process, which leads its process group.
        mark: the environment entries that its processes have.
        uid: the user that it runs as.
        since: when it was started, in ``clock.ticks``.
        kill_grace_s: time from HUP and TERM to KILL.
        leaves: if it ends by itself, its leftovers are left alone (the node's policy).

    Attributes:
        until: when its process was reaped, in ticks; None = it runs.
        ended_s: the same, monotonic.
        shown_pid: the process that is reported: the command's, also if ``pid`` is its keeper.
        outputs: the inodes of its stdout and stderr, if they are pipes.
        detached: it reports only its end, and its leftovers are left alone.
        hard_at_s: when SIGKILL is due (monotonic); None = it is not being ended.
        sweeps: how often it was sent SIGKILL.
        cell: the control group that it and all that it starts are in; None = it has none.
        signalled: it was sent a signal that requests its end (^C).
    """

    __slots__ = (
        "cell", "detached", "ended_s", "hard_at_s", "kill_grace_s", "leaves", "mark", "number", "outputs",
        "pid", "shown_pid", "signalled", "since", "sweeps", "uid", "until",
    )  # fmt: skip

    def __init__(
        self,
        number: int,
        pid: int,
        mark: tuple[bytes, bytes],
        *,
        uid: int,
        since: int,
        kill_grace_s: float,
        leaves: bool = True,
    ) -> None:
        self.number = number
        self.pid = self.shown_pid = pid
        self.mark = mark
        self.uid = uid
        self.since = since
        self.kill_grace_s = kill_grace_s
        self.leaves = leaves
        self.until: int | None = None
        self.ended_s: float | None = None
        self.outputs: frozenset[int] = frozenset()
        self.detached = False
        self.hard_at_s: float | None = None
        self.signalled = False
        self.sweeps = 0
        self.cell: Cell | None = None

    @property
    def ending(self) -> bool:
        """True if its end was requested: it has not ended, or will not end, by itself."""
        return not self.detached and (self.hard_at_s is not None or self.signalled)
