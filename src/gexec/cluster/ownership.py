"""Refuses a local cluster's directory in which another user could have put something.

Whoever starts a cluster writes logs, keys and sockets there, and signals the processes that its state names:
with symbolic links, hard links or FIFOs in it, another user would decide which files and processes these are.
When every directory on the way belongs to root or to the caller and nobody else may write to it, nothing can
be exchanged after the check either.
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from gexec.errors import GexecError
from gexec.posix.trusted import check_directories

_WHAT = "the cluster's directory"
#: The directories of a cluster's directory; its files are in them, or beside them.
FOLDERS = ("keys", "run", "logs", "audit")
_FILES = ("state.json", "hosts", "lock")


def refuse_foreign(folder: Path, error: type[GexecError]) -> None:
    """Check a cluster's directory, which need not exist yet, and all of the cluster's files in it.

    Raises:
        error: a directory or file is another user's, of the wrong kind, or others may write to it; one
            sentence that names it.
    """
    existing = folder
    while not os.path.lexists(existing):
        existing = existing.parent
    check_directories(str(existing / "x"), _WHAT, error)
    if existing != folder:
        return
    for name in _FILES:
        _refuse(folder / name, error)
    for name in FOLDERS:
        inner = folder / name
        if not os.path.lexists(inner):
            continue
        status = os.lstat(inner)
        if not stat.S_ISDIR(status.st_mode):
            raise error(
                f"{inner}: expected a directory, not a link or file: remove it, or choose another --dir"
            )
        check_directories(str(inner / "x"), _WHAT, error)
        for entry in os.listdir(inner):
            _refuse(inner / entry, error)


def read_own(path: Path, max_bytes: int, error: type[GexecError]) -> bytes | None:
    """Return the content of a file of root or of the caller, at most one byte more than ``max_bytes``.

    Returns:
        None if it does not exist.

    Raises:
        error: another user wrote it or could have, or it is no regular file.
    """
    try:
        flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
        descriptor = os.open(path, flags)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as cause:
        raise error(f"{path}: cannot be read ({cause.strerror})") from cause
    with open(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if status.st_uid not in (0, os.geteuid()):
            raise error(
                f"{path}: belongs to uid {status.st_uid}, as this cluster does; run this as that user"
            )
        if not stat.S_ISREG(status.st_mode):
            raise error(f"{path}: is no regular file: remove it")
        check_directories(str(path), _WHAT, error)
        return file.read(max_bytes + 1)


def _refuse(path: Path, error: type[GexecError]) -> None:
    try:
        status = os.lstat(path)
    except FileNotFoundError:
        return
    if status.st_uid not in (0, os.geteuid()):
        raise error(f"{path}: belongs to uid {status.st_uid}: remove it, or choose another --dir")
    if not (stat.S_ISREG(status.st_mode) or stat.S_ISSOCK(status.st_mode)):
        raise error(f"{path}: is neither a file nor a socket: remove it, or choose another --dir")
    if stat.S_ISREG(status.st_mode) and status.st_nlink > 1:
        raise error(f"{path}: has {status.st_nlink} names (hard links): remove it, or choose another --dir")
