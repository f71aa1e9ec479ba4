"""Writes the spawner's lines of the audit log: who ran what, what was refused, how it ended."""

from __future__ import annotations

from typing import Final

from gexec.posix import clock
from gexec.posix.audit import AuditLog
from gexec.security.credential import Credential
from gexec.security.policy import Account
from gexec.spawner.admission import Admitted
from gexec.spawner.launching import LaunchedTask
from gexec.wire import denials, outcome
from gexec.wire.denials import PeerDenied
from gexec.wire.launches import LaunchSpec
from gexec.wire.messages import ProcessLeft
from gexec.wire.outcome import Outcome

_ARGUMENTS_MAX: Final = 32
_ARGUMENT_MAX_BYTES: Final = 256
#: The field that has an outcome's value, by its kind.
_ENDS: Final = {outcome.EXITED: "status", outcome.KILLED: "signal", outcome.TIMED_OUT: "signal"}


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

    @classmethod
    def restored(cls, job_hex: str, rank: int, leaves: bool, uid: int, told: bool, helper: int) -> EndedTask:
        """Return one with these attributes."""
        launch = LaunchSpec(b"", [], [], b"", 0, False, 0.0, bytes.fromhex(job_hex), rank, leaves)
        task = cls(launch, uid, helper)
        task.told = told
        return task


class AuditRecords:
    """One line for each decision and event of a task; ``task`` is the relay's number of the task."""

    def __init__(self, audit: AuditLog, audited_only: bool) -> None:
        self._audit = audit
        self._audited_only = audited_only

    @property
    def refusal(self) -> str:
        """Why no task may start, one sentence for the user."""
        return (
            f"this node's audit log cannot be written ({self._audit.trouble}), and it starts nothing without "
            'a record (audit_failure = "refuse" in gexecd.toml)'
        )

    def accepted(self, task: int, admitted: Admitted) -> bool:
        """Record that a rank may run. Returns False if it may not, because the record cannot be written."""
        credential, launch = admitted.credential, admitted.launch
        is_written = self._audit.write(
            "accept",
            task=task,
            job=launch.job_hex,
            rank=launch.rank,
            **_who(credential),
            target=admitted.job.names[launch.rank],
            program=launch.program,
            argv=_clipped(launch.argv),
            cwd=launch.cwd,
        )
        return is_written or not self._audited_only

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

    def started(self, number: int, task: LaunchedTask) -> None:
        """Record that a rank runs."""
        launch, account = task.launch, task.account
        self._audit.write(
            "exec",
            task=number,
            job=launch.job_hex,
            rank=launch.rank,
            user=account.name,
            uid=account.uid,
            pid=task.pid,
        )

    def killed(self, number: int, task: LaunchedTask, now: bool, reason: str) -> None:
        """Record that the spawner ends a rank."""
        launch = task.launch
        self._audit.write(
            "kill",
            task=number,
            job=launch.job_hex,
            rank=launch.rank,
            uid=task.account.uid,
            pid=task.pid,
            now=now,
            reason=reason,
        )

    def ended(self, number: int, task: LaunchedTask, ended: Outcome) -> None:
        """Record that a rank has ended."""
        launch, account = task.launch, task.account
        value = {_ENDS[ended.kind]: ended.value} if ended.kind in _ENDS else {}
        self._audit.write(
            "exit",
            task=number,
            job=launch.job_hex,
            rank=launch.rank,
            user=account.name,
            uid=account.uid,
            pid=task.pid,
            outcome=ended.describe(),
            **value,
            duration_s=round(clock.now_s() - task.started_s, 3) if task.started_s else 0.0,
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
