"""Reads the contents of open files in large pieces, without their holes, and says why one cannot be read."""

from __future__ import annotations

import errno
import os

from gexec import limits
from gexec.files.digest import BLOCK_BYTES, ContentHash

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

_PIECE_BYTES = limits.ARCHIVE_DATA_MAX_BYTES
_ZEROS = bytes(BLOCK_BYTES)


class ShrunkError(Exception):
    """The file is shorter than its size at the start."""


def pieces(descriptor: int, size: int, buffer: bytearray) -> Iterator[tuple[int, memoryview]]:
    """Yield (offset, data) of a file's first ``size`` bytes, ascending, without blocks of zeros.

    Args:
        descriptor: the file, open for reading; its position is not used.
        size: from fstat.
        buffer: PIECE_BYTES to read into; a yielded piece is a part of it, valid until the next one is
            requested.

    Raises:
        ShrunkError: the file is shorter.
        OSError: it cannot be read.
    """
    whole = memoryview(buffer)
    has_holes = os.fstat(descriptor).st_blocks * 512 < size
    position = 0
    while position < size:
        if has_holes:
            position = _next_data(descriptor, position, size)
        length = min(_PIECE_BYTES, size - position)
        got = 0
        while got < length:
            count = os.preadv(descriptor, [whole[got:length]], position + got)
            if not count:
                raise ShrunkError
            got += count
        start = 0
        for at in range(0, length - BLOCK_BYTES + 1, BLOCK_BYTES):
            if buffer.startswith(_ZEROS, at):
                if at > start:
                    yield position + start, whole[start:at]
                start = at + BLOCK_BYTES
        if length > start:
            yield position + start, whole[start:length]
        position += length


def _next_data(descriptor: int, position: int, size: int) -> int:
    """Return the start of the next block that must be read: one with data, or the shorter last one."""
    last = size - size % BLOCK_BYTES
    try:
        found = os.lseek(descriptor, position, os.SEEK_DATA)
    except OSError as error:
        # ENXIO: only a hole follows. Other errors: this file system does not report holes.
        return max(position, last) if error.errno == errno.ENXIO else position
    return max(position, min(found - found % BLOCK_BYTES, last))


def content_digest(descriptor: int, size: int, buffer: bytearray) -> bytes:
    """Return the digest (gexec.files.digest) of an open file; raises as ``pieces`` does."""
    content = ContentHash()
    for offset, data in pieces(descriptor, size, buffer):
        content.update(offset, data)
    return content.finish(size)


#: Why something cannot be read, and what to do.
_REASONS = {
    errno.ENOENT: "there is no such file",
    errno.EACCES: "you may not read it; copy as a user who may",
    errno.EPERM: "the system does not permit reading it; copy as a user who may",
    errno.ELOOP: "it was replaced during the copy; copy again",
    errno.ENOTDIR: "it, or a directory above it, was replaced during the copy; copy again",
    errno.EIO: "the disk reports an input/output error; check the disk of this host",
    errno.ESTALE: "its file server no longer has it (stale handle); mount the file system again",
    errno.EMFILE: "too many open files; raise the limit (ulimit -n)",
    errno.ENFILE: "too many open files on this host; close some",
    errno.ENAMETOOLONG: "its name is too long for the file system; shorten it",
}


def unreadable(error: OSError) -> str:
    """Return why something cannot be read, and what to do: the end of a sentence."""
    return _REASONS.get(error.errno or 0) or f"it cannot be read: {error.strerror}"
