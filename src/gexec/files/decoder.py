"""Parses an archive stream from pieces of any size, and validates all of it. Pure."""

from __future__ import annotations

from hashlib import sha256
from struct import error as StructError

from gexec import limits
from gexec.errors import ProtocolError
from gexec.files import records
from gexec.files.digest import BLOCK_BYTES, ContentHash
from gexec.files.entries import SIZE_MAX_BYTES, Directory, File, check_path, is_below, unpacked_list
from gexec.files.records import DIGEST_BYTES, HEAD, NUMBER, OFFSET, PREAMBLE

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from gexec.files.compression import Inflater
    from gexec.files.entries import StreamEntry
    from gexec.files.signatures import StreamVerifier

_DATA_HEAD_BYTES = HEAD.size + OFFSET.size
#: What a kept record takes besides its bytes.
_KEPT_BYTES = 128


class ArchiveDecoder:
    """Turns bytes into events (gexec.files.records).

    Memory is bounded: contents are passed on without a copy, other records are at most CONTROL_MAX_BYTES, and
    at most ARCHIVE_LISTS_MAX lists wait for their contents. A file's FileEnd comes only if all its bytes were
    verified. Events before a ProtocolError are correct too, except for an unfinished file.

    Of a signed stream, records are kept unread until a signature covers them, at most
    ARCHIVE_UNSIGNED_MAX_BYTES; only Data of a file whose Contents is covered comes at once.

    Args:
        on_event: called with each event, in order. Its exceptions end the stream and pass through ``feed``.
        verifier: the stream must be signed, with this key; None: it must not be.

    Attributes:
        is_opened: the preamble was received; the next three are known.
        is_asking: the sender waits for answers to each list.
        digests_only: files come without their contents.
        boot_id: of the sender's host.
        is_complete: End was received: the stream was complete.
    """

    __slots__ = (
        "_chain",
        "_checker",
        "_content",
        "_held",
        "_in_file",
        "_index",
        "_inflater",
        "_is_unpacking",
        "_left_bytes",
        "_lists",
        "_next_list",
        "_on_event",
        "_size",
        "_unsigned",
        "_unsigned_bytes",
        "_verifier",
        "boot_id",
        "digests_only",
        "is_asking",
        "is_complete",
        "is_opened",
    )

    def __init__(
        self, on_event: Callable[[records.Event], None], verifier: StreamVerifier | None = None
    ) -> None:
        self._on_event = on_event
        self._verifier = verifier
        #: Kind and payload of records that no signature covers; of DATA its offset and contents.
        self._unsigned: list[tuple[int, bytearray]] = []
        self._unsigned_bytes = 0
        self._held = bytearray()
        self._chain = sha256()
        self._inflater: Inflater | None = None
        self._is_unpacking = False
        #: The records so far end within a file.
        self._in_file = False
        self._content: ContentHash | None = None
        self._size = 0
        self._left_bytes = 0
        self._checker = _OrderChecker()
        #: Lists that are not done, the oldest first.
        self._lists: dict[int, Sequence[StreamEntry]] = {}
        self._next_list = 0
        #: Of the last file of the oldest list whose contents came.
        self._index = -1
        self.is_opened = False
        self.is_asking = False
        self.digests_only = False
        self.boot_id = b""
        self.is_complete = False

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes.

        Raises:
            ProtocolError: they are not an encoder's bytes, or were damaged. Nothing may be fed after that.
            UsageError: they are compressed, and zstandard is not installed.
        """
        view = memoryview(data)
        if not self.is_opened:
            wanted = PREAMBLE.size - len(self._held)
            self._held += view[:wanted]
            view = view[wanted:]
            if len(self._held) < PREAMBLE.size:
                return
            self._open(bytes(self._held))
            self._held.clear()
        self._plain(view)

    def finish(self) -> None:
        """End the input; ProtocolError if the stream is not complete."""
        if not self.is_complete:
            raise ProtocolError("the stream ended too early: the sender or a link was lost")

    def _open(self, preamble: bytes) -> None:
        magic, version, flags, self.boot_id = PREAMBLE.unpack(preamble)
        if magic != records.MAGIC:
            raise ProtocolError("this is not an archive stream: expected the output of gexec's sender")
        if version != records.VERSION or flags & ~(records.ASKING | records.DIGESTS_ONLY | records.SIGNED):
            raise ProtocolError(
                f"archive stream of version {version} with flags {flags}: this gexec reads version "
                f"{records.VERSION}: install the same gexec on both sides"
            )
        if bool(flags & records.SIGNED) != (self._verifier is not None):
            raise ProtocolError(
                "the archive stream is signed, and no key was given to verify it: give --signed-by"
                if self._verifier is None
                else "the archive stream is not signed: it is not the sender's, or was altered on its way"
            )
        self.is_asking = bool(flags & records.ASKING)
        self.digests_only = bool(flags & records.DIGESTS_ONLY)
        self._chain.update(preamble)
        self.is_opened = True

    def _plain(self, view: memoryview) -> None:
        position, end = 0, len(view)
        held = self._held
        while True:
            if self._left_bytes:
                if position == end:
                    return
                taken = min(self._left_bytes, end - position)
                piece = view[position : position + taken]
                position += taken
                self._left_bytes -= taken
                if self._unsigned:
                    self._unsigned[-1][1].extend(piece)
                else:
                    self._data(piece)
            elif held:
                wanted = HEAD.size if len(held) < HEAD.size else self._whole(*HEAD.unpack_from(held))
                taken = min(wanted - len(held), end - position)
                held += view[position : position + taken]
                position += taken
                if len(held) < wanted:
                    return
                if wanted > HEAD.size:
                    record = bytes(held)
                    held.clear()
                    self._record(record)
            else:
                wanted = HEAD.size
                if end - position >= wanted:
                    wanted = self._whole(*HEAD.unpack_from(view, position))
                if end - position < wanted:
                    held += view[position:]
                    return
                self._record(bytes(view[position : position + wanted]))
                position += wanted

    def _whole(self, kind: int, length: int) -> int:
        """Return the bytes of a record needed to parse it; ProtocolError if it is not allowed here."""
        if self.is_complete:
            raise ProtocolError("the archive stream continues after its end")
        if kind == records.DATA:
            if not self._in_file or not 1 <= length <= limits.ARCHIVE_DATA_MAX_BYTES:
                raise ProtocolError(f"{length} bytes of data are not expected in the archive stream here")
            return _DATA_HEAD_BYTES
        if not records.DEVICES <= kind <= (records.END if self._verifier is None else records.SIGNATURE):
            raise ProtocolError(f"record {kind} is not known in an archive stream: it was damaged in transit")
        if kind == records.PACKED:
            if not 1 <= length <= records.PACKED_MAX_BYTES:
                raise ProtocolError(f"{length} compressed bytes are not expected in an archive stream")
            return HEAD.size + length
        is_in_file = kind in (records.FILE_END, records.FILE_BAD)
        if self._in_file != is_in_file and kind != records.SIGNATURE:
            raise ProtocolError(f"record {kind} is not expected in the archive stream here")
        if not DIGEST_BYTES <= length <= records.CONTROL_MAX_BYTES:
            raise ProtocolError(f"record {kind} of {length} bytes in an archive stream is over the limit")
        return HEAD.size + length

    def _record(self, record: bytes) -> None:
        kind, length = HEAD.unpack_from(record)
        if kind == records.DATA:
            self._left_bytes = length
            if self._unsigned:
                self._keep(kind, record[HEAD.size :], length)
            else:
                self._begin_data(record[HEAD.size :], length)
            return
        if kind == records.PACKED:
            self._packed(record)
            return
        body = record[:-DIGEST_BYTES]
        payload = body[HEAD.size :]
        signed = self._chain.digest() if kind == records.SIGNATURE else b""
        self._chain.update(body)
        if self._chain.digest() != record[-DIGEST_BYTES:]:
            raise ProtocolError("the archive stream was damaged in transit: a digest is wrong")
        if kind == records.SIGNATURE:
            self._signature(signed, payload)
            return
        self._in_file = kind == records.CONTENTS
        if self._verifier is None:
            self._control(kind, payload)
        else:
            self._keep(kind, payload, len(payload))

    def _keep(self, kind: int, payload: bytes, size: int) -> None:
        """Keep a record until a signature covers it. ``size``: of all its bytes, if more will follow."""
        self._unsigned.append((kind, bytearray(payload)))
        self._unsigned_bytes += size + _KEPT_BYTES
        if self._unsigned_bytes > limits.ARCHIVE_UNSIGNED_MAX_BYTES:
            raise ProtocolError("records without a signature in the archive stream are over the limit")

    def _signature(self, chain: bytes, signature: bytes) -> None:
        """Read all that this signature covers."""
        assert self._verifier is not None  # ensured by _whole
        if not self._verifier.is_signed(chain, signature):
            raise ProtocolError("the archive stream was altered on its way: its signature is wrong")
        covered, self._unsigned, self._unsigned_bytes = self._unsigned, [], 0
        for kind, payload in covered:
            if kind == records.DATA:
                data = memoryview(payload)[OFFSET.size :]
                self._begin_data(payload, len(data))
                self._data(data)
            else:
                self._control(kind, bytes(payload))

    def _packed(self, record: bytes) -> None:
        if self._is_unpacking:
            raise ProtocolError("compressed records in an archive stream are compressed again")
        if self._inflater is None:
            from gexec.files.compression import Inflater

            self._inflater = Inflater()
        self._is_unpacking = True
        held, self._held = self._held, bytearray()
        self._plain(memoryview(self._inflater.inflate(record[HEAD.size :])))
        if self._held or self._left_bytes:
            raise ProtocolError("compressed records in an archive stream are not whole")
        self._held = held
        self._is_unpacking = False

    def _control(self, kind: int, payload: bytes) -> None:
        try:
            self._event_of(kind, payload)
        except StructError as error:
            raise ProtocolError(f"record {kind} in an archive stream is malformed: {error}") from error

    def _event_of(self, kind: int, payload: bytes) -> None:
        if kind == records.LIST:
            self._list(payload)
        elif kind == records.DIGESTS:
            self._digests(payload)
        elif kind == records.CONTENTS:
            self._contents(payload)
        elif kind == records.FILE_END:
            self._file_end(payload)
        elif kind == records.FILE_BAD:
            self._content = None
            self._on_event(records.FileBad(payload[: limits.TEXT_MAX_BYTES].decode("utf-8", "replace")))
        elif kind == records.DONE:
            (number,) = NUMBER.unpack(payload)
            if not self._lists or number != next(iter(self._lists)):
                raise ProtocolError(f"list {number} of the archive stream cannot be done")
            del self._lists[number]
            self._index = -1
            self._on_event(records.ListDone(number))
        elif kind == records.DEVICES:
            device, kind_bytes = records.DEVICE.unpack_from(payload)
            names = payload[records.DEVICE.size :]
            self._on_event(records.Device(device, names[:kind_bytes], names[kind_bytes:]))
        elif kind == records.RULES:
            self._on_event(records.FilterRules(payload.split(b"\0") if payload else []))
        elif kind == records.END:
            (problems,) = records.PROBLEMS.unpack(payload)
            if self._lists:
                raise ProtocolError("the archive stream ends before all its lists are done")
            self.is_complete = True
            self._on_event(records.End(problems))

    def _list(self, payload: bytes) -> None:
        (number,) = NUMBER.unpack_from(payload)
        if number != self._next_list or len(self._lists) >= limits.ARCHIVE_LISTS_MAX:
            raise ProtocolError(f"list {number} of the archive stream is not expected here")
        entries = unpacked_list(payload[NUMBER.size :])
        for entry in entries:
            self._checker.advance(entry)
        self._next_list += 1
        self._lists[number] = entries
        self._on_event(records.Listed(number, entries))

    def _digests(self, payload: bytes) -> None:
        (number,) = NUMBER.unpack_from(payload)
        digests = dict(records.DIGEST_OF.iter_unpack(payload[NUMBER.size :]))
        entries = self._lists.get(number)
        if entries is None:
            raise ProtocolError(f"digests in the archive stream are of list {number}, which is not open")
        if not all(index < len(entries) and isinstance(entries[index], File) for index in digests):
            raise ProtocolError(f"digests of list {number} in the archive stream are not of its files")
        self._on_event(records.Digests(number, digests))

    def _contents(self, payload: bytes) -> None:
        index, size, mtime_ns = records.CONTENTS_OF.unpack(payload)
        entries = next(iter(self._lists.values()), ())
        if (
            not self._index < index < len(entries)
            or not isinstance(entries[index], File)
            or size > SIZE_MAX_BYTES
            or self.digests_only
        ):
            raise ProtocolError("contents in the archive stream are not those of a file in its lists")
        self._index = index
        self._content = ContentHash()
        self._size = size
        self._on_event(records.Contents(index, size, mtime_ns))

    def _begin_data(self, packed_offset: bytes | bytearray, length: int) -> None:
        assert self._content is not None  # ensured by _whole
        (offset,) = OFFSET.unpack_from(packed_offset)
        if (
            offset % BLOCK_BYTES
            or offset < self._content.next
            or offset + length > self._size
            or (length % BLOCK_BYTES and offset + length != self._size)
        ):
            raise ProtocolError("data in the archive stream is outside of its file or not in order")
        self._content.update(offset, b"")

    def _data(self, piece: memoryview) -> None:
        assert self._content is not None
        offset = self._content.next
        self._content.update(offset, piece)
        self._on_event(records.Data(offset, piece))

    def _file_end(self, payload: bytes) -> None:
        content = self._content
        assert content is not None
        self._content = None
        if content.finish(self._size) != payload:
            raise ProtocolError("the archive stream was damaged in transit: a file's digest is wrong")
        self._on_event(records.FileEnd(payload))


class _OrderChecker:
    """Refuses duplicate or unordered entries, and entries below something that is not a directory."""

    __slots__ = ("_last", "_last_is_leaf")

    def __init__(self) -> None:
        self._last: list[bytes] = []
        self._last_is_leaf = False

    def advance(self, entry: StreamEntry) -> None:
        parts = check_path(entry.path)
        if parts <= self._last:
            raise ProtocolError("entries of the archive stream are not in order, or there is a duplicate")
        if self._last_is_leaf and is_below(parts, self._last):
            raise ProtocolError("an entry of the archive stream is below one that is not a directory")
        self._last = parts
        self._last_is_leaf = not isinstance(entry, Directory)
