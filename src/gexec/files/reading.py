"""Reads the contents of open files in large pieces, without their holes."""

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
