"""Writes one stream of a background job into its segments."""

from __future__ import annotations

import os
from typing import Final

from gexec.jobs.segments import Row, file_name

_NEW: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC
#: After a failure to write, output is dropped for so long before the next try.
_RETRY_S: Final = 1.0


class StreamWriter:
    """The files of one stream in a rank's directory.

    Args:
        directory: a descriptor of it.
        stream: 0 = stdout, 1 = stderr.
        budget: bytes that may be kept.

    Attributes:
        row: what is kept.
        why: why bytes could not be written, the last reason; "" = none.
    """

    def __init__(self, directory: int, stream: int, budget: int) -> None:
        self._directory = directory
        self._stream = stream
        self._fd = -1
        self._retry_s = float("-inf")
        self.row = Row(budget)
        self.why = ""

    def write(self, data: bytes, now_s: float) -> None:
        """Write the next bytes, or drop them if the disk takes none (``now_s``: of any steady clock)."""
        rest = memoryview(data)
        while rest:
            try:
                if not self.row.room:
                    self._begin(now_s)
                count = os.write(self._fd, rest[: self.row.room])
            except OSError as error:
                self._failed(error, len(rest), now_s)
                return
            self.row.wrote(count)
            rest = rest[count:]

    def _begin(self, now_s: float) -> None:
        if now_s < self._retry_s:
            raise OSError(0, self.why)
        self.close()
        for segment in self.row.doomed():
            try:
                os.unlink(file_name(self._stream, segment.offset), dir_fd=self._directory)
            except FileNotFoundError:
                pass  # the user has removed it
        self._fd = os.open(file_name(self._stream, self.row.end), _NEW, 0o600, dir_fd=self._directory)
        self.row.begin()

    def _failed(self, error: OSError, count: int, now_s: float) -> None:
        if now_s >= self._retry_s:
            self._retry_s = now_s + _RETRY_S
        self.why = error.strerror or self.why
        if self.row.segments and not self.row.segments[-1].size:
            try:
                os.unlink(file_name(self._stream, self.row.segments[-1].offset), dir_fd=self._directory)
            except OSError:
                pass  # an empty file hides nothing
        self.close()
        self.row.lost(count)

    def close(self) -> None:
        """Close the current file."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
