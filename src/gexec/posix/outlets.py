"""Where the lines of an audit log go: a file, or stderr. Writing never blocks, except on a disk itself.

A daemon must not stop because nobody reads its pipe, and must not continue without a record if the
administrator has forbidden that. So an outlet reports each line that it could not take.
"""

from __future__ import annotations

import errno
import os
import socket
import stat
from typing import Final

from gexec.posix.log import Log

_OPEN: Final = (
    os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NOCTTY | os.O_NONBLOCK
)
_DONTWAIT: Final = int(socket.MSG_DONTWAIT) | int(socket.MSG_NOSIGNAL)


class Outlet:
    """One destination of audit lines.

    Attributes:
        name: as the setting has it.
        lost: lines that it has not taken and that are not reported yet.
        reason: why it did not take the last of them.
        rest: the part of a line that was not written: it comes first, so that each line is whole.
    """

    def __init__(self, name: str) -> None:
        self.name = name
        self.lost = 0
        self.reason = ""
        self.rest = b""

    def put(self, raw: bytes, event: str, job: str) -> bool:
        """Write a line. Returns False if a part of it is not written yet; it will come before the next line.

        Args:
            raw: the line in ASCII, with its line break.
            event, job: what the line is about, for destinations with fields; "" = no job.

        Raises:
            OSError: the line is lost.
        """
        if self.rest:
            written = self._push(self.rest)
            self.rest = self.rest[written:]
            if self.rest:
                raise OSError(errno.EAGAIN, self.reason)
        written = self._push(raw)
        if written == len(raw):
            return True
        self.rest = raw[written:]
        self.reason = "only a part of a line was written"
        return False

    @property
    def is_behind(self) -> bool:
        """Part of the last line is not written yet."""
        return bool(self.rest)

    def _push(self, raw: bytes) -> int:
        """Write what can be written without waiting; return the number of bytes."""
        raise NotImplementedError

    def reopen(self) -> None:
        """Open the destination again (SIGHUP)."""

    def close(self) -> None:
        """Close it."""


class FileOutlet(Outlet):
    """Appends to a file (created with mode 0600), a FIFO or a device; renames a file that is too large.

    The path's directory must be one that only an administrator can write to: start-up checks that.

    Args:
        path: a symbolic link is refused, and a file of another user.
        log: gets an error if the file cannot be renamed.
        max_bytes: size at which the file is renamed to PATH.1, PATH.1 to PATH.2 and so on; 0 = never.
        keep: number of renamed files that are kept.
    """

    def __init__(self, path: str, log: Log, max_bytes: int, keep: int) -> None:
        super().__init__(path)
        self._log = log
        self._max_bytes = max_bytes
        self._keep = keep
        self._fd = -1
        #: The size at which it is renamed: max_bytes, or more after a failure.
        self._limit = 0
        self._is_file = False

    def put(self, raw: bytes, event: str, job: str) -> bool:
        """Write a line; see :class:`Outlet`."""
        if self._fd < 0:
            self._open()
        if self._limit and self._is_file and not self.rest:
            size = os.fstat(self._fd).st_size
            if size and size + len(raw) > self._limit:
                self._rotate()
        return super().put(raw, event, job)

    def _push(self, raw: bytes) -> int:
        return os.write(self._fd, raw)

    def reopen(self) -> None:
        """Open the file again, which log rotation may have renamed."""
        self.close()
        self._open()

    def close(self) -> None:
        """Close the file. A line that is not complete stays so, and counts as lost."""
        if self.rest:
            self.rest = b""
            self.lost += 1
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _open(self) -> None:
        try:
            fd = os.open(self.name, _OPEN, 0o600)
        except OSError as error:
            if error.errno == errno.ENXIO:
                raise OSError(errno.ENXIO, "no program reads this FIFO") from error
            raise
        status = os.fstat(fd)
        if status.st_uid not in (0, os.geteuid()) and not stat.S_ISCHR(status.st_mode):
            os.close(fd)
            raise OSError(errno.EPERM, f"it belongs to uid {status.st_uid}, who could change it")
        self._fd, self._limit, self._is_file = fd, self._max_bytes, stat.S_ISREG(status.st_mode)

    def _rotate(self) -> None:
        try:
            for number in range(self._keep - 1, 0, -1):
                _rename(f"{self.name}.{number}", f"{self.name}.{number + 1}")
            _rename(self.name, f"{self.name}.1")
        except OSError as error:
            self._log.error(f"audit log {self.name}: cannot be renamed, so it grows: {error.strerror}")
            self._limit += self._max_bytes
            return
        self.reopen()


class StderrOutlet(Outlet):
    """Writes to this process's stderr: usually a socket of the journal, a pipe, a terminal or a file."""

    def __init__(self) -> None:
        super().__init__("stderr")
        self._fd = 2
        self._sock: socket.socket | None = None
        self._find()

    def _find(self) -> None:
        """Get a way to write to it without waiting, which changes nothing for other users of it."""
        try:
            mode = os.fstat(2).st_mode
            if stat.S_ISSOCK(mode):
                self._sock = socket.socket(fileno=os.dup(2))
            elif stat.S_ISFIFO(mode) or stat.S_ISCHR(mode):
                # An open file description of our own. A file is written through fd 2: it has an offset.
                flags = os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC | os.O_NOCTTY
                self._fd = os.open("/proc/self/fd/2", flags)
        except OSError:
            pass  # fd 2 itself

    def _push(self, raw: bytes) -> int:
        return os.write(self._fd, raw) if self._sock is None else self._sock.send(raw, _DONTWAIT)

    def reopen(self) -> None:
        """Look at stderr again."""
        self.close()
        self._find()

    def close(self) -> None:
        """Close what belongs to this object; stderr stays open."""
        if self._sock is not None:
            self._sock.close()
            self._sock = None
        if self._fd != 2:
            os.close(self._fd)
            self._fd = 2


def _rename(old: str, new: str) -> None:
    try:
        os.rename(old, new)
    except FileNotFoundError:
        pass
