"""A file or link that is being written, and gets its name only when it is complete.

Until then a file has no name (O_TMPFILE), so even after SIGKILL nothing is left of it. If the file system
does not support that, and at the moment when an old file is replaced, it has a temporary name in the same
directory, derived from its own name, and is locked while in use. The next run that writes the same file
removes such a file if it is not locked.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
from hashlib import sha256

from gexec.files.owners import UNCHANGED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

_WRITE = os.O_RDWR | os.O_CLOEXEC
_NO_UNNAMED = (errno.EOPNOTSUPP, errno.EISDIR, errno.EINVAL)


class Partial:
    """A regular file that is being written: ``write``, then ``settle`` and ``publish``, or ``abort``. All
    raise OSError.

    Args:
        above: the open directory; the caller closes it.
        name: the file's name in it.
        is_unnamed: begin without a name if possible.
    """

    __slots__ = ("_above", "_descriptor", "_name", "_temporary")

    def __init__(self, above: int, name: bytes, *, is_unnamed: bool = True) -> None:
        self._above = above
        self._name = name
        self._temporary = b""
        self._descriptor = -1
        # Without /proc an unnamed file cannot be given a name.
        if is_unnamed and os.path.exists("/proc/self/fd"):
            try:
                self._descriptor = os.open(".", _WRITE | os.O_TMPFILE, 0o600, dir_fd=above)
            except OSError as error:
                if error.errno not in _NO_UNNAMED:
                    raise
        if self._descriptor < 0:
            self._temporary = _claim(above, name, self._create)
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self.abort()
                raise

    def write(self, offset: int, data: memoryview) -> None:
        """Write ``data`` at ``offset``."""
        while data:
            count = os.pwrite(self._descriptor, data, offset)
            offset += count
            data = data[count:]

    def settle(self, *, size: int, uid: int, gid: int, mode: int, mtime_ns: int, sync: bool) -> None:
        """Give the file its size, owner, mode (last: a new owner clears set-id bits) and mtime."""
        if os.fstat(self._descriptor).st_size != size:
            os.ftruncate(self._descriptor, size)
        if uid != UNCHANGED:
            os.fchown(self._descriptor, uid, gid)
        os.fchmod(self._descriptor, mode)
        os.utime(self._descriptor, ns=(mtime_ns, mtime_ns))
        if sync:
            os.fsync(self._descriptor)

    def publish(self) -> None:
        """Give the file its name, replacing a file or link of that name, and close it."""
        if not self._temporary:
            try:
                self._link(self._name)
            except FileExistsError:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                self._temporary = _claim(self._above, self._name, self._link)
        if self._temporary:
            os.rename(self._temporary, self._name, src_dir_fd=self._above, dst_dir_fd=self._above)
            self._temporary = b""
        self.abort()

    def abort(self) -> None:
        """Remove it; does nothing after ``publish`` or ``abort``."""
        if self._temporary:
            _unlink(self._above, self._temporary)
            self._temporary = b""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _create(self, name: bytes) -> None:
        flags = _WRITE | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
        self._descriptor = os.open(name, flags, 0o600, dir_fd=self._above)

    def _link(self, name: bytes) -> None:
        os.link(f"/proc/self/fd/{self._descriptor}", name, dst_dir_fd=self._above)


def make_symlink(above: int, name: bytes, target: bytes, *, uid: int, gid: int, mtime_ns: int) -> None:
    """Make a symbolic link, replacing a file or link of that name; raises OSError."""
    temporary = _claim(above, name, lambda claimed: os.symlink(target, claimed, dir_fd=above))
    try:
        descriptor = os.open(temporary, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=above)
        try:
            # Not by name: other users who may write here could have replaced it by a hard link to any file.
            if stat.S_ISLNK(os.fstat(descriptor).st_mode):
                itself = f"/proc/self/fd/{descriptor}"
                if uid != UNCHANGED:
                    os.chown(itself, uid, gid)
                os.utime(itself, ns=(mtime_ns, mtime_ns))
        finally:
            os.close(descriptor)
        os.rename(temporary, name, src_dir_fd=above, dst_dir_fd=above)
    except BaseException:
        _unlink(above, temporary)
        raise


def keep_old(above: int, name: bytes) -> None:
    """Give the file ``name`` the second name ``name~``, replacing an older one; raises OSError."""

    def link(claimed: bytes) -> None:
        os.link(name, claimed, src_dir_fd=above, dst_dir_fd=above, follow_symlinks=False)

    old = name + b"~"
    temporary = _claim(above, old, link)
    try:
        os.rename(temporary, old, src_dir_fd=above, dst_dir_fd=above)
    finally:
        # If both are already the same file, rename does nothing.
        _unlink(above, temporary)


def temporary_name(name: bytes) -> bytes:
    """Return the temporary name of a file."""
    return b".gexec-" + sha256(name).hexdigest()[:24].encode()


def _claim(above: int, name: bytes, make: Callable[[bytes], None]) -> bytes:
    """Create something under an unused temporary name, and return that name."""
    temporary = temporary_name(name)
    try:
        make(temporary)
    except FileExistsError:
        _remove_stale(above, temporary)
    else:
        return temporary
    try:
        make(temporary)
    except FileExistsError:
        # Another process is writing the same file, or has created something else of that name.
        temporary += b"-" + os.urandom(8).hex().encode()
        make(temporary)
    return temporary


def _remove_stale(above: int, temporary: bytes) -> None:
    """Remove the file of a killed run; keep a file that another run is writing."""
    try:
        mode = os.lstat(temporary, dir_fd=above).st_mode
        if stat.S_ISLNK(mode):
            os.unlink(temporary, dir_fd=above)
        if not stat.S_ISREG(mode):
            return
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
        descriptor = os.open(temporary, flags, dir_fd=above)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(temporary, dir_fd=above)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _unlink(above: int, name: bytes) -> None:
    try:
        os.unlink(name, dir_fd=above)
    except OSError:
        pass
