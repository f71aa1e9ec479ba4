"""Frames: the one language of client, daemon and daemon (docs/protocol.md, Frames).

A frame is a header of 9 bytes (payload length u32, type u8, channel u32; network order) and a
payload. A channel is one job's node on one connection; channel 0 speaks about the connection.
Each frame class packs itself and unpacks its own payload; :class:`Decoder` cuts a byte stream
into frames and refuses what is over a limit before it is buffered.

Part of the thin client: imports only struct and leaf modules. Plain classes, because dataclasses
and typing would cost the client more than the interpreter's own start.
"""

from __future__ import annotations

from struct import Struct
from struct import error as StructError

from gexec import limits
from gexec.errors import ProtocolError
from gexec.wire.outcome import ENDS as OUTCOME_ENDS
from gexec.wire.outcome import VALUES as OUTCOME_VALUES
from gexec.wire.outcome import Outcome
from gexec.wire.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, ClassVar, Final

    from gexec.wire.ranks import Ranges

HEADER: Final = Struct("!IBI")
HEADER_BYTES: Final = HEADER.size
_U16: Final = Struct("!H")
_U32: Final = Struct("!I")
_U64: Final = Struct("!Q")
_RANGE: Final = Struct("!II")
_START: Final = Struct("!IIIBH")
_STDIN: Final = Struct("!QB")
_ACK: Final = Struct("!IBQ")
_REFUSED: Final = Struct("!BI")
_OUTPUT: Final = Struct("!BQ")
_ENDED: Final = Struct("!BiQQH")

STDOUT: Final = 1
STDERR: Final = 2
#: Stands for "all of it": the rank takes no more stdin, whatever comes.
OFFSET_ALL: Final = 2**64 - 1
#: The length of a stream whose end was never seen (a lost rank).
LENGTH_UNKNOWN: Final = 2**64 - 1
#: Added to the kind of an outcome whose output was given up before its end.
OUTPUT_CUT: Final = 0x80


#: From so many bytes on a second copy costs more than a memoryview.
_BULK_BYTES: Final = 4096


class Frame(Record):
    """What all frames have: a TYPE, ``pack`` and ``unpack``."""

    TYPE: ClassVar[int] = 0
    MAX_BYTES: ClassVar[int] = limits.FRAME_MAX_BYTES
    #: It may carry much data.
    BULK: ClassVar[bool] = False
    __slots__: tuple[str, ...] = ()

    def pack(self) -> bytes:
        """Return the payload."""
        return b""

    def pack_parts(self) -> tuple[bytes, bytes]:
        """Return the payload in two parts, of which the second is the bulk of it, not copied."""
        return self.pack(), b""

    @classmethod
    def unpack(cls, payload: bytes) -> Frame:
        """Return the frame of a payload; ProtocolError if it is not one.

        Of a bulk frame the payload may be a memoryview, so that its data is copied once.
        """
        if payload:
            raise ProtocolError(f"{cls.__name__} carries {len(payload)} bytes: expected none")
        return cls()


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
        return _U16.pack(self.version) + _text(self.software)

    @classmethod
    def unpack(cls, payload: bytes) -> Hello:
        (version,) = _U16.unpack_from(payload)
        return cls(version, _untext(payload[2:]))


class Ping(Frame):
    """Are you there? Answered by Pong with the same token."""

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
        return _text(self.text)

    @classmethod
    def unpack(cls, payload: bytes) -> Goodbye:
        return cls(_untext(payload))


# -- down the tree ----------------------------------------------------------------------------


class Submit(Frame):
    """Client to its own gexecd: run this job. Answered by Accepted or Refused."""

    TYPE: ClassVar[int] = 16
    MAX_BYTES: ClassVar[int] = limits.JOB_FRAME_MAX_BYTES
    __slots__ = ("blob", "credential")

    def __init__(self, credential: bytes, blob: bytes) -> None:
        self.credential = credential
        self.blob = blob

    def pack(self) -> bytes:
        return _U16.pack(len(self.credential)) + self.credential + self.blob

    @classmethod
    def unpack(cls, payload: bytes) -> Submit:
        (length,) = _U16.unpack_from(payload)
        if length > limits.CREDENTIAL_MAX_BYTES or 2 + length > len(payload):
            raise ProtocolError(f"credential of {length} bytes is over the limit or cut short")
        return cls(payload[2 : 2 + length], payload[2 + length :])


class Start(Frame):
    """Parent to child: be rank ``low`` of this job and see to ranks [low, high).

    A node that already has (job, low) attaches it to this connection if ``epoch`` is higher than
    the one it knows, and resends what is not acknowledged; it never runs a rank twice. With
    ``attach_only`` a node that does not know the job answers Refused instead of running it.
    """

    TYPE: ClassVar[int] = 17
    MAX_BYTES: ClassVar[int] = limits.JOB_FRAME_MAX_BYTES
    __slots__ = ("attach_only", "blob", "credential", "epoch", "high", "low")

    def __init__(
        self,
        epoch: int,
        low: int,
        high: int,
        credential: bytes,
        blob: bytes,
        attach_only: bool = False,
    ) -> None:
        self.epoch = epoch
        self.low = low
        self.high = high
        self.attach_only = attach_only
        self.credential = credential
        self.blob = blob

    def pack(self) -> bytes:
        head = _START.pack(self.epoch, self.low, self.high, self.attach_only, len(self.credential))
        return head + self.credential + self.blob

    @classmethod
    def unpack(cls, payload: bytes) -> Start:
        epoch, low, high, flags, length = _START.unpack_from(payload)
        body = _START.size
        if length > limits.CREDENTIAL_MAX_BYTES or body + length > len(payload):
            raise ProtocolError(f"credential of {length} bytes is over the limit or cut short")
        if not low < high <= limits.RANKS_MAX:
            raise ProtocolError(f"ranks [{low}, {high}) are not a range of at most {limits.RANKS_MAX}")
        if flags > 1:
            raise ProtocolError(f"Start flags {flags:#x} are not known")
        credential = payload[body : body + length]
        return cls(epoch, low, high, credential, payload[body + length :], bool(flags))


class Resync(Frame):
    """Your ancestors changed: take this epoch and resend what is not acknowledged."""

    TYPE: ClassVar[int] = 18
    MAX_BYTES: ClassVar[int] = 4
    __slots__ = ("epoch",)

    def __init__(self, epoch: int) -> None:
        self.epoch = epoch

    def pack(self) -> bytes:
        return _U32.pack(self.epoch)

    @classmethod
    def unpack(cls, payload: bytes) -> Resync:
        return cls(*_U32.unpack(payload))


class Stdin(Frame):
    """Bytes for every process's stdin at ``offset``; ``eof`` closes it after them."""

    TYPE: ClassVar[int] = 19
    BULK: ClassVar[bool] = True
    __slots__ = ("data", "eof", "offset")

    def __init__(self, offset: int, data: bytes, eof: bool = False) -> None:
        self.offset = offset
        self.data = data
        self.eof = eof

    def pack(self) -> bytes:
        return b"".join(self.pack_parts())

    def pack_parts(self) -> tuple[bytes, bytes]:
        return _STDIN.pack(self.offset, self.eof), self.data

    @classmethod
    def unpack(cls, payload: bytes | memoryview) -> Stdin:
        offset, eof = _STDIN.unpack_from(payload)
        if eof > 1:
            raise ProtocolError(f"Stdin flags {eof:#x} are not known")
        return cls(offset, bytes(payload[_STDIN.size :]), bool(eof))


class Signal(Frame):
    """Send this signal to the process group of every rank."""

    TYPE: ClassVar[int] = 20
    MAX_BYTES: ClassVar[int] = 1
    __slots__ = ("signum",)

    def __init__(self, signum: int) -> None:
        self.signum = signum

    def pack(self) -> bytes:
        return bytes((self.signum,))

    @classmethod
    def unpack(cls, payload: bytes) -> Signal:
        if len(payload) != 1 or not 1 <= payload[0] <= 64:
            raise ProtocolError("Signal: expected one byte from 1 to 64")
        return cls(payload[0])


class Ack(Frame):
    """The reader at the top has taken this much: ``((rank, stream, offset), ...)``, cumulative."""

    TYPE: ClassVar[int] = 21
    __slots__ = ("entries",)

    def __init__(self, entries: tuple[tuple[int, int, int], ...]) -> None:
        self.entries = entries

    def pack(self) -> bytes:
        return b"".join([_ACK.pack(*entry) for entry in self.entries])

    @classmethod
    def unpack(cls, payload: bytes) -> Ack:
        entries = tuple(_ACK.iter_unpack(payload))
        for _, stream, _ in entries:
            _check_stream(stream)
        return cls(entries)


class Kill(Frame):
    """End every process of the job: SIGHUP, SIGTERM and after the grace SIGKILL; or at once."""

    TYPE: ClassVar[int] = 22
    MAX_BYTES: ClassVar[int] = 1
    __slots__ = ("now",)

    def __init__(self, now: bool) -> None:
        self.now = now

    def pack(self) -> bytes:
        return bytes((self.now,))

    @classmethod
    def unpack(cls, payload: bytes) -> Kill:
        if payload not in (b"\0", b"\1"):
            raise ProtocolError("Kill: expected one byte, 0 or 1")
        return cls(payload == b"\1")


class Go(Frame):
    """All nodes of a strict job are ready: start the processes."""

    TYPE: ClassVar[int] = 23
    MAX_BYTES: ClassVar[int] = 0
    __slots__ = ()


class Close(Frame):
    """The job is over, or this node has no more part in it: forget it, end what still runs."""

    TYPE: ClassVar[int] = 24
    MAX_BYTES: ClassVar[int] = 0
    __slots__ = ()


class Release(Frame):
    """The sender is no longer this node's parent: go on, and wait for another one to attach."""

    TYPE: ClassVar[int] = 25
    MAX_BYTES: ClassVar[int] = 0
    __slots__ = ()


# -- up the tree ------------------------------------------------------------------------------


class Accepted(Frame):
    """The node lives and took the job. To the client it carries the job id, 16 bytes."""

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

    ``epoch`` tells, with REFUSED_STALE, the epoch of the parent that the node has (else 0).
    """

    TYPE: ClassVar[int] = 33
    MAX_BYTES: ClassVar[int] = limits.TEXT_MAX_BYTES + 5
    __slots__ = ("code", "epoch", "text")

    def __init__(self, code: int, text: str, epoch: int = 0) -> None:
        self.code = code
        self.text = text
        self.epoch = epoch

    def pack(self) -> bytes:
        return _REFUSED.pack(self.code, self.epoch) + _text(self.text)

    @classmethod
    def unpack(cls, payload: bytes) -> Refused:
        code, epoch = _REFUSED.unpack_from(payload)
        if not 1 <= code <= REFUSED_LAST:
            raise ProtocolError(f"Refused: unknown code {code}")
        return cls(code, _untext(payload[_REFUSED.size :]), epoch)


REFUSED_DENIED: Final = 1  #: credential or policy: the rank is *denied*
REFUSED_STALE: Final = 2  #: a parent with a higher epoch has this node: forget the child, no outcome
REFUSED_UNKNOWN: Final = 3  #: attach_only, and the job is not here: the rank is *lost*
REFUSED_BUSY: Final = 4  #: draining, or a limit of this node: *not started*
REFUSED_LAST: Final = 4


class RanksStarted(Frame):
    """These ranks' processes run."""

    TYPE: ClassVar[int] = 34
    MAX_BYTES: ClassVar[int] = 2 + 8 * limits.RANGES_MAX
    __slots__ = ("ranks",)

    def __init__(self, ranks: Ranges) -> None:
        self.ranks = ranks

    def pack(self) -> bytes:
        return _ranges(self.ranks)

    @classmethod
    def unpack(cls, payload: bytes) -> Frame:
        ranks, position = _unranges(payload, 0)
        if position != len(payload):
            raise ProtocolError(f"{cls.__name__} has bytes after its end")
        return cls(ranks)


class Ready(RanksStarted):
    """These ranks of a strict job can start."""

    TYPE: ClassVar[int] = 35
    __slots__ = ()


class Output(Frame):
    """All these ranks wrote ``data`` to ``stream`` at ``offset`` of that (rank, stream)."""

    TYPE: ClassVar[int] = 36
    BULK: ClassVar[bool] = True
    __slots__ = ("data", "offset", "ranks", "stream")

    def __init__(self, ranks: Ranges, stream: int, offset: int, data: bytes) -> None:
        self.ranks = ranks
        self.stream = stream
        self.offset = offset
        self.data = data

    def pack(self) -> bytes:
        return b"".join(self.pack_parts())

    def pack_parts(self) -> tuple[bytes, bytes]:
        return _OUTPUT.pack(self.stream, self.offset) + _ranges(self.ranks), self.data

    @classmethod
    def unpack(cls, payload: bytes | memoryview) -> Output:
        stream, offset = _OUTPUT.unpack_from(payload)
        _check_stream(stream)
        ranks, position = _unranges(payload, _OUTPUT.size)
        return cls(ranks, stream, offset, bytes(payload[position:]))


class Ended(Frame):
    """These ranks ended so; their streams had these lengths (LENGTH_UNKNOWN if not seen).

    The outcome's kind goes with OUTPUT_CUT added if its output was given up before its end.
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
        text = _text(outcome.text)
        kind = outcome.kind | OUTPUT_CUT if outcome.cut else outcome.kind
        head = _ENDED.pack(kind, outcome.value, self.stdout_length, self.stderr_length, len(text))
        return head + text + _ranges(self.ranks)

    @classmethod
    def unpack(cls, payload: bytes) -> Ended:
        said, value, stdout_length, stderr_length, length = _ENDED.unpack_from(payload)
        kind, cut = said & ~OUTPUT_CUT, bool(said & OUTPUT_CUT)
        known = kind < len(OUTCOME_VALUES) and (not cut or kind in OUTCOME_ENDS)
        if not known or not OUTCOME_VALUES[kind][0] <= value <= OUTCOME_VALUES[kind][1]:
            raise ProtocolError(f"Ended: outcome {said} with value {value} is not known")
        if length > limits.TEXT_MAX_BYTES:
            raise ProtocolError(f"Ended: text of {length} bytes is over the limit")
        body = _ENDED.size
        text = _untext(payload[body : body + length])
        ranks, position = _unranges(payload, body + length)
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
    """To the client: every rank has its outcome; nothing more comes."""

    TYPE: ClassVar[int] = 39
    MAX_BYTES: ClassVar[int] = 0
    __slots__ = ()


# -- with authd -------------------------------------------------------------------------------


class Sign(Frame):
    """To authd: sign a credential for ``audience`` that is bound to ``blob``."""

    TYPE: ClassVar[int] = 64
    MAX_BYTES: ClassVar[int] = limits.JOB_FRAME_MAX_BYTES
    __slots__ = ("audience", "blob")

    def __init__(self, audience: bytes, blob: bytes) -> None:
        self.audience = audience
        self.blob = blob

    def pack(self) -> bytes:
        return bytes((len(self.audience),)) + self.audience + self.blob

    @classmethod
    def unpack(cls, payload: bytes) -> Sign:
        length = payload[0] if payload else 0
        if not 1 <= length < len(payload) or length > 64:
            raise ProtocolError("Sign: the audience is empty, too long or cut short")
        return cls(payload[1 : 1 + length], payload[1 + length :])


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


class Certify(Frame):
    """gexecd to authd: a certificate for this public key (DER) and these names and addresses."""

    TYPE: ClassVar[int] = 66
    MAX_BYTES: ClassVar[int] = 32 * 1024
    __slots__ = ("names", "public_key")

    def __init__(self, public_key: bytes, names: tuple[str, ...]) -> None:
        self.public_key = public_key
        self.names = names

    def pack(self) -> bytes:
        names = "\0".join(self.names).encode()
        return _U16.pack(len(self.public_key)) + self.public_key + names

    @classmethod
    def unpack(cls, payload: bytes) -> Certify:
        (length,) = _U16.unpack_from(payload)
        if length > 2048 or 2 + length >= len(payload):
            raise ProtocolError("Certify: public key too long, or no name follows it")
        names = tuple(_untext(payload[2 + length :]).split("\0"))
        if len(names) > 256:
            raise ProtocolError(f"Certify: {len(names)} names, at most 256")
        return cls(payload[2 : 2 + length], names)


class Certified(Frame):
    """authd's answer to Certify: the leaf and the cluster's CA certificate, both DER."""

    TYPE: ClassVar[int] = 67
    MAX_BYTES: ClassVar[int] = 32 * 1024
    __slots__ = ("authority", "certificate")

    def __init__(self, certificate: bytes, authority: bytes) -> None:
        self.certificate = certificate
        self.authority = authority

    def pack(self) -> bytes:
        return _U16.pack(len(self.certificate)) + self.certificate + self.authority

    @classmethod
    def unpack(cls, payload: bytes) -> Certified:
        (length,) = _U16.unpack_from(payload)
        if 2 + length >= len(payload):
            raise ProtocolError("Certified is cut short")
        return cls(payload[2 : 2 + length], payload[2 + length :])


# -- packing ----------------------------------------------------------------------------------


def encode(channel: int, frame: Frame) -> bytes:
    """Return the bytes of a frame on a channel. ValueError if it is over its own limit."""
    return b"".join(encode_parts(channel, frame))


def encode_parts(channel: int, frame: Frame) -> tuple[bytes, bytes]:
    """Return the bytes of a frame in two parts, of which the second is its data, not copied."""
    head, data = frame.pack_parts()
    size = len(head) + len(data)
    if size > frame.MAX_BYTES:
        raise ValueError(f"{type(frame).__name__} of {size} bytes is over {frame.MAX_BYTES}")
    return HEADER.pack(size, frame.TYPE, channel) + head, data


def _text(text: str) -> bytes:
    # A lone surrogate (an undecodable byte of a file name, say) must not stop a failure being told.
    return text.encode("utf-8", "backslashreplace")[: limits.TEXT_MAX_BYTES]


def _untext(raw: bytes) -> str:
    return raw.decode("utf-8", "replace")


def _ranges(ranges: Ranges) -> bytes:
    return _U16.pack(len(ranges)) + b"".join([_RANGE.pack(*pair) for pair in ranges])


def _unranges(payload: bytes | memoryview, position: int) -> tuple[Ranges, int]:
    (count,) = _U16.unpack_from(payload, position)
    position += 2
    end = position + 8 * count
    if count > limits.RANGES_MAX or end > len(payload):
        raise ProtocolError(f"{count} ranges of ranks are over the limit or cut short")
    ranges = tuple(_RANGE.iter_unpack(payload[position:end]))
    previous = -1
    for low, high in ranges:
        if not previous < low < high <= limits.RANKS_MAX:
            raise ProtocolError("ranges of ranks are not ascending and disjoint")
        previous = high - 1
    return ranges, end


def _check_stream(stream: int) -> None:
    if stream not in (STDOUT, STDERR):
        raise ProtocolError(f"stream {stream} is neither stdout (1) nor stderr (2)")


def _table(*classes: type[Frame]) -> dict[int, type[Frame]]:
    return {frame.TYPE: frame for frame in classes}


#: What each side may say. Anything else ends the connection before it is looked at.
FROM_ANY: Final = _table(Hello, Ping, Pong, Goodbye)
FROM_PARENT: Final = FROM_ANY | _table(Start, Resync, Stdin, Signal, Ack, Kill, Go, Close, Release)
FROM_CLIENT: Final = FROM_ANY | _table(Submit, Stdin, Signal, Ack, Kill, Close)
FROM_CHILD: Final = FROM_ANY | _table(Accepted, Refused, RanksStarted, Ready, Output, Ended, StdinTaken)
FROM_ROOT: Final = FROM_ANY | _table(Accepted, Refused, RanksStarted, Output, Ended, StdinTaken, Done)
TO_AUTHD: Final = _table(Sign, Certify)
FROM_AUTHD: Final = _table(Signed, Certified, Refused)


class Decoder:
    """Cuts a byte stream into frames: ``feed`` bytes in any pieces, iterate over what is whole.

    Args:
        allowed: the frame types this peer may send (one of the FROM_* tables).
        limit_bytes: tightens every frame's own limit, e.g. before the peer has authenticated.
    """

    __slots__ = ("_held_bytes", "_needed_bytes", "_pieces", "allowed", "limit_bytes")

    def __init__(self, allowed: dict[int, type[Frame]], limit_bytes: int = limits.JOB_FRAME_MAX_BYTES):
        self.allowed = allowed
        self.limit_bytes = limit_bytes
        # Pieces are joined once, when the frame that they belong to is whole: a frame of 5 MiB
        # that comes a byte at a time must not be copied five million times.
        self._pieces: list[bytes] = []
        self._held_bytes = 0
        self._needed_bytes = HEADER_BYTES

    @property
    def buffered(self) -> int:
        """Bytes held of a frame that is not whole yet."""
        return self._held_bytes

    def feed(self, data: bytes) -> Iterator[tuple[int, Frame]]:
        """Take bytes and yield each whole (channel, frame), in order.

        Iterate to the end, or drop the connection, before feeding more.

        Raises:
            ProtocolError: a type that this peer may not send, a length over the limit (before
                its payload is buffered), or a payload that is not what its type says.
        """
        self._pieces.append(bytes(data))
        self._held_bytes += len(data)
        if self._held_bytes < self._needed_bytes:
            return
        buffer = self._pieces[0] if len(self._pieces) == 1 else b"".join(self._pieces)
        position = 0
        end = len(buffer)
        needed = HEADER_BYTES
        try:
            while end - position >= HEADER_BYTES:
                length, kind, channel = HEADER.unpack_from(buffer, position)
                frame_class = self.allowed.get(kind)
                if frame_class is None:
                    raise ProtocolError(f"frame type {kind} is not expected from this peer")
                if length > frame_class.MAX_BYTES or length > self.limit_bytes:
                    raise ProtocolError(f"{frame_class.__name__} frame of {length} bytes is over its limit")
                start = position + HEADER_BYTES
                if end - start < length:
                    needed = HEADER_BYTES + length
                    break
                position = start + length
                try:
                    if frame_class.BULK and length >= _BULK_BYTES:
                        payload: Any = memoryview(buffer)[start:position]
                    else:
                        payload = buffer[start:position]
                    frame = frame_class.unpack(payload)
                except StructError as error:
                    raise ProtocolError(f"{frame_class.__name__} frame is malformed: {error}") from error
                yield channel, frame
        finally:
            self._pieces = [buffer[position:]] if position < end else []
            self._held_bytes = end - position
            self._needed_bytes = needed
