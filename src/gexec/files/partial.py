"""A file or link that is being written, and gets its name only when it is complete.

Until then a file has no name (O_TMPFILE), so even after SIGKILL nothing is left of it. If the file system
does not support that, and at the moment when an old file is replaced (Linux has no call that replaces a file
by one without a name), it has a temporary name in the same directory, derived from its own name, and is
locked while in use. If it is not locked, the next run that writes the same file removes it, and so does one
that goes through the directory a minute later.
"""

from __future__ import annotations

import errno
import fcntl
import os
import stat
import time

from gexec.files.attributes import apply
from gexec.files.contents import copy_contents
from gexec.files.owners import UNCHANGED
from gexec.files.temporary import is_temporary, temporary_name

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from gexec.files.entries import Attributes

_WRITE = os.O_RDWR | os.O_CLOEXEC
#: A younger file may belong to a run that has not locked it yet; links cannot be locked.
_STALE_S = 60.0
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

    def copy_from(self, source: int, size: int, *, on_step: Callable[[], None] | None = None) -> None:
        """Write the contents of another file of this node; raises as ``copy_contents``."""
        copy_contents(source, self._descriptor, size, on_step=on_step)

    def settle(
        self,
        *,
        size: int,
        uid: int,
        gid: int,
        mode: int,
        mtime_ns: int,
        sync: bool,
        attributes: Attributes | None = None,
        is_privileged: bool = False,
    ) -> list[bytes]:
        """Give the file its size, owner, attributes, mode and mtime.

        In this order: a new owner clears set-id bits and capabilities, and an ACL changes the mode.

        Args:
            attributes: with this host's values; None: those that it has from its directory stay.
            is_privileged: as for ``attributes.apply``.

        Returns:
            The names of attributes that this file system or the system refuses.
        """
        refused: list[bytes] = []
        if os.fstat(self._descriptor).st_size != size:
            os.ftruncate(self._descriptor, size)
        if uid != UNCHANGED:
            os.fchown(self._descriptor, uid, gid)
        if attributes is not None:
            refused = apply(self._descriptor, attributes, is_privileged=is_privileged)
        os.fchmod(self._descriptor, mode)
        os.utime(self._descriptor, ns=(mtime_ns, mtime_ns))
        if sync:
            os.fsync(self._descriptor)
        return refused

    def flush(self) -> None:
        """Write what came so far to the disk."""
        os.fdatasync(self._descriptor)

    def status(self) -> os.stat_result:
        """Return the file's status, until ``publish``."""
        return os.fstat(self._descriptor)

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


def make_link(above: int, name: bytes, descriptor: int) -> None:
    """Give an open file one more name, replacing a file or link of that name; raises OSError.

    Args:
        descriptor: O_PATH is enough.
    """

    def link(claimed: bytes) -> None:
        os.link(f"/proc/self/fd/{descriptor}", claimed, dst_dir_fd=above)

    try:
        link(name)
        return
    except FileExistsError:
        temporary = _claim(above, name, link)
    try:
        os.rename(temporary, name, src_dir_fd=above, dst_dir_fd=above)
    finally:
        # If both are already the same file, rename does nothing.
        _unlink(above, temporary)


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


def remove_stale_below(directory: int, names: Iterable[bytes]) -> set[bytes]:
    """Remove what killed runs left in a directory: temporary files that nobody has locked, and links.

    Args:
        directory: open for reading.
        names: its entries.

    Returns:
        The temporary names among them, removed or not. Those that remain belong to other runs: they are not
        copied, and not deleted.
    """
    found = {name for name in names if is_temporary(name)}
    for name in found:
        try:
            is_old = time.time() - os.lstat(name, dir_fd=directory).st_ctime > _STALE_S
        except OSError:
            continue
        if is_old:
            _remove_stale(directory, name)
    return found


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
        descriptor = _open_to_lock(above, temporary)
    except OSError:
        return
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        os.unlink(temporary, dir_fd=above)
    except OSError:
        pass
    finally:
        os.close(descriptor)


def _open_to_lock(above: int, name: bytes) -> int:
    flags = os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    try:
        # NFS locks only files that are open for writing.
        return os.open(name, os.O_RDWR | flags, dir_fd=above)
    except PermissionError:
        return os.open(name, os.O_RDONLY | flags, dir_fd=above)


def _unlink(above: int, name: bytes) -> None:
    try:
        os.unlink(name, dir_fd=above)
    except OSError:
        pass
