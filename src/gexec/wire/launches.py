"""Messages between the spawner and its starter and helpers (their form: ``wire.messages``).

A *helper* starts one user's tasks. The *starter* starts those of gexecd's own identity, forks the helpers
and ends the tasks of a helper that has died. A relay's table has none of the classes of this module.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from struct import Struct
from typing import Any, Final

from gexec import limits
from gexec.errors import ProtocolError
from gexec.wire.messages import (
    FORGET,
    KILL,
    OF_PROCESSES,
    OUTCOME,
    SIGNAL,
    ForgetProcess,
    Form,
    KillProcess,
    Payload,
    ProcessEvent,
    SignalProcess,
    Table,
    fields,
)
from gexec.wire.outcome import Outcome

_U32: Final = Struct("!I")
_SPEC: Final = Struct("!BHI16sIIIII")
_REMOTE_PATH: Final = 1
_LEAVES: Final = 2
#: Maximum of one user's groups: NGROUPS_MAX of Linux.
_GROUPS_MAX: Final = 65_536


@dataclass(slots=True)
class LaunchSpec:
    """One task, ready to be started: the part of a checked job that the start needs.

    ``leaves``: if the task ends by itself, its leftovers are left alone.
    """

    program: bytes
    argv: list[bytes]
    env: list[bytes]
    cwd: bytes
    umask: int
    remote_path: bool
    kill_grace_s: float
    job_id: bytes
    rank: int
    leaves: bool = True

    @property
    def job_hex(self) -> str:
        """The job id in hexadecimal, as users see it."""
        return self.job_id.hex()

    def pack(self) -> bytes:
        """Return the spec as bytes."""
        argv = b"\0".join(self.argv)
        env = b"\0".join(self.env)
        flags = (_REMOTE_PATH if self.remote_path else 0) | (_LEAVES if self.leaves else 0)
        head = _SPEC.pack(
            flags, self.umask, self.rank, self.job_id, int(self.kill_grace_s * 1000),
            len(self.program), len(argv), len(env), len(self.cwd),
        )  # fmt: skip
        return b"".join((head, self.program, argv, env, self.cwd))

    @classmethod
    def unpack(cls, payload: bytes) -> LaunchSpec:
        """Return the spec that ``pack`` wrote."""
        flags, umask, rank, job_id, grace_ms, *lengths = _SPEC.unpack_from(payload)
        program, argv, env, cwd = fields(payload, _SPEC.size, lengths)
        return cls(
            program,
            argv.split(b"\0"),
            env.split(b"\0") if env else [],
            cwd,
            umask,
            bool(flags & _REMOTE_PATH),
            grace_ms / 1000,
            job_id,
            rank,
            bool(flags & _LEAVES),
        )


# -- to a helper -------------------------------------------------------------------------------


@dataclass(slots=True)
class Launch:
    """Start this task, with these fds as stdin, stdout and stderr."""

    task: int
    spec: LaunchSpec
    fds: tuple[int, ...]


@dataclass(slots=True)
class LaunchCheck:
    """Check whether this task could be started."""

    task: int
    spec: LaunchSpec


HelperRequest = Launch | LaunchCheck | SignalProcess | KillProcess | ForgetProcess
_LAUNCH: Final = Payload(("spec",), LaunchSpec.pack, lambda payload: (LaunchSpec.unpack(payload),))
LAUNCH: Final = 6
#: What a spawner may send to a helper.
TO_HELPER: Final[Table] = {
    3: SIGNAL,
    4: KILL,
    5: FORGET,
    LAUNCH: Form(Launch, payload=_LAUNCH, fds=3),
    7: Form(LaunchCheck, payload=_LAUNCH),
}


@dataclass(slots=True)
class ProcessRan:
    """The task ran as this process and ended so soon that its start was not reported separately.

    For ``outcome`` and ``ending`` see ``messages.ProcessEnded``.
    """

    task: int
    pid: int
    outcome: Outcome
    ending: bool


def _pack_ran(outcome: Outcome, ending: bool) -> bytes:
    return OUTCOME.pack(outcome) + bytes((ending,))


def _unpack_ran(payload: bytes) -> tuple[Any, ...]:
    if payload[-1:] not in (b"\0", b"\1"):
        raise ProtocolError("the end of a process is cut short")
    return (*OUTCOME.unpack(payload[:-1]), payload[-1] == 1)


HelperEvent = ProcessEvent | ProcessRan
#: What a helper may send.
FROM_HELPER: Final[Table] = {
    **OF_PROCESSES,
    24: Form(ProcessRan, "pid", payload=Payload(("outcome", "ending"), _pack_ran, _unpack_ran)),
}


# -- to the starter ----------------------------------------------------------------------------


@dataclass(slots=True)
class NewHelper:
    """Fork a helper with this number, which becomes this user; ``fds``: its channel to the spawner."""

    task: int
    uid: int
    gids: tuple[int, ...]  #: the primary group first
    fds: tuple[int, ...]


@dataclass(slots=True)
class SignalHelper:
    """Send a signal to a helper: SIGCONT or SIGKILL."""

    task: int
    signum: int


@dataclass(slots=True)
class OldTask:
    """A task of a helper that has died: the data needed to find and end its processes.

    Attributes:
        since, until: when it was started and reaped, in ``clock.ticks``; until None = it still ran.
        ago_s: how long ago it was reaped; None = it still ran.
        ending: its end was requested; False = it ended by itself.
        leaves: the node's policy leaves the leftovers alone if the task ended by itself.
    """

    number: int
    pid: int
    job_hex: str
    rank: int
    since: int
    until: int | None
    ago_s: float | None
    kill_grace_s: float
    leaves: bool
    ending: bool


@dataclass(slots=True)
class LostTasks:
    """The answer to each HelperGone: which processes of that helper's tasks the starter must end.

    Attributes:
        tasks: tasks whose processes must be ended.
        marks: (job id in hex, rank) of tasks whose leftovers are left alone.
        pids: the pids of some of these leftovers.
    """

    task: int
    uid: int
    tasks: list[OldTask]
    marks: list[tuple[str, int]]
    pids: list[int]


@dataclass(slots=True)
class HelperGone:
    """A helper was reaped, or could not be forked; in the latter case ``why`` is the reason."""

    task: int
    why: str = ""


def _pack_gids(gids: tuple[int, ...]) -> bytes:
    return b"".join([_U32.pack(gid) for gid in gids])


def _unpack_gids(payload: bytes) -> tuple[tuple[int, ...]]:
    if not _U32.size <= len(payload) <= _U32.size * _GROUPS_MAX:
        raise ProtocolError(f"a helper of no group, or of over {_GROUPS_MAX}")
    return (tuple([gid for (gid,) in _U32.iter_unpack(payload)]),)


def _pack_lost(tasks: list[OldTask], marks: list[tuple[str, int]], pids: list[int]) -> bytes:
    return json.dumps([[asdict(task) for task in tasks], marks, pids]).encode()


def _unpack_lost(payload: bytes) -> tuple[list[OldTask], list[Any], list[int]]:
    try:
        # As UTF-8: of bytes, json would guess the encoding, and load its codec.
        tasks, marks, pids = json.loads(payload.decode())
        return [OldTask(**task) for task in tasks], [(job, int(rank)) for job, rank in marks], pids
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ProtocolError(f"the tasks of a helper that is gone are malformed: {error}") from error


def _pack_why(why: str) -> bytes:
    return why.encode("utf-8", "backslashreplace")[: limits.TEXT_MAX_BYTES]


NEW_HELPER: Final = 8
#: What a spawner may send to its starter.
TO_STARTER: Final[Table] = {
    **TO_HELPER,
    NEW_HELPER: Form(NewHelper, "uid", payload=Payload(("gids",), _pack_gids, _unpack_gids), fds=1),
    9: Form(SignalHelper, "signum", 1, 64),
    10: Form(LostTasks, "uid", payload=Payload(("tasks", "marks", "pids"), _pack_lost, _unpack_lost)),
}
#: What a starter may send.
FROM_STARTER: Final[Table] = {
    **FROM_HELPER,
    23: Form(HelperGone, payload=Payload(("why",), _pack_why, lambda why: (why.decode(errors="replace"),))),
}
