"""What relay, spawner and helpers say to one another: message classes and their bytes.

A message is a head of 10 bytes (kind u8, flags u8, task u32, value u32) and a payload. The
payload is in the datagram, or in a sealed memfd sent along (FLAG_MEMFD) when it is large; the
transport is ``posix.channel``. Everything malformed raises ProtocolError, which ends the channel.
"""

from __future__ import annotations

from struct import Struct
from struct import error as StructError
from typing import Final

from gexec import limits
from gexec.errors import ProtocolError
from gexec.wire.outcome import NAMES as OUTCOME_NAMES
from gexec.wire.outcome import Outcome
from gexec.wire.record import Record

HEAD: Final = Struct("!BBII")
FLAG_MEMFD: Final = 1
#: Payloads up to this size go in the datagram itself.
INLINE_MAX_BYTES: Final = 64 * 1024
#: A launch can be a little larger than the job: GEXEC_SVRS and friends.
PAYLOAD_MAX_BYTES: Final = limits.JOB_BLOB_MAX_BYTES + limits.CREDENTIAL_MAX_BYTES + 2 * limits.ARG_MAX_BYTES
TASK_MAX: Final = 2**32 - 1

RUN: Final = 1
CHECK: Final = 2
SIGNAL: Final = 3
KILL: Final = 4
FORGET: Final = 5
LAUNCH: Final = 6
STARTED: Final = 16
READY: Final = 17
REFUSED: Final = 18
ENDED: Final = 19
CERTIFICATES: Final = 20
KEYS: Final = 21
LEFT: Final = 22

_U16: Final = Struct("!H")
_COUNT: Final = Struct("!I")
_OUTCOME: Final = Struct("!Bi")
_THREE: Final = Struct("!III")
_SPEC: Final = Struct("!BHI16sIIIII")
_REMOTE_PATH: Final = 1
_LEAVES: Final = 2
#: Processes that are named in one ProcessLeft, and the bytes of each name.
LEFT_SHOWN_MAX: Final = 32
LEFT_NAME_MAX_BYTES: Final = 80


class Message(Record):
    """One message as the transport sees it."""

    __slots__ = ("fds", "kind", "payload", "task", "value")

    def __init__(self, kind: int, task: int, value: int, payload: bytes, fds: tuple[int, ...]) -> None:
        self.kind = kind
        self.task = task
        self.value = value
        self.payload = payload
        self.fds = fds


class LaunchSpec(Record):
    """One task, ready to be started: what is left of a job when everything has been checked.

    ``job_hex`` is the job id as people see it; ``leaves``: what the task leaves behind when it
    ends by itself is left alone.
    """

    __slots__ = (
        "argv", "cwd", "env", "job_hex", "job_id", "kill_grace_s", "leaves", "program", "rank", "remote_path",
        "umask",
    )  # fmt: skip

    def __init__(
        self,
        program: bytes,
        argv: list[bytes],
        env: list[bytes],
        cwd: bytes,
        umask: int,
        remote_path: bool,
        kill_grace_s: float,
        job_id: bytes,
        rank: int,
        leaves: bool = True,
    ) -> None:
        self.program = program
        self.argv = argv
        self.env = env
        self.cwd = cwd
        self.umask = umask
        self.remote_path = remote_path
        self.kill_grace_s = kill_grace_s
        self.job_id = job_id
        self.job_hex = job_id.hex()
        self.rank = rank
        self.leaves = leaves

    def pack(self) -> bytes:
        """Return the payload of a LAUNCH."""
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
        """Return the spec of a payload."""
        flags, umask, rank, job_id, grace_ms, *lengths = _SPEC.unpack_from(payload)
        program, argv, env, cwd = _fields(payload, _SPEC.size, lengths)
        entries = env.split(b"\0") if env else []
        remote_path, leaves = bool(flags & _REMOTE_PATH), bool(flags & _LEAVES)
        return cls(
            program,
            argv.split(b"\0"),
            entries,
            cwd,
            umask,
            remote_path,
            grace_ms / 1000,
            job_id,
            rank,
            leaves,
        )


# -- requests: to the spawner, and from it to a helper -----------------------------------------


class RunProcess(Record):
    """Start this rank of the job, with these fds as stdin, stdout and stderr."""

    __slots__ = ("blob", "credential", "fds", "rank", "task")

    def __init__(self, task: int, rank: int, credential: bytes, blob: bytes, fds: tuple[int, ...]) -> None:
        self.task = task
        self.rank = rank
        self.credential = credential
        self.blob = blob
        self.fds = fds


class Check(Record):
    """Do everything for this rank but the start itself."""

    __slots__ = ("blob", "credential", "rank", "task")

    def __init__(self, task: int, rank: int, credential: bytes, blob: bytes) -> None:
        self.task = task
        self.rank = rank
        self.credential = credential
        self.blob = blob


class Launch(Record):
    """To a helper: start this, or with no fds only check whether it could be started."""

    __slots__ = ("fds", "spec", "task")

    def __init__(self, task: int, spec: LaunchSpec, fds: tuple[int, ...]) -> None:
        self.task = task
        self.spec = spec
        self.fds = fds


class SignalProcess(Record):
    """Send a signal to the task's process group."""

    __slots__ = ("signum", "task")

    def __init__(self, task: int, signum: int) -> None:
        self.task = task
        self.signum = signum


class KillProcess(Record):
    """End the task: gracefully, or at once."""

    __slots__ = ("now", "task")

    def __init__(self, task: int, now: bool) -> None:
        self.task = task
        self.now = now


class ForgetProcess(Record):
    """Report no more of this task and leave it running."""

    __slots__ = ("task",)

    def __init__(self, task: int) -> None:
        self.task = task


Request = RunProcess | Check | Launch | SignalProcess | KillProcess | ForgetProcess

# -- events: from a helper to the spawner, and from it to the relay ----------------------------


class ProcessStarted(Record):
    """The task runs as this process."""

    __slots__ = ("pid", "task")

    def __init__(self, task: int, pid: int) -> None:
        self.task = task
        self.pid = pid


class ProcessReady(Record):
    """The checked task could be started."""

    __slots__ = ("task",)

    def __init__(self, task: int) -> None:
        self.task = task


class ProcessRefused(Record):
    """The task does not run: NOT_STARTED or DENIED."""

    __slots__ = ("outcome", "task")

    def __init__(self, task: int, outcome: Outcome) -> None:
        self.task = task
        self.outcome = outcome


class ProcessEnded(Record):
    """The task's process ended.

    ``ending`` says whether this side had begun to end it; if not, the task has ended by itself.
    """

    __slots__ = ("ending", "outcome", "task")

    def __init__(self, task: int, outcome: Outcome, ending: bool = False) -> None:
        self.task = task
        self.outcome = outcome
        self.ending = ending


class ProcessLeft(Record):
    """The task ended by itself, and ``holders`` of the processes that it left hold its output.

    It comes once, limits.LINGER_S after ProcessEnded. The relay gets it only if there are holders, and
    nothing but their number; they are left alone. A helper also says, for the audit log, how many
    processes were left (``processes``) and what some of them are (``shown``: "PID NAME").
    """

    __slots__ = ("holders", "processes", "shown", "task")

    def __init__(self, task: int, holders: int, processes: int = 0, shown: tuple[str, ...] = ()) -> None:
        self.task = task
        self.holders = holders
        self.processes = processes
        self.shown = shown


class Certificates(Record):
    """A renewed key, its certificate and the cluster's authority, PEM."""

    __slots__ = ("authority_pem", "certificate_pem", "key_pem")

    def __init__(self, key_pem: bytes, certificate_pem: bytes, authority_pem: bytes) -> None:
        self.key_pem = key_pem
        self.certificate_pem = certificate_pem
        self.authority_pem = authority_pem


class AcceptedKeys(Record):
    """The public keys that count from now on, PEM, one after another."""

    __slots__ = ("pem",)

    def __init__(self, pem: bytes) -> None:
        self.pem = pem


Event = (
    ProcessStarted | ProcessReady | ProcessRefused | ProcessEnded | ProcessLeft | Certificates | AcceptedKeys
)


# -- coding ------------------------------------------------------------------------------------


def request_message(request: Request) -> Message:
    """Return the message of a request."""
    task = request.task
    if isinstance(request, RunProcess):
        return Message(RUN, task, request.rank, _job(request.credential, request.blob), request.fds)
    if isinstance(request, Check):
        return Message(CHECK, task, request.rank, _job(request.credential, request.blob), ())
    if isinstance(request, Launch):
        return Message(LAUNCH, task, 0, request.spec.pack(), request.fds)
    if isinstance(request, SignalProcess):
        return Message(SIGNAL, task, request.signum, b"", ())
    if isinstance(request, KillProcess):
        return Message(KILL, task, int(request.now), b"", ())
    return Message(FORGET, task, 0, b"", ())


def event_message(event: Event) -> Message:
    """Return the message of an event."""
    if isinstance(event, ProcessStarted):
        return Message(STARTED, event.task, event.pid, b"", ())
    if isinstance(event, ProcessReady):
        return Message(READY, event.task, 0, b"", ())
    if isinstance(event, ProcessRefused):
        return Message(REFUSED, event.task, 0, _packed_outcome(event.outcome), ())
    if isinstance(event, ProcessEnded):
        return Message(ENDED, event.task, int(event.ending), _packed_outcome(event.outcome), ())
    if isinstance(event, ProcessLeft):
        return Message(LEFT, event.task, event.holders, _packed_left(event), ())
    if isinstance(event, Certificates):
        pems = (event.key_pem, event.certificate_pem, event.authority_pem)
        head = _THREE.pack(len(event.key_pem), len(event.certificate_pem), len(event.authority_pem))
        return Message(CERTIFICATES, 0, 0, b"".join((head, *pems)), ())
    return Message(KEYS, 0, 0, event.pem, ())


def request_of(message: Message) -> Request:
    """Return the request of a message; ProtocolError if it is none."""
    kind, task, value = message.kind, message.task, message.value
    payload, fds = message.payload, message.fds
    if len(fds) != 3 and not (len(fds) == 0 and kind != RUN):
        raise ProtocolError(f"message {kind} brings {len(fds)} file descriptors: expected 3 or none")
    try:
        if kind in (RUN, CHECK):
            credential, blob = _unjob(payload)
            if kind == RUN:
                return RunProcess(task, value, credential, blob, fds)
            _no_fds(kind, fds)
            return Check(task, value, credential, blob)
        if kind == LAUNCH:
            return Launch(task, LaunchSpec.unpack(payload), fds)
    except StructError as error:
        raise ProtocolError(f"message {kind} is cut short: {error}") from error
    _no_fds(kind, fds)
    if payload:
        raise ProtocolError(f"message {kind} carries {len(payload)} bytes: expected none")
    if kind == SIGNAL and 1 <= value <= 64:
        return SignalProcess(task, value)
    if kind == KILL and value <= 1:
        return KillProcess(task, bool(value))
    if kind == FORGET:
        return ForgetProcess(task)
    raise ProtocolError(f"message {kind} with value {value} is not a request")


def event_of(message: Message) -> Event:
    """Return the event of a message; ProtocolError if it is none."""
    kind, task, value = message.kind, message.task, message.value
    payload, fds = message.payload, message.fds
    _no_fds(kind, fds)
    try:
        if kind == STARTED:
            return ProcessStarted(task, value)
        if kind == READY:
            return ProcessReady(task)
        if kind == REFUSED:
            return ProcessRefused(task, _unpacked_outcome(payload))
        if kind == ENDED and value <= 1:
            return ProcessEnded(task, _unpacked_outcome(payload), bool(value))
        if kind == LEFT and (value >= 1 or payload):
            return _unpacked_left(task, value, payload)
        if kind == CERTIFICATES:
            key, certificate, authority = _fields(payload, _THREE.size, _THREE.unpack_from(payload))
            return Certificates(key, certificate, authority)
        if kind == KEYS:
            return AcceptedKeys(payload)
    except StructError as error:
        raise ProtocolError(f"message {kind} is cut short: {error}") from error
    raise ProtocolError(f"message {kind} with value {value} is not an event")


def _no_fds(kind: int, fds: tuple[int, ...]) -> None:
    if fds:
        raise ProtocolError(f"message {kind} brings {len(fds)} file descriptors: expected none")


def _job(credential: bytes, blob: bytes) -> bytes:
    if len(credential) > limits.CREDENTIAL_MAX_BYTES or len(blob) > limits.JOB_BLOB_MAX_BYTES:
        raise ValueError(f"credential of {len(credential)} or job of {len(blob)} bytes is over the limit")
    return b"".join((_U16.pack(len(credential)), credential, blob))


def _unjob(payload: bytes) -> tuple[bytes, bytes]:
    (length,) = _U16.unpack_from(payload)
    if length > limits.CREDENTIAL_MAX_BYTES or 2 + length > len(payload):
        raise ProtocolError(f"credential of {length} bytes is over the limit or cut short")
    return payload[2 : 2 + length], payload[2 + length :]


def _packed_outcome(outcome: Outcome) -> bytes:
    return _OUTCOME.pack(outcome.kind, outcome.value) + outcome.text.encode("utf-8", "backslashreplace")


def _unpacked_outcome(payload: bytes) -> Outcome:
    kind, value = _OUTCOME.unpack_from(payload)
    text = payload[_OUTCOME.size :]
    if kind >= len(OUTCOME_NAMES) or len(text) > limits.TEXT_MAX_BYTES or not 0 <= value <= 65535:
        raise ProtocolError(f"outcome {kind} with value {value} and {len(text)} bytes of text is not known")
    return Outcome(kind, value, text.decode("utf-8", "replace"))


def _packed_left(event: ProcessLeft) -> bytes:
    if not event.processes:
        return b""
    shown = [name.encode("utf-8", "backslashreplace")[:LEFT_NAME_MAX_BYTES] for name in event.shown]
    return _COUNT.pack(event.processes) + b"\0".join(shown[:LEFT_SHOWN_MAX])


def _unpacked_left(task: int, holders: int, payload: bytes) -> ProcessLeft:
    if not payload:
        return ProcessLeft(task, holders)
    (processes,) = _COUNT.unpack_from(payload)
    names = payload[_COUNT.size :].split(b"\0")
    if len(names) > LEFT_SHOWN_MAX or len(max(names, key=len)) > LEFT_NAME_MAX_BYTES:
        raise ProtocolError(f"message {LEFT} names more processes than it may")
    return ProcessLeft(
        task, holders, processes, tuple([name.decode("utf-8", "replace") for name in names if name])
    )


def _fields(payload: bytes, position: int, lengths: tuple[int, ...] | list[int]) -> list[bytes]:
    if position + sum(lengths) != len(payload):
        raise ProtocolError("message is cut short or has bytes after its end")
    fields: list[bytes] = []
    for length in lengths:
        fields.append(payload[position : position + length])
        position += length
    return fields
