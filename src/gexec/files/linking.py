"""Hard links among the entries of one stream: found by the sender, made again by receivers.

The first name of a file is sent as a file, every other one as a HardLink to it.
"""

from __future__ import annotations

import errno
import os
import stat

from gexec import limits
from gexec.files.directories import RefusedError, kind_of, open_below, reason
from gexec.files.partial import keep_old, make_link
from gexec.render.text import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_DEVICE_SHIFT = 64
#: One more name is not possible here, but a copy is: another mount, too many names, a kernel that protects
#: files of others (fs.protected_hardlinks), a file system without hard links.
_UNABLE = (errno.EXDEV, errno.EMLINK, errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL)


class LinkImpossibleError(Exception):
    """A file cannot get one more name here; it can be copied.

    Attributes:
        descriptor: the file, open for reading; the caller closes it.
    """

    def __init__(self, descriptor: int) -> None:
        super().__init__()
        self.descriptor = descriptor


class LinkFinder:
    """Finds names of files that were sent before.

    Args:
        on_full: called once with a sentence, when ARCHIVE_LINKS_MAX files are remembered: further files with
            several names are sent once for each name.
    """

    __slots__ = ("_first", "_is_full", "_on_full")

    def __init__(self, on_full: Callable[[str], None]) -> None:
        self._on_full = on_full
        self._is_full = False
        self._first: dict[int, bytes] = {}

    def first_of(self, status: os.stat_result, name: bytes) -> bytes | None:
        """Return the name under which a file was sent, or None: then ``name`` is its first one.

        Args:
            status: of the file.
        """
        if status.st_nlink < 2:
            return None
        key = _key(status)
        first = self._first.get(key)
        if first is not None or self._is_full:
            return first
        if len(self._first) < limits.ARCHIVE_LINKS_MAX:
            self._first[key] = name
        else:
            self._is_full = True
            self._on_full(
                f"more than {limits.ARCHIVE_LINKS_MAX} files have several names: hard links to further files "
                "are copied as separate files"
            )
        return None

    def is_remembered(self, status: os.stat_result) -> bool:
        """True if other names of this file are found: its entry ``is_linked``."""
        return status.st_nlink > 1 and _key(status) in self._first

    def forget(self, status: os.stat_result) -> None:
        """Forget a file that was not sent; its next name is its first one."""
        self._first.pop(_key(status), None)


class Linker:
    """Makes hard links on a node. Below the destination no link is followed.

    Args:
        destination: the open destination; the caller closes it.
    """

    def __init__(self, destination: int) -> None:
        self._destination = destination
        #: Path of a file that other names follow for -> its device and inode.
        self._files: dict[bytes, int] = {}
        #: The directory that was opened last, with its path.
        self._opened: tuple[bytes, int] | None = None

    def remember(self, path: bytes, status: os.stat_result) -> None:
        """Remember a file with ``is_linked`` that is right here: it was written, or it was already.

        At most ARCHIVE_LINKS_MAX, as in senders; links to further files are refused.
        """
        if len(self._files) < limits.ARCHIVE_LINKS_MAX:
            self._files[path] = _key(status)

    def is_made(self, first: bytes, status: os.stat_result) -> bool:
        """True if an entry, whose status this is, is the file ``first``."""
        return self._files.get(first) == _key(status)

    def link(self, above: int, name: bytes, first: bytes, *, backup: bool) -> bool:
        """Make ``name`` in an open directory a name of the file whose path is ``first``.

        Args:
            backup: keep what is replaced as NAME~.

        Returns:
            False if it is one already.

        Raises:
            RefusedError: ``first`` was not written, or is no longer there; a directory has the name.
            LinkImpossibleError: it can only be copied.
            OSError: something failed.
        """
        if first not in self._files:
            raise RefusedError(f"its other name, {shown(first)}, was not written here")
        try:
            old = os.lstat(name, dir_fd=above)
        except FileNotFoundError:
            old = None
        if old is not None and self.is_made(first, old):
            return False
        if old is not None and stat.S_ISDIR(old.st_mode):
            raise RefusedError(f"it is {kind_of(above, name)} here: remove it first")
        descriptor = self._open(first, os.O_PATH)
        try:
            if backup and old is not None:
                keep_old(above, name)
            make_link(above, name, descriptor)
            return True
        except OSError as error:
            if error.errno not in _UNABLE and os.path.exists("/proc/self/fd"):
                raise
        finally:
            os.close(descriptor)
        raise LinkImpossibleError(self._open(first, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY))

    def close(self) -> None:
        """Close what is open."""
        if self._opened is not None:
            os.close(self._opened[1])
            self._opened = None

    def _open(self, first: bytes, flags: int) -> int:
        """Open a remembered file; raises RefusedError or OSError."""
        path, _, name = first.rpartition(b"/")
        try:
            descriptor = os.open(name, flags | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._directory(path))
        except (RefusedError, OSError) as error:
            why = reason(error) if isinstance(error, OSError) else str(error)
            raise RefusedError(f"its other name, {shown(first)}, cannot be opened: {why}") from error
        if _key(os.fstat(descriptor)) != self._files[first]:
            os.close(descriptor)
            raise RefusedError(f"its other name, {shown(first)}, was replaced during the copy; copy again")
        return descriptor

    def _directory(self, path: bytes) -> int:
        """Open a directory below the destination; it stays open until the next one is."""
        if not path:
            return self._destination
        if self._opened is not None and self._opened[0] == path:
            return self._opened[1]
        self.close()
        descriptor = self._destination
        try:
            for name in path.split(b"/"):
                below = open_below(descriptor, name, to_read=False)
                if descriptor != self._destination:
                    os.close(descriptor)
                descriptor = below
        except BaseException:
            if descriptor != self._destination:
                os.close(descriptor)
            raise
        self._opened = (path, descriptor)
        return descriptor


def _key(status: os.stat_result) -> int:
    return status.st_dev << _DEVICE_SHIFT | status.st_ino
