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

_SPEC: Final = Struct("!BHI16sIIIIII")
_REMOTE_PATH: Final = 1
_LEAVES: Final = 2
#: Maximum of one user's groups: NGROUPS_MAX of Linux.
_GROUPS_MAX: Final = 65_536


@dataclass(slots=True)
class Keeping:
    """What the keeper of a background job's rank gets beside the launch itself.

    Attributes:
        spool: the node's directory of background jobs.
        jobs_max, bytes_max: the node's limits of one user's kept ranks.
        name, keep_bytes, lease_s, holds: see ``wire.background``; the name as a text.
        timeout_s: the command is ended after this time; 0 = never.
        node: the node's name in the job.
        ranks: how many the job has.
        user: the login name of its user.
    """

    spool: str
    jobs_max: int
    bytes_max: int
    name: str
    keep_bytes: int
    lease_s: float
    holds: bool
    timeout_s: float
    node: str
    ranks: int
    user: str

    def encode(self) -> bytes:
        """Return its bytes: one JSON object."""
        return json.dumps(asdict(self)).encode()

    @classmethod
    def decode(cls, raw: bytes) -> Keeping:
        """Return what ``encode`` wrote. Raises ProtocolError for anything else."""
        try:
            return cls(**json.loads(raw.decode()))
        except (ValueError, TypeError) as error:
            raise ProtocolError(f"what a keeper gets is malformed: {error}") from error


@dataclass(slots=True)
class LaunchSpec:
    """One task, ready to be started: the part of a checked job that the start needs.

    ``leaves``: if the task ends by itself, its leftovers are left alone. ``keeping``: of a background job.
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
    keeping: Keeping | None = None

    @property
    def job_hex(self) -> str:
        """The job id in hexadecimal, as users see it."""
        return self.job_id.hex()

    def pack(self) -> bytes:
        """Return the spec as bytes."""
        argv = b"\0".join(self.argv)
        env = b"\0".join(self.env)
        keeping = b"" if self.keeping is None else self.keeping.encode()
        flags = (_REMOTE_PATH if self.remote_path else 0) | (_LEAVES if self.leaves else 0)
        head = _SPEC.pack(
            flags, self.umask, self.rank, self.job_id, int(self.kill_grace_s * 1000),
            len(self.program), len(argv), len(env), len(self.cwd), len(keeping),
        )  # fmt: skip
        return b"".join((head, self.program, argv, env, self.cwd, keeping))

    @classmethod
    def unpack(cls, payload: bytes) -> LaunchSpec:
        """Return the spec that ``pack`` wrote."""
        flags, umask, rank, job_id, grace_ms, *lengths = _SPEC.unpack_from(payload)
        program, argv, env, cwd, keeping = fields(payload, _SPEC.size, lengths)
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
            Keeping.decode(keeping) if keeping else None,
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


@dataclass(frozen=True, slots=True)
class Becoming:
    """What a helper becomes. Helpers start tasks for equal ones only.

    Attributes:
        uid: the user; gexecd's own uid if gexecd was not started as root.
        gids: all groups, the primary group first.
        user: the login name, for PAM.
        limits: (name of an RLIMIT in lower case, soft, hard), for its tasks and itself; -1 = unlimited.
        nice: added to the nice value.
        pam: the PAM service that checks the account and opens a session; "" = none.
        allow_commands, deny_commands: programs that it starts (``spawner.commands``).
        spool: the node's directory of background jobs, in which it gets one of its own; "" = none.
    """

    uid: int
    gids: tuple[int, ...]
    user: str = ""
    limits: tuple[tuple[str, int, int], ...] = ()
    nice: int = 0
    pam: str = ""
    allow_commands: tuple[str, ...] = ()
    deny_commands: tuple[str, ...] = ()
    spool: str = ""

    @property
    def is_plain(self) -> bool:
        """True if it is only an identity."""
        return not (self.limits or self.nice or self.pam or self.allow_commands or self.deny_commands)


@dataclass(slots=True)
class NewHelper:
    """Fork a helper with this number; ``fds``: its channel to the spawner."""

    task: int
    becoming: Becoming
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
    """A helper was reaped, or could not begin; in the latter case ``why`` is the reason.

    ``denied``: the account may not use this node.
    """

    task: int
    why: str = ""
    denied: bool = False


#: What the reason of a helper that must not begin starts with, in the pipe to the starter.
DENIED_MARK: Final = b"denied\0"


@dataclass(slots=True)
class StarterNote:
    """A sentence of the starter for the log of gexecd."""

    text: str


def _pack_becoming(becoming: Becoming) -> bytes:
    return json.dumps(asdict(becoming)).encode()


def _unpack_becoming(payload: bytes) -> tuple[Becoming]:
    try:
        # As UTF-8: of bytes, json would guess the encoding, and load its codec.
        told = json.loads(payload.decode())
        for name, value in told.items():
            if isinstance(value, list):
                told[name] = tuple([tuple(item) if isinstance(item, list) else item for item in value])
        becoming = Becoming(**told)
    except (ValueError, TypeError, AttributeError) as error:
        raise ProtocolError(f"what a helper becomes is malformed: {error}") from error
    if not 1 <= len(becoming.gids) <= _GROUPS_MAX:
        raise ProtocolError(f"a helper of no group, or of over {_GROUPS_MAX}")
    return (becoming,)


def _pack_lost(tasks: list[OldTask], marks: list[tuple[str, int]], pids: list[int]) -> bytes:
    return json.dumps([[asdict(task) for task in tasks], marks, pids]).encode()


def _unpack_lost(payload: bytes) -> tuple[list[OldTask], list[Any], list[int]]:
    try:
        tasks, marks, pids = json.loads(payload.decode())
        return [OldTask(**task) for task in tasks], [(job, int(rank)) for job, rank in marks], pids
    except (ValueError, TypeError, OverflowError, RecursionError) as error:
        raise ProtocolError(f"the tasks of a helper that is gone are malformed: {error}") from error


def _pack_text(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")[: limits.TEXT_MAX_BYTES]


def _unpack_text(payload: bytes) -> tuple[str]:
    return (payload.decode(errors="replace"),)


NEW_HELPER: Final = 8
#: What a spawner may send to its starter.
TO_STARTER: Final[Table] = {
    **TO_HELPER,
    NEW_HELPER: Form(NewHelper, payload=Payload(("becoming",), _pack_becoming, _unpack_becoming), fds=1),
    9: Form(SignalHelper, "signum", 1, 64),
    10: Form(LostTasks, "uid", payload=Payload(("tasks", "marks", "pids"), _pack_lost, _unpack_lost)),
}
#: What a starter may send.
FROM_STARTER: Final[Table] = {
    **FROM_HELPER,
    23: Form(HelperGone, "denied", 0, 1, Payload(("why",), _pack_text, _unpack_text)),
    25: Form(StarterNote, payload=Payload(("text",), _pack_text, _unpack_text), of_task=False),
}
