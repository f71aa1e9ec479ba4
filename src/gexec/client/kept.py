"""stdin for several jobs after each other: what one has read is kept for the next.

Nothing is read ahead: a job reads the copy first and then goes on with the descriptor, so that an open
pipe in which nothing comes delays nobody who does not read it, as without rounds.
Imported only by runs of several jobs.
"""

from __future__ import annotations

import os
from stat import S_ISREG

from gexec import limits
from gexec.client.stdio import Input
from gexec.errors import UsageError
from gexec.render.text import size as shown_size

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import BinaryIO

_MAX = shown_size(limits.STDIN_KEPT_MAX_BYTES)
_REMEDY = "copy large data to the nodes as a file (ensync)"
#: Why no further job begins.
TOO_LONG = (
    f"not tried: stdin is longer than the {_MAX} that are kept for further batches and attempts: {_REMEDY}"
)


class KeptInput(Input):
    """A descriptor, and a copy of what was read from it, in a file without a name below $TMPDIR.

    Args:
        fd: read until its end, in the pace of the jobs.

    Attributes:
        why: why no further job can have all of it (more than STDIN_KEPT_MAX_BYTES came, or the copy could
            not be written), or "".

    Raises:
        UsageError: a regular file that is longer than the bound.
    """

    def __init__(self, fd: int = 0) -> None:
        status = os.fstat(fd)
        if S_ISREG(status.st_mode):
            left = status.st_size - os.lseek(fd, 0, os.SEEK_CUR)
            if left > limits.STDIN_KEPT_MAX_BYTES:
                raise UsageError(
                    f"stdin is a file of {shown_size(left)}: with --batch or --retries "
                    f"it may have at most {_MAX}: {_REMEDY}"
                )
        super().__init__(fd)
        self._source = fd
        self._copy: BinaryIO | None = None
        self._size = 0
        self._at = 0
        self._ended = False
        self.why = ""

    def rewind(self) -> None:
        """Begin again, for the next job."""
        self._at = 0
        self._turn()

    def _read(self, most_bytes: int) -> bytes:
        data = b""
        if self._copy is not None and self._at < self._size:
            data = os.pread(self._copy.fileno(), min(most_bytes, self._size - self._at), self._at)
            self._at += len(data)
        elif not self._ended:
            data = os.read(self._source, most_bytes)
            self._ended = not data
            if data and not self.why:
                self._keep(data)
        self._turn()
        return data

    def _turn(self) -> None:
        """Turn to the copy, or from its end to the descriptor itself."""
        copy = self._copy
        is_in_copy = self._at < self._size or self._ended
        fd = copy.fileno() if copy is not None and is_in_copy else self._source
        if fd != self.fd:
            self.fd = fd
            self.is_terminal = os.isatty(fd)

    def close(self) -> None:
        """Give the copy back."""
        if self._copy is not None:
            self._copy.close()
            self._copy = None

    def _keep(self, data: bytes) -> None:
        if self._size + len(data) > limits.STDIN_KEPT_MAX_BYTES:
            self.why = TOO_LONG
            return
        try:
            if self._copy is None:
                import tempfile

                self._copy = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115 - kept open
            rest = memoryview(data)
            while rest:
                rest = rest[os.write(self._copy.fileno(), rest) :]
        except OSError as error:
            cause = error.strerror or str(error)
            self.why = f"not tried: stdin could not be kept in a file for this node: {cause}: set TMPDIR"
            return
        self._size += len(data)
        self._at = self._size
