"""Encodes what is sent as an archive stream, with little memory.

Entries that cannot be sent are reported, also to receivers, and the rest is sent.
"""

from __future__ import annotations

import os
import stat

from gexec import limits
from gexec.files.digest import ContentHash
from gexec.files.encoder import Encoder
from gexec.files.names import OwnerNames
from gexec.files.patterns import NO_RULES, Rules
from gexec.files.reading import (
    CHANGED,
    ShrunkError,
    changed,
    content_digest,
    is_unsized,
    parts,
    pieces,
    read_small,
    read_unsized,
    unreadable,
)
from gexec.files.records import Meta
from gexec.files.walking import DIRECTORY, FILE, SYMLINK, Found, Opener, walk
from gexec.render.text import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from gexec.files.roots import SourceRoot

    Buffer = bytes | bytearray | memoryview

#: Records are gathered to this size before they are passed on.
_GATHERED_BYTES = 128 * 1024
#: A file up to this size is read before its record is made, so that a change during the read does no harm.
_SMALL_BYTES = limits.ARCHIVE_BLOCK_BYTES - 1


class Sender:
    """One archive stream of some roots.

    Args:
        roots: from roots_of or listed_roots.
        rules: which entries are left out.
        digests_only: send digests instead of contents, for receivers that only compare.
        on_problem: called with one sentence for each entry that is not sent.

    Attributes:
        files, bytes: what has been sent so far.
        problems: how many entries should have been sent but could not be.
    """

    def __init__(
        self,
        roots: Sequence[SourceRoot],
        *,
        rules: Rules = NO_RULES,
        digests_only: bool = False,
        on_problem: Callable[[str], None],
    ) -> None:
        self._roots = roots
        self._rules = rules
        self._digests_only = digests_only
        self._on_problem = on_problem
        self._encoder = Encoder()
        self._buffer = bytearray(limits.ARCHIVE_DATA_MAX_BYTES)
        self._gathered = bytearray()
        self._names = OwnerNames()
        self._opener = Opener()
        self.files = 0
        self.bytes = 0
        self.problems = 0

    def chunks(self) -> Iterator[Buffer]:
        """Yield the stream. Each chunk is valid until the next one is requested."""
        self._gathered += self._encoder.preamble(digests_only=self._digests_only)
        try:
            for found in walk(self._roots, self._rules):
                yield from self._entry(found)
                if len(self._gathered) >= _GATHERED_BYTES:
                    yield self._flush()
        finally:
            self._opener.close()
        self._gathered += self._encoder.end(self.problems)
        yield self._gathered

    def _entry(self, found: Found) -> Iterator[Buffer]:
        if found.kind == FILE:
            try:
                yield from self._file(found)
            except OSError as error:
                self._skip(found.path, found.name, unreadable(error))
        elif found.status is not None and found.kind == DIRECTORY:
            self._gathered += self._encoder.directory(found.name, self._meta(found.status))
        elif found.status is not None and found.kind == SYMLINK:
            self._gathered += self._encoder.symlink(found.name, self._meta(found.status), found.target)
        else:
            self.problems += found.reason != ""
            self._on_problem(found.problem)
            if found.fits:
                self._gathered += self._encoder.skipped(found.name, found.reason)

    def _flush(self) -> bytearray:
        gathered, self._gathered = self._gathered, bytearray()
        return gathered

    def _file(self, found: Found) -> Iterator[Buffer]:
        descriptor = self._opener.open(found)
        try:
            status = os.fstat(descriptor)
            if is_unsized(status, descriptor):
                yield from self._whole(found.name, status, read_unsized(descriptor))
            elif status.st_size <= _SMALL_BYTES:
                content, status = read_small(descriptor, status, _SMALL_BYTES)
                yield from self._whole(found.name, status, content)
            elif self._digests_only:
                self._digest(descriptor, status, found.path, found.name)
            else:
                yield from self._large_file(descriptor, status, found.path, found.name)
        finally:
            os.close(descriptor)

    def _whole(self, name: bytes, status: os.stat_result, content: bytes) -> Iterator[Buffer]:
        self._gathered += self._encoder.file(name, self._meta(status), len(content))
        hashed = ContentHash()
        for offset, data in parts(content):
            hashed.update(offset, data)
            if not self._digests_only:
                self._gathered += self._encoder.data(offset, len(data))
                self._gathered += data
                if len(self._gathered) >= _GATHERED_BYTES:
                    yield self._flush()
        self._gathered += self._encoder.file_end(hashed.finish(len(content)))
        self._count(len(content))

    def _digest(self, descriptor: int, status: os.stat_result, path: bytes, name: bytes) -> None:
        try:
            digest = content_digest(descriptor, status.st_size, self._buffer)
        except ShrunkError:
            digest = b""
        if not digest or changed(status, os.fstat(descriptor)):
            self._skip(path, name, CHANGED)
            return
        self._gathered += self._encoder.file(name, self._meta(status), status.st_size)
        self._gathered += self._encoder.file_end(digest)
        self._count(status.st_size)

    def _large_file(
        self, descriptor: int, status: os.stat_result, path: bytes, name: bytes
    ) -> Iterator[Buffer]:
        os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_SEQUENTIAL)
        size = status.st_size
        self._gathered += self._encoder.file(name, self._meta(status), size)
        hashed = ContentHash()
        reason = CHANGED
        try:
            for offset, data in pieces(descriptor, size, self._buffer):
                hashed.update(offset, data)
                self._gathered += self._encoder.data(offset, len(data))
                yield self._flush()
                yield data
            reason = changed(status, os.fstat(descriptor))
        except ShrunkError:
            pass
        except OSError as error:
            reason = unreadable(error)
        if reason:
            self._problem(path, reason)
            self._gathered += self._encoder.file_bad(reason)
            return
        self._gathered += self._encoder.file_end(hashed.finish(size))
        self._count(size)

    def _meta(self, status: os.stat_result) -> Meta:
        return Meta(
            stat.S_IMODE(status.st_mode),
            status.st_uid,
            status.st_gid,
            status.st_mtime_ns,
            self._names.user(status.st_uid),
            self._names.group(status.st_gid),
        )

    def _count(self, size: int) -> None:
        self.files += 1
        self.bytes += size

    def _skip(self, path: bytes, name: bytes, reason: str) -> None:
        self._problem(path, reason)
        self._gathered += self._encoder.skipped(name, reason)

    def _problem(self, path: bytes, reason: str) -> None:
        self.problems += 1
        self._on_problem(f"{shown(path)}: not sent: {reason}")
