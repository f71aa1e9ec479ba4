"""Messages between relay and spawner: their classes, and a table for each sender.

A message is a head of 10 bytes (kind u8, flags u8, task u32, value u32) and a payload. The
payload is in the datagram or, if it is large, in a sealed memfd that is sent with it (FLAG_MEMFD); the
transport is ``posix.channel``. Messages between spawner, starter and helpers are in ``wire.launches``.

A receiver decodes with its sender's table, so no sender can send a message that only another one may send.
A malformed message raises ProtocolError, which ends the channel.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from struct import Struct
from struct import error as StructError
from typing import Any, Final, NamedTuple

from gexec import limits
from gexec.errors import ProtocolError
from gexec.wire import denials
from gexec.wire.denials import PeerDenied
from gexec.wire.outcome import NAMES as OUTCOME_NAMES
from gexec.wire.outcome import Outcome

HEAD: Final = Struct("!BBII")
FLAG_MEMFD: Final = 1
#: Payloads up to this size go in the datagram itself.
INLINE_MAX_BYTES: Final = 64 * 1024
#: A launch can be a little larger than the job, because of GEXEC_SVRS and similar variables.
PAYLOAD_MAX_BYTES: Final = limits.JOB_BLOB_MAX_BYTES + limits.CREDENTIAL_MAX_BYTES + 2 * limits.ARG_MAX_BYTES
U32_MAX: Final = 2**32 - 1
#: Maximum of processes that one ProcessLeft names, and of bytes of each name.
LEFT_SHOWN_MAX: Final = 32
LEFT_NAME_MAX_BYTES: Final = 80

_U16: Final = Struct("!H")
_COUNT: Final = Struct("!I")
_OUTCOME: Final = Struct("!Bi")
_THREE: Final = Struct("!III")


class Message(NamedTuple):
    """One message as the transport sends it."""

    kind: int
    task: int
    value: int = 0
    payload: bytes = b""
    fds: tuple[int, ...] = ()


class Payload(NamedTuple):
    """How fields of an object are packed into a payload, and unpacked from it."""

    names: tuple[str, ...]
    pack: Callable[..., bytes]
    unpack: Callable[[bytes], tuple[Any, ...]]


class Form(NamedTuple):
    """How objects of one class are encoded as messages.

    Attributes:
        said: the class; its fields are ``task``, ``value``, those of the payload and ``fds``.
        value: the name of the field that is the head's value; "" = no field, and the value is 0.
        least, most: bounds of the value; if ``most`` is 1, the field is a bool.
        fds: how many file descriptors the message carries, in the field ``fds``.
        of_task: the message is about a task or a helper, whose number is in ``task``.
    """

    said: Any
    value: str = ""
    least: int = 0
    most: int = U32_MAX
    payload: Payload | None = None
    fds: int = 0
    of_task: bool = True


#: The messages that a sender may send, by their kind.
Table = Mapping[int, Form]


def encode(said: Any, table: Table) -> Message:
    """Return the message for an object. TypeError: its class is not in the table."""
    for kind, form in table.items():
        if form.said is type(said):
            value = int(getattr(said, form.value)) if form.value else 0
            payload = b""
            if form.payload is not None:
                payload = form.payload.pack(*[getattr(said, name) for name in form.payload.names])
            task = said.task if form.of_task else 0
            return Message(kind, task, value, payload, said.fds if form.fds else ())
    raise TypeError(f"{type(said).__name__} is not in this sender's table")


def decode(message: Message, table: Table) -> Any:
    """Return the object of a message from the sender that ``table`` belongs to.

    Raises:
        ProtocolError: this sender may not send the message, or the message is malformed.
    """
    kind, task, value, payload, fds = message
    form = table.get(kind)
    if form is None:
        raise ProtocolError(f"message {kind} is none that this sender may send")
    if len(fds) != form.fds:
        raise ProtocolError(f"message {kind} brings {len(fds)} file descriptors: expected {form.fds}")
    if form.value and not form.least <= value <= form.most:
        raise ProtocolError(f"message {kind} with value {value}: expected {form.least} to {form.most}")
    if payload and form.payload is None:
        raise ProtocolError(f"message {kind} carries {len(payload)} bytes: expected none")
    given: dict[str, Any] = {"task": task} if form.of_task else {}
    if form.value:
        given[form.value] = value
        if form.most == 1:
            given[form.value] = bool(value)
    if form.payload is not None:
        try:
            given.update(zip(form.payload.names, form.payload.unpack(payload), strict=True))
        except StructError as error:
            raise ProtocolError(f"message {kind} is cut short: {error}") from error
    if fds:
        given["fds"] = fds
    return form.said(**given)


def fields(payload: bytes, position: int, lengths: tuple[int, ...] | list[int]) -> list[bytes]:
    """Return the fields of these lengths that begin at ``position``; ProtocolError if they do not fit."""
    if position + sum(lengths) != len(payload):
        raise ProtocolError("message is cut short or has bytes after its end")
    found: list[bytes] = []
    for length in lengths:
        found.append(payload[position : position + length])
        position += length
    return found


# -- from the relay ----------------------------------------------------------------------------


@dataclass(slots=True)
class RunProcess:
    """Start this rank of the job, with these fds as stdin, stdout and stderr."""

    task: int
    rank: int
    credential: bytes
    blob: bytes
    fds: tuple[int, ...]


@dataclass(slots=True)
class Check:
    """Check everything for this rank, but do not start it."""

    task: int
    rank: int
    credential: bytes
    blob: bytes


@dataclass(slots=True)
class SignalProcess:
    """Send a signal to the task's process group."""

    task: int
    signum: int


@dataclass(slots=True)
class KillProcess:
    """End the task: gracefully, or at once."""

    task: int
    now: bool


@dataclass(slots=True)
class ForgetProcess:
    """Send no more events of this task and leave it running."""

    task: int


@dataclass(slots=True)
class KeepOutput:
    """The task runs on and has all of its stdin: keep its stdout and stderr for the next relay.

    These are the ends that the relay reads; /dev/null for a stream that the process has closed.
    """

    task: int
    fds: tuple[int, ...]


@dataclass(slots=True)
class ReleaseOutput:
    """The relay reads no more of the task's output: keep it no longer, so that writing to it fails."""

    task: int


#: Requests about a task.
Request = RunProcess | Check | SignalProcess | KillProcess | ForgetProcess | KeepOutput | ReleaseOutput


def _pack_job(credential: bytes, blob: bytes) -> bytes:
    if len(credential) > limits.CREDENTIAL_MAX_BYTES or len(blob) > limits.JOB_BLOB_MAX_BYTES:
        raise ValueError(f"credential of {len(credential)} or job of {len(blob)} bytes is over the limit")
    return b"".join((_U16.pack(len(credential)), credential, blob))


def _unpack_job(payload: bytes) -> tuple[bytes, bytes]:
    (length,) = _U16.unpack_from(payload)
    if length > limits.CREDENTIAL_MAX_BYTES or 2 + length > len(payload):
        raise ProtocolError(f"credential of {length} bytes is over the limit or cut short")
    return payload[2 : 2 + length], payload[2 + length :]


_JOB: Final = Payload(("credential", "blob"), _pack_job, _unpack_job)
RUN: Final = 1
CHECK: Final = 2
SIGNAL: Final = Form(SignalProcess, "signum", 1, 64)
KILL: Final = Form(KillProcess, "now", 0, 1)
FORGET: Final = Form(ForgetProcess)
#: What a relay may send to its spawner.
FROM_RELAY: Final[Table] = {
    RUN: Form(RunProcess, "rank", payload=_JOB, fds=3),
    CHECK: Form(Check, "rank", payload=_JOB),
    3: SIGNAL,
    4: KILL,
    5: FORGET,
    28: Form(KeepOutput, fds=2),
    29: Form(ReleaseOutput),
    30: Form(
        PeerDenied, "count", 1, payload=Payload(denials.NAMES, denials.pack, denials.unpack), of_task=False
    ),
}


# -- to the relay ------------------------------------------------------------------------------


@dataclass(slots=True)
class ProcessStarted:
    """The task runs as this process."""

    task: int
    pid: int


@dataclass(slots=True)
class ProcessReady:
    """The checked task could be started."""

    task: int


@dataclass(slots=True)
class ProcessRefused:
    """The task does not run: NOT_STARTED or DENIED."""

    task: int
    outcome: Outcome


@dataclass(slots=True)
class ProcessEnded:
    """The task's process ended.

    ``ending``: the sender's side had begun to end it; False = the task has ended by itself.
    """

    task: int
    outcome: Outcome
    ending: bool = False


@dataclass(slots=True)
class ProcessLeft:
    """The task ended by itself, and ``holders`` of its leftovers hold its output.

    It is sent once, limits.LINGER_S after ProcessEnded. The relay gets it only if there are holders that
    are left alone, and gets only their number. A helper also reports, for the audit log, the number of
    leftovers (``processes``) and names some of them (``shown``: "PID NAME").
    """

    task: int
    holders: int
    processes: int = 0
    shown: tuple[str, ...] = ()


@dataclass(slots=True)
class Certificates:
    """A renewed key, its certificate and the cluster authority's, PEM.

    gexecd's renewal writes the payload into a sealed memfd. The spawner passes it on without reading it.
    """

    key_pem: bytes
    certificate_pem: bytes
    authority_pem: bytes


@dataclass(slots=True)
class AcceptedSigners:
    """The signers that are accepted, and the nodes that are not, from now on (``security.signers.Trust``)."""

    trust: bytes


#: Events of a task.
ProcessEvent = ProcessStarted | ProcessReady | ProcessRefused | ProcessEnded | ProcessLeft
Event = ProcessEvent | Certificates | AcceptedSigners


def _pack_outcome(outcome: Outcome) -> bytes:
    text = outcome.text.encode("utf-8", "backslashreplace")
    if len(text) > limits.TEXT_MAX_BYTES:
        # What came as other bytes than UTF-8 is longer now: the receiver must not take that for a violation.
        text = text[: limits.TEXT_MAX_BYTES].decode("utf-8", "ignore").encode()
    return _OUTCOME.pack(outcome.kind, outcome.value) + text


def _unpack_outcome(payload: bytes) -> tuple[Outcome]:
    kind, value = _OUTCOME.unpack_from(payload)
    text = payload[_OUTCOME.size :]
    if kind >= len(OUTCOME_NAMES) or len(text) > limits.TEXT_MAX_BYTES or not 0 <= value <= 65535:
        raise ProtocolError(f"outcome {kind} with value {value} and {len(text)} bytes of text is not known")
    return (Outcome(kind, value, text.decode("utf-8", "replace")),)


def _pack_left(processes: int, shown: tuple[str, ...]) -> bytes:
    names = [name.encode("utf-8", "backslashreplace")[:LEFT_NAME_MAX_BYTES] for name in shown]
    return _COUNT.pack(processes) + b"\0".join(names[:LEFT_SHOWN_MAX]) if processes else b""


def _unpack_left(payload: bytes) -> tuple[int, tuple[str, ...]]:
    if not payload:
        return 0, ()
    (processes,) = _COUNT.unpack_from(payload)
    names = payload[_COUNT.size :].split(b"\0")
    if len(names) > LEFT_SHOWN_MAX or len(max(names, key=len)) > LEFT_NAME_MAX_BYTES:
        raise ProtocolError("message names more processes than it may")
    return processes, tuple([name.decode("utf-8", "replace") for name in names if name])


def _pack_certificates(key: bytes, certificate: bytes, authority: bytes) -> bytes:
    head = _THREE.pack(len(key), len(certificate), len(authority))
    return b"".join((head, key, certificate, authority))


def _unpack_certificates(payload: bytes) -> tuple[bytes, ...]:
    return tuple(fields(payload, _THREE.size, _THREE.unpack_from(payload)))


OUTCOME: Final = Payload(("outcome",), _pack_outcome, _unpack_outcome)
_LEFT: Final = Payload(("processes", "shown"), _pack_left, _unpack_left)
_PEMS: Final = Payload(
    ("key_pem", "certificate_pem", "authority_pem"), _pack_certificates, _unpack_certificates
)
CERTIFICATES: Final = 20
LEFT: Final = 22
#: Events of a task, from a spawner to its relay, and from a helper to its spawner.
OF_PROCESSES: Final[Table] = {
    16: Form(ProcessStarted, "pid"),
    17: Form(ProcessReady),
    18: Form(ProcessRefused, payload=OUTCOME),
    19: Form(ProcessEnded, "ending", 0, 1, OUTCOME),
    LEFT: Form(ProcessLeft, "holders", payload=_LEFT),
}
#: What a spawner may send to its relay.
FROM_SPAWNER: Final[Table] = {
    **OF_PROCESSES,
    LEFT: Form(ProcessLeft, "holders", 1),  # their number alone
    CERTIFICATES: Form(Certificates, payload=_PEMS, of_task=False),
    21: Form(AcceptedSigners, payload=Payload(("trust",), bytes, lambda trust: (trust,)), of_task=False),
}
