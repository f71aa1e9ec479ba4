"""Frames, which client and daemons exchange (docs/protocol.md, Frames).

This module defines the frames about the connection, those that go up the tree, authd's answers, and the
tables of which side may send which frame. Frames that go down the tree, or to authd, are in wire/orders.py,
the conversion to bytes is in wire/codec.py. Import all of them from this module.

Part of the thin client: imports only struct and leaf modules.
"""

from __future__ import annotations

from struct import Struct

from gexec import limits
from gexec.errors import ProtocolError
from gexec.wire import orders
from gexec.wire.codec import (
    HEADER,
    HEADER_BYTES,
    STDERR,
    STDOUT,
    U16,
    Decoder,
    Frame,
    check_stream,
    encode,
    encode_parts,
    pack_ranges,
    pack_text,
    unpack_ranges,
    unpack_sized,
    unpack_text,
)  # fmt: skip
from gexec.wire.orders import (
    Ack,
    Certify,
    Close,
    Go,
    Kill,
    Release,
    Resync,
    Sign,
    Signal,
    Start,
    Stdin,
    Submit,
)
from gexec.wire.outcome import Outcome, is_known

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar, Final

    from gexec.wire.ranks import Ranges

__all__ = [
    "HEADER", "HEADER_BYTES", "STDERR", "STDOUT", "Ack", "Certify", "Close", "Decoder",
    "Frame", "Go", "Kill", "Release", "Resync", "Sign", "Signal", "Start", "Stdin", "Submit",
    "encode", "encode_parts",
]  # fmt: skip

_U64: Final = Struct("!Q")
_REFUSED: Final = Struct("!BI")
_OUTPUT: Final = Struct("!BQ")
_ENDED: Final = Struct("!BiQQH")

#: In StdinTaken: the rank takes no more stdin.
OFFSET_ALL: Final = 2**64 - 1
#: The length of a stream whose end was never seen (a lost rank).
LENGTH_UNKNOWN: Final = 2**64 - 1
#: Added to the kind of an outcome whose output is cut.
OUTPUT_CUT: Final = 0x80


# -- the connection ---------------------------------------------------------------------------


class Hello(Frame):
    """First frame of both sides: protocol version and the software's name."""

    TYPE: ClassVar[int] = 1
    MAX_BYTES: ClassVar[int] = 1024
    __slots__ = ("software", "version")

    def __init__(self, version: int, software: str) -> None:
        self.version = version
        self.software = software

    def pack(self) -> bytes:
        return U16.pack(self.version) + pack_text(self.software)

    @classmethod
    def unpack(cls, payload: bytes) -> Hello:
        (version,) = U16.unpack_from(payload)
        return cls(version, unpack_text(payload[2:]))


class Ping(Frame):
    """A liveness check, answered by Pong with the same token."""

    TYPE: ClassVar[int] = 2
    MAX_BYTES: ClassVar[int] = 8
    __slots__ = ("token",)

    def __init__(self, token: int) -> None:
        self.token = token

    def pack(self) -> bytes:
        return _U64.pack(self.token)

    @classmethod
    def unpack(cls, payload: bytes) -> Ping:
        return cls(*_U64.unpack(payload))


class Pong(Ping):
    """The answer to a Ping."""

    TYPE: ClassVar[int] = 3
    __slots__ = ()


class Goodbye(Frame):
    """The sender takes no new jobs on this connection (drain), or closes it for a reason."""

    TYPE: ClassVar[int] = 4
    MAX_BYTES: ClassVar[int] = limits.TEXT_MAX_BYTES
    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text

    def pack(self) -> bytes:
        return pack_text(self.text)

    @classmethod
    def unpack(cls, payload: bytes) -> Goodbye:
        return cls(unpack_text(payload))


# -- up the tree ------------------------------------------------------------------------------


class Accepted(Frame):
    """The node is up and took the job. To the client it carries the job id, 16 bytes."""

    TYPE: ClassVar[int] = 32
    MAX_BYTES: ClassVar[int] = 16
    __slots__ = ("job_id",)

    def __init__(self, job_id: bytes) -> None:
        self.job_id = job_id

    def pack(self) -> bytes:
        return self.job_id

    @classmethod
    def unpack(cls, payload: bytes) -> Accepted:
        if len(payload) != 16:
            raise ProtocolError("Accepted: expected a job id of 16 bytes")
        return cls(payload)


class Refused(Frame):
    """The node does not take the Submit or Start; ``code`` is one of REFUSED_*.

    ``epoch`` is, with REFUSED_STALE, the epoch of the node's parent; else 0.
    """

    TYPE: ClassVar[int] = 33
    MAX_BYTES: ClassVar[int] = limits.TEXT_MAX_BYTES + 5
    __slots__ = ("code", "epoch", "text")

    def __init__(self, code: int, text: str, epoch: int = 0) -> None:
        self.code = code
        self.text = text
        self.epoch = epoch

    def pack(self) -> bytes:
        return _REFUSED.pack(self.code, self.epoch) + pack_text(self.text)

    @classmethod
    def unpack(cls, payload: bytes) -> Refused:
        code, epoch = _REFUSED.unpack_from(payload)
        if not 1 <= code <= REFUSED_LAST:
            raise ProtocolError(f"Refused: unknown code {code}")
        return cls(code, unpack_text(payload[_REFUSED.size :]), epoch)


REFUSED_DENIED: Final = 1  #: credential or policy: the rank is *denied*
REFUSED_STALE: Final = 2  #: a parent with a higher epoch has this node: forget the child, no outcome
REFUSED_UNKNOWN: Final = 3  #: attach_only, and the node does not have the job: the rank is *lost*
REFUSED_BUSY: Final = 4  #: draining, or at a limit of this node: *not started*
REFUSED_LAST: Final = 4


class OfRanks(Frame):
    """The base of frames whose content is a set of ranks."""

    MAX_BYTES: ClassVar[int] = 2 + 8 * limits.RANGES_MAX
    __slots__ = ("ranks",)

    def __init__(self, ranks: Ranges) -> None:
        self.ranks = ranks

    def pack(self) -> bytes:
        return pack_ranges(self.ranks)

    @classmethod
    def unpack(cls, payload: bytes) -> Frame:
        ranks, position = unpack_ranges(payload, 0)
        if position != len(payload):
            raise ProtocolError(f"{cls.__name__} has bytes after its end")
        return cls(ranks)


class RanksStarted(OfRanks):
    """These ranks' processes run."""

    TYPE: ClassVar[int] = 34
    __slots__ = ()


class Ready(RanksStarted):
    """These ranks of a strict job can start."""

    TYPE: ClassVar[int] = 35
    __slots__ = ()


class NotResponding(OfRanks):
    """Nothing has come from these ranks' nodes for NOT_RESPONDING_S; it is no outcome."""

    TYPE: ClassVar[int] = 40
    SINCE: ClassVar[int] = 2
    __slots__ = ()


class Responding(OfRanks):
    """These ranks' nodes respond again."""

    TYPE: ClassVar[int] = 41
    SINCE: ClassVar[int] = 2
    __slots__ = ()


class Output(Frame):
    """All these ranks wrote ``data``, at most READ_CHUNK_BYTES, at ``offset`` of ``stream``."""

    TYPE: ClassVar[int] = 36
    BULK: ClassVar[bool] = True
    __slots__ = ("data", "offset", "ranks", "stream")

    def __init__(self, ranks: Ranges, stream: int, offset: int, data: bytes) -> None:
        self.ranks = ranks
        self.stream = stream
        self.offset = offset
        self.data = data

    def pack_parts(self) -> tuple[bytes, bytes]:
        return _OUTPUT.pack(self.stream, self.offset) + pack_ranges(self.ranks), self.data

    @classmethod
    def unpack(cls, payload: bytes | memoryview) -> Output:
        stream, offset = _OUTPUT.unpack_from(payload)
        check_stream(stream)
        ranks, position = unpack_ranges(payload, _OUTPUT.size)
        if len(payload) - position > limits.READ_CHUNK_BYTES:  # for other ranks it could be over MAX_BYTES
            raise ProtocolError(f"Output of {len(payload) - position} bytes is more than one read")
        return cls(ranks, stream, offset, bytes(payload[position:]))


class Ended(Frame):
    """These ranks ended with this outcome; their streams had these lengths (or LENGTH_UNKNOWN).

    If the output is cut, OUTPUT_CUT is added to the outcome's kind.
    """

    TYPE: ClassVar[int] = 37
    __slots__ = ("outcome", "ranks", "stderr_length", "stdout_length")

    def __init__(self, ranks: Ranges, outcome: Outcome, stdout_length: int, stderr_length: int) -> None:
        self.ranks = ranks
        self.outcome = outcome
        self.stdout_length = stdout_length
        self.stderr_length = stderr_length

    def pack(self) -> bytes:
        outcome = self.outcome
        text = pack_text(outcome.text)
        kind = outcome.kind | OUTPUT_CUT if outcome.cut else outcome.kind
        head = _ENDED.pack(kind, outcome.value, self.stdout_length, self.stderr_length, len(text))
        return head + text + pack_ranges(self.ranks)

    @classmethod
    def unpack(cls, payload: bytes) -> Ended:
        said, value, stdout_length, stderr_length, length = _ENDED.unpack_from(payload)
        kind, cut = said & ~OUTPUT_CUT, bool(said & OUTPUT_CUT)
        if not is_known(kind, value, cut):
            raise ProtocolError(f"Ended: outcome {said} with value {value} is not known")
        if length > limits.TEXT_MAX_BYTES:
            raise ProtocolError(f"Ended: text of {length} bytes is over the limit")
        text = unpack_text(payload[_ENDED.size : _ENDED.size + length])
        ranks, position = unpack_ranges(payload, _ENDED.size + length)
        if position != len(payload):
            raise ProtocolError("Ended has bytes after its end")
        return cls(ranks, Outcome(kind, value, text, cut), stdout_length, stderr_length)


class StdinTaken(Frame):
    """Every process below has taken stdin up to ``offset`` (OFFSET_ALL: none wants more)."""

    TYPE: ClassVar[int] = 38
    MAX_BYTES: ClassVar[int] = 8
    __slots__ = ("offset",)

    def __init__(self, offset: int) -> None:
        self.offset = offset

    def pack(self) -> bytes:
        return _U64.pack(self.offset)

    @classmethod
    def unpack(cls, payload: bytes) -> StdinTaken:
        return cls(*_U64.unpack(payload))


class Done(Frame):
    """To the client: every rank has its outcome; nothing follows."""

    TYPE: ClassVar[int] = 39
    MAX_BYTES: ClassVar[int] = 0
    __slots__ = ()


# -- from authd -------------------------------------------------------------------------------


class Signed(Frame):
    """authd's answer to Sign: the credential."""

    TYPE: ClassVar[int] = 65
    MAX_BYTES: ClassVar[int] = limits.CREDENTIAL_MAX_BYTES
    __slots__ = ("credential",)

    def __init__(self, credential: bytes) -> None:
        self.credential = credential

    def pack(self) -> bytes:
        return self.credential

    @classmethod
    def unpack(cls, payload: bytes) -> Signed:
        return cls(payload)


class Certified(Frame):
    """authd's answer to Certify: the leaf certificate and the cluster's CA certificate, both in DER."""

    TYPE: ClassVar[int] = 67
    MAX_BYTES: ClassVar[int] = 32 * 1024
    __slots__ = ("authority", "certificate")

    def __init__(self, certificate: bytes, authority: bytes) -> None:
        self.certificate = certificate
        self.authority = authority

    def pack(self) -> bytes:
        return U16.pack(len(self.certificate)) + self.certificate + self.authority

    @classmethod
    def unpack(cls, payload: bytes) -> Certified:
        certificate, authority = unpack_sized(payload, 0, cls.MAX_BYTES, "certificate")
        if not authority:
            raise ProtocolError("Certified is cut short")
        return cls(certificate, authority)


def _table(*classes: type[Frame]) -> dict[int, type[Frame]]:
    return {frame.TYPE: frame for frame in classes}


#: The frames that each side may send. Any other frame ends the connection before it is parsed.
FROM_ANY: Final = _table(Hello, Ping, Pong, Goodbye)
FROM_PARENT: Final = FROM_ANY | _table(Start, Resync, Stdin, Signal, Ack, Kill, Go, Close, Release)
FROM_CLIENT: Final = FROM_ANY | _table(Submit, Stdin, Signal, Ack, Kill, Close, orders.Upgrade)
_REPORTS: Final = (Accepted, Refused, RanksStarted, NotResponding, Responding, Output, Ended, StdinTaken)
FROM_CHILD: Final = FROM_ANY | _table(*_REPORTS, Ready)
FROM_ROOT: Final = FROM_ANY | _table(*_REPORTS, Done, orders.Upgraded)
TO_AUTHD: Final = _table(Sign, Certify)
FROM_AUTHD: Final = _table(Signed, Certified, Refused)
