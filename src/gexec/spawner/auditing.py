"""Writes the spawner's lines of the audit log: who ran what, what was refused, how it ended."""

from __future__ import annotations

from typing import Final

from gexec.posix.audit import AuditLog
from gexec.security.credential import Credential
from gexec.security.policy import Account
from gexec.spawner.admission import Admitted
from gexec.wire import denials
from gexec.wire.denials import PeerDenied
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
            **_who(credential),
            node=admitted.job.names[launch.rank],
            program=launch.program,
            argv=_clipped(launch.argv),
            cwd=launch.cwd,
        )

    def refused(
        self, task: int, rank: int | None, code: str, reason: str, credential: Credential | None
    ) -> None:
        """Record that a rank does not run; ``credential`` is None if it is not verified."""
        fields: dict[str, object] = {"task": task, "rank": rank, "reason": reason}
        source = "relay"
        if credential is not None:
            source = f"uid {credential.uid}"
            fields |= {"job": credential.job_id.hex(), **_who(credential)}
        self._audit.deny("spawner", source, code, **fields)

    def not_started(
        self, task: int, about: tuple[Account, LaunchSpec] | None, code: str, reason: str
    ) -> None:
        """Record that an accepted rank does not run."""
        fields: dict[str, object] = {"task": task, "rank": None, "reason": reason}
        source = "relay"
        if about is not None:
            (account, launch), uid = about, about[0].uid
            source = f"uid {uid}"
            fields |= {"rank": launch.rank, "job": launch.job_hex, "user": account.name, "uid": uid}
        self._audit.deny("spawner", source, code, **fields)

    def peer_denied(self, said: PeerDenied) -> None:
        """Record that the relay has refused a peer's request; nothing of it is verified."""
        fields = {name: value for name in ("peer", "job", "user", "reason") if (value := getattr(said, name))}
        self._audit.deny("relay", said.source, denials.CODES[said.code], count=said.count, **fields)

    def next_deadline_s(self) -> float | None:
        """Return when ``tick`` is due (``posix.clock``), or None."""
        return self._audit.next_deadline_s()

    def tick(self) -> None:
        """Do what is due."""
        self._audit.tick()

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


def _who(credential: Credential) -> dict[str, object]:
    return {
        "user": credential.user,
        "uid": credential.uid,
        "gid": credential.gid,
        "origin": credential.host,
        "key": credential.key_id.hex(),
    }


def _clipped(argv: list[bytes]) -> list[bytes]:
    shown = [argument[:_ARGUMENT_MAX_BYTES] for argument in argv[:_ARGUMENTS_MAX]]
    if len(argv) > _ARGUMENTS_MAX:
        shown.append(b"... (%d in all)" % len(argv))
    return shown
