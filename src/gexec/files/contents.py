"""Copies the contents of one open file to another on the same node, with its holes."""

from __future__ import annotations

import errno
import os

from gexec import limits
from gexec.files.reading import ShrunkError, pieces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

#: Bytes of one call: copying 16 MiB takes milliseconds, so ``on_step`` is called often enough.
_STEP_BYTES = 16 * 1024 * 1024
#: The kernel or the file system cannot copy between these two files; reading and writing can.
_UNABLE = (
    errno.ENOSYS, errno.EXDEV, errno.EINVAL, errno.EOPNOTSUPP, errno.EPERM, errno.ETXTBSY,
)  # fmt: skip


def copy_contents(source: int, target: int, size: int, *, on_step: Callable[[], None] | None = None) -> None:
    """Make the first ``size`` bytes of ``source`` the contents of ``target``.

    The file system shares or copies them itself if it can.

    Args:
        source: open for reading.
        target: an empty file, open for writing.
        on_step: called every 16 MiB or more often.

    Raises:
        ShrunkError: ``source`` is shorter.
        OSError: it cannot be read, or not be written.
    """
    if not _copied_by_system(source, target, size, on_step):
        buffer = bytearray(limits.ARCHIVE_DATA_MAX_BYTES)
        for offset, data in pieces(source, size, buffer):
            at = 0
            while at < len(data):
                at += os.pwrite(target, data[at:], offset + at)
            if on_step is not None:
                on_step()
    os.ftruncate(target, size)
    if os.fstat(source).st_size < size:
        raise ShrunkError


def _copied_by_system(source: int, target: int, size: int, on_step: Callable[[], None] | None) -> bool:
    """Copy the parts that are not holes; False if that is not possible, and perhaps a part was copied."""
    position = 0
    while position < size:
        try:
            position = os.lseek(source, position, os.SEEK_DATA)
            end = min(os.lseek(source, position, os.SEEK_HOLE), size)
        except OSError as error:
            # ENXIO: only a hole follows. Other errors: this file system does not report holes.
            return error.errno == errno.ENXIO
        while position < end:
            try:
                count = os.copy_file_range(
                    source, target, min(_STEP_BYTES, end - position), position, position
                )
            except OSError as error:
                if error.errno in _UNABLE:
                    return False
                raise
            if not count:
                return False
            position += count
            if on_step is not None:
                on_step()
    return True
