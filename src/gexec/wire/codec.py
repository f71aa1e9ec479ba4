"""Conversion of frames to bytes, and of bytes to frames (docs/protocol.md, Frames).

A frame is a header of 9 bytes (payload length u32, type u8, channel u32; network order) and a payload. A
channel is one job's node on one connection; channel 0 is for the connection itself. Each frame class packs
itself and unpacks its own payload; :class:`Decoder` splits a byte stream into frames, and refuses a frame
over its limit before it is buffered.

Part of the thin client: imports only struct and leaf modules. Plain classes, because dataclasses
and typing would cost the client more than the interpreter's own start.
"""

from __future__ import annotations

from struct import Struct
from struct import error as StructError

from gexec import limits
from gexec.errors import ProtocolError
from gexec.wire.record import Record

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import Any, ClassVar, Final

    from gexec.wire.ranks import Ranges

HEADER: Final = Struct("!IBI")
HEADER_BYTES: Final = HEADER.size
U16: Final = Struct("!H")
_RANGE: Final = Struct("!II")

STDOUT: Final = 1
STDERR: Final = 2
#: From this size on, a second copy costs more than a memoryview.
_BULK_BYTES: Final = 4096


class Frame(Record):
    """The base of all frames: a TYPE, ``pack`` and ``unpack``."""

    TYPE: ClassVar[int] = 0
    MAX_BYTES: ClassVar[int] = limits.FRAME_MAX_BYTES
    #: The first protocol version that has it: a peer of an earlier one is not told.
    SINCE: ClassVar[int] = 1
    #: It may carry much data.
    BULK: ClassVar[bool] = False
    __slots__: tuple[str, ...] = ()

    def pack(self) -> bytes:
        """Return the payload."""
        return b"".join(self.pack_parts()) if self.BULK else b""

    def pack_parts(self) -> tuple[bytes, bytes]:
        """Return the payload in two parts; the second is the bulk of it, not copied."""
        return self.pack(), b""

    @classmethod
    def unpack(cls, payload: bytes) -> Frame:
        """Return the frame of a payload; ProtocolError if the payload is not valid.

        The payload of a bulk frame may be a memoryview, so that its data is copied only once.
        """
        if payload:
            raise ProtocolError(f"{cls.__name__} carries {len(payload)} bytes: expected none")
        return cls()


def encode(channel: int, frame: Frame) -> bytes:
    """Return the bytes of a frame on a channel. ValueError if it is over its own limit."""
    return b"".join(encode_parts(channel, frame))


def encode_parts(channel: int, frame: Frame) -> tuple[bytes, bytes]:
    """Return the bytes of a frame in two parts; the second is its data, not copied."""
    head, data = frame.pack_parts()
    size = len(head) + len(data)
    if size > frame.MAX_BYTES:
        raise ValueError(f"{type(frame).__name__} of {size} bytes is over {frame.MAX_BYTES}")
    return HEADER.pack(size, frame.TYPE, channel) + head, data


def pack_text(text: str) -> bytes:
    """Return a text in UTF-8, cut to its limit."""
    # A lone surrogate (for example an undecodable byte of a file name) must not prevent the report of a
    # failure.
    return text.encode("utf-8", "backslashreplace")[: limits.TEXT_MAX_BYTES]


def unpack_text(raw: bytes) -> str:
    """Return the text of any bytes."""
    return raw.decode("utf-8", "replace")


def pack_ranges(ranges: Ranges) -> bytes:
    """Return ranges of ranks, preceded by their number."""
    return U16.pack(len(ranges)) + b"".join([_RANGE.pack(*pair) for pair in ranges])


def unpack_ranges(payload: bytes | memoryview, position: int) -> tuple[Ranges, int]:
    """Return the ranges of ranks at ``position`` and their end; ProtocolError if they are not valid."""
    (count,) = U16.unpack_from(payload, position)
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


def check_stream(stream: int) -> None:
    """Raise ProtocolError if ``stream`` is neither stdout nor stderr."""
    if stream not in (STDOUT, STDERR):
        raise ProtocolError(f"stream {stream} is neither stdout (1) nor stderr (2)")


def unpack_sized(payload: bytes, position: int, limit: int, what: str) -> tuple[bytes, bytes]:
    """Return the bytes whose length (u16) is at ``position``, and everything after them."""
    (length,) = U16.unpack_from(payload, position)
    begin = position + U16.size
    if length > limit or begin + length > len(payload):
        raise ProtocolError(f"{what} of {length} bytes is over the limit or cut short")
    return payload[begin : begin + length], payload[begin + length :]


class Decoder:
    """Splits a byte stream into frames: ``feed`` it bytes in any pieces, and iterate over the complete
    frames.

    Args:
        allowed: the frame types this peer may send (one of the FROM_* tables).
        limit_bytes: an additional limit on every frame, e.g. before the peer has authenticated.
    """

    __slots__ = ("_held_bytes", "_needed_bytes", "_pieces", "allowed", "limit_bytes")

    def __init__(self, allowed: dict[int, type[Frame]], limit_bytes: int = limits.JOB_FRAME_MAX_BYTES):
        self.allowed = allowed
        self.limit_bytes = limit_bytes
        # Pieces are joined once, when their frame is complete: a frame of 5 MiB that arrives a byte at a time
        # must not be copied five million times.
        self._pieces: list[bytes] = []
        self._held_bytes = 0
        self._needed_bytes = HEADER_BYTES

    @property
    def buffered(self) -> int:
        """Bytes held of a frame that is not complete yet."""
        return self._held_bytes

    @property
    def unfinished(self) -> int:
        """Bytes that the frame will have of which some are held; 0 if none are."""
        return self._needed_bytes if self._held_bytes else 0

    @property
    def held(self) -> bytes:
        """The bytes of a frame that is not complete yet."""
        return b"".join(self._pieces)

    def feed(self, data: bytes | memoryview) -> Iterator[tuple[int, Frame]]:
        """Take bytes and yield each complete (channel, frame), in order.

        Iterate to the end, or drop the connection, before feeding more. Until then a memoryview must stay
        valid; what is needed of it later is copied.

        Raises:
            ProtocolError: a type that this peer may not send, a length over the limit (before its payload is
                buffered), or a payload that does not have the form of its type.
        """
        position = 0
        end = len(data)
        if self._held_bytes:
            position = self._hold(data)
            if self._held_bytes < self._needed_bytes:
                return
            whole = b"".join(self._pieces)
            self._pieces = []
            self._held_bytes = 0
            self._needed_bytes = HEADER_BYTES
            length, kind, channel = HEADER.unpack_from(whole)
            yield channel, _unpacked(self._class(kind, length), whole, HEADER_BYTES, len(whole))
        try:
            while end - position >= HEADER_BYTES:
                length, kind, channel = HEADER.unpack_from(data, position)
                frame_class = self._class(kind, length)
                start = position + HEADER_BYTES
                if end - start < length:
                    self._needed_bytes = HEADER_BYTES + length
                    break
                position = start + length
                yield channel, _unpacked(frame_class, data, start, position)
        finally:
            if position < end:
                self._pieces = [bytes(data[position:])]
                self._held_bytes = end - position

    def _hold(self, data: bytes | memoryview) -> int:
        """Add to the frame that has begun; return how many bytes are its own."""
        taken = min(self._needed_bytes - self._held_bytes, len(data))
        self._pieces.append(bytes(data[:taken]))
        self._held_bytes += taken
        if self._needed_bytes == self._held_bytes == HEADER_BYTES:
            self._pieces = [b"".join(self._pieces)]
            length, kind, _ = HEADER.unpack(self._pieces[0])
            self._class(kind, length)
            self._needed_bytes += length
            if length:
                taken += self._hold(data[taken:])
        return taken

    def _class(self, kind: int, length: int) -> type[Frame]:
        """Return the class of a frame with this header; ProtocolError if it is not allowed."""
        frame_class = self.allowed.get(kind)
        if frame_class is None:
            raise ProtocolError(f"frame type {kind} is not expected from this peer")
        if length > frame_class.MAX_BYTES or length > self.limit_bytes:
            raise ProtocolError(f"{frame_class.__name__} frame of {length} bytes is over its limit")
        return frame_class


def _unpacked(frame_class: type[Frame], buffer: bytes | memoryview, start: int, end: int) -> Frame:
    """Return the frame whose payload is there in the buffer."""
    try:
        if frame_class.BULK and end - start >= _BULK_BYTES:
            payload: Any = memoryview(buffer)[start:end]
        else:
            payload = bytes(buffer[start:end])
        return frame_class.unpack(payload)
    except StructError as error:
        raise ProtocolError(f"{frame_class.__name__} frame is malformed: {error}") from error
