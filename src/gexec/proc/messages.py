"""What relay, spawner and helpers say to one another: message classes and their bytes.

A message is a head of 10 bytes (kind u8, flags u8, task u32, value u32) and a payload. The
payload is in the datagram, or in a sealed memfd sent along (FLAG_MEMFD) when it is large; the
transport is ``proc.channel``. Everything malformed raises ProtocolError, which ends the channel.
"""

from __future__ import annotations

from struct import Struct
from struct import error as StructError
from typing import NamedTuple

from gexec import limits
from gexec.core.outcome import NAMES as OUTCOME_NAMES
from gexec.core.outcome import Outcome
from gexec.errors import ProtocolError

HEAD = Struct("!BBII")
FLAG_MEMFD = 1
#: Payloads up to this size go in the datagram itself.
INLINE_MAX_BYTES = 64 * 1024
#: A launch can be a little larger than the job: GEXEC_SVRS and friends.
PAYLOAD_MAX_BYTES = limits.JOB_BLOB_MAX_BYTES + limits.CREDENTIAL_MAX_BYTES + 2 * limits.ARG_MAX_BYTES
TASK_MAX = 2**32 - 1

RUN, CHECK, SIGNAL, KILL, FORGET, LAUNCH = 1, 2, 3, 4, 5, 6
STARTED, READY, REFUSED, ENDED, CERTIFICATES, KEYS = 16, 17, 18, 19, 20, 21

_U16 = Struct("!H")
_OUTCOME = Struct("!Bi")
_THREE = Struct("!III")
_SPEC = Struct("!BHI16sIIIII")


class Message(NamedTuple):
    """One message as the transport sees it."""

    kind: int
    task: int
    value: int
    payload: bytes
    fds: tuple[int, ...]


class LaunchSpec(NamedTuple):
    """One task, ready to be started: what is left of a job when everything has been checked."""

    program: bytes
    argv: list[bytes]
    env: list[bytes]
    cwd: bytes
    umask: int
    remote_path: bool
    kill_grace_s: float
    job_id: bytes
    rank: int

    def pack(self) -> bytes:
        """Return the payload of a LAUNCH."""
        argv = b"\0".join(self.argv)
        env = b"\0".join(self.env)
        head = _SPEC.pack(
            self.remote_path, self.umask, self.rank, self.job_id, int(self.kill_grace_s * 1000),
            len(self.program), len(argv), len(env), len(self.cwd),
        )  # fmt: skip
        return b"".join((head, self.program, argv, env, self.cwd))

    @classmethod
    def unpack(cls, payload: bytes) -> LaunchSpec:
        """Return the spec of a payload."""
        remote_path, umask, rank, job_id, grace_ms, *lengths = _SPEC.unpack_from(payload)
        program, argv, env, cwd = _fields(payload, _SPEC.size, lengths)
        entries = env.split(b"\0") if env else []
        return cls(
            program, argv.split(b"\0"), entries, cwd, umask, bool(remote_path), grace_ms / 1000, job_id, rank
        )


# -- requests: to the spawner, and from it to a helper -----------------------------------------


class Run(NamedTuple):
    """Start this rank of the job, with these fds as stdin, stdout and stderr."""

    task: int
    rank: int
    credential: bytes
    blob: bytes
    fds: tuple[int, ...]


class Check(NamedTuple):
    """Do everything for this rank but the start itself."""

    task: int
    rank: int
    credential: bytes
    blob: bytes


class Launch(NamedTuple):
    """To a helper: start this, or with no fds only check whether it could be started."""

    task: int
    spec: LaunchSpec
    fds: tuple[int, ...]


class SignalTask(NamedTuple):
    """Send a signal to the task's process group."""

    task: int
    signum: int


class KillTask(NamedTuple):
    """End the task: gracefully, or at once."""

    task: int
    now: bool


class ForgetTask(NamedTuple):
    """Report no more of this task and leave it running."""

    task: int


Request = Run | Check | Launch | SignalTask | KillTask | ForgetTask

# -- events: from a helper to the spawner, and from it to the relay ----------------------------


class TaskStarted(NamedTuple):
    """The task runs as this process."""

    task: int
    pid: int


class TaskReady(NamedTuple):
    """The checked task could be started."""

    task: int


class TaskRefused(NamedTuple):
    """The task does not run: NOT_STARTED or DENIED."""

    task: int
    outcome: Outcome


class TaskEnded(NamedTuple):
    """The task's process ended."""

    task: int
    outcome: Outcome


class Certificates(NamedTuple):
    """A renewed key, its certificate and the cluster's authority, PEM."""

    key_pem: bytes
    certificate_pem: bytes
    authority_pem: bytes


class AcceptedKeys(NamedTuple):
    """The public keys that count from now on, PEM, one after another."""

    pem: bytes


Event = TaskStarted | TaskReady | TaskRefused | TaskEnded | Certificates | AcceptedKeys


# -- coding ------------------------------------------------------------------------------------


def request_message(request: Request) -> Message:
    """Return the message of a request."""
    match request:
        case Run(task, rank, credential, blob, fds):
            return Message(RUN, task, rank, _job(credential, blob), fds)
        case Check(task, rank, credential, blob):
            return Message(CHECK, task, rank, _job(credential, blob), ())
        case Launch(task, spec, fds):
            return Message(LAUNCH, task, 0, spec.pack(), fds)
        case SignalTask(task, signum):
            return Message(SIGNAL, task, signum, b"", ())
        case KillTask(task, now):
            return Message(KILL, task, now, b"", ())
        case ForgetTask(task):
            return Message(FORGET, task, 0, b"", ())


def event_message(event: Event) -> Message:
    """Return the message of an event."""
    match event:
        case TaskStarted(task, pid):
            return Message(STARTED, task, pid, b"", ())
        case TaskReady(task):
            return Message(READY, task, 0, b"", ())
        case TaskRefused(task, outcome):
            return Message(REFUSED, task, 0, _packed_outcome(outcome), ())
        case TaskEnded(task, outcome):
            return Message(ENDED, task, 0, _packed_outcome(outcome), ())
        case Certificates(key, certificate, authority):
            head = _THREE.pack(len(key), len(certificate), len(authority))
            return Message(CERTIFICATES, 0, 0, b"".join((head, key, certificate, authority)), ())
        case AcceptedKeys(pem):
            return Message(KEYS, 0, 0, pem, ())


def request_of(message: Message) -> Request:
    """Return the request of a message; ProtocolError if it is none."""
    kind, task, value, payload, fds = message
    if len(fds) != 3 and not (len(fds) == 0 and kind != RUN):
        raise ProtocolError(f"message {kind} brings {len(fds)} file descriptors: expected 3 or none")
    try:
        if kind in (RUN, CHECK):
            credential, blob = _unjob(payload)
            if kind == RUN:
                return Run(task, value, credential, blob, fds)
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
        return SignalTask(task, value)
    if kind == KILL and value <= 1:
        return KillTask(task, bool(value))
    if kind == FORGET:
        return ForgetTask(task)
    raise ProtocolError(f"message {kind} with value {value} is not a request")


def event_of(message: Message) -> Event:
    """Return the event of a message; ProtocolError if it is none."""
    kind, task, value, payload, fds = message
    _no_fds(kind, fds)
    try:
        if kind == STARTED:
            return TaskStarted(task, value)
        if kind == READY:
            return TaskReady(task)
        if kind == REFUSED:
            return TaskRefused(task, _unpacked_outcome(payload))
        if kind == ENDED:
            return TaskEnded(task, _unpacked_outcome(payload))
        if kind == CERTIFICATES:
            key, certificate, authority = _fields(payload, _THREE.size, _THREE.unpack_from(payload))
            return Certificates(key, certificate, authority)
        if kind == KEYS:
            return AcceptedKeys(payload)
    except StructError as error:
        raise ProtocolError(f"message {kind} is cut short: {error}") from error
    raise ProtocolError(f"message {kind} is not an event")


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


def _fields(payload: bytes, position: int, lengths: tuple[int, ...] | list[int]) -> list[bytes]:
    if position + sum(lengths) != len(payload):
        raise ProtocolError("message is cut short or has bytes after its end")
    fields = []
    for length in lengths:
        fields.append(payload[position : position + length])
        position += length
    return fields
