"""Encodes an archive stream. Pure."""

from __future__ import annotations

from hashlib import sha256

from gexec import limits
from gexec.files import records
from gexec.files.records import DIGEST_BYTES, ENTRY, HEAD, Meta


class Encoder:
    """One stream. Each method returns the bytes of one record, to be sent in the order of the calls.

    The caller's duty: ``preamble`` first and ``end`` last; entries in ascending order of their paths'
    components, each path once, nothing below a file or link; after ``file`` only ``data`` and then
    ``file_end`` or ``file_bad``. A decoder refuses anything else.
    """

    __slots__ = ("_chain",)

    def __init__(self) -> None:
        self._chain = sha256()

    def preamble(self, *, digests_only: bool = False) -> bytes:
        """Return the stream's first bytes."""
        flags = records.DIGESTS_ONLY if digests_only else 0
        preamble = records.PREAMBLE.pack(records.MAGIC, records.VERSION, flags)
        self._chain.update(preamble)
        return preamble

    def directory(self, path: bytes, meta: Meta) -> bytes:
        """Return the record of a directory."""
        return self._entry(records.DIRECTORY, path, meta, 0, b"")

    def file(self, path: bytes, meta: Meta, size: int) -> bytes:
        """Return the record that begins a regular file of ``size`` bytes."""
        return self._entry(records.FILE, path, meta, size, b"")

    def symlink(self, path: bytes, meta: Meta, target: bytes) -> bytes:
        """Return the record of a symbolic link."""
        return self._entry(records.SYMLINK, path, meta, 0, target)

    def data(self, offset: int, length: int) -> bytes:
        """Return the header of ``length`` bytes of data, at most ARCHIVE_DATA_MAX_BYTES."""
        return HEAD.pack(records.DATA, length) + records.OFFSET.pack(offset)

    def file_end(self, digest: bytes) -> bytes:
        """Return the record that ends a file: the digest of its contents (ContentHash)."""
        return self._record(records.FILE_END, digest)

    def file_bad(self, reason: str) -> bytes:
        """Return the record that ends a file that receivers must drop."""
        return self._record(records.FILE_BAD, _text(reason))

    def skipped(self, path: bytes, reason: str) -> bytes:
        """Return the record of something that could not be sent."""
        return self._record(records.SKIPPED, records.PATH_LENGTH.pack(len(path)) + path + _text(reason))

    def end(self, problems: int) -> bytes:
        """Return the last record."""
        return self._record(records.END, records.PROBLEMS.pack(problems))

    def _entry(self, kind: int, path: bytes, meta: Meta, size: int, target: bytes) -> bytes:
        fixed = ENTRY.pack(
            meta.mode,
            meta.uid,
            meta.gid,
            max(-records.MTIME_MAX_NS, min(records.MTIME_MAX_NS, meta.mtime_ns)),
            len(meta.owner),
            len(meta.group),
            len(path),
            size,
        )
        return self._record(kind, b"".join((fixed, meta.owner, meta.group, path, target)))

    def _record(self, kind: int, payload: bytes) -> bytes:
        record = HEAD.pack(kind, len(payload) + DIGEST_BYTES) + payload
        self._chain.update(record)
        return record + self._chain.digest()


def _text(text: str) -> bytes:
    return text.encode("utf-8", "backslashreplace")[: limits.TEXT_MAX_BYTES]
