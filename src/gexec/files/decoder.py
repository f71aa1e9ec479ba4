"""Parses an archive stream from pieces of any size, and validates all of it. Pure."""

from __future__ import annotations

from hashlib import sha256
from struct import error as StructError

from gexec import limits
from gexec.errors import ProtocolError
from gexec.files import records
from gexec.files.digest import BLOCK_BYTES, ContentHash
from gexec.files.records import DIGEST_BYTES, ENTRY, HEAD, OFFSET, PREAMBLE, Meta, check_path, is_below

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from gexec.files.compression import Inflater

_DATA_HEAD_BYTES = HEAD.size + OFFSET.size


class ArchiveDecoder:
    """Turns bytes into events (gexec.files.records).

    Memory is bounded: contents are passed on without a copy, and other records are at most CONTROL_MAX_BYTES.
    A file's FileEnd comes only if all its bytes were verified. Events before a ProtocolError are correct too,
    except for an unfinished file.

    Args:
        on_event: called with each event, in order. Its exceptions end the stream and pass through ``feed``.
    """

    __slots__ = (
        "_chain",
        "_content",
        "_held",
        "_inflater",
        "_last",
        "_last_is_leaf",
        "_left_bytes",
        "_on_event",
        "_size",
        "digests_only",
        "is_complete",
        "is_opened",
    )

    def __init__(self, on_event: Callable[[records.Event], None]) -> None:
        self._on_event = on_event
        self._held = bytearray()
        self._chain = sha256()
        self._inflater: Inflater | None = None
        self._content: ContentHash | None = None
        self._size = 0
        self._left_bytes = 0
        self._last: list[bytes] = []
        self._last_is_leaf = False
        #: Files come without their contents.
        self.digests_only = False
        #: The preamble was received.
        self.is_opened = False
        #: End was received: the stream was complete.
        self.is_complete = False

    def feed(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes.

        Raises:
            ProtocolError: they are not an encoder's bytes, or were damaged. Nothing may be fed after that.
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
        if self._inflater is None:
            self._plain(view)
        else:
            self._inflater.feed(view)

    def finish(self) -> None:
        """End the input; ProtocolError if the stream is not complete."""
        if not self.is_complete:
            raise ProtocolError("the stream ended too early: the sender or a link was lost")

    def _open(self, preamble: bytes) -> None:
        magic, version, flags = PREAMBLE.unpack(preamble)
        if magic != records.MAGIC:
            raise ProtocolError("this is not an archive stream: expected the output of gexec's sender")
        if version != records.VERSION or flags & ~(records.COMPRESSED | records.DIGESTS_ONLY):
            raise ProtocolError(
                f"archive stream of version {version} with flags {flags}: this gexec reads version "
                f"{records.VERSION}: install the same gexec on both sides"
            )
        self.digests_only = bool(flags & records.DIGESTS_ONLY)
        # Compression is chosen after the encoder has begun, so the chain excludes its flag.
        self._chain.update(PREAMBLE.pack(magic, version, flags & ~records.COMPRESSED))
        if flags & records.COMPRESSED:
            from gexec.files.compression import Inflater

            self._inflater = Inflater(self._plain)
        self.is_opened = True

    def _plain(self, data: bytes | memoryview) -> None:
        view = memoryview(data)
        position, end = 0, len(view)
        held = self._held
        while True:
            if self._left_bytes:
                if position == end:
                    return
                taken = min(self._left_bytes, end - position)
                self._data(view[position : position + taken])
                position += taken
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
        in_file = self._content is not None
        if kind == records.DATA:
            if not in_file or self.digests_only or not 1 <= length <= limits.ARCHIVE_DATA_MAX_BYTES:
                raise ProtocolError(f"{length} bytes of data are not expected in the archive stream here")
            return _DATA_HEAD_BYTES
        if not records.DIRECTORY <= kind <= records.END:
            raise ProtocolError(f"record {kind} is not known in an archive stream: it was damaged in transit")
        if in_file != (kind in (records.FILE_END, records.FILE_BAD)):
            raise ProtocolError(f"record {kind} is not expected in the archive stream here")
        if not DIGEST_BYTES <= length <= records.CONTROL_MAX_BYTES:
            raise ProtocolError(f"record {kind} of {length} bytes in an archive stream is over the limit")
        return HEAD.size + length

    def _record(self, record: bytes) -> None:
        kind, length = HEAD.unpack_from(record)
        if kind == records.DATA:
            (offset,) = OFFSET.unpack_from(record, HEAD.size)
            self._begin_data(offset, length)
            return
        body = record[:-DIGEST_BYTES]
        self._chain.update(body)
        if self._chain.digest() != record[-DIGEST_BYTES:]:
            raise ProtocolError("the archive stream was damaged in transit: a digest is wrong")
        payload = body[HEAD.size :]
        try:
            if kind <= records.SYMLINK:
                self._entry(kind, payload)
            elif kind == records.FILE_END:
                self._file_end(payload)
            elif kind == records.FILE_BAD:
                self._content = None
                self._on_event(records.FileBad(payload[: limits.TEXT_MAX_BYTES].decode("utf-8", "replace")))
            elif kind == records.SKIPPED:
                self._skipped(payload)
            else:
                (problems,) = records.PROBLEMS.unpack(payload)
                self.is_complete = True
                self._on_event(records.End(problems))
        except StructError as error:
            raise ProtocolError(f"record {kind} in an archive stream is malformed: {error}") from error

    def _entry(self, kind: int, payload: bytes) -> None:
        mode, uid, gid, mtime_ns, owner_bytes, group_bytes, path_bytes, size = ENTRY.unpack_from(payload)
        group_at = ENTRY.size + owner_bytes
        path_at = group_at + group_bytes
        target_at = path_at + path_bytes
        path = payload[path_at:target_at]
        target = payload[target_at:]
        if len(path) != path_bytes or mode & ~0o7777:
            raise ProtocolError("an entry in the archive stream is malformed")
        self._advance(path, is_leaf=kind != records.DIRECTORY)
        meta = Meta(mode, uid, gid, mtime_ns, payload[ENTRY.size : group_at], payload[group_at:path_at])
        if kind == records.SYMLINK:
            if not target or len(target) > limits.ARCHIVE_TARGET_MAX_BYTES or b"\0" in target or size:
                raise ProtocolError("a symbolic link in the archive stream has an invalid target")
            self._on_event(records.Symlink(path, meta, target))
            return
        if target or (kind == records.DIRECTORY and size) or size > records.FILE_SIZE_MAX_BYTES:
            raise ProtocolError("an entry in the archive stream is malformed")
        if kind == records.DIRECTORY:
            self._on_event(records.Directory(path, meta))
            return
        self._content = ContentHash()
        self._size = size
        self._on_event(records.File(path, meta, size))

    def _skipped(self, payload: bytes) -> None:
        (length,) = records.PATH_LENGTH.unpack_from(payload)
        start = records.PATH_LENGTH.size
        path = payload[start : start + length]
        reason = payload[start + length :][: limits.TEXT_MAX_BYTES]
        self._advance(path, is_leaf=True)
        self._on_event(records.Skipped(path, reason.decode("utf-8", "replace")))

    def _advance(self, path: bytes, *, is_leaf: bool) -> None:
        """Refuse duplicate or unordered entries, and entries below something that is not a directory."""
        parts = check_path(path)
        if parts <= self._last:
            raise ProtocolError("entries of the archive stream are not in order, or there is a duplicate")
        if self._last_is_leaf and is_below(parts, self._last):
            raise ProtocolError("an entry of the archive stream is below one that is not a directory")
        self._last = parts
        self._last_is_leaf = is_leaf

    def _begin_data(self, offset: int, length: int) -> None:
        assert self._content is not None  # ensured by _whole
        if (
            offset % BLOCK_BYTES
            or offset < self._content.next
            or offset + length > self._size
            or (length % BLOCK_BYTES and offset + length != self._size)
        ):
            raise ProtocolError("data in the archive stream is outside of its file or not in order")
        self._content.update(offset, b"")
        self._left_bytes = length

    def _data(self, piece: memoryview) -> None:
        assert self._content is not None
        offset = self._content.next
        self._content.update(offset, piece)
        self._left_bytes -= len(piece)
        self._on_event(records.Data(offset, piece))

    def _file_end(self, payload: bytes) -> None:
        content = self._content
        assert content is not None
        self._content = None
        if len(payload) != DIGEST_BYTES:
            raise ProtocolError("the digest of a file in the archive stream is malformed")
        if not self.digests_only and content.finish(self._size) != payload:
            raise ProtocolError("the archive stream was damaged in transit: a file's digest is wrong")
        self._on_event(records.FileEnd(payload))
