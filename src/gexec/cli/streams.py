"""Python's own streams, for the commands that print with them: gexecd, authd, gexecctl.

The thin client writes to descriptors itself (cli/command.py).
"""

from __future__ import annotations

import io
import os
import sys
from collections.abc import Callable

from gexec.errors import GexecError

TYPE_CHECKING = False
if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class _Stdout(io.FileIO):
    """Descriptor 1. What cannot be written is a GexecError, once, except to a reader who left."""

    _failed = False

    def write(self, data: ReadableBuffer, /) -> int:
        if self._failed:
            return memoryview(data).nbytes
        try:
            return super().write(data)
        except BrokenPipeError:
            raise
        except OSError as error:
            self._failed = True
            raise GexecError(f"cannot write stdout: {error.strerror}") from error


class _Stderr(io.FileIO):
    """Descriptor 2. What cannot be written is lost: the exit status still tells."""

    def write(self, data: ReadableBuffer, /) -> int:
        try:
            return super().write(data)
        except OSError:
            return memoryview(data).nbytes


def run(main: Callable[[list[str]], int]) -> int:
    """Return the status of ``main(arguments)``, or 1 with a sentence if its output cannot be written.

    Standard descriptors that are closed are opened first, so that no socket or log takes their place: what
    is written to such a stdout is an error, to such a stderr it is lost.
    """
    for fd, mode in enumerate((os.O_RDONLY, os.O_RDONLY, os.O_RDWR)):
        try:
            os.fstat(fd)
        except OSError:
            os.open(os.devnull, mode)  # takes the lowest free number
    sys.stdout = io.TextIOWrapper(
        io.BufferedWriter(_Stdout(1, "w", closefd=False)), "utf-8", "surrogateescape"
    )
    sys.stderr = io.TextIOWrapper(
        io.BufferedWriter(_Stderr(2, "w", closefd=False)), "utf-8", "backslashreplace", line_buffering=True
    )
    try:
        status = main(sys.argv[1:])
    except SystemExit as end:  # argparse: --help, --version, a wrong argument
        status = end.code if isinstance(end.code, int) else 0
    except GexecError as error:
        status = _cannot(error)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        status = _unread()
    except GexecError as error:
        status = _cannot(error)
    return status


def _cannot(error: GexecError) -> int:
    sys.stderr.write(f"{os.path.basename(sys.argv[0])}: {error}\n")
    return _unread()


def _unread() -> int:
    """Let what could not be written go nowhere at the interpreter's end."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    return 1
