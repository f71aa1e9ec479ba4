"""The job's stdin, kept until every ssh has read it.

If all ranks run at once, it is in memory and the slowest reader sets the pace. If ranks wait for others to
end, stdin must be kept for them: it is in a file without a name, and the fastest reader sets the pace, so
that the file never grows beyond what one command has read plus a window.
"""

from __future__ import annotations

import os

from gexec import limits
from gexec.errors import GexecError, ProtocolError
from gexec.wire.frames import OFFSET_ALL


class SpoolError(GexecError):
    """No disk space for stdin."""


class KeptStdin:
    """Bytes from an offset on.

    Args:
        spooled: keep everything, in an unlinked file in TMPDIR; else in memory, until ``forget``.
    """

    def __init__(self, spooled: bool) -> None:
        self.end = 0
        self.eof = False
        self._told = 0
        self._failed = False
        self._base = 0
        self._held = bytearray()
        self._file: int | None = None
        if spooled:
            import tempfile

            try:
                self._file, path = tempfile.mkstemp(prefix="gexec-")
                os.unlink(path)
            except OSError as error:
                text = f"cannot keep stdin in {tempfile.gettempdir()}: {error.strerror}"
                raise SpoolError(f"{text}; set TMPDIR") from error

    @property
    def spooled(self) -> bool:
        """True when all of it was received."""
        return self._file is not None

    def append(self, offset: int, data: bytes, eof: bool) -> None:
        """Add bytes from the client.

        Raises:
            ProtocolError: a gap, bytes after the end, or more than may be under way.
            SpoolError: the file cannot be written; from then on nothing more is kept.
        """
        if self._failed:
            return
        if offset != self.end or self.eof:
            raise ProtocolError(f"stdin continues at {offset}, expected {self.end}")
        if self._file is not None:
            self._spool(self._file, data)
        else:
            self._held += data
            if len(self._held) > 2 * limits.STDIN_WINDOW_BYTES:
                raise ProtocolError(f"{len(self._held)} bytes of stdin are not taken")
        self.end += len(data)
        self.eof = eof

    def _spool(self, file: int, data: bytes) -> None:
        try:
            _write_all(file, data)
        except OSError as error:
            self._failed = True
            text = f"cannot keep stdin on disk: {error.strerror}"
            raise SpoolError(f"{text}; set TMPDIR, or run all nodes at once") from error

    def read(self, offset: int) -> bytes:
        """Return the next bytes from an offset, at most READ_CHUNK_BYTES."""
        if self._file is not None:
            return os.pread(self._file, min(limits.READ_CHUNK_BYTES, self.end - offset), offset)
        begin = offset - self._base
        return bytes(self._held[begin : begin + limits.READ_CHUNK_BYTES])

    def taken(self, readers: list[int], waiting: bool) -> int:
        """Return up to which offset stdin was taken, ALL if no command wants more of it.

        Args:
            readers: the offsets of the commands that run and want more, or are about to run.
            waiting: further commands will run later.
        """
        if not readers:
            return self._told if waiting else OFFSET_ALL
        self._told = max(self._told, max(readers) if self.spooled else min(readers))
        return self._told

    def forget(self, offset: int) -> None:
        """Drop the bytes before the offset, which all commands have read."""
        if self._file is None and offset > self._base:
            del self._held[: offset - self._base]
            self._base = offset


def _write_all(fd: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(fd, view) :]
