"""One file for each node and stream (--output-dir): the one view that writes somewhere itself.

DIR/node001.out has what node001 wrote to stdout, and is there, maybe empty, for every node on which
the program ran or may have run; DIR/node001.err is only there if it wrote to stderr. Of a node that
is listed twice the files are node001#0.out and node001#4.out, with the ranks. What an earlier run left
of these files is removed at the start. A file is made anew, never written through a link that
somebody put there. Part of the client, imported when asked for.
"""

from __future__ import annotations

import os

from gexec.errors import UsageError
from gexec.render.text import printable, shown
from gexec.render.view import View
from gexec.wire import ranks as sets
from gexec.wire.frames import STDERR, STDOUT
from gexec.wire.outcome import DENIED, NOT_STARTED

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Sequence

    from gexec.wire.outcome import Outcome
    from gexec.wire.ranks import Ranges

#: Files that are open at the same time.
OPEN_MAX = 128
#: Of a name in a file's name, whose length file systems limit to 255; longer ones are cut and get their rank.
_NAME_MAX = 200
_PLAIN = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-:@+,=[]")
_ENDINGS = {STDOUT: ".out", STDERR: ".err"}


class OutputDir(View):
    """Writes what each rank says to its files, before it counts as taken; nothing to descriptors.

    A file that cannot be written is told in ``error``; from then on output is thrown away.

    Args:
        directory: made, with what leads to it, if it is not there.
        names: one for each rank.

    Raises:
        UsageError: the directory cannot be made or opened, or an old file in it cannot be removed.
    """

    __slots__ = ("_created", "_directory", "_directory_fd", "_names", "_open")

    def __init__(self, directory: str, names: Sequence[bytes]) -> None:
        super().__init__()
        self._directory = printable(directory)
        self._names = file_names(names)
        self._created: set[tuple[int, int]] = set()
        #: Open files, the one that was used last at the end.
        self._open: dict[tuple[int, int], int] = {}
        self._directory_fd = -1
        try:
            os.makedirs(directory, exist_ok=True)
            self._directory_fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            self._remove_old()
        except (OSError, ValueError) as error:
            self._close()
            raise UsageError(
                f"--output-dir: {_reason(error, self._directory)}; give a directory you may write"
            ) from error

    def output(self, stream: int, ranks: Ranges, data: bytes) -> None:
        """See View."""
        self.taken.append((stream, ranks, len(data)))
        for rank in sets.members(ranks):
            if self.error:
                return
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[os.write(self._file(rank, stream), rest) :]
            except OSError as error:
                self._fail(error, rank, stream)

    def ended(self, ranks: Ranges, outcome: Outcome) -> None:
        """See View."""
        for rank in sets.members(ranks):
            if self.error:
                return
            try:
                if outcome.kind not in (NOT_STARTED, DENIED) and (rank, STDOUT) not in self._created:
                    self._file(rank, STDOUT)
                for stream in _ENDINGS:
                    fd = self._open.pop((rank, stream), -1)
                    if fd >= 0:
                        os.close(fd)
            except OSError as error:
                self._fail(error, rank, stream=STDOUT)

    def finish(self) -> None:
        """See View."""
        self._close()

    def _remove_old(self) -> None:
        """Remove what an earlier run left under the names of this one's files."""
        old = set(os.listdir(self._directory_fd))
        for name in self._names:
            for ending in _ENDINGS.values():
                if name + ending in old:
                    os.unlink(name + ending, dir_fd=self._directory_fd)

    def _file(self, rank: int, stream: int) -> int:
        """Return the open file of a rank's stream."""
        key = (rank, stream)
        fd = self._open.pop(key, -1)
        if fd < 0:
            if len(self._open) >= OPEN_MAX:
                os.close(self._open.pop(next(iter(self._open))))
            # Should somebody have put a link or a pipe there since, opening it fails.
            flags = os.O_WRONLY | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK
            if key not in self._created:
                flags |= os.O_CREAT | os.O_EXCL
            fd = os.open(self._names[rank] + _ENDINGS[stream], flags, 0o666, dir_fd=self._directory_fd)
            self._created.add(key)
        self._open[key] = fd
        return fd

    def _fail(self, error: OSError, rank: int, stream: int) -> None:
        path = f"{self._directory}/{self._names[rank]}{_ENDINGS[stream]}"
        self.error = f"cannot write {path}: {error.strerror}"
        self._close()

    def _close(self) -> None:
        for fd in (*self._open.values(), self._directory_fd):
            if fd >= 0:
                try:
                    os.close(fd)
                except OSError as error:  # a file system may tell here that it is full
                    self.error = self.error or f"cannot write to {self._directory}: {error.strerror}"
        self._open.clear()
        self._directory_fd = -1


def file_names(names: Sequence[bytes]) -> list[str]:
    """Return a different file name, without ending, for each rank.

    Anything but letters, digits and ``._-:@+,=[]`` stands as %XX, and so does a dot at the beginning.
    """
    counts: dict[bytes, int] = {}
    for name in names:
        counts[name] = counts.get(name, 0) + 1
    files = []
    for rank, name in enumerate(names):
        safe = "".join([chr(byte) if byte in _PLAIN else f"%{byte:02X}" for byte in name])
        if safe.startswith("."):
            safe = "%2E" + safe[1:]
        cut = safe[:_NAME_MAX]
        files.append(f"{cut}#{rank}" if counts[name] > 1 or cut != safe else safe)
    return files


def _reason(error: OSError | ValueError, directory: str) -> str:
    if isinstance(error, OSError):
        name = error.filename if isinstance(error.filename, str) else directory
        where = name if name == directory or "/" in name else f"{directory}/{name}"
        return f"{shown(os.fsencode(where))}: {error.strerror}"
    return f"{directory}: {error}"
