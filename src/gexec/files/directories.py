"""The open directories above the entry that is written: opened one by one, never through a link.

Entries come in the order of a walk, so the directories from the destination down to the entry's parent are a
stack; each is opened once, through its parent's descriptor, with O_NOFOLLOW. Whatever other processes rename
at the same time, an entry is written into a directory that was below the destination when it was opened.
"""

from __future__ import annotations

import errno
import os
import stat

from gexec.render.text import shown

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from gexec.files.entries import Meta

_DIRECTORY = os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


class RefusedError(Exception):
    """One entry failed; the text is the reason. Empty: already reported for a directory above."""


class Place:
    """An open directory.

    Attributes:
        path: relative to the destination, empty for itself.
        descriptor: open with O_PATH if it is only passed through, else for reading; -1 if there is none.
        refusal: why nothing can be written in it, empty if possible.
        is_missing: it does not exist, in a run that writes nothing.
        is_guarded: only root and this user can replace directories here and in all above.
        status: its status when it was opened.
        meta: its metadata in the stream; None if it is only passed through.
        names: its entries in the stream; None if it is only passed through.
    """

    __slots__ = (
        "descriptor",
        "is_guarded",
        "is_missing",
        "meta",
        "names",
        "path",
        "refusal",
        "status",
    )

    def __init__(self, path: bytes, descriptor: int, *, above: Place | None) -> None:
        self.path = path
        self.descriptor = descriptor
        self.refusal = ""
        self.is_missing = descriptor < 0
        self.meta: Meta | None = None
        self.names: set[bytes] | None = None
        self.status = os.fstat(descriptor) if descriptor >= 0 else None
        self.is_guarded = False
        if self.status is not None:
            self.is_guarded = _is_guarded(self.status) and (above is None or above.is_guarded)

    @property
    def identity(self) -> tuple[int, int]:
        """Device and inode, which identify a directory."""
        return (self.status.st_dev, self.status.st_ino) if self.status is not None else (-1, -1)

    def guards(self, entry: os.stat_result) -> bool:
        """True if no other user can have replaced this entry by another directory."""
        is_ours = entry.st_uid in (0, os.geteuid())
        is_shared = self.status is None or bool(self.status.st_mode & 0o022)
        return self.is_guarded and (is_ours or not is_shared)


def refused(path: bytes, reason: str) -> Place:
    """Return a directory in which nothing can be written."""
    place = Place(path, -1, above=None)
    place.is_missing = False
    place.refusal = reason
    return place


class Tree:
    """The stack of open directories.

    Args:
        descriptor: the destination, open; this object closes it.
        make_parents: create missing directories above an entry.
        read_only: write nothing: a missing directory is a place that ``is_missing``.
        on_leave: called with each place that is left (never the destination itself), before it is closed.
    """

    def __init__(
        self, descriptor: int, *, make_parents: bool, read_only: bool, on_leave: Callable[[Place], None]
    ) -> None:
        self._stack = [Place(b"", descriptor, above=None)]
        self._make_parents = make_parents
        self._read_only = read_only
        self._on_leave = on_leave

    def enter(self, path: bytes) -> Place:
        """Return the directory ``path``, leaving those that it is not below.

        Raises:
            RefusedError: it, or one above, cannot be opened, is a link, or is missing.
        """
        self._leave_until(path)
        above = self._stack[-1]
        if above.refusal:
            raise RefusedError("")
        if above.path != path:
            start = len(above.path) + 1 if above.path else 0
            for name in path[start:].split(b"/"):
                below = above.path + b"/" + name if above.path else name
                self._stack.append(self._passage(above, below, name))
                above = self._stack[-1]
                if above.refusal:
                    raise RefusedError(above.refusal)
        return above

    def push(self, place: Place) -> None:
        """Put a directory of the stream on the stack; its parent was entered last."""
        self._stack.append(place)

    def leave_all(self) -> None:
        """Leave all directories but the destination, which may be entered again."""
        while len(self._stack) > 1:
            self._leave()

    def close(self) -> None:
        """Leave and close all."""
        self.leave_all()
        os.close(self._stack.pop().descriptor)

    def _leave_until(self, path: bytes) -> None:
        while len(self._stack) > 1:
            top = self._stack[-1].path
            if path == top or path.startswith(top + b"/"):
                return
            self._leave()

    def _leave(self) -> None:
        place = self._stack.pop()
        if place.descriptor >= 0:
            try:
                self._on_leave(place)
            finally:
                os.close(place.descriptor)

    def _passage(self, above: Place, path: bytes, name: bytes) -> Place:
        if above.is_missing:
            return Place(path, -1, above=above)
        try:
            return Place(path, open_below(above.descriptor, name, to_read=False), above=above)
        except FileNotFoundError:
            if self._read_only:
                return Place(path, -1, above=above)
            if not self._make_parents:
                return refused(path, f"the directory {shown(name)} is missing (--parents makes it)")
        except RefusedError as error:
            return refused(path, str(error))
        except OSError as error:
            return refused(path, reason(error))
        try:
            os.mkdir(name, 0o755, dir_fd=above.descriptor)
            return Place(path, open_below(above.descriptor, name, to_read=False), above=above)
        except RefusedError as error:
            return refused(path, str(error))
        except OSError as error:
            return refused(path, f"the directory {shown(name)} cannot be made: {reason(error)}")


def open_below(above: int, name: bytes, *, to_read: bool) -> int:
    """Open the directory ``name`` in an open directory.

    Raises:
        RefusedError: it is a link or not a directory.
        OSError: it is missing, or cannot be opened.
    """
    try:
        return os.open(name, _DIRECTORY | (os.O_RDONLY if to_read else os.O_PATH), dir_fd=above)
    except OSError as error:
        if error.errno not in (errno.ENOTDIR, errno.ELOOP):
            raise
    raise RefusedError(f"{shown(name)} is {kind_of(above, name)} here, not a directory")


def kind_of(above: int, name: bytes) -> str:
    """Return the kind of ``name``, for errors."""
    try:
        mode = os.lstat(name, dir_fd=above).st_mode
    except OSError:
        return "gone"
    if stat.S_ISLNK(mode):
        return "a symbolic link (none is followed)"
    return "a directory" if stat.S_ISDIR(mode) else "a file" if stat.S_ISREG(mode) else "something special"


#: Why a call failed, and how to fix it.
_REASONS = {
    errno.ENOSPC: "the disk is full; free space there",
    errno.EDQUOT: "the disk quota is used up; free space or raise the quota",
    errno.EROFS: "the file system is read-only; mount it read-write",
    errno.EACCES: "permission denied; copy as a user who may write there",
    errno.EPERM: "the system does not permit it; see lsattr for an immutable flag, and who owns it",
    errno.EISDIR: "there is a directory of that name; remove it first",
    errno.ENOTEMPTY: "there is a directory of that name; remove it first",
    errno.ENOTDIR: "a part of its path is not a directory; remove that first",
    errno.ELOOP: "a part of its path is a symbolic link, and none is followed; remove that first",
    errno.EEXIST: "something of that name was created during the copy; copy again",
    errno.ENOENT: "its directory was removed during the copy; copy again",
    errno.ENAMETOOLONG: "the name is too long for this file system; shorten it",
    errno.EFBIG: "the file is too large for this file system or the limit (ulimit -f); raise it",
    errno.EMFILE: "too many open files; raise the limit (ulimit -n)",
    errno.ENFILE: "too many open files on this node; close some",
    errno.EXDEV: "another file system is mounted on it; unmount it, or write its file where that is",
    errno.EBUSY: "it is in use, as a mount point or by the system; unmount it first (see findmnt)",
    errno.ETXTBSY: "it is a running program; end it first",
    errno.EMLINK: "it has as many names as this file system allows; remove some",
    errno.EIO: "the disk reports an input/output error; check the disk",
    errno.ESTALE: "the file server no longer has it (stale handle); mount the file system again",
    errno.EOPNOTSUPP: "this file system does not support it; choose a destination on another one",
    errno.EINVAL: "this file system refuses the name or an attribute; choose another destination",
}


def reason(error: OSError) -> str:
    """Return why a call failed and how to fix it, for errors."""
    return _REASONS.get(error.errno or 0) or f"the system reports: {error.strerror}"


def _is_guarded(status: os.stat_result) -> bool:
    # In a sticky directory only its owner can replace an entry.
    is_closed = not status.st_mode & 0o022 or bool(status.st_mode & stat.S_ISVTX)
    return status.st_uid in (0, os.geteuid()) and is_closed
