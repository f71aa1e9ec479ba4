"""Reads files that only an administrator can have written: keys, settings, names.

A file is opened once, without following a link at the end of its path, and the open file is checked
(fstat), so it cannot be replaced between check and reading. Every directory above it must belong to
root or to the reader, and no other user may write to it, because a user who can rename a directory can
exchange its files.
"""

from __future__ import annotations

import errno
import os
import stat

from gexec.errors import GexecError

#: As the kernel's limit.
_LINKS_MAX = 40


def read_trusted(
    path: str, *, what: str, max_bytes: int, private: bool, error: type[GexecError], missing: str = ""
) -> bytes:
    """Return the bytes of a file that only root or the reading user could have written.

    Args:
        path: the file; a symbolic link as its last part is refused.
        what: the file's purpose, for error texts, e.g. ``private key``.
        max_bytes: larger files are refused.
        private: refuse the file if group or others may read it.
        error: the class to raise, with one sentence that suggests a fix.
        missing: what to do if there is no such file, appended to that sentence.

    Raises:
        error: the file was refused or could not be read.
    """
    flags = os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY
    try:
        descriptor = os.open(path, flags)
    except OSError as cause:
        raise error(_cannot_open(path, what, cause, missing)) from cause
    try:
        _check_file(path, what, os.fstat(descriptor), private, error)
        check_directories(path, what, error)
        content = _read(descriptor, max_bytes + 1)
    except OSError as cause:
        raise error(f"{what} {path}: cannot be read: {cause.strerror}") from cause
    finally:
        os.close(descriptor)
    if len(content) > max_bytes:
        raise error(f"{what} {path}: larger than {max_bytes} bytes: is this the right file?")
    return content


def check_directories(path: str, what: str, error: type[GexecError]) -> None:
    """Refuse ``path`` if a directory above it lets another user exchange the file.

    Each directory on the way is checked, also the way to symbolic links and from them on. One that others
    may write to is accepted only if it is sticky and root's, like /tmp: only its owner can remove or rename
    an entry of it, and that owner is checked, of links too.
    """
    me = os.geteuid()
    pending = os.path.dirname(os.path.abspath(path)).split("/")[:0:-1]
    directory, links = "/", 0
    _check_directory(directory, path, what, error)
    while pending:
        name = pending.pop()
        if name in ("", ".", ".."):
            directory = os.path.dirname(directory) if name == ".." else directory
            continue
        entry = os.path.join(directory, name)
        status = os.lstat(entry)
        if not stat.S_ISLNK(status.st_mode):
            directory = entry
            _check_directory(directory, path, what, error)
            continue
        links += 1
        if status.st_uid not in (0, me) or links > _LINKS_MAX:
            raise error(
                f"{what} {path}: {entry} is a symbolic link of uid {status.st_uid}, who could exchange the "
                "file: name the directory itself"
            )
        target = os.readlink(entry)
        directory = "/" if target.startswith("/") else directory
        pending += target.split("/")[::-1]


def _check_directory(directory: str, path: str, what: str, error: type[GexecError]) -> None:
    status = os.stat(directory)
    if status.st_uid not in (0, os.geteuid()):
        raise error(
            f"{what} {path}: the directory {directory} belongs to uid {status.st_uid}, who could "
            f"exchange the file: keep it in a directory of root or of your own"
        )
    sticky = status.st_mode & stat.S_ISVTX and status.st_uid == 0
    if status.st_mode & 0o022 and not sticky:
        raise error(
            f"{what} {path}: other users may write to the directory {directory} and exchange the "
            f"file: run `chmod go-w {directory}`"
        )


def check_written(path: str, what: str, error: type[GexecError]) -> None:
    """Refuse a file that is to be written if another user could exchange it; it need not exist yet."""
    try:
        check_directories(path, what, error)
    except OSError:
        pass  # there is no such directory: who writes the file reports it


def _cannot_open(path: str, what: str, cause: OSError, missing: str) -> str:
    if cause.errno in (errno.ELOOP, errno.EMLINK):
        return f"{what} {path}: is a symbolic link: name the file itself"
    if cause.errno == errno.ENOENT and missing:
        return f"{what} {path}: no such file: {missing}"
    if cause.errno == errno.EACCES:
        return f"{what} {path}: you may not read it: run as the user it belongs to (usually root)"
    return f"{what} {path}: cannot be opened: {cause.strerror}"


def _check_file(path: str, what: str, status: os.stat_result, private: bool, error: type[GexecError]) -> None:
    if not stat.S_ISREG(status.st_mode):
        raise error(f"{what} {path}: is not a regular file")
    me = os.geteuid()
    if status.st_uid not in (0, me):
        expected = f"root or uid {me}" if me else "root"
        raise error(
            f"{what} {path}: belongs to uid {status.st_uid}, expected {expected}: run `chown {me} {path}`"
        )
    mode = stat.S_IMODE(status.st_mode)
    if private and mode & 0o077:
        raise error(
            f"{what} {path}: mode {mode:04o} lets other users at it: run `chmod 600 {path}`, and make a "
            "new key if they may have read it"
        )
    if mode & 0o022:
        raise error(f"{what} {path}: mode {mode:04o} lets other users write to it: run `chmod 644 {path}`")


def _read(descriptor: int, size: int) -> bytes:
    parts = []
    while size > 0 and (part := os.read(descriptor, size)):
        parts.append(part)
        size -= len(part)
    return b"".join(parts)
