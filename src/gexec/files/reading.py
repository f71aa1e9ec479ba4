"""Reads the contents of open files in large pieces, without their holes, and says why one cannot be read."""

from __future__ import annotations

import errno
import os
import select
import stat

from gexec import limits
from gexec.files.digest import BLOCK_BYTES, ContentHash

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_PIECE_BYTES = limits.ARCHIVE_DATA_MAX_BYTES
_ZEROS = bytes(BLOCK_BYTES)
#: How often a small file is read again if it changes while it is read.
_TRIES = 3
#: Sizes that files without a size of their contents report: /proc and cgroups, /sys.
_NO_SIZES = (0, 4096, os.sysconf("SC_PAGESIZE"))
#: More than such a size; some files of /proc only permit multiples of 8.
_PROBE_BYTES = 2 * max(_NO_SIZES)
#: Files of /proc whose contents have no end; reading kmsg also takes the messages from the system's log.
_ENDLESS = (b"/proc/kmsg", b"/proc/kcore")
CHANGED = "it changed while it was read; copy it when no program writes to it"
_WRONG_SIZE = "its size is not that of its contents; copy its contents into a file first"
_NO_END = "it is a stream of events without an end, not a file"
_TOO_LONG = (
    f"it reports no size and has more than {limits.ARCHIVE_UNSIZED_MAX_BYTES >> 20} MiB, or no end; "
    "copy the part that you need into a file first"
)


class ShrunkError(Exception):
    """The file is shorter than its size at the start."""


class ContentsError(OSError):
    """A file was opened, but its contents cannot be sent; ``reason`` is for ``unreadable``."""

    def __init__(self, reason: str) -> None:
        super().__init__(errno.EIO, reason)
        self.reason = reason


# -- files that report their size -------------------------------------------------------------------


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
        for start, data in _without_zeros(buffer, length):
            yield position + start, data
        position += length


def _without_zeros(content: bytes | bytearray, length: int) -> Iterator[tuple[int, memoryview]]:
    """Yield (offset, part) of the first ``length`` bytes, without blocks of zeros.

    ``content`` begins at the start of a block of its file.
    """
    whole = memoryview(content)
    start = 0
    for at in range(0, length - BLOCK_BYTES + 1, BLOCK_BYTES):
        if content.startswith(_ZEROS, at):
            if at > start:
                yield start, whole[start:at]
            start = at + BLOCK_BYTES
    if length > start:
        yield start, whole[start:length]


def parts(content: bytes) -> Iterator[tuple[int, memoryview]]:
    """Yield (offset, data) of contents as ``pieces`` does, each of at most ARCHIVE_DATA_MAX_BYTES."""
    if 0 < len(content) < BLOCK_BYTES:
        yield 0, memoryview(content)
        return
    for position in range(0, len(content), _PIECE_BYTES):
        piece = content[position : position + _PIECE_BYTES]
        for start, data in _without_zeros(piece, len(piece)):
            yield position + start, data


def _next_data(descriptor: int, position: int, size: int) -> int:
    """Return the start of the next block that must be read: one with data, or the shorter last one."""
    last = size - size % BLOCK_BYTES
    try:
        found = os.lseek(descriptor, position, os.SEEK_DATA)
    except OSError as error:
        # ENXIO: only a hole follows. Other errors: this file system does not report holes.
        return max(position, last) if error.errno == errno.ENXIO else position
    return max(position, min(found - found % BLOCK_BYTES, last))


def content_digest(
    descriptor: int, size: int, buffer: bytearray, on_piece: Callable[[], None] | None = None
) -> bytes:
    """Return the digest (gexec.files.digest) of an open file; raises as ``pieces`` does.

    Args:
        on_piece: called for each piece.
    """
    content = ContentHash()
    for offset, data in pieces(descriptor, size, buffer):
        content.update(offset, data)
        if on_piece is not None:
            on_piece()
    return content.finish(size)


def read_small(descriptor: int, status: os.stat_result, size_max: int) -> tuple[bytes, os.stat_result]:
    """Return the contents of an open file and the status that belongs to them.

    It is read again if it changes meanwhile, a few times.

    Args:
        descriptor: the file; its position is not used.
        status: of it.
        size_max: it was of that size or smaller.

    Raises:
        ContentsError: it changes all the time, has grown beyond ``size_max`` or has no contents of its size.
        OSError: it cannot be read.
    """
    is_same = True
    for _ in range(_TRIES):
        if status.st_size > size_max:
            break
        content = _first(descriptor, status.st_size)
        before, status = status, os.fstat(descriptor)
        if len(content) == before.st_size and not changed(before, status):
            return content, before
        is_same = is_same and _is_same(before, status)
    # If a file was written to, its size or time has changed.
    raise ContentsError(_WRONG_SIZE if is_same else CHANGED)


def _first(descriptor: int, size: int) -> bytes:
    """Return the first ``size`` bytes, or all if there are fewer. Some file systems return them in parts."""
    content = b""
    while len(content) < size and (part := os.pread(descriptor, size - len(content), len(content))):
        content += part
    return content


def changed(before: os.stat_result, after: os.stat_result) -> str:
    """Return why contents of ``before.st_size`` bytes that were read whole cannot be sent; "" if they can.

    A file that only grew, such as a log, has not changed: what it had is sent.

    Args:
        before: the status when its size was noted.
        after: the status when its contents had been read.
    """
    return "" if after.st_size > before.st_size or _is_same(before, after) else CHANGED


def _is_same(before: os.stat_result, after: os.stat_result) -> bool:
    return before.st_size == after.st_size and before.st_mtime_ns == after.st_mtime_ns


# -- files that do not: /proc, /sys, cgroups ----------------------------------------------------


def may_be_unsized(status: os.stat_result) -> bool:
    """Return True for a file whose reported size may be wrong, without looking at its contents.

    It is so for files of /proc and /sys, and for empty ones and some sparse ones of file systems without a
    disk of their own.
    """
    return (
        status.st_blocks == 0
        and os.major(status.st_dev) == 0
        and stat.S_ISREG(status.st_mode)
        and (status.st_size in _NO_SIZES or _is_endless(status))
    )


def is_unsized(status: os.stat_result, descriptor: int) -> bool:
    """Return True if a file does not report the size of its contents: use ``read_unsized`` then.

    Reads a few bytes at the start, never waits, and never reads a stream of events.

    Args:
        status: of the file.
        descriptor: the file, opened with O_NONBLOCK; its position is not used.
    """
    if not may_be_unsized(status):
        return False
    if _is_endless(status) or not _is_ready(descriptor):
        return True
    try:
        count = len(os.pread(descriptor, _PROBE_BYTES, 0))
    except OSError:
        return True
    return count < status.st_size if status.st_size else count > 0


def read_unsized(descriptor: int) -> bytes:
    """Return the contents of a file that ``is_unsized``, as cat shows them.

    Args:
        descriptor: the file, opened with O_NONBLOCK; its position is not used.

    Raises:
        ContentsError: it has more than ARCHIVE_UNSIZED_MAX_BYTES or no end, it cannot be read, or reading it
            would wait.
    """
    if _is_endless(os.fstat(descriptor)):
        raise ContentsError(_NO_END)
    content = bytearray()
    while len(content) <= limits.ARCHIVE_UNSIZED_MAX_BYTES:
        try:
            part = os.pread(descriptor, _PIECE_BYTES, len(content)) if _is_ready(descriptor) else None
        except OSError as error:
            if error.errno == errno.ESPIPE:
                raise ContentsError(_NO_END) from error
            if error.errno != errno.EAGAIN:
                raise ContentsError(f"its contents cannot be read: {error.strerror}") from error
            part = None
        if part is None:
            raise ContentsError("reading it would wait until something happens; it is not copied")
        if not part:
            return bytes(content)
        content += part
    raise ContentsError(_TOO_LONG)


def _is_endless(status: os.stat_result) -> bool:
    """Return True for a file of _ENDLESS, in whichever place that file system is mounted."""
    for path in _ENDLESS if os.major(status.st_dev) == 0 else ():
        try:
            other = os.lstat(path)
        except OSError:
            continue
        if (other.st_ino, other.st_size, other.st_blocks) == (
            status.st_ino,
            status.st_size,
            status.st_blocks,
        ):
            return True
    return False


def _is_ready(descriptor: int) -> bool:
    """Return True if reading does not wait, as far as the file tells."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(0))


# -- reasons ------------------------------------------------------------------------------------

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
    if isinstance(error, ContentsError):
        return error.reason
    return _REASONS.get(error.errno or 0) or f"it cannot be read: {error.strerror}"
