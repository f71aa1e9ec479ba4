"""Frames that go down the tree: requests of a client to its gexecd, and of a parent to its child.

And requests to authd, and the one for an upgrade, with its answer.

Part of the thin client, like wire/frames.py, from which all frames are imported.
"""

from __future__ import annotations

from struct import Struct

from gexec import limits
from gexec.errors import ProtocolError
from gexec.wire.codec import U16, Frame, check_stream, pack_text, unpack_sized, unpack_text

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import ClassVar, Final

_U32: Final = Struct("!I")
_START: Final = Struct("!IIIB")
_STDIN: Final = Struct("!QB")
_ACK: Final = Struct("!IBQ")


class Submit(Frame):
    """Client to its own gexecd: run this job. Answered by Accepted or Refused."""

    TYPE: ClassVar[int] = 16
    MAX_BYTES: ClassVar[int] = limits.JOB_FRAME_MAX_BYTES
    __slots__ = ("blob", "credential")

    def __init__(self, credential: bytes, blob: bytes) -> None:
        self.credential = credential
        self.blob = blob

    def pack(self) -> bytes:
        return U16.pack(len(self.credential)) + self.credential + self.blob

    @classmethod
    def unpack(cls, payload: bytes) -> Submit:
        return cls(*unpack_sized(payload, 0, limits.CREDENTIAL_MAX_BYTES, "credential"))


class Start(Frame):
    """Parent to child: be rank ``low`` of this job, and start ranks [low, high).

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
        head = _START.pack(self.epoch, self.low, self.high, self.attach_only)
        return head + U16.pack(len(self.credential)) + self.credential + self.blob

    @classmethod
    def unpack(cls, payload: bytes) -> Start:
        epoch, low, high, flags = _START.unpack_from(payload)
        credential, blob = unpack_sized(payload, _START.size, limits.CREDENTIAL_MAX_BYTES, "credential")
        if not low < high <= limits.RANKS_MAX:
            raise ProtocolError(f"ranks [{low}, {high}) are not a range of at most {limits.RANKS_MAX}")
        if flags > 1:
            raise ProtocolError(f"Start flags {flags:#x} are not known")
        return cls(epoch, low, high, credential, blob, bool(flags))


class Resync(Frame):
    """The node's ancestors changed: take this epoch and resend what is not acknowledged."""

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
    """What the client has taken: ``((rank, stream, offset), ...)``, cumulative."""

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
            check_stream(stream)
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
    """The job is over, or this node takes no more part in it: forget it, end its process."""

    TYPE: ClassVar[int] = 24
    MAX_BYTES: ClassVar[int] = 0
    __slots__ = ()


class Release(Frame):
    """The sender is no longer this node's parent: continue, and wait for another parent to attach."""

    TYPE: ClassVar[int] = 25
    MAX_BYTES: ClassVar[int] = 0
    __slots__ = ()


class Upgrade(Frame):
    """gexecctl to the gexecd of its host: start the code that is installed now; ``forced``: even the same."""

    TYPE: ClassVar[int] = 26
    MAX_BYTES: ClassVar[int] = 1
    __slots__ = ("forced",)

    def __init__(self, forced: bool) -> None:
        self.forced = forced

    def pack(self) -> bytes:
        return bytes((self.forced,))

    @classmethod
    def unpack(cls, payload: bytes) -> Upgrade:
        if payload not in (b"\0", b"\1"):
            raise ProtocolError("Upgrade: expected one byte, 0 or 1")
        return cls(payload == b"\1")


class Upgraded(Frame):
    """The answer to Upgrade: whether the code that is installed runs now, and what was done, or why not."""

    TYPE: ClassVar[int] = 42
    MAX_BYTES: ClassVar[int] = limits.TEXT_MAX_BYTES + 1
    __slots__ = ("done", "text")

    def __init__(self, done: bool, text: str) -> None:
        self.done = done
        self.text = text

    def pack(self) -> bytes:
        return bytes((self.done,)) + pack_text(self.text)

    @classmethod
    def unpack(cls, payload: bytes) -> Upgraded:
        if payload[:1] not in (b"\0", b"\1"):
            raise ProtocolError("Upgraded: expected 0 or 1")
        return cls(payload[0] == 1, unpack_text(payload[1:]))


# -- to authd ---------------------------------------------------------------------------------


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
        return U16.pack(len(self.public_key)) + self.public_key + names

    @classmethod
    def unpack(cls, payload: bytes) -> Certify:
        public_key, rest = unpack_sized(payload, 0, 2048, "public key")
        names = tuple(unpack_text(rest).split("\0"))
        if not rest or len(names) > 256:
            raise ProtocolError(f"Certify: {len(names)} names: expected 1 to 256")
        return cls(public_key, names)
