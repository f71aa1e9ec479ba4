"""A task as the process that started it knows it."""

from __future__ import annotations

from gexec.proc.messages import LaunchSpec


def mark_of(job_id: bytes, rank: int) -> tuple[bytes, bytes]:
    """Return the environment entries by which a task's processes are recognised."""
    return b"GEXEC_JOB=" + job_id.hex().encode(), b"GEXEC_MY_VNN=%d" % rank


class Task:
    """A started task, until everything that it left behind is gone.

    Attributes:
        number: what the relay calls it.
        pid: its process, which leads its process group.
        detached: nobody waits for it, and what it leaves behind is left alone.
        hard_at_s: when SIGKILL comes (monotonic); None = nobody wants its end.
        ended_s: when its process was reaped.
    """

    __slots__ = ("detached", "ended_s", "hard_at_s", "mark", "number", "pid", "spec")

    def __init__(self, number: int, pid: int, spec: LaunchSpec) -> None:
        self.number = number
        self.pid = pid
        self.spec = spec
        self.mark = mark_of(spec.job_id, spec.rank)
        self.detached = False
        self.hard_at_s: float | None = None
        self.ended_s: float | None = None
