"""stdin, stdout and stderr: read and written without ever waiting, and without touching their flags.

The file behind a standard descriptor is shared with other programs, so O_NONBLOCK is never set on
it. Each is read and written only when poll reports it ready; a pipe or terminal gets at most PIPE_BUF
bytes at a time, which then fit. Part of the thin client.
"""

from __future__ import annotations

import os
from stat import S_ISCHR, S_ISREG

TYPE_CHECKING = False
if TYPE_CHECKING:
    import signal as _signal

    from gexec.render.view import Credit
else:
    import _signal

#: Exit status after the reader of stdout has gone, as of a filter that SIGPIPE ended.
READER_GONE = 128 + int(_signal.SIGPIPE)
#: POSIX: a pipe that poll calls writable takes this much without blocking.
PIPE_BUF_BYTES = 4096
_FILE_CHUNK_BYTES = 1024 * 1024
#: Small pieces are written together up to this size.
_BLOCK_BYTES = 64 * 1024


class Input:
    """What the processes of a job read.

    Attributes:
        fd: the descriptor to wait for before the next ``read``.
        is_terminal: it is only the foreground job's, so whether it ``is_ours`` changes.
    """

    __slots__ = ("_gone", "fd", "is_terminal")

    def __init__(self, fd: int = 0) -> None:
        self._gone = False
        self.fd = fd
        self.is_terminal = os.isatty(fd)

    @property
    def is_ours(self) -> bool:
        """True if reading would not stop this process."""
        if not self.is_terminal:
            return True
        try:
            return not self._gone and os.tcgetpgrp(self.fd) == os.getpgrp()
        except OSError:
            return False

    def read(self, most_bytes: int) -> bytes | None:
        """Read once; return b"" at the end, None if there is nothing to read now, or room for nothing.

        Raises:
            OSError: as of ``os.read``. Not of a terminal, which is another's then, or gone.
        """
        # No bytes of none are not the end: since it was waited for, all processes may have ceased to read.
        if most_bytes < 1 or not self.is_ours:
            return None
        try:
            return self._read(most_bytes)
        except (BlockingIOError, InterruptedError):
            return None
        except OSError:
            if not self.is_terminal:
                raise
            self._gone = True
            return None

    def _read(self, most_bytes: int) -> bytes:
        return os.read(self.fd, most_bytes)


class Sink:
    """The queue in front of one descriptor. Its length is bounded by the windows of what is not taken.

    Attributes:
        fd: the descriptor.
        ends_line: what was queued last ends with a newline (or nothing was).
        error: the OSError that ended it, or None. After it everything is thrown away and counts as taken.
    """

    __slots__ = ("_block", "_chunk_bytes", "_credits", "_queue", "ends_line", "error", "fd")

    def __init__(self, fd: int) -> None:
        self.fd = fd
        self.error: OSError | None = None
        self.ends_line = True
        mode = os.fstat(fd).st_mode
        waits = not S_ISREG(mode) and (not S_ISCHR(mode) or os.isatty(fd))
        self._chunk_bytes = PIPE_BUF_BYTES if waits else _FILE_CHUNK_BYTES
        self._queue: list[tuple[bytes, Credit | None]] = []
        self._block: memoryview | None = None
        self._credits: list[Credit] = []

    @property
    def pending(self) -> bool:
        """True while there is something to write."""
        return self._block is not None or bool(self._queue)

    def put(self, data: bytes, credit: Credit | None = None) -> bool:
        """Queue bytes, and what is taken once they are written; False if the sink has failed."""
        if self.error is not None:
            return False
        self._queue.append((data, credit))
        self.ends_line = data.endswith(b"\n")
        return True

    def write(self) -> list[Credit]:
        """Write once; call it when poll says that the descriptor is writable. Return what is taken.

        A failure is kept in ``error``, not raised.
        """
        if self._block is None:
            self._next_block()
        block = self._block
        if block is None:
            return []
        try:
            written = os.write(self.fd, block[: self._chunk_bytes])
        except BlockingIOError:
            return []  # somebody else made it non-blocking
        except OSError as error:
            return self.fail(error)
        if written < len(block):
            self._block = block[written:]
            return []
        self._block = None
        taken, self._credits = self._credits, []
        return taken

    def fail(self, error: OSError) -> list[Credit]:
        """Give the descriptor up: all that waits counts as taken."""
        self.error = error
        taken = self._credits + [credit for _, credit in self._queue if credit is not None]
        self._block, self._queue, self._credits = None, [], []
        return taken

    def _next_block(self) -> None:
        size = end = 0
        queue = self._queue
        while end < len(queue) and (not size or size + len(queue[end][0]) <= _BLOCK_BYTES):
            size += len(queue[end][0])
            end += 1
        if not end:
            return
        chosen = queue[:end]
        del queue[:end]
        self._block = memoryview(chosen[0][0] if end == 1 else b"".join([piece[0] for piece in chosen]))
        self._credits = [credit for _, credit in chosen if credit is not None]


def standard_sinks() -> dict[int, Sink]:
    """Return a sink for stdout and one for stderr, by descriptor."""
    return {1: Sink(1), 2: Sink(2)}
