"""Writes the spawner's lines of the audit log: who ran what, what was refused, how it ended."""

from __future__ import annotations

from typing import Final

from gexec.posix.audit import AuditLog
from gexec.spawner.admission import Admitted
from gexec.wire.launches import LaunchSpec
from gexec.wire.messages import ProcessLeft
from gexec.wire.outcome import Outcome

_ARGUMENTS_MAX: Final = 32
_ARGUMENT_MAX_BYTES: Final = 256


class EndedTask:
    """What the spawner keeps of an ended task: its job, its user, and the helper that has its leftovers."""

    __slots__ = ("helper", "job_hex", "leaves", "rank", "told", "uid")

    def __init__(self, launch: LaunchSpec, uid: int, helper: int) -> None:
        self.job_hex = launch.job_hex
        self.rank = launch.rank
        self.leaves = launch.leaves
        self.uid = uid
        self.told = False
        self.helper = helper


class AuditRecords:
    """One line for each decision and event of a task; ``task`` is the relay's number of the task."""

    def __init__(self, audit: AuditLog) -> None:
        self._audit = audit

    def accepted(self, task: int, admitted: Admitted) -> None:
        """Record that a rank may run."""
        credential, launch = admitted.credential, admitted.launch
        self._audit.write(
            "accept",
            task=task,
            job=launch.job_hex,
            rank=launch.rank,
            user=credential.user,
            uid=credential.uid,
            origin=credential.host,
            node=admitted.job.names[launch.rank],
            program=launch.program,
            argv=_clipped(launch.argv),
            cwd=launch.cwd,
        )

    def refused(self, task: int, rank: int | None, code: str, reason: str) -> None:
        """Record that a rank does not run."""
        self._audit.write("deny", task=task, rank=rank, code=code, reason=reason)

    def started(self, task: int, launch: LaunchSpec, uid: int, pid: int) -> None:
        """Record that a rank runs."""
        self._audit.write("exec", task=task, job=launch.job_hex, rank=launch.rank, uid=uid, pid=pid)

    def killed(self, task: int, launch: LaunchSpec, pid: int, now: bool, reason: str) -> None:
        """Record that the spawner ends a rank."""
        self._audit.write(
            "kill", task=task, job=launch.job_hex, rank=launch.rank, pid=pid, now=now, reason=reason
        )

    def ended(self, task: int, launch: LaunchSpec, pid: int, outcome: Outcome) -> None:
        """Record that a rank has ended."""
        self._audit.write(
            "exit", task=task, job=launch.job_hex, rank=launch.rank, pid=pid, outcome=outcome.describe()
        )

    def left(self, left: ProcessLeft, task: EndedTask) -> None:
        """Record that a rank ended by itself and left processes; if they are many, only some are named."""
        self._audit.write(
            "left",
            task=left.task,
            job=task.job_hex,
            rank=task.rank,
            uid=task.uid,
            action="left alone" if task.leaves else "ended",
            processes=left.processes,
            holders=left.holders,
            names=left.shown,
        )


def _clipped(argv: list[bytes]) -> list[bytes]:
    shown = [argument[:_ARGUMENT_MAX_BYTES] for argument in argv[:_ARGUMENTS_MAX]]
    if len(argv) > _ARGUMENTS_MAX:
        shown.append(b"... (%d in all)" % len(argv))
    return shown
